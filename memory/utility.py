"""Causal utility: what showing a memory does to success, measured against the same draw without it.

Counting the successes of the episodes a memory was shown in measures how easy its tasks are. Here only coins count:
among the episodes in which a coin decided about the memory, those it was shown in are compared with those it was
hidden in, each weighted by the probability of its coin. E episodes, U units (a memory in an episode), M memories.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agentkit.errors import ConfigError
from agentkit.memory.exposure import Exposure, Outcome
from agentkit.memory.records import Record

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""
BASELINE_COUNT = 2.0
"""Episodes of a task that weigh as much as what is known from its context, and of a context from all."""
VARIANCE_COUNT = 3.0
"""Imagined episodes in each arm that spread as those of all memories do: two successes out of two are no proof of
certainty. Chosen by simulation for the coverage of the interval."""
FORGOTTEN = 1e-6
"""Decayed count of episodes up to which an arm is empty."""


class Utility(Record):
    """What a memory does to success; differences are in units of success, −1 to 1."""

    uplift: float
    """Success with the memory minus success without it; 0 if it is unknown."""
    low: float
    """Lower end of the 95 % interval of `uplift`; −1 if nothing can be said."""
    high: float
    """Upper end; below 0 the memory does harm."""
    shrunk: float
    """`uplift`, drawn towards 0 the less is known: the mean of its posterior, for ranking."""
    chance: float
    """Posterior probability that the memory helps; 0.5 if nothing is known."""
    num_shown: int
    """Episodes in which a coin decided that it was shown."""
    num_hidden: int
    """Episodes in which a coin decided that it was not."""
    mean_shown: float | None
    """Weighted success of the episodes it was shown in; None if there are none."""
    mean_hidden: float | None


UNKNOWN = Utility(
    uplift=0.0,
    low=-1.0,
    high=1.0,
    shrunk=0.0,
    chance=0.5,
    num_shown=0,
    num_hidden=0,
    mean_shown=None,
    mean_hidden=None,
)
"""The utility of a memory nothing is known about."""


def as_factor(utility: Utility) -> float:
    """The utility as a factor of a score: 0 for certain harm, 0.5 for unknown or none, 1 for certain help.

    >>> as_factor(UNKNOWN)
    0.5
    """
    return min(max(0.5 + utility.shrunk / 2, 0.0), 1.0)


def estimate_utility(
    exposures: Sequence[Exposure],
    outcomes: Mapping[str, Outcome],
    *,
    context: str | None = None,
    half_life: float | None = None,
    policy_version: int | None = None,
    prior_sd: float = 0.15,
) -> dict[str, Utility]:
    """The utility of every memory that was a candidate, by id.

    For memory m, with A = 1 if it was shown, p its propensity, Y the outcome and b the baseline of the task:

        uplift = Σ w₁ A (Y − b) / Σ w₁ A  −  Σ w₀ (1 − A) (Y − b) / Σ w₀ (1 − A)

    with w₁ = 1 / p and w₀ = 1 / (1 − p): self-normalised inverse propensities, augmented by one outcome model for both
    arms (Robins, Rotnitzky & Zhao 1994). Since p is known, a poor b costs width, not truth. It is the mean
    success of the other episodes of the task, drawn towards that of its context and of all, never the episode's own.
    The interval is Welch's with t quantiles and the imagined episodes of `VARIANCE_COUNT`.

    `shrunk` and `chance` are the posterior of a normal prior around 0 with w₁ = 1 − p and w₀ = p instead (overlap
    weights, Li, Morgan & Zaslavsky 2018, eq. 4). They cannot be upset by one rare coin, which makes better choices,
    but they lean a little away from 0 where p followed from earlier outcomes; where p is constant both are the same.

    Units are counted once an episode, at the first recall in which a coin was tossed for the memory. Episodes held
    out tell nothing about a single memory, since all the others are missing too; they enter the baseline.

    Args:
        exposures: What was shown, in order of time. Those of episodes without an outcome are left out.
        outcomes: Episode key -> how it ended.
        context: Only memories and coins of this context; None for all.
        half_life: Policy versions after which an exposure counts half; None counts all alike.
        policy_version: The version to look back from; by default the newest in `exposures`.
        prior_sd: Standard deviation of uplifts before anything is known, for `shrunk` and `chance`.

    Raises:
        ConfigError: An outcome was judged by a model; no exposure has an outcome although there are some; or
            `half_life` or `prior_sd` is not positive.
    """
    if prior_sd <= 0:
        raise ConfigError(f"prior_sd is {prior_sd}; a standard deviation is above 0")
    episodes = _Episodes.read(exposures, outcomes)
    index: dict[str, int] = {}
    rows, memories, shown, propensities, decays = [], [], [], [], []
    decay = _decays(exposures, half_life, policy_version)
    for exposure, row, age in zip(exposures, episodes.row_of, decay.tolist(), strict=True):
        if row < 0 or (context is not None and exposure.context != context):
            continue
        for candidate in exposure.candidates:
            memory = index.setdefault(candidate.memory_id, len(index))
            if 0.0 < candidate.propensity < 1.0:
                rows.append(row)
                memories.append(memory)
                shown.append(candidate.shown)
                propensities.append(candidate.propensity)
                decays.append(age)
    row_U, memory_U = np.array(rows, np.int64), np.array(memories, np.int64)
    _, first = np.unique(row_U * max(len(index), 1) + memory_U, return_index=True)
    outcome_U = episodes.outcome_E[row_U[first]]
    units = _Units(
        memory_U=memory_U[first],
        shown_U=np.array(shown, np.bool_)[first],
        propensity_U=np.array(propensities, np.float64)[first],
        decay_U=np.array(decays, np.float64)[first],
        outcome_U=outcome_U,
        residual_U=outcome_U - episodes.baselines()[row_U[first]],
    )
    return dict(zip(index, _compare(units, len(index), prior_sd), strict=True))


def estimate_holdout(exposures: Sequence[Exposure], outcomes: Mapping[str, Outcome]) -> Utility:
    """What memory as a whole does to success: episodes with memory against those held out.

    Only episodes with a candidate count, since the others would see nothing either way.

    Raises:
        ConfigError: As `estimate_utility`.
    """
    exposures = [exposure for exposure in exposures if exposure.candidates and 0.0 < exposure.holdout < 1.0]
    episodes = _Episodes.read(exposures, outcomes)
    row_X = np.array(episodes.row_of, np.int64)
    row_U, first = np.unique(row_X, return_index=True)
    row_U, first = row_U[row_U >= 0], first[row_U >= 0]
    units = _Units(
        memory_U=np.zeros(len(first), np.int64),
        shown_U=np.array([not exposures[number].held_out for number in first], np.bool_),
        propensity_U=np.array([1.0 - exposures[number].holdout for number in first], np.float64),
        decay_U=np.ones(len(first)),
        outcome_U=episodes.outcome_E[row_U],
        residual_U=episodes.outcome_E[row_U] - episodes.baselines()[row_U],
    )
    (utility,) = _compare(units, 1, prior_sd=1.0)
    return utility


@dataclass(frozen=True)
class _Episodes:
    """The episodes that have an outcome."""

    row_of: list[int]
    """Exposure -> row of its episode, −1 if it has no outcome."""
    outcome_E: Floats
    task_E: Ints
    context_E: Ints

    @classmethod
    def read(cls, exposures: Sequence[Exposure], outcomes: Mapping[str, Outcome]) -> _Episodes:
        rows: dict[str, int] = {}
        tasks: dict[str, int] = {}
        contexts: dict[str, int] = {}
        row_of, values, task_rows, context_rows = [], [], [], []
        for exposure in exposures:
            key = exposure.episode_key
            row = rows.get(key, -1)
            if row < 0 and key in outcomes:
                outcome = outcomes[key]
                if outcome.judge != "environment":
                    raise ConfigError(
                        f"the outcome of episode {key!r} was judged by a {outcome.judge}; only what the environment "
                        "says may enter the utility of a memory, so pass those outcomes alone"
                    )
                row = rows[key] = len(rows)
                values.append(outcome.value)
                task_rows.append(tasks.setdefault(exposure.task_key, len(tasks)))
                context_rows.append(contexts.setdefault(exposure.context, len(contexts)))
            row_of.append(row)
        if exposures and outcomes and not rows:
            raise ConfigError(
                f"none of {len(exposures)} exposures has an outcome: they name episodes such as "
                f"{exposures[0].episode_key!r}, the outcomes such as {next(iter(outcomes))!r}; use one key for both"
            )
        return cls(
            row_of, np.array(values, np.float64), np.array(task_rows, np.int64), np.array(context_rows, np.int64)
        )

    def baselines(self) -> Floats:
        """Expected success of each episode from all the others: task, drawn towards context, towards all; [E]."""
        expected_E = np.full(len(self.outcome_E), 0.5)
        for group_E in (np.zeros_like(self.task_E), self.context_E, self.task_E):
            total = np.bincount(group_E, self.outcome_E)
            others_E = np.bincount(group_E)[group_E] - 1 + BASELINE_COUNT
            expected_E = (total[group_E] - self.outcome_E + BASELINE_COUNT * expected_E) / others_E
        return expected_E


@dataclass(frozen=True)
class _Units:
    """Coins: one for each memory in each episode that tossed one."""

    memory_U: Ints
    shown_U: NDArray[np.bool_]
    propensity_U: Floats
    decay_U: Floats
    outcome_U: Floats
    residual_U: Floats


def _decays(exposures: Sequence[Exposure], half_life: float | None, policy_version: int | None) -> Floats:
    """Weight of each exposure by the age of the policy that acted in it."""
    if half_life is None or not exposures:
        return np.ones(len(exposures))
    if half_life <= 0:
        raise ConfigError(f"half_life is {half_life}; give a number of policy versions above 0, or None for no decay")
    versions = np.array([exposure.policy_version for exposure in exposures], np.float64)
    newest = versions.max() if policy_version is None else float(policy_version)
    return np.exp2(-np.maximum(newest - versions, 0.0) / half_life)


class _Arms(NamedTuple):
    """The units in which each memory was shown against those in which it was hidden."""

    known_M: NDArray[np.bool_]
    """Neither arm is empty; the following mean nothing where it is False."""
    uplift_M: Floats
    variance_M: Floats
    """Of `uplift_M`."""
    freedom_M: Floats
    """Degrees of freedom of the variance (Welch)."""
    shown_M: Floats
    """Weighted mean outcome."""
    hidden_M: Floats


def _sums(memory_U: Ints, num_memories: int, value_U: Floats) -> Floats:
    """The sum over the units of each memory; [M]."""
    return np.bincount(memory_U, value_U, num_memories).astype(np.float64)  # of nothing, numpy makes integers


def _weigh(units: _Units, shown_weight_U: Floats, hidden_weight_U: Floats, num_memories: int) -> _Arms:
    """Compare the arms of each memory under the given weights."""
    spread = (float(units.residual_U @ units.residual_U) + VARIANCE_COUNT / 4) / (len(units.memory_U) + VARIANCE_COUNT)
    known, mean, outcome, variance, freedom = [], [], [], [], []
    for in_arm_U, arm_weight_U in ((units.shown_U, shown_weight_U), (~units.shown_U, hidden_weight_U)):
        memory_U, weight_U, decay_U = units.memory_U[in_arm_U], arm_weight_U[in_arm_U], units.decay_U[in_arm_U]
        residual_U, outcome_U = units.residual_U[in_arm_U], units.outcome_U[in_arm_U]
        sums = partial(_sums, memory_U, num_memories)
        count_M, weight_M, square_M = sums(decay_U), sums(decay_U * weight_U), sums(decay_U * weight_U**2)
        known_M = count_M > FORGOTTEN
        count_M, weight_M, square_M = (np.where(known_M, sum_M, 1.0) for sum_M in (count_M, weight_M, square_M))
        mean_M = sums(decay_U * weight_U * residual_U) / weight_M
        spread_M = sums(decay_U * (weight_U * (residual_U - mean_M[memory_U])) ** 2)
        effective_M = weight_M**2 / square_M  # decay counts as so many episodes, so that what is old fades
        freedom_M = effective_M - 1 + VARIANCE_COUNT
        spread_M = spread_M + VARIANCE_COUNT * spread * square_M / count_M
        known.append(known_M)
        mean.append(mean_M)
        outcome.append(sums(decay_U * weight_U * outcome_U) / weight_M)
        variance.append(spread_M / weight_M**2 * effective_M / freedom_M)
        freedom.append(freedom_M)
    variance_M = variance[0] + variance[1]
    return _Arms(
        known_M=known[0] & known[1],
        uplift_M=np.clip(mean[0] - mean[1], -1.0, 1.0),
        variance_M=variance_M,
        freedom_M=variance_M**2 / (variance[0] ** 2 / freedom[0] + variance[1] ** 2 / freedom[1]),
        shown_M=np.where(known[0], outcome[0], np.nan),
        hidden_M=np.where(known[1], outcome[1], np.nan),
    )


def _compare(units: _Units, num_memories: int, prior_sd: float) -> list[Utility]:
    """One utility for each memory; `UNKNOWN`, but for counts and means, where one of the arms is empty."""
    p_U = units.propensity_U
    arms = _weigh(units, 1 / p_U, 1 / (1 - p_U), num_memories)
    width_M = t_quantile(arms.freedom_M) * np.sqrt(arms.variance_M)
    overlap = _weigh(units, 1 - p_U, p_U, num_memories)
    kept_M = prior_sd**2 / (prior_sd**2 + overlap.variance_M)
    sureness_M = overlap.uplift_M * np.sqrt(kept_M / overlap.variance_M)
    num_shown_M = np.bincount(units.memory_U[units.shown_U], minlength=num_memories)
    num_hidden_M = np.bincount(units.memory_U[~units.shown_U], minlength=num_memories)
    utilities = []
    for m in range(num_memories):
        mean_shown, mean_hidden = float(arms.shown_M[m]), float(arms.hidden_M[m])
        seen = {
            "num_shown": int(num_shown_M[m]),
            "num_hidden": int(num_hidden_M[m]),
            "mean_shown": None if math.isnan(mean_shown) else mean_shown,
            "mean_hidden": None if math.isnan(mean_hidden) else mean_hidden,
        }
        if not arms.known_M[m]:
            utilities.append(UNKNOWN.model_copy(update=seen))
            continue
        uplift, width = float(arms.uplift_M[m]), float(width_M[m])
        told = {
            "uplift": uplift,
            "low": max(uplift - width, -1.0),
            "high": min(uplift + width, 1.0),
            "shrunk": float(overlap.uplift_M[m] * kept_M[m]),
            "chance": (1.0 + math.erf(float(sureness_M[m]) / math.sqrt(2.0))) / 2.0,
        }
        utilities.append(UNKNOWN.model_copy(update=seen | told))
    return utilities


def t_quantile(freedom: Floats) -> Floats:
    """0.975 quantile of Student's t by its expansion in 1 / degrees of freedom (Abramowitz & Stegun 26.7.5).

    Within 1 % from 3 degrees of freedom on, 3 % from 2, the fewest there are, where evidence has faded.

    >>> t_quantile(np.array([4.0, 10.0, 1e9])).round(3).tolist()
    [2.769, 2.228, 1.96]
    """
    z = Z95
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
