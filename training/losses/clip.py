"""Clip: the surrogate of PPO, which GRPO and DAPO share."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from agentkit.training.losses.policy import PolicyLoss
from agentkit.training.losses.terms import Now, ratio


class Clip(PolicyLoss):
    """−min(ρÂ, clip(ρ, 1−ε_l, 1+ε_h)Â) (Schulman et al. 2017, eq. 7; unequal bounds: DAPO, 2503.14476).

    >>> twice = Now(torch.ones(1).mul(2).log(), torch.zeros(1), torch.ones(1), torch.zeros(1).long())
    >>> round(Clip().tokens(twice).item(), 4)
    -1.28
    """

    name: Literal["clip"] = "clip"
    low: float = Field(default=0.2, gt=0, lt=1)
    """Ratios are clipped below at 1 − this."""
    high: float = Field(default=0.28, gt=0)
    """Ratios are clipped above at 1 + this."""

    def tokens(self, now: Now) -> torch.Tensor:
        """[N] loss of each token, before weights and normaliser."""
        ratio_N = ratio(now.logp_N, now.old_logp_N)
        clipped_N = ratio_N.clamp(1 - self.low, 1 + self.high)
        return -torch.minimum(ratio_N * now.advantage_N, clipped_N * now.advantage_N)

    def clipped(self, now: Now) -> torch.Tensor:
        """[N] True where clipping takes the gradient away."""
        ratio_N = ratio(now.logp_N, now.old_logp_N)
        above_N = (now.advantage_N > 0) & (ratio_N > 1 + self.high)
        return above_N | ((now.advantage_N < 0) & (ratio_N < 1 - self.low))
