"""Value networks and their losses: a head on the policy's hidden states, and a critic of whole turns.

N sampled tokens, U turns, H size of a hidden state; 2 is the two critics of a double one.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import nn


class ValueHead(nn.Module):
    """Value of what stands before each sampled token, read off the hidden state that predicts it.

    Begins at zero everywhere, so that the first advantages are those of the rewards alone.

    Args:
        hidden: H of the policy's last hidden state.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        """[N] values in float32, whatever the precision of the policy: advantages are small differences of them."""
        with torch.autocast(hidden_NH.device.type, enabled=False):
            return self.linear(hidden_NH.float())[:, 0]


def value_loss(value_N: torch.Tensor, old_value_N: torch.Tensor, target_N: torch.Tensor, clip: float) -> torch.Tensor:
    """[N] ½ max((V − R)², (V_c − R)²), V_c = V kept within ± `clip` of its old value, as PPO's reference code has it.

    The larger of the two takes the gradient away from a value that has already moved `clip` towards its target.

    Args:
        value_N: Values now, with gradient.
        old_value_N: Values the targets were computed from.
        target_N: `TokenEstimate.target_N`.
        clip: `GAE.value_clip`.

    >>> now, old, target = torch.tensor([0.5]), torch.tensor([0.0]), torch.tensor([1.0])
    >>> round(value_loss(now, old, target, 0.2).item(), 4)  # V_c = 0.2
    0.32
    """
    near_N = old_value_N + (value_N - old_value_N).clamp(-clip, clip)
    return 0.5 * torch.maximum((value_N - target_N).square(), (near_N - target_N).square())


class TurnValues(NamedTuple):
    """What a double critic says of turns."""

    q_2U: torch.Tensor
    """Value of taking the turn's action in its state."""
    v_2U: torch.Tensor
    """Value of the state under the policy."""


class TurnCritic(nn.Module):
    """Two Q and two V of turns, from features of the state and of the action (ArCHer, 2402.19446, the critic's heads).

    The features are any frozen numbers, e.g. a frozen network's hidden states at the end of prompt and response.

    Args:
        state_size: Length of a state's features.
        action_size: Length of an action's features.
        hidden: Width of the two hidden layers of each.
    """

    def __init__(self, state_size: int, action_size: int, hidden: int = 256) -> None:
        super().__init__()
        self.q = nn.ModuleList(_network(state_size + action_size, hidden) for _ in range(2))
        self.v = nn.ModuleList(_network(state_size, hidden) for _ in range(2))

    def forward(self, state_US: torch.Tensor, action_UA: torch.Tensor) -> TurnValues:
        """Values of U turns."""
        both = torch.cat([state_US, action_UA], dim=1)
        return TurnValues(
            torch.stack([network(both)[:, 0] for network in self.q]),
            torch.stack([network(state_US)[:, 0] for network in self.v]),
        )

    def follower(self) -> TurnCritic:
        """A frozen copy, to be moved by `follow`: the target critic."""
        return copy.deepcopy(self).requires_grad_(False)

    @torch.no_grad()
    def follow(self, leader: TurnCritic, tau: float) -> None:
        """Move every weight the share `tau` of the way to the leader's."""
        for mine, other in zip(self.parameters(), leader.parameters(), strict=True):
            mine.lerp_(other, tau)


def _network(size: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))


def turn_targets(reward_U: torch.Tensor, starts: torch.Tensor, v_2U: torch.Tensor, gamma: float) -> torch.Tensor:
    """[2, U] r + γ·V̄ of the episode's next turn: what Q should be; each critic follows its own target V.

    The last turn of an episode has none and keeps r: an episode that a limit cut counts as over, since no record
    holds what the policy would have seen next.

    Args:
        reward_U: Reward of each turn.
        starts: [E+1] place of each episode's first turn.
        v_2U: The target critic's V of each turn's state.
        gamma: Discount of a turn.

    >>> v_2U = torch.tensor([[9.0, 4.0], [9.0, 2.0]])
    >>> turn_targets(torch.tensor([0.0, 1.0]), torch.tensor([0, 2]), v_2U, 0.5).tolist()
    [[2.0, 1.0], [1.0, 1.0]]
    """
    next_2U = torch.cat([v_2U[:, 1:], v_2U.new_zeros(2, 1)], dim=1)
    last_U = torch.zeros(len(reward_U) + 1, dtype=torch.bool)
    last_U[starts[1:]] = True  # the place after an episode's last turn
    return reward_U + gamma * next_2U.masked_fill(last_U[1:].to(v_2U.device), 0.0)


def critic_loss(
    now: TurnValues, q_target_2U: torch.Tensor, v_target_2U: torch.Tensor, fresh_U: torch.Tensor
) -> torch.Tensor:
    """Mean over turns of Σ_i (Q_i − target)², and over the fresh ones of Σ_i (V_i − Q̄_i)² (ArCHer, 2402.19446).

    V is the value of a state under the present policy, so only actions of that policy say what it should be.

    Args:
        now: Values of the critic that learns, with gradient.
        q_target_2U: `turn_targets`.
        v_target_2U: The target critic's Q of the same states and actions.
        fresh_U: True where the present policy took the action.

    >>> two = TurnValues(torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[3.0, 9.0]] * 2))
    >>> critic_loss(two, torch.zeros(2, 2), torch.ones(2, 2), torch.tensor([True, False])).item()  # 1/1 · 8 + 1/2 · 2
    9.0
    """
    q_U = (now.q_2U - q_target_2U.detach()).square().sum(dim=0)
    v_U = (now.v_2U - v_target_2U.detach()).square().sum(dim=0) * fresh_U
    return q_U.mean() + v_U.sum() / fresh_U.sum().clamp(min=1)
