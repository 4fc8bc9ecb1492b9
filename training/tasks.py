"""Task samplers: which tasks an iteration plays, from what is believed about each task of a pool.

A sampler holds numbers only; what is learnt about tasks stands in `Beliefs`, plain numbers that a checkpoint keeps.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny, model_validator

from agentkit.errors import CheckpointError
from agentkit.training.settings import OrOwn, Part

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def _none() -> Floats:
    return np.zeros(0)


@dataclass
class Beliefs:
    """What is known about the T tasks of a pool and their C categories."""

    next: int = 0
    """Number of the task that comes next in order."""
    won_T: Floats = field(default_factory=_none)
    """Successes of each task, faded as the sampler says: Beta(1 + won, 1 + lost) is believed of its success rate."""
    lost_T: Floats = field(default_factory=_none)
    """Failures of each task, likewise."""
    value_C: Floats = field(default_factory=_none)
    """How much each category has lately had to teach."""

    @classmethod
    def about(cls, num_tasks: int, num_categories: int = 0) -> Beliefs:
        """Nothing known yet."""
        return cls(0, np.zeros(num_tasks), np.zeros(num_tasks), np.zeros(num_categories))

    @property
    def mean_T(self) -> Floats:
        """[T] expected success rate of each task."""
        return (1 + self.won_T) / (2 + self.won_T + self.lost_T)

    def drawn_T(self, rng: np.random.Generator) -> Floats:
        """[T] a success rate of each task, drawn from what is believed (Thompson sampling)."""
        return rng.beta(1 + self.won_T, 1 + self.lost_T)

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        arrays = {name: getattr(self, name).tolist() for name in ("won_T", "lost_T", "value_C")}
        return {"next": self.next, **arrays}

    def restore(self, state: dict[str, Any]) -> None:
        """Know what was known when `state()` was taken.

        Raises:
            CheckpointError: It is about another number of tasks or categories.
        """
        for name in ("won_T", "lost_T", "value_C"):
            if len(state[name]) != len(getattr(self, name)):
                raise CheckpointError(
                    f"the checkpoint's task sampler knew {len(state[name])} {name}, this one {len(getattr(self, name))}"
                    "; resume with the same tasks and task_pool"
                )
        self.next = state["next"]
        self.won_T, self.lost_T, self.value_C = (np.array(state[name]) for name in ("won_T", "lost_T", "value_C"))


class Sampler(Part):
    """Chooses tasks by their numbers."""

    @property
    def needs_pool(self) -> bool:
        """Whether it must know how many tasks there are."""
        return True

    @property
    def num_categories(self) -> int:
        """C."""
        return 0

    def params(self, number: int) -> dict[str, Any]:
        """Parameters that a task's number sets, beside those of the run."""
        return {}

    def pick(self, beliefs: Beliefs, num: int, taken: Collection[int], rng: np.random.Generator) -> list[int]:
        """Numbers of the next tasks: `num` different ones, or as many as the pool has left.

        Args:
            beliefs: What is known; only the place in the order may be moved on.
            num: How many.
            taken: Numbers that the iteration has already played.
            rng: For all that is random.
        """
        raise NotImplementedError

    def learn(self, beliefs: Beliefs, numbers: Sequence[int], won: Ints, lost: Ints, signal: Floats) -> None:
        """Take in how the iteration's tasks went.

        Args:
            beliefs: Changed in place.
            numbers: The tasks.
            won: Successes of each.
            lost: Failures of each.
            signal: Mean |advantage| of each one's attempts.
        """
        if len(beliefs.won_T):
            np.add.at(beliefs.won_T, numbers, won)
            np.add.at(beliefs.lost_T, numbers, lost)


class InOrder(Sampler):
    """One task after the other; a pool goes round."""

    name: Literal["in-order"] = "in-order"

    @property
    def needs_pool(self) -> bool:
        """Whether it must know how many tasks there are."""
        return False

    def pick(self, beliefs: Beliefs, num: int, taken: Collection[int], rng: np.random.Generator) -> list[int]:
        """Numbers of the next tasks."""
        pool = len(beliefs.won_T)
        if not pool:
            beliefs.next += num
            return list(range(beliefs.next - num, beliefs.next))
        numbers = [(beliefs.next + place) % pool for place in range(min(num, pool - len(taken)))]
        beliefs.next = (beliefs.next + len(numbers)) % pool
        return numbers


