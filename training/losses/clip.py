"""Clip: the surrogate of PPO, which GRPO and DAPO share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from agentkit.lazy import lazy_module
from agentkit.training.losses.policy import PolicyLoss
from agentkit.training.losses.terms import Now, ratio

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


class Clip(PolicyLoss):
    """−min(ρÂ, clip(ρ, 1−ε_l, 1+ε_h)Â) (Schulman et al. 2017, eq. 7; unequal bounds: DAPO, 2503.14476).

    With `dual`, a bad token's loss is at most −cÂ, so that one that has become much likelier cannot dominate a step
    (dual clip: Ye et al. 2020, 1912.09729, eq. 5, c > 1). A bad token's loss is −max(ρ, 1−ε_l)Â without it, which the
    upper bound has no part in, so c may lie within 1 + ε_h, as in verl.

    >>> twice = Now(torch.ones(1).mul(2).log(), torch.zeros(1), torch.ones(1), torch.zeros(1).long())
    >>> round(Clip().tokens(twice).item(), 4)
    -1.28
    """

    name: Literal["clip"] = "clip"
    low: float = Field(default=0.2, gt=0, lt=1)
    """Ratios are clipped below at 1 − this."""
    high: float = Field(default=0.28, gt=0)
    """Ratios are clipped above at 1 + this."""
    dual: float | None = Field(default=None, gt=1)
    """Greatest ratio that counts against a bad token (3 in verl, 10 in SPEAR); None for no bound."""

    def tokens(self, now: Now) -> torch.Tensor:
        """[N] loss of each token, before weights and normaliser."""
        return surrogate(ratio(now.logp_N, now.old_logp_N), now.advantage_N, self)

    def clipped(self, now: Now) -> torch.Tensor:
        """[N] True where clipping takes the gradient away."""
        return beyond(ratio(now.logp_N, now.old_logp_N), now.advantage_N, self)


def surrogate(ratio_N: torch.Tensor, advantage_N: torch.Tensor, bounds: Clip) -> torch.Tensor:
    """[N] the clipped surrogate of these ratios."""
    clipped_N = ratio_N.clamp(1 - bounds.low, 1 + bounds.high)
    loss_N = -torch.minimum(ratio_N * advantage_N, clipped_N * advantage_N)
    if bounds.dual is not None:
        loss_N = torch.where(advantage_N < 0, torch.minimum(loss_N, -bounds.dual * advantage_N), loss_N)
    return loss_N


def beyond(ratio_N: torch.Tensor, advantage_N: torch.Tensor, bounds: Clip) -> torch.Tensor:
    """[N] True where the clipped surrogate has no gradient."""
    above_N = (advantage_N > 0) & (ratio_N > 1 + bounds.high)
    below_N = (advantage_N < 0) & (ratio_N < 1 - bounds.low)
    if bounds.dual is None:
        return above_N | below_N
    return above_N | below_N | ((advantage_N < 0) & (ratio_N > bounds.dual))
