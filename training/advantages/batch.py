"""Advantages of whole episodes against the batch."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from agentkit.training.advantages.estimator import Estimator
from agentkit.training.advantages.outcomes import ROUNDING, Floats, Outcomes, within_groups


class ReinforcePlusPlus(Estimator):
    """Returns whitened over the whole batch (Hu et al. 2025, 2501.03262).

    Without a group baseline it is (R − mean) / (std + ε) of the batch: an easy task's attempts are all above the mean,
    and a group of equal returns does teach, which is the method's point and its bias. With `baseline = "group"`
    (REINFORCE++-baseline) the group's mean is taken off first and the batch's standard deviation divides; the batch
    mean is not taken off a second time, so that a group of equal returns gives zeros. The paper's penalty of each
    token by its KL is a loss term here (`kl_coef`).
    """

    name: Literal["reinforce++"] = "reinforce++"
    baseline: Literal["batch", "group"] = "batch"
    """What is taken off a return: the batch's mean, or its group's."""
    over: Literal["tokens", "episodes"] = "tokens"
    """What mean and standard deviation of the batch are over: sampled tokens, as in the paper, or episodes."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the standard deviation."""

    def turns(self, outcomes: Outcomes) -> Floats:
        """[U] advantage of each turn; zeros where all returns of the batch are equal."""
        value_E = outcomes.return_E
        if self.baseline == "group":
            value_E = within_groups(value_E, outcomes.group_E, outcomes.num_groups)[0]
        weight_E = outcomes.per_episode(outcomes.tokens_U.astype(np.float64))
        if self.over == "episodes" or not weight_E.any():
            weight_E = np.ones(len(value_E))
        if np.ptp(value_E) <= ROUNDING * max(1.0, np.abs(value_E).max()):
            return np.zeros(len(outcomes.reward_U))
        mean = np.average(value_E, weights=weight_E)
        deviation = np.sqrt(np.average((value_E - mean) ** 2, weights=weight_E))
        shift = mean if self.baseline == "batch" else 0.0
        return outcomes.per_turn((value_E - shift) / (deviation + self.epsilon))
