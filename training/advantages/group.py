"""Advantages of whole episodes against their group: every turn of an episode has the same one.

A group whose returns are equal, and a group of one, gives zeros in all of them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from agentkit.training.advantages.estimator import Estimator
from agentkit.training.advantages.outcomes import Floats, Outcomes, medians, within_groups


class GRPO(Estimator):
    """(R − mean) / (std + ε) within the group (Shao et al. 2024, 2402.03300; ActFocus eq. 13).

    The papers leave the kind of standard deviation open; this is the population's, so that one success among two
    attempts gives ±1.
    """

    name: Literal["grpo"] = "grpo"
    epsilon: float = Field(default=1e-6, gt=0)
    """Added to the standard deviation."""

    def turns(self, outcomes: Outcomes) -> Floats:
        """[U] advantage of each turn."""
        centred_E, deviation_G = within_groups(outcomes.return_E, outcomes.group_E, outcomes.num_groups)
        return outcomes.per_turn(centred_E / (deviation_G[outcomes.group_E] + self.epsilon))


class DrGRPO(Estimator):
    """R − mean of the group, not divided by its spread (Liu et al. 2025, 2503.20783).

    The other half of Dr.GRPO, a constant divisor of the loss, is `reduction = "seq-mean-token-sum-norm"`.
    """

    name: Literal["dr-grpo"] = "dr-grpo"

    def turns(self, outcomes: Outcomes) -> Floats:
        """[U] advantage of each turn."""
        return outcomes.per_turn(within_groups(outcomes.return_E, outcomes.group_E, outcomes.num_groups)[0])


class RLOO(Estimator):
    """R − mean of the other attempts of the group (Ahmadian et al. 2024, 2402.14740).

    That is n/(n − 1) times R − mean of all n; a group of one has no others and gives zero.
    """

    name: Literal["rloo"] = "rloo"

    def turns(self, outcomes: Outcomes) -> Floats:
        """[U] advantage of each turn."""
        group_E = outcomes.group_E
        centred_E = within_groups(outcomes.return_E, group_E, outcomes.num_groups)[0]
        count_G = np.bincount(group_E)
        return outcomes.per_turn(centred_E * (count_G / np.maximum(count_G - 1, 1))[group_E])


class MCGRPO(Estimator):
    """(R − median) / (std + ε) within the group (Kim 2026, 2601.22582), steadier than a mean in small groups.

    The paper plays one attempt more than it learns from: in a group of an odd number, the attempt at the median has
    advantage zero, so its rows are not computed. An even group has the mean of its middle two as median, and then
    may lose none. The paper's divisor was not read in its text; this is the population's standard deviation.
    """

    name: Literal["mc-grpo"] = "mc-grpo"
    epsilon: float = Field(default=1e-6, gt=0)
    """Added to the standard deviation."""

    def turns(self, outcomes: Outcomes) -> Floats:
        """[U] advantage of each turn."""
        group_E = outcomes.group_E
        centred_E, deviation_G = within_groups(outcomes.return_E, group_E, outcomes.num_groups)
        middle_G = medians(centred_E, group_E, outcomes.num_groups)
        return outcomes.per_turn((centred_E - middle_G[group_E]) / (deviation_G[group_E] + self.epsilon))
