"""Selections: which entries are replayed. A class each, chosen by its `name`.

Some draw in proportion to a mass that an entry has by itself, and the buffer keeps those in a sum tree; the others look
at all candidates together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny

from agentkit.training.settings import OrOwn, Part

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Candidates(NamedTuple):
    """M entries to choose from, in order of admission."""

    advantage_M: Floats
    """R − b at admission."""
    return_M: Floats
    """R, penalties included."""
    mean_logp_M: Floats
    """Mean recorded log-probability of the sampled tokens."""
    priority_M: Floats
    """Priority, as last refreshed."""
    group_M: Ints
    """Equal numbers for entries of one group."""
    entropy_of: Callable[[Ints], Floats]
    """Mean token entropy of some of them (by place) under the policy as it is now."""


class Select(Part):
    """A rule that chooses entries."""

    @property
    def needs_entropy(self) -> bool:
        """Whether it asks for entropies under the present policy, which costs passes without gradient."""
        return False

    @property
    def is_drawn(self) -> bool:
        """Whether each entry is drawn by a mass of its own, whatever the others are."""
        return type(self).masses is not Select.masses

    def draws_like(self, other: Select) -> bool:
        """Whether it gives every entry the mass that the other rule gives it."""
        return self == other

    def masses(self, entries: Candidates) -> Floats:
        """[M] what each is drawn in proportion to."""
        raise NotImplementedError

    def pick(self, entries: Candidates, num: int, rng: np.random.Generator) -> Ints:
        """Places of up to `num` different entries.

        Args:
            entries: What there is to choose from, one or more.
            num: How many.
            rng: For all that is random.
        """
        mass_M = self.masses(entries)
        num = min(num, int((mass_M > 0).sum()))
        if not num:
            return np.zeros(0, np.int64)
        return rng.choice(len(mass_M), size=num, replace=False, p=mass_M / mass_M.sum())


class Uniform(Select):
    """All alike (RLEP, ARPO, DOTS)."""

    name: Literal["uniform"] = "uniform"

    def masses(self, entries: Candidates) -> Floats:
        """[M] what each is drawn in proportion to."""
        return np.ones(len(entries.return_M))


class ByAdvantage(Select):
    """In proportion to |R − b|^α (selective sample replay of VL-Rethinker, 2504.08837, with α = 1)."""

    name: Literal["advantage"] = "advantage"
    alpha: float = Field(default=1.0, ge=0)
    """α; 0 draws all alike."""

    def masses(self, entries: Candidates) -> Floats:
        """[M] what each is drawn in proportion to."""
        return np.abs(entries.advantage_M) ** self.alpha


class Priority(Select):
    """Prioritized replay (Schaul et al. 2016, 1511.05952, proportional): p^α, p = |A| + ε since it was last replayed.

    What is new has the greatest priority there is, so that everything is soon replayed once. Replayed entries count
    (M·P)^−β over the greatest of the draw. `schedules."imitation.select.beta"` with `linear`, `start = 0.4`, `end = 1`
    of β = 1 anneals β as the source does. Episodes are whole draws here, so |A| of the episode stands for |δ|: against
    `baseline = "group"` it is what it was at admission, and an entry's first replay settles its priority for good; the
    other baselines change it at each.
    """

    name: Literal["priority"] = "priority"
    alpha: float = Field(default=0.6, ge=0)
    """α."""
    beta: float = Field(default=0.4, ge=0, le=1)
    """β: 0 corrects nothing, 1 makes the replay's expectation that of a uniform one."""
    epsilon: float = Field(default=1e-6, gt=0)
    """ε."""

    def draws_like(self, other: Select) -> bool:
        """Whether it gives every entry the mass that the other rule gives it: β has no part in masses."""
        return isinstance(other, Priority) and (self.alpha, self.epsilon) == (other.alpha, other.epsilon)

    def masses(self, entries: Candidates) -> Floats:
        """[M] what each is drawn in proportion to."""
        return (entries.priority_M + self.epsilon) ** self.alpha

    def importance(self, mass_K: Floats, total: float, num: int) -> Floats:
        """[K] weights of drawn entries, at most 1.

        Args:
            mass_K: Their masses.
            total: Sum of all masses.
            num: M, how many entries there are.

        >>> Priority(beta=1.0).importance(np.array([0.1, 0.4]), 1.0, 4).tolist()
        [1.0, 0.25]
        """
        weight_K = (num * mass_K / total) ** -self.beta
        return weight_K / weight_K.max()


