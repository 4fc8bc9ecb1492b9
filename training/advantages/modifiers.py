"""Modifiers: what is done to advantages after the estimator, one after the other. A class each, chosen by its `name`.

Where all advantages of a group are zero they stay zero.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from agentkit.errors import ConfigError
from agentkit.training.advantages.outcomes import ROUNDING, Floats, Outcomes, medians
from agentkit.training.settings import Part


class Modifier(Part):
    """A change of advantages; a subclass each."""

    @property
    def needs_reference(self) -> bool:
        """Whether it reads `Outcomes.reference_logp_U`, which costs a pass of the reference over all rows."""
        return False

    @property
    def needs_entropy(self) -> bool:
        """Whether it reads `Outcomes.entropy_U`, which costs a pass of the policy over all rows."""
        return False

    def turns(self, advantage_U: Floats, outcomes: Outcomes) -> Floats:
        """[U] the changed advantage of each turn."""
        raise NotImplementedError


class ACE(Modifier):
    """Negative advantages times 1 + α·softplus(c), c = log π/π_ref of the whole attempt (Xu et al. 2026, 2602.21420).

    An error the training has made more likely is punished harder; one it has made less likely hardly so. π is the
    policy that acted. `over = "mean"` takes c per token instead of the paper's sum, which grows with an attempt's
    length. α is our choice.
    """

    name: Literal["ace"] = "ace"
    alpha: float = Field(default=1.0, gt=0)
    """Strength."""
    over: Literal["sum", "mean"] = "sum"
    """Whether c is the sum of the tokens' log ratios or their mean."""

    @property
    def needs_reference(self) -> bool:
        """Yes."""
        return True

    def turns(self, advantage_U: Floats, outcomes: Outcomes) -> Floats:
        """[U] the changed advantage of each turn.

        Raises:
            ConfigError: Nobody asked the reference.
        """
        if outcomes.reference_logp_U is None:
            raise ConfigError("the modifier 'ace' needs the reference's log-probabilities; see Outcomes.told")
        shift_E = outcomes.per_episode(outcomes.logp_U - outcomes.reference_logp_U)
        if self.over == "mean":
            shift_E = shift_E / np.maximum(_tokens(outcomes), 1)
        factor_U = outcomes.per_turn(1 + self.alpha * np.logaddexp(0.0, shift_E))
        return np.where(advantage_U < 0, advantage_U * factor_U, advantage_U)


class CANON(Modifier):
    """A − μ·(mean of the group's other half) − (1 − μ)·(mean of its own half) (Chen et al. 2025, 2509.23962, eq. 5).

    The halves are the attempts above and not above the group's median of a metric. Against the other half, the trend
    of the metric that went better is learnt, whichever it is; against its own half, what went better at the same
    level of it. Means are of the attempts' mean advantages, so that after Dr.GRPO this is the paper's estimator: with
    μ = ½ and equal halves nothing changes. Nothing changes where a half is empty, all metrics being equal.
    """

    name: Literal["canon"] = "canon"
    metric: Literal["length", "entropy"] = "length"
    """Sampled tokens of the attempt, or the policy's mean entropy at them."""
    mu: float = Field(default=0.5, ge=0, le=1)
    """Share of the comparison with the other half; 1 is CANON-Inter, 0 CANON-Intra."""

    @property
    def needs_entropy(self) -> bool:
        """If that is the metric."""
        return self.metric == "entropy"

    def turns(self, advantage_U: Floats, outcomes: Outcomes) -> Floats:
        """[U] the changed advantage of each turn.

        Raises:
            ConfigError: The metric is the entropy, and nobody measured it.
        """
        metric_E = _tokens(outcomes)
        if self.metric == "entropy":
            if outcomes.entropy_U is None:
                raise ConfigError("the modifier 'canon' with metric = 'entropy' needs entropies; see Outcomes.told")
            metric_E = outcomes.per_episode(outcomes.entropy_U) / np.maximum(metric_E, 1)
        group_E, num = outcomes.group_E, outcomes.num_groups
        high_E = (metric_E > medians(metric_E, group_E, num)[group_E]).astype(np.int64)
        half_E = 2 * group_E + high_E
        count_H = np.bincount(half_E, minlength=2 * num)
        mean_E = outcomes.per_episode(advantage_U) / np.maximum(np.diff(outcomes.starts), 1)
        mean_H = np.bincount(half_E, mean_E, 2 * num) / np.maximum(count_H, 1)
        baseline_E = self.mu * mean_H[half_E ^ 1] + (1 - self.mu) * mean_H[half_E]
        split_E = (count_H[half_E ^ 1] > 0) & (count_H[half_E] > 0)
        return advantage_U - outcomes.per_turn(np.where(split_E, baseline_E, 0.0))


