"""Advantages of single turns: what followed a turn, against the same turn of the group's other attempts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from agentkit.training.advantages.estimator import Estimator
from agentkit.training.advantages.outcomes import Floats, Ints, Outcomes, discounted_sums, within_groups


class TurnReturns(Estimator):
    """Discounted return from the turn on, less its mean over the group's attempts at the same turn number.

    The plain form of turn-level credit. A turn that no other attempt of the group reached has nothing to compare
    with and gives zero.
    """

    name: Literal["turn-returns"] = "turn-returns"
    gamma: float = Field(default=0.95, ge=0, le=1)
    """Discount of a turn; GiGPO's."""
    std: bool = False
    """Whether the standard deviation over the same attempts divides."""
    epsilon: float = Field(default=1e-6, gt=0)
    """Added to the standard deviation."""

    @model_validator(mode="after")
    def _consistent(self) -> TurnReturns:
        self._need_divided("std", self.epsilon)
        return self

    def turns(self, outcomes: Outcomes) -> Floats:
        """[U] advantage of each turn."""
        return_U = discounted_sums(outcomes.reward_U, outcomes.starts, self.gamma)
        return normalised(return_U, same_turn(outcomes), self.epsilon if self.std else None)


class UIS1(Estimator):
    """A_step + ω·A_episode, both normalised (UI-S1, 2509.11543).

    A_step is the discounted return from the turn on, against the group's attempts at the same turn number; A_episode
    the undiscounted return against the group. γ and ω are our reading of the paper's settings, not verified.
    """

    name: Literal["ui-s1"] = "ui-s1"
    gamma: float = Field(default=0.5, ge=0, le=1)
    """Discount of a turn."""
    omega: float = Field(default=1.0, ge=0)
    """Weight of the episode's advantage."""
    epsilon: float = Field(default=1e-6, gt=0)
    """Added to the standard deviations."""

    def turns(self, outcomes: Outcomes) -> Floats:
        """[U] advantage of each turn."""
        return_U = discounted_sums(outcomes.reward_U, outcomes.starts, self.gamma)
        episode_E = normalised(outcomes.return_E, outcomes.group_E, self.epsilon)
        step_U = normalised(return_U, same_turn(outcomes), self.epsilon)
        return step_U + self.omega * outcomes.per_turn(episode_E)


def same_turn(outcomes: Outcomes) -> Ints:
    """[U] a number that turns share if they are of one group and have the same number in their episodes."""
    number_U = outcomes.number_U
    width = int(number_U.max(initial=0)) + 1
    return outcomes.group_E[outcomes.episode_U] * width + number_U


def normalised(value_N: Floats, group_N: Ints, epsilon: float | None) -> Floats:
    """[N] values less their group's mean, over its standard deviation + ε unless ε is None."""
    num_groups = int(group_N.max(initial=-1)) + 1
    centred_N, deviation_G = within_groups(value_N, group_N, num_groups)
    return centred_N if epsilon is None else centred_N / (deviation_G[group_N] + epsilon)
