"""CISPO: policy gradient with a truncated ratio, which leaves every token its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from agentkit.lazy import lazy_module
from agentkit.training.losses.policy import PolicyLoss
from agentkit.training.losses.terms import Now, ratio

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


class CISPO(PolicyLoss):
    """−sg[clip(ρ, least, most)]·Â·log π (MiniMax-M1, 2506.13585, eq. 4).

    The paper sets no lower bound and tunes the upper one; 5 is what TRL recommends.
    """

    name: Literal["cispo"] = "cispo"
    least: float = Field(default=0.0, ge=0)
    """Ratios are truncated below at this."""
    most: float = Field(default=5.0, gt=0)
    """Ratios are truncated above at this."""

    @model_validator(mode="after")
    def _consistent(self) -> CISPO:
        if not self.least < self.most:
            raise ValueError(f"least = {self.least:g} must be below most = {self.most:g}")
        return self

    def tokens(self, now: Now) -> torch.Tensor:
        """[N] loss of each token, before weights and normaliser."""
        ratio_N = ratio(now.logp_N.detach(), now.old_logp_N).clamp(self.least, self.most)
        return -ratio_N * now.advantage_N * now.logp_N