class Amplify(Modifier):
    """Positive advantages times α (R³L, 2601.03715, positive amplification).

    `best` says what becomes of the group's best attempts: scaled like the others; set to α, as in the paper; or set
    to 1 if they earned at least 1, as in the authors' code, where a group of nothing but such attempts teaches too.
    """

    name: Literal["amplify"] = "amplify"
    factor: float = Field(default=3.0, gt=1)
    """α."""
    best: Literal["scaled", "factor", "one"] = "scaled"

    def turns(self, advantage_U: Floats, outcomes: Outcomes) -> Floats:
        """[U] the changed advantage of each turn."""
        amplified_U = np.where(advantage_U > 0, self.factor * advantage_U, advantage_U)
        if self.best == "scaled":
            return amplified_U
        return_E, group_E = outcomes.return_E, outcomes.group_E
        if self.best == "one":
            return np.where(outcomes.per_turn(return_E >= 1 - ROUNDING), 1.0, amplified_U)
        greatest_G = np.full(outcomes.num_groups, -np.inf)
        np.maximum.at(greatest_G, group_E, return_E)
        level_E = greatest_G[group_E]
        best_E = return_E >= level_E - ROUNDING * np.maximum(1.0, np.abs(level_E))
        teaches_G = np.bincount(group_E[outcomes.episode_U], advantage_U != 0, outcomes.num_groups) > 0
        return np.where(outcomes.per_turn(best_E & teaches_G[group_E]), self.factor, amplified_U)


class Novelty(Modifier):
    """Positive advantages of successes + min(max(λ(1 − η), 0), κ·A), η = exp(s − s̄) (XRPO, 2510.06672).

    s is the mean log-probability of an attempt's tokens under the policy that acted, s̄ its mean over the group: a
    success that was unlikely for its group is learnt harder, at most by the factor 1 + κ. λ and κ are our choices.
    """

    name: Literal["novelty"] = "novelty"
    strength: float = Field(default=1.0, gt=0)
    """λ."""
    limit: float = Field(default=0.5, gt=0)
    """κ."""

    def turns(self, advantage_U: Floats, outcomes: Outcomes) -> Floats:
        """[U] the changed advantage of each turn."""
        group_E, tokens_E = outcomes.group_E, _tokens(outcomes)
        sampled_E = tokens_E > 0  # an attempt without tokens has no likelihood
        mean_logp_E = outcomes.per_episode(outcomes.logp_U) / np.maximum(tokens_E, 1)
        count_G = np.bincount(group_E, sampled_E, outcomes.num_groups)
        mean_G = np.bincount(group_E, mean_logp_E * sampled_E, outcomes.num_groups) / np.maximum(count_G, 1)
        bonus_E = np.maximum(self.strength * -np.expm1(mean_logp_E - mean_G[group_E]), 0.0)
        novel_U = outcomes.per_turn(outcomes.success_E & sampled_E) & (advantage_U > 0)
        bonus_U = np.minimum(outcomes.per_turn(bonus_E), self.limit * advantage_U)
        return np.where(novel_U, advantage_U + bonus_U, advantage_U)


class Spread(Modifier):
    """Only the attempts of each group whose advantages vary most; the others get zero (D³S, the level of rollouts).

    Of all subsets of a size, one that varies most is some of the lowest and some of the highest. An attempt's
    advantage is the mean over its turns; among equal ones the first of the batch stay. D³S relaxes the share over the
    training; here it is constant.
    """

    name: Literal["spread"] = "spread"
    share: float = Field(default=0.5, gt=0, lt=1)
    """Share of a group's attempts that stay, rounded up, at least two."""

    def turns(self, advantage_U: Floats, outcomes: Outcomes) -> Floats:
        """[U] the changed advantage of each turn."""
        value_E = outcomes.per_episode(advantage_U) / np.maximum(np.diff(outcomes.starts), 1)
        order = np.lexsort((value_E, outcomes.group_E))
        stays_E = np.ones(len(value_E), np.bool_)
        for members in np.split(order, np.cumsum(np.bincount(outcomes.group_E))[:-1]):
            keep = max(2, int(np.ceil(self.share * len(members) - ROUNDING)))
            if keep < len(members):
                low = _most_varied(value_E[members], keep)
                stays_E[members[low : len(members) - keep + low]] = False
        return np.where(outcomes.per_turn(stays_E), advantage_U, 0.0)


def _most_varied(sorted_N: Floats, keep: int) -> int:
    """How many of the lowest, with the rest of `keep` from the highest, have the greatest variance."""
    lowest = np.arange(keep + 1)
    highest = len(sorted_N) - keep + lowest  # those from here on belong to the highest

    def sums(value_N: Floats) -> Floats:
        total_N = np.concatenate([[0.0], np.cumsum(value_N)])
        return total_N[lowest] + total_N[-1] - total_N[highest]

    return int(np.argmax(sums(sorted_N**2) / keep - (sums(sorted_N) / keep) ** 2))


def _tokens(outcomes: Outcomes) -> Floats:
    return outcomes.per_episode(outcomes.tokens_U.astype(np.float64))
