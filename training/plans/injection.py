"""Injection: successes of earlier iterations join the groups of their tasks, and share their statistics.

An injected episode keeps its id, so it counts once in the log. Under ARPO and RLEP its log-probabilities are computed
anew, so its ratio begins at 1 and no clip holds it back at the first step, however improbable it has become: `stored`
keeps a ratio to the policy that sampled it, which the clip and `mismatch` see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from agentkit.errors import ConfigError
from agentkit.memory.records import Episode
from agentkit.rollout import Order, play_all
from agentkit.task import Task
from agentkit.training.advantages import Outcomes
from agentkit.training.losses import ImitationLoss, Shaped
from agentkit.training.plans.plan import Collected, Ground, OldLogprobs, Patched, RolloutPlan, State, by_group
from agentkit.training.plans.successes import read, remember, stored_ids
from agentkit.training.rows import build_rows

if TYPE_CHECKING:
    from agentkit.training.config import TrainConfig


class Injection(RolloutPlan):
    """What the plans that inject successes share: their store, and how an episode joins a group."""

    capacity: int = Field(default=8, ge=1)
    """Most successes kept of a task; the oldest leave (ARPO: 8)."""
    least_return: float = 0.1
    """A success is kept if its return exceeds this (ARPO: 0.1)."""
    old_logprobs: OldLogprobs = "recomputed"
    """Log-probabilities of injected tokens; see `OldLogprobs`."""

    def _check_pool(self, config: TrainConfig) -> None:
        if config.task_pool is None:
            raise ConfigError(
                f"plan = {self.name!r} and task_pool = None: no task is played twice, so no success is ever injected; "
                "set a task_pool"
            )

    def _joined(self, ground: Ground, chosen: Sequence[tuple[str, Episode]]) -> list[Episode]:
        """The chosen episodes as members of the groups of these ids."""
        episodes = [episode.model_copy(update={"group_id": group}) for group, episode in chosen]
        return ground.rescored(episodes) if self.old_logprobs == "recomputed" else episodes


class ARPO(Injection):
    """A group without any success gets one that is stored of its task, in place of its first attempt (2505.16282).

    The condition is std < `failed_std` and mean < `failed_mean` of the group's returns, penalties included. The
    authors do not ask for it, but a group that holds a success is left alone here whatever its returns are.
    """

    name: Literal["arpo"] = "arpo"
    failed_std: float = Field(default=0.05, gt=0)
    """Population standard deviation of returns below which attempts count as alike (the authors' code)."""
    failed_mean: float = 0.2
    """Mean return below which they count as failed (the authors' code)."""

    def check(self, config: TrainConfig, env_id: str) -> None:
        """Refuse runs that never come back to a task."""
        self._check_pool(config)

    def patch(self, ground: Ground, played: Sequence[Episode], state: State) -> Patched:
        """Replace the first attempt of each failed group, then store this iteration's successes."""
        rng, patched = ground.rng(self.name), list(played)
        places = {id(episode): place for place, episode in enumerate(played)}
        chosen: list[tuple[int, str, Episode]] = []
        for group_id, group in by_group(played).items():
            ids = stored_ids(ground, state, group[0].task.key)
            if ids and self._failed(ground.config.outcomes(group)):
                picked = ids[int(rng.integers(len(ids)))]
                chosen.append((places[id(group[0])], group_id, read(ground.log, picked)))
        joined = self._joined(ground, [(group, episode) for _, group, episode in chosen])
        for (place, _, _), episode in zip(chosen, joined, strict=True):
            patched[place] = episode
        remember(state, played, self.capacity, self.least_return, ground.quarantined)
        injected = frozenset(place for place, _, _ in chosen)
        return Patched(patched, injected, values={"plan/injected": float(len(injected))})

    def _failed(self, group: Outcomes) -> bool:
        alike = group.return_E.std() < self.failed_std and group.return_E.mean() < self.failed_mean
        return bool(alike) and not group.success_E.any()


class RLEP(Injection):
    """Every group gets `num` stored successes of its task besides its attempts (2507.07451).

    The paper collects the successes in a run of its own and then starts anew; here they are those of the same run so
    far. In a group of failures they get a large advantage: 2 in 18 get +2.83, the others −0.35.
    """

    name: Literal["rlep"] = "rlep"
    num: int = Field(default=2, ge=1)
    """M: successes added to a group."""
    at_least: int = Field(default=2, ge=1)
    """Stored successes that a task needs for any to be added."""

    def check(self, config: TrainConfig, env_id: str) -> None:
        """Refuse runs that never come back to a task, and a store that never holds `at_least`."""
        self._check_pool(config)
        if self.at_least > self.capacity:
            raise ConfigError(f"plan.at_least = {self.at_least} exceeds plan.capacity = {self.capacity}: none is added")

    def patch(self, ground: Ground, played: Sequence[Episode], state: State) -> Patched:
        """Add uniformly drawn, different successes behind each group's attempts, then store this iteration's."""
        rng = ground.rng(self.name)
        chosen: list[tuple[str, Episode]] = []
        for group_id, group in by_group(played).items():
            ids = stored_ids(ground, state, group[0].task.key)
            if len(ids) >= self.at_least:
                picks = rng.choice(len(ids), size=min(self.num, len(ids)), replace=False)
                chosen += [(group_id, read(ground.log, ids[pick])) for pick in sorted(picks.tolist())]
        joined = self._joined(ground, chosen)
        remember(state, played, self.capacity, self.least_return, ground.quarantined)
        injected = frozenset(range(len(played), len(played) + len(joined)))
        return Patched([*played, *joined], injected, values={"plan/injected": float(len(joined))})


class ExGRPO(Injection):
    """Some tasks give way to ones solved in part before; a stored success is one of their attempts (2510.02245).

    Tasks solved k times, 0 < k < G, are in the buffer under their latest such k, also if a later group had no success
    at all (our choice: they need it most); one whose whole group succeeds leaves it for good. A share of the
    iteration's tasks, drawn at random, gives way to tasks of the buffer, drawn by
    p ∝ exp(−(k/G − μ)² / 2σ²) without replacement.
    Such a group has G − 1 attempts and, of the task's stored successes, the one with the least mean entropy under the
    policy, here over its sampled tokens only. Its tokens have a loss of their own, `shaping`.
    """

    name: Literal["exgrpo"] = "exgrpo"
    old_logprobs: OldLogprobs = "stored"
    share: float = Field(default=0.5, gt=0, le=1)
    """ρ: most of the iteration's tasks that are replaced, as a share."""
    center: float = Field(default=0.5, ge=0, le=1)
    """μ: the success rate drawn most."""
    sigma: float = Field(default=1.0, gt=0)
    """σ in success rate: 1 in the paper, which is nearly uniform. The authors' code has one success of G, 0.125 where
    G = 8: a task that is half solved is then drawn 90 times as often as one solved once."""
    start_above: float = Field(default=0.35, ge=0, lt=1)
    """Nothing is replaced before an iteration's success rate has once exceeded this."""
    shaping: float | None = Field(default=None, gt=0)
    """β of the stored success's loss −A·w/(w + β), w = π/μ, which nothing clips: see `Shaped`. 0.1 in the paper, with
    which its gradient at w = 1 is some 12 times weaker than an attempt's. None: the loss of the attempts."""

    @property
    def injected_loss(self) -> ImitationLoss | None:
        """The shaped ratio."""
        return None if self.shaping is None else Shaped(beta=self.shaping)

    @model_validator(mode="after")
    def _consistent(self) -> ExGRPO:
        if self.shaping is not None and self.old_logprobs == "recomputed":
            raise ValueError(
                f"plan.shaping = {self.shaping} and plan.old_logprobs = 'recomputed': what is shaped is the ratio to "
                "the policy that sampled the success; set old_logprobs = 'stored', or leave shaping out"
            )
        return self

    def collect(self, ground: Ground, tasks: Sequence[Task], state: State) -> Collected:
        """Play the tasks, some of them exchanged for tasks of the buffer with one attempt fewer."""
        drawn = self._drawn(ground, tasks, state) if state.get("started") else []
        size, num_fresh = ground.config.group_size, len(tasks) - len(drawn)
        chosen = np.sort(ground.rng("fresh").permutation(len(tasks))[:num_fresh])  # each gives way as often
        fresh = [tasks[place] for place in chosen]
        orders = [Order(task, number) for task in fresh for number in range(size)]
        orders += [Order(task, number) for task in drawn for number in range(size - 1)]
        episodes = play_all(ground.policy, orders, **ground.options)
        groups = {episode.group_id: episode.task.key for episode in episodes[num_fresh * size :]}
        state["drawn"] = {**state.get("drawn", {}), **groups}
        state["fresh"] = [*state.get("fresh", []), *(task.key for task in fresh)]
        return Collected(episodes, {"plan/experiential": float(len(drawn))})

    def patch(self, ground: Ground, played: Sequence[Episode], state: State) -> Patched:
        """Add the surest success of each experiential task to its group, then bring the buffer up to date."""
        drawn = state.pop("drawn", {})
        state.pop("fresh", None)
        chosen = [
            (group_id, self._surest(ground, stored_ids(ground, state, group[0].task.key)))
            for group_id, group in by_group(played).items()
            if group_id in drawn
        ]
        joined = self._joined(ground, chosen)
        self._update(ground, played, state)
        injected = frozenset(range(len(played), len(played) + len(joined)))
        return Patched([*played, *joined], injected, values={"plan/injected": float(len(joined))})

    def _drawn(self, ground: Ground, tasks: Sequence[Task], state: State) -> list[Task]:
        taken = {task.key for task in tasks} | {*state.get("drawn", {}).values(), *state.get("fresh", [])}
        counts = {
            key: k for key, k in state.get("solved", {}).items() if key not in taken and stored_ids(ground, state, key)
        }
        num = min(int(self.share * len(tasks)), len(counts))
        if not num:
            return []
        keys = sorted(counts)
        weights = self.task_weights(np.array([counts[key] for key in keys]) / ground.config.group_size)
        picks = ground.rng(self.name).choice(len(keys), size=num, replace=False, p=weights / weights.sum())
        return [read(ground.log, stored_ids(ground, state, keys[pick])[0]).task for pick in sorted(picks.tolist())]

    def task_weights(self, rate_K: NDArray[np.float64]) -> NDArray[np.float64]:
        """[K] what tasks of these success rates are drawn in proportion to.

        >>> ExGRPO(sigma=1 / 8).task_weights(np.array([4 / 8, 3 / 8, 1 / 8])).round(3).tolist()
        [1.0, 0.607, 0.011]
        """
        return np.exp(-((rate_K - self.center) ** 2) / (2 * self.sigma**2))

    def _surest(self, ground: Ground, ids: Sequence[str]) -> Episode:
        episodes = [read(ground.log, id) for id in ids]
        rows, _ = build_rows(episodes)
        _, entropy_N = ground.measure(rows)
        episode_N = np.repeat([row.episode for row in rows], [row.num_sampled for row in rows])
        mean_E = np.bincount(episode_N, entropy_N, len(ids)) / np.bincount(episode_N, minlength=len(ids))
        return episodes[int(mean_E.argmin())]

    def _update(self, ground: Ground, played: Sequence[Episode], state: State) -> None:
        remember(state, played, self.capacity, self.least_return, ground.quarantined)
        solved, retired = state.setdefault("solved", {}), set(state.setdefault("retired", []))
        for group in by_group(played).values():
            key, k = group[0].task.key, sum(episode.success for episode in group)
            if k == len(group):
                retired.add(key)
            elif k:
                solved[key] = k
        for key in retired:
            solved.pop(key, None)
            state["successes"].pop(key, None)
        state["retired"] = sorted(retired)
        rate = float(np.mean([episode.success for episode in played]))
        state["started"] = bool(state.get("started")) or rate > self.start_above
