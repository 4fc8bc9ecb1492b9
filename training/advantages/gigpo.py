"""GiGPO: besides the episode's advantage, one of each action against the others taken in the same state."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from agentkit.errors import ConfigError
from agentkit.training.advantages.estimator import Estimator
from agentkit.training.advantages.outcomes import Floats, Outcomes, discounted_sums
from agentkit.training.advantages.turns import normalised


class GiGPO(Estimator):
    """A_episode + ω·A_state (Feng et al. 2025, 2505.10978).

    Anchors are the turns of a group in which the policy was asked in the same state; A_state is the discounted return
    from the turn on against its anchor's mean. A state met once, or unknown, gives A_state = 0. Standard deviations
    are the population's, where the authors' code takes the sample's.
    """

    name: Literal["gigpo"] = "gigpo"
    gamma: float = Field(default=0.95, ge=0, le=1)
    """Discount of a turn."""
    omega: float = Field(default=1.0, gt=0)
    """Weight of the advantage within the state."""
    std: bool = True
    """Whether standard deviations divide; the paper reports both."""
    episodes_over: Literal["turns", "episodes"] = "turns"
    """What the group's mean and standard deviation are over: its turns, as in the authors' code, where long attempts
    count more; or its episodes, as in the paper."""
    epsilon: float = Field(default=1e-6, gt=0)
    """Added to the standard deviations."""

    @model_validator(mode="after")
    def _consistent(self) -> GiGPO:
        self._need_divided("std", self.epsilon)
        return self

    def turns(self, outcomes: Outcomes) -> Floats:
        """[U] advantage of each turn.

        Raises:
            ConfigError: No turn has a state key, so ω would be ignored.
        """
        known_U = outcomes.state_U >= 0
        if len(known_U) and not known_U.any():
            raise ConfigError(
                f"gigpo compares turns in the same state with omega = {self.omega}, but no turn has a state key; use "
                "an environment that gives state keys, or the advantage 'turn-returns'"
            )
        epsilon = self.epsilon if self.std else None
        group_U = outcomes.group_E[outcomes.episode_U]
        if self.episodes_over == "turns":
            episode_U = normalised(outcomes.per_turn(outcomes.return_E), group_U, epsilon)
        else:
            episode_U = outcomes.per_turn(normalised(outcomes.return_E, outcomes.group_E, epsilon))
        # Every unknown state is an anchor of its own, below the known ones; groups never share an anchor.
        state_U = np.where(known_U, outcomes.state_U, -1 - np.arange(len(known_U)))
        state_U = np.unique(state_U, return_inverse=True)[1]
        anchor_U = np.unique(state_U * outcomes.num_groups + group_U, return_inverse=True)[1]
        return_U = discounted_sums(outcomes.reward_U, outcomes.starts, self.gamma)
        return episode_U + self.omega * normalised(return_U, anchor_U, epsilon)
