"""OPMD: policy gradient without any ratio, for data of whatever policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from agentkit.lazy import lazy_module
from agentkit.training.losses.policy import PolicyLoss
from agentkit.training.losses.terms import Now

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


class OPMD(PolicyLoss):
    """−Â·log π/(1 + τ): online policy mirror descent as R³L uses it (2601.03715; Trinity-RFT's `opmd`).

    R³L adds a KL to the reference by the k2 estimate (`kl_coef`, `kl = "k2"`), which is what bounds a step: nothing in
    the loss does.
    """

    name: Literal["opmd"] = "opmd"
    tau: float = Field(default=1.0, ge=0)
    """τ: shrinks the gradient."""

    def tokens(self, now: Now) -> torch.Tensor:
        """[N] loss of each token, before weights and normaliser."""
        return -now.advantage_N * now.logp_N / (1 + self.tau)