class UniformTasks(Sampler):
    """Any tasks of the pool, all alike."""

    name: Literal["uniform"] = "uniform"

    def pick(self, beliefs: Beliefs, num: int, taken: Collection[int], rng: np.random.Generator) -> list[int]:
        """Numbers of the next tasks."""
        free_F = _free(beliefs, taken)
        return sorted(rng.choice(free_F, size=min(num, len(free_F)), replace=False).tolist())


class MoPPS(Sampler):
    """The tasks whose success rate, drawn from what is believed, is nearest `target` (MoPPS, 2507.04632).

    What a task has shown fades each time it is played: won ← λ·won + s, which is the source's
    α ← λα + (1 − λ)α₀ + s with α₀ = 1, and lost alike. λ is our choice.
    """

    name: Literal["mopps"] = "mopps"
    target: float = Field(default=0.5, ge=0, le=1)
    """Success rate looked for."""
    memory: float = Field(default=0.5, ge=0, le=1)
    """λ: what is left of a task's past when it is played again; 1 forgets nothing."""

    def pick(self, beliefs: Beliefs, num: int, taken: Collection[int], rng: np.random.Generator) -> list[int]:
        """Numbers of the next tasks."""
        return _best(-((beliefs.drawn_T(rng) - self.target) ** 2), num, taken)

    def learn(self, beliefs: Beliefs, numbers: Sequence[int], won: Ints, lost: Ints, signal: Floats) -> None:
        """Take in how the iteration's tasks went."""
        beliefs.won_T[[*numbers]] *= self.memory
        beliefs.lost_T[[*numbers]] *= self.memory
        super().learn(beliefs, numbers, won, lost, signal)


class VADE(Sampler):
    """The tasks of most information, p(1 − p) of a success rate drawn from what is believed (VADE, 2511.18902).

    Evidence fades at two speeds, since the policy moves on: a little of every task's each iteration, and more of a
    task's that is played, whose new results say better. The source's numbers were not found; these are ours.
    """

    name: Literal["vade"] = "vade"
    memory: float = Field(default=0.98, ge=0, le=1)
    """What is left of every task's evidence after an iteration."""
    played_memory: float = Field(default=0.7, ge=0, le=1)
    """What is left, besides, of a task's earlier evidence when it is played."""

    def pick(self, beliefs: Beliefs, num: int, taken: Collection[int], rng: np.random.Generator) -> list[int]:
        """Numbers of the next tasks."""
        rate_T = beliefs.drawn_T(rng)
        return _best(rate_T * (1 - rate_T), num, taken)

    def learn(self, beliefs: Beliefs, numbers: Sequence[int], won: Ints, lost: Ints, signal: Floats) -> None:
        """Take in how the iteration's tasks went."""
        for seen_T in (beliefs.won_T, beliefs.lost_T):
            seen_T *= self.memory
            seen_T[[*numbers]] *= self.played_memory
        super().learn(beliefs, numbers, won, lost, signal)


class Difficulty(Sampler):
    """Tasks drawn without replacement with p ∝ exp(−|p̂ − target|/τ), p̂ the expected success rate.

    The selection of DOTS (2506.05316) with a Beta belief in place of its network, which predicts p̂ from questions'
    embeddings. A task never played has p̂ = ½, so that with DOTS's small τ new tasks come first.
    """

    name: Literal["difficulty"] = "difficulty"
    target: float = Field(default=0.5, ge=0, le=1)
    """Success rate looked for."""
    temperature: float = Field(default=1e-3, gt=0)
    """τ."""
    memory: float = Field(default=0.5, ge=0, le=1)
    """What is left of a task's past when it is played again; 1 forgets nothing."""

    def pick(self, beliefs: Beliefs, num: int, taken: Collection[int], rng: np.random.Generator) -> list[int]:
        """Numbers of the next tasks."""
        # The greatest of log p + Gumbel noise are a draw without replacement, and no p can underflow.
        score_T = -np.abs(beliefs.mean_T - self.target) / self.temperature + rng.gumbel(size=len(beliefs.won_T))
        return _best(score_T, num, taken)

    def learn(self, beliefs: Beliefs, numbers: Sequence[int], won: Ints, lost: Ints, signal: Floats) -> None:
        """Take in how the iteration's tasks went."""
        beliefs.won_T[[*numbers]] *= self.memory
        beliefs.lost_T[[*numbers]] *= self.memory
        super().learn(beliefs, numbers, won, lost, signal)


