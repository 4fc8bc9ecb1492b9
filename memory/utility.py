"""Causal utility: what showing a memory does to success, measured against the same draw without it.

Counting the successes of the episodes a memory was shown in measures how easy its tasks are. Here only coins count:
among the episodes in which a coin decided about the memory, those it was shown in are compared with those it was
hidden in, each weighted by the probability of its coin. E episodes, U units (a memory in an episode), M memories.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from agentkit.errors import ConfigError
from agentkit.memory.exposure import Exposure, Outcome
from agentkit.memory.harm import HARMFUL, wager
from agentkit.memory.records import Record
from agentkit.memory.trials import Bools, Floats, Ints, Trials, Units

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""
PRIOR_SD = 0.15
"""Standard deviation of the effects of memories before anything is known."""
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
    sd: float
    """Standard deviation of the posterior of which `shrunk` is the mean."""
    chance: float
    """Posterior probability that the memory helps; 0.5 if nothing is known."""
    harm: float
    """Evidence that it does harm (an e-value): one that does none ever reaches x with probability 1/x at most, however
    often it is looked at; see `agentkit.memory.harm`. 1 if nothing is known."""
    num_shown: int
    """Episodes in which a coin decided that it was shown."""
    num_hidden: int
    """Episodes in which a coin decided that it was not."""
    mean_shown: float | None
    """Weighted success of the episodes it was shown in; None if there are none."""
    mean_hidden: float | None

    @property
    def harmful(self) -> bool:
        """Whether it is proved to do harm: `harm` has reached `HARMFUL`."""
        return self.harm >= HARMFUL


UNKNOWN = Utility(
    uplift=0.0,
    low=-1.0,
    high=1.0,
    shrunk=0.0,
    sd=PRIOR_SD,
    chance=0.5,
    harm=1.0,
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
    prior_sd: float = PRIOR_SD,
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
        exposures: What was shown, in order of time. Those of episodes without an outcome are left out, and outcomes of
            episodes without exposure.
        outcomes: Episode key -> how it ended.
        context: Only memories and coins of this context; None for all.
        half_life: Policy versions after which an exposure counts half; None counts all alike.
        policy_version: The version to look back from; by default the newest in `exposures`.
        prior_sd: Standard deviation of uplifts before anything is known, for `shrunk` and `chance`.

    Raises:
        ConfigError: An outcome was judged by a model, or `half_life` or `prior_sd` is not positive.
    """
    return estimate_trials(
        Trials.of(exposures, outcomes),
        context=context,
        half_life=half_life,
        policy_version=policy_version,
        prior_sd=prior_sd,
    )


def estimate_trials(
    trials: Trials,
    *,
    context: str | None = None,
    half_life: float | None = None,
    policy_version: int | None = None,
    prior_sd: float = PRIOR_SD,
) -> dict[str, Utility]:
    """`estimate_utility` of a log in columns."""
    if prior_sd <= 0:
        raise ConfigError(f"prior_sd is {prior_sd}; a standard deviation is above 0")
    memory_ids, units = trials.units(context, half_life, policy_version)
    return dict(zip(memory_ids, _compare(units, len(memory_ids), prior_sd), strict=True))


def estimate_holdout(exposures: Sequence[Exposure], outcomes: Mapping[str, Outcome]) -> Utility:
    """What memory as a whole does to success: episodes with memory against those held out.

    Only episodes with a candidate count, since the others would see nothing either way.

    Raises:
        ConfigError: As `estimate_utility`.
    """
    return estimate_whole(Trials.of(exposures, outcomes))


def estimate_whole(trials: Trials) -> Utility:
    """`estimate_holdout` of a log in columns."""
    (utility,) = _compare(trials.whole(), 1, prior_sd=1.0)
    return utility


class _Arms(NamedTuple):
    """The units in which each memory was shown against those in which it was hidden."""

    known_M: Bools
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


def _weigh(units: Units, shown_weight_U: Floats, hidden_weight_U: Floats, num_memories: int) -> _Arms:
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


def _compare(units: Units, num_memories: int, prior_sd: float) -> list[Utility]:
    """One utility for each memory; `UNKNOWN`, but for counts and means, where one of the arms is empty."""
    p_U = units.propensity_U
    arms = _weigh(units, 1 / p_U, 1 / (1 - p_U), num_memories)
    width_M = t_quantile(arms.freedom_M) * np.sqrt(arms.variance_M)
    overlap = _weigh(units, 1 - p_U, p_U, num_memories)
    kept_M = prior_sd**2 / (prior_sd**2 + overlap.variance_M)
    sd_M = np.sqrt(kept_M * overlap.variance_M)
    harm_M = _harm(units, num_memories)
    sureness_M = overlap.uplift_M * np.sqrt(kept_M / overlap.variance_M)
    num_shown_M = np.bincount(units.memory_U[units.shown_U], minlength=num_memories)
    num_hidden_M = np.bincount(units.memory_U[~units.shown_U], minlength=num_memories)
    utilities = []
    for m in range(num_memories):
        mean_shown, mean_hidden = float(arms.shown_M[m]), float(arms.hidden_M[m])
        seen = {
            "num_shown": int(num_shown_M[m]),
            "num_hidden": int(num_hidden_M[m]),
            "harm": float(harm_M[m]),
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
            "sd": float(sd_M[m]),
            "chance": (1.0 + math.erf(float(sureness_M[m]) / math.sqrt(2.0))) / 2.0,
        }
        utilities.append(UNKNOWN.model_copy(update=seen | told))
    return utilities


def _harm(units: Units, num_memories: int) -> Floats:
    """The e-value of harm of each memory, from (A − p)(Y − b) with a baseline b from earlier episodes alone.

    Given all that was before, its mean is p(1 − p) times the uplift, whatever b is: not above 0 if there is harm.
    """
    p_U, b_U = units.propensity_U, units.foreseen_U
    score_U = (units.shown_U - p_U) * (units.outcome_U - b_U)
    most_U = np.maximum((1 - p_U) * (1 - b_U), p_U * b_U)
    return wager(units.memory_U, num_memories, score_U, most_U)


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