class P2Value(Select):
    """BTP (2410.12236): in proportion to α·P + (1 − α)·pass rate, P = exp(mean log μ) of the tokens.

    α and the law of drawing were not found in the source: ½ and proportional are ours. The pass rate of a program is
    here the episode's R, cut to [0, 1].
    """

    name: Literal["p2value"] = "p2value"
    alpha: float = Field(default=0.5, ge=0, le=1)
    """α."""

    def masses(self, entries: Candidates) -> Floats:
        """[M] what each is drawn in proportion to."""
        return self.alpha * np.exp(entries.mean_logp_M) + (1 - self.alpha) * entries.return_M.clip(0, 1)


class Highest(Select):
    """The highest returns, of equal ones the newest (RePO's `highest_k`)."""

    name: Literal["highest"] = "highest"

    def pick(self, entries: Candidates, num: int, rng: np.random.Generator) -> Ints:
        """Places of up to `num` different entries."""
        return _last(entries.return_M, num)


class Recent(Select):
    """The newest (RePO's `recent_k`)."""

    name: Literal["recent"] = "recent"

    def pick(self, entries: Candidates, num: int, rng: np.random.Generator) -> Ints:
        """Places of up to `num` different entries."""
        return np.arange(len(entries.return_M))[-num:]


class MaxVariance(Select):
    """Those whose returns together have the greatest variance (RePO's `max_variance_k`): some lowest, some highest."""

    name: Literal["max-variance"] = "max-variance"

    def pick(self, entries: Candidates, num: int, rng: np.random.Generator) -> Ints:
        """Places of up to `num` different entries."""
        order = np.argsort(entries.return_M, kind="stable")
        num = min(num, len(order))
        splits = [np.concatenate([order[:low], order[len(order) - (num - low) :]]) for low in range(num + 1)]
        return max(splits, key=lambda places: float(np.var(entries.return_M[places])))


class MinEntropy(Select):
    """The ones of which the present policy is surest: lowest mean token entropy (ExGRPO's choice within a task)."""

    name: Literal["min-entropy"] = "min-entropy"

    @property
    def needs_entropy(self) -> bool:
        """Whether it asks for entropies under the present policy."""
        return True

    def pick(self, entries: Candidates, num: int, rng: np.random.Generator) -> Ints:
        """Places of up to `num` different entries."""
        return _last(-entries.entropy_of(np.arange(len(entries.return_M))), num)


class WholeGroups(Select):
    """Whole groups, all alike, as many as fit (rollout replay of DOTS, 2506.05316): advantages still sum to 0."""

    name: Literal["groups"] = "groups"

    def pick(self, entries: Candidates, num: int, rng: np.random.Generator) -> Ints:
        """Places of the entries of one group or more: one is taken even if it has more than `num`."""
        order = rng.permutation(np.unique(entries.group_M))
        sizes = np.bincount(entries.group_M)[order]
        fit = max(1, int(np.searchsorted(np.cumsum(sizes), num, side="right")))
        return np.flatnonzero(np.isin(entries.group_M, order[:fit]))


if TYPE_CHECKING:
    Selection = Select
else:
    Selection = SerializeAsAny[
        Annotated[
            Uniform | ByAdvantage | Priority | P2Value | Highest | Recent | MaxVariance | MinEntropy | WholeGroups,
            Field(discriminator="name"),
            OrOwn(Select),
        ]
    ]
"""A rule that chooses entries; see `Select`."""


def _last(value_M: Floats, num: int) -> Ints:
    """Places of the greatest, of equal ones the newest."""
    num = min(num, len(value_M))
    bar = np.partition(value_M, len(value_M) - num)[len(value_M) - num]
    above, level = np.flatnonzero(value_M > bar), np.flatnonzero(value_M == bar)
    return np.concatenate([above, level[len(level) - (num - len(above)) :]])
