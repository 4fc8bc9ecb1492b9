"""DRO: policy gradient with a quadratic pull towards the old policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from agentkit.lazy import lazy_module
from agentkit.training.losses.policy import PolicyLoss
from agentkit.training.losses.terms import Now

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


class DRO(PolicyLoss):
    """−(Â·log π − (β/2)(log π − log π_old)²), token by token (Richemond et al. 2024, 2405.19107; verl's form).

    The paper's loss is of whole answers with a learnt value; here the advantage is the value's residual. There is no
    ratio, so the data may be of any policy. β = 0.1 is our choice.
    """

    name: Literal["dro"] = "dro"
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull."""
    pulls: ClassVar[bool] = True

    def tokens(self, now: Now) -> torch.Tensor:
        """[N] loss of each token, before weights and normaliser."""
        return -now.advantage_N * now.logp_N + self.beta / 2 * (now.logp_N - now.old_logp_N).square()
