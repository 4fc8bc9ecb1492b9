"""SAPO: a smooth gate in place of the clip."""

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


class SAPO(PolicyLoss):
    """−σ(τ(ρ − 1))·(4/τ)·Â (Gao et al. 2025, 2511.20347): slope 1 at ρ = 1, fading on either side.

    A bad token fades faster, τ = 1.05 instead of 1, the values of TRL and verl.
    """

    name: Literal["sapo"] = "sapo"
    good: float = Field(default=1.0, gt=0)
    """τ of tokens with Â > 0."""
    bad: float = Field(default=1.05, gt=0)
    """τ of the others."""

    def tokens(self, now: Now) -> torch.Tensor:
        """[N] loss of each token, before weights and normaliser."""
        ratio_N = ratio(now.logp_N, now.old_logp_N)
        tau_N = torch.full_like(ratio_N, self.bad).masked_fill(now.advantage_N > 0, self.good)
        return -torch.sigmoid(tau_N * (ratio_N - 1)) * (4 / tau_N) * now.advantage_N
