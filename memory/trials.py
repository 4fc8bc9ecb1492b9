"""Trials: exposures and outcomes in columns, as the estimators read them; grows with the log.

A record for each of a hundred thousand exposures would be slow to walk; arrays are not. E episodes that have an
outcome, U units (the first coin of a memory in an episode), M memories.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentkit.errors import ConfigError
from agentkit.memory.exposure import Exposure, Outcome

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

BASELINE_COUNT = 2.0
"""Episodes of a task that weigh as much as what is known from its context, and of a context from all."""


@dataclass(frozen=True)
class Units:
    """Coins: one for each memory in each episode that tossed one, in order of time."""

    memory_U: Ints
    shown_U: Bools
    propensity_U: Floats
    decay_U: Floats
    """Weight by the age of the policy that acted."""
    outcome_U: Floats
    residual_U: Floats
    """Outcome less its baseline: what all the other episodes let expect."""
    foreseen_U: Floats
    """Baseline from earlier episodes alone."""


class Trials:
    """What was shown and how it ended; add exposures in order of time, outcomes whenever they are known."""

    def __init__(self) -> None:
        self.memory_ids: list[str] = []
        """[M] in order of first appearance."""
        self._memories: dict[str, int] = {}
        self._episodes: dict[str, int] = {}
        self._outcomes: dict[int, float] = {}
        self._tasks: dict[str, int] = {}
        self._contexts: dict[str, int] = {}
        self._exposures: list[tuple[int, int, int, int, bool, float, bool]] = []
        self._candidates: list[tuple[int, int, bool, float]] = []

    @classmethod
    def of(cls, exposures: Iterable[Exposure], outcomes: Mapping[str, Outcome]) -> Trials:
        """The trials of some records.

        Raises:
            ConfigError: The outcome of one of the episodes was judged by a model.
        """
        trials = cls()
        for exposure in exposures:
            outcome = outcomes.get(exposure.episode_key)
            if outcome is not None:
                if outcome.judge != "environment":
                    raise ConfigError(
                        f"the outcome of episode {exposure.episode_key!r} was judged by a {outcome.judge}; only what "
                        "the environment says may enter the utility of a memory, so pass those outcomes alone"
                    )
                trials.settle(exposure.episode_key, outcome.value)
            trials.add(exposure)
        return trials

    def add(self, exposure: Exposure) -> None:
        """Add an exposure."""
        self.see(
            exposure.episode_key,
            exposure.task_key,
            exposure.context,
            exposure.policy_version,
            exposure.held_out,
            exposure.holdout,
            [(one.memory_id, one.shown, one.propensity) for one in exposure.candidates],
        )

    def see(
        self,
        episode_key: str,
        task_key: str,
        context: str,
        policy_version: int,
        held_out: bool,
        holdout: float,
        candidates: Iterable[tuple[str, bool, float]],
    ) -> None:
        """`add` of an exposure in parts; `candidates` are (memory id, shown, propensity)."""
        episode = self._episodes.setdefault(episode_key, len(self._episodes))
        task = self._tasks.setdefault(task_key, len(self._tasks))
        place = self._contexts.setdefault(context, len(self._contexts))
        number, first = len(self._exposures), len(self._candidates)
        for memory_id, shown, propensity in candidates:
            memory = self._memories.setdefault(memory_id, len(self._memories))
            if memory == len(self.memory_ids):
                self.memory_ids.append(memory_id)
            self._candidates.append((number, memory, shown, propensity))
        some = len(self._candidates) > first
        self._exposures.append((episode, task, place, policy_version, held_out, holdout, some))

    def settle(self, episode_key: str, outcome: float) -> None:
        """Say how an episode ended, 0 to 1; the first that is said stays."""
        episode = self._episodes.setdefault(episode_key, len(self._episodes))
        self._outcomes.setdefault(episode, outcome)

    def units(
        self, context: str | None = None, half_life: float | None = None, policy_version: int | None = None
    ) -> tuple[list[str], Units]:
        """The candidates of episodes with an outcome, and their coins, whose memories are places in that list.

        Args:
            context: Only coins of this context; None for all.
            half_life: Policy versions after which an exposure counts half; None counts all alike.
            policy_version: The version to look back from; by default the newest.

        Raises:
            ConfigError: `half_life` is not positive.
        """
        exposures = _Exposures.of(self._exposures)
        decay_X = _decays(exposures.version_X, half_life, policy_version)
        row_X, outcome_E, residual_E, foreseen_E = self._baselines(exposures)
        number_C, memory_C, shown_C, propensity_C = _columns(self._candidates, 4)
        number_C, memory_C = number_C.astype(np.int64), memory_C.astype(np.int64)
        seen_C = row_X[number_C] >= 0
        if context is not None:
            seen_C &= exposures.context_X[number_C] == self._contexts.get(context, -1)
        known, first_C = np.unique(memory_C[seen_C], return_index=True)
        known = known[np.argsort(first_C)]
        place_M = np.zeros(len(self.memory_ids), np.int64)
        place_M[known] = np.arange(len(known))
        tossed_C = seen_C & (propensity_C > 0.0) & (propensity_C < 1.0)
        number_U, memory_U = number_C[tossed_C], place_M[memory_C[tossed_C]]
        row_U = row_X[number_U]
        _, first = np.unique(row_U * max(len(known), 1) + memory_U, return_index=True)
        first.sort()
        row_U = row_U[first]
        return [self.memory_ids[memory] for memory in known.tolist()], Units(
            memory_U=memory_U[first],
            shown_U=shown_C[tossed_C][first] > 0,
            propensity_U=propensity_C[tossed_C][first],
            decay_U=decay_X[number_U][first],
            outcome_U=outcome_E[row_U],
            residual_U=residual_E[row_U],
            foreseen_U=foreseen_E[row_U],
        )

    def whole(self) -> Units:
        """Memory as a whole as one memory, which was hidden where an episode was held out."""
        told = [one for one in self._exposures if one[6] and 0.0 < one[5] < 1.0]
        exposures = _Exposures.of(told)
        row_X, outcome_E, residual_E, foreseen_E = self._baselines(exposures)
        row_U, first = np.unique(row_X, return_index=True)
        row_U, first = row_U[row_U >= 0], first[row_U >= 0]
        return Units(
            memory_U=np.zeros(len(first), np.int64),
            shown_U=~exposures.held_out_X[first],
            propensity_U=1.0 - exposures.holdout_X[first],
            decay_U=np.ones(len(first)),
            outcome_U=outcome_E[row_U],
            residual_U=residual_E[row_U],
            foreseen_U=foreseen_E[row_U],
        )

    def _baselines(self, exposures: _Exposures) -> tuple[Ints, Floats, Floats, Floats]:
        """Row of each exposure's episode (−1 without outcome); outcome, residual and foreseen success of each row.

        The expected success of an episode comes from the others: of its task, drawn towards its context, towards all.
        """
        outcome_K = np.full(len(self._episodes), np.nan)
        outcome_K[list(self._outcomes)] = list(self._outcomes.values())
        settled_X = ~np.isnan(outcome_K[exposures.episode_X])
        _, first, row_S = np.unique(exposures.episode_X[settled_X], return_index=True, return_inverse=True)
        order = np.argsort(first)  # rows in order of time
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        row_X = np.full(len(settled_X), -1, np.int64)
        row_X[settled_X] = rank[row_S]
        begin_E = np.flatnonzero(settled_X)[first[order]]
        outcome_E = outcome_K[exposures.episode_X[begin_E]]
        expected_E, foreseen_E = np.full(len(begin_E), 0.5), np.full(len(begin_E), 0.5)
        task_E, context_E = exposures.task_X[begin_E], exposures.context_X[begin_E]
        for group_E in (np.zeros_like(task_E), context_E, task_E):
            total, count = np.bincount(group_E, outcome_E), np.bincount(group_E)
            others_E = count[group_E] - 1 + BASELINE_COUNT
            expected_E = (total[group_E] - outcome_E + BASELINE_COUNT * expected_E) / others_E
            before_E, number_E = _before(group_E, outcome_E)
            foreseen_E = (before_E + BASELINE_COUNT * foreseen_E) / (number_E + BASELINE_COUNT)
        return row_X, outcome_E, outcome_E - expected_E, foreseen_E


@dataclass(frozen=True)
class _Exposures:
    episode_X: Ints
    task_X: Ints
    context_X: Ints
    version_X: Floats
    held_out_X: Bools
    holdout_X: Floats

    @classmethod
    def of(cls, rows: list[tuple[int, int, int, int, bool, float, bool]]) -> _Exposures:
        episode, task, context, version, held_out, holdout, _ = _columns(rows, 7)
        return cls(
            episode.astype(np.int64),
            task.astype(np.int64),
            context.astype(np.int64),
            version,
            held_out > 0,
            holdout,
        )


def _columns(
    rows: list[tuple[int, int, bool, float]] | list[tuple[int, int, int, int, bool, float, bool]], num: int
) -> Floats:
    return np.array(rows, np.float64).reshape(-1, num).T


def _before(group_E: Ints, value_E: Floats) -> tuple[Floats, Floats]:
    """Sum of the values, and number, of the earlier rows of each row's group."""
    order = np.argsort(group_E, kind="stable")
    group, value = group_E[order], value_E[order]
    start = np.searchsorted(group, group)
    sums = np.concatenate(([0.0], np.cumsum(value)))
    before, number = np.empty(len(order)), np.empty(len(order))
    before[order] = sums[:-1] - sums[start]
    number[order] = np.arange(len(order)) - start
    return before, number


def _decays(version_X: Floats, half_life: float | None, policy_version: int | None) -> Floats:
    if half_life is None or not len(version_X):
        return np.ones(len(version_X))
    if half_life <= 0:
        raise ConfigError(f"half_life is {half_life}; give a number of policy versions above 0, or None for no decay")
    newest = version_X.max() if policy_version is None else float(policy_version)
    return np.exp2(-np.maximum(newest - version_X, 0.0) / half_life)
