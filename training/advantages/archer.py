"""ArCHer: advantages of turns from a critic that learns off-policy, turn by turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from agentkit.errors import PolicyFault
from agentkit.lazy import lazy_module
from agentkit.training.advantages.estimator import Estimator
from agentkit.training.advantages.outcomes import Floats

if TYPE_CHECKING:
    import torch

    from agentkit.training.advantages.values import TurnCritic, TurnValues
else:
    torch = lazy_module("torch")


class ArCHer(Estimator):
    """min(Q₁, Q₂) − min(V₁, V₂) of each turn (Zhou et al. 2024, 2402.19446).

    The critic learns by one-step targets, so past episodes teach its Q without importance weights. V is the mean of Q
    over actions of the present policy: the authors draw new ones for every state they replay, here V learns from the
    turns that the present policy has played, which costs no sampling. Other numbers are those of the authors' code
    unless a field says otherwise.
    """

    name: Literal["archer"] = "archer"
    needs_values: ClassVar[Literal["token", "turn"] | None] = "turn"
    gamma: float = Field(default=0.95, ge=0, le=1)
    """Discount of a turn."""
    tau: float = Field(default=0.1, gt=0, le=1)
    """Share of the way that the target critic moves to the learning one after each of its steps."""
    critic_learning_rate: float = Field(default=2e-5, gt=0)
    """Learning rate of the critic: a whole network in the authors' code, heads on frozen features here, which bear
    1e-3."""
    critic_steps: int = Field(default=50, ge=1)
    """Steps of the critic in an iteration."""
    critic_episodes: int = Field(default=64, ge=1)
    """Episodes drawn for each of them from all that are kept, and as many from those of the present policy; ours."""
    critic_width: int = Field(default=256, ge=1)
    """Width of the two hidden layers of each head; ours."""
    capacity: int = Field(default=10_000, ge=1)
    """Newest episodes kept, in whole iterations; the authors keep 100,000 turns."""
    warmup_iterations: int = Field(default=20, ge=0)
    """First iterations in which the critic learns alone."""

    def estimate(self, values: TurnValues) -> Floats:
        """[U] advantage of each turn.

        Raises:
            PolicyFault: A value is not finite.
        """
        advantage_U = (values.q_2U.amin(dim=0) - values.v_2U.amin(dim=0)).detach().double().cpu().numpy()
        if not np.isfinite(advantage_U).all():
            raise PolicyFault("a turn's value is not finite, so the critic is broken; lower critic_learning_rate")
        return advantage_U

    def loss(
        self,
        critic: TurnCritic,
        target: TurnCritic,
        state_US: torch.Tensor,
        action_UA: torch.Tensor,
        reward_U: torch.Tensor,
        starts: torch.Tensor,
        fresh_U: torch.Tensor,
    ) -> torch.Tensor:
        """The critic's loss over whole episodes; call `target.follow(critic, tau)` after each step.

        Args:
            critic: The one that learns.
            target: Its `follower`.
            state_US: Features of each turn's state.
            action_UA: Features of the action taken.
            reward_U: Reward of each turn.
            starts: [E+1] place of each episode's first turn.
            fresh_U: True where the present policy took the action.
        """
        from agentkit.training.advantages.values import critic_loss, turn_targets

        with torch.no_grad():
            q_2U, v_2U = target(state_US, action_UA)
        return critic_loss(critic(state_US, action_UA), turn_targets(reward_U, starts, v_2U, self.gamma), q_2U, fresh_U)