class SEC(Sampler):
    """A bandit over categories of tasks (Self-Evolving Curriculum, 2505.14970): the ones that teach most come most.

    A category is drawn with p ∝ exp(Q/τ) for each place, then one of its tasks, all alike. After the iteration
    Q ← Q + α(r − Q), r the mean |advantage| of the category's attempts: the estimator's, without modifiers; under `gae`
    and `archer` R − mean of the group. With `parameter`, task n has the (n mod C)-th of `values` as that parameter of
    the environment, and this is its category. Without, categories are `bins` of expected success rates, equally wide.
    α and τ are our choice for advantages up to about 1.
    """

    name: Literal["sec"] = "sec"
    parameter: str | None = None
    """Parameter of the environment whose values are the categories."""
    values: tuple[Any, ...] = ()
    """Its values."""
    bins: int = Field(default=5, ge=2)
    """Categories by difficulty, without `parameter`."""
    rate: float = Field(default=0.5, gt=0, le=1)
    """α."""
    temperature: float = Field(default=0.2, gt=0)
    """τ."""

    @model_validator(mode="after")
    def _consistent(self) -> SEC:
        if (self.parameter is not None) != (len(self.values) > 1):
            raise ValueError(
                f"parameter = {self.parameter!r} and values = {self.values}: categories by parameter need its name and "
                "two values or more; give both or neither"
            )
        if self.parameter is not None and "bins" in self.changed:
            raise ValueError(f"parameter = {self.parameter!r} and bins = {self.bins}: categories are one or the other")
        return self

    @property
    def num_categories(self) -> int:
        """C."""
        return self.bins if self.parameter is None else len(self.values)

    def params(self, number: int) -> dict[str, Any]:
        """Parameters that a task's number sets, beside those of the run."""
        return {} if self.parameter is None else {self.parameter: self.values[number % len(self.values)]}

    def categories(self, beliefs: Beliefs) -> Ints:
        """[T] category of each task."""
        if self.parameter is not None:
            return np.arange(len(beliefs.won_T)) % len(self.values)
        return np.minimum((beliefs.mean_T * self.bins).astype(np.int64), self.bins - 1)

    def pick(self, beliefs: Beliefs, num: int, taken: Collection[int], rng: np.random.Generator) -> list[int]:
        """Numbers of the next tasks."""
        free_F = _free(beliefs, taken)
        category_F = self.categories(beliefs)[free_F]
        left = [free_F[category_F == category].tolist() for category in range(self.num_categories)]
        chosen: list[int] = []
        while len(chosen) < num and any(left):
            open_C = np.array([bool(numbers) for numbers in left])
            share_C = np.exp((beliefs.value_C - beliefs.value_C[open_C].max()).clip(max=0) / self.temperature) * open_C
            numbers = left[rng.choice(len(left), p=share_C / share_C.sum())]
            chosen.append(numbers.pop(rng.integers(len(numbers))))
        return chosen

    def learn(self, beliefs: Beliefs, numbers: Sequence[int], won: Ints, lost: Ints, signal: Floats) -> None:
        """Take in how the iteration's tasks went."""
        category = self.categories(beliefs)[[*numbers]]
        for each in np.unique(category):
            inside, attempts = category == each, (won + lost)[category == each]
            if attempts.sum():
                reward = np.average(signal[inside], weights=attempts)
                beliefs.value_C[each] += self.rate * (reward - beliefs.value_C[each])
        super().learn(beliefs, numbers, won, lost, signal)


if TYPE_CHECKING:
    TaskSampler = Sampler
else:
    TaskSampler = SerializeAsAny[
        Annotated[InOrder | UniformTasks | MoPPS | VADE | Difficulty | SEC, Field(discriminator="name"), OrOwn(Sampler)]
    ]
"""A task sampler; see `Sampler`."""


def _free(beliefs: Beliefs, taken: Collection[int]) -> Ints:
    return np.setdiff1d(np.arange(len(beliefs.won_T)), [*taken])


def _best(score_T: Floats, num: int, taken: Collection[int]) -> list[int]:
    """The free tasks of the highest scores, of equal ones the earlier."""
    score_T = score_T.copy()
    score_T[[*taken]] = -np.inf
    return np.argsort(-score_T, kind="stable")[: min(num, len(score_T) - len(taken))].tolist()
