"""DPPO-TV: a trust region in probabilities instead of ratios."""

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


class DPPO(PolicyLoss):
    """−sg[min(ρ, most)]·Â·log π where the probability has moved within bounds (2602.04879; verl's `dppo_tv`).

    The difference π − π_old of the sampled token stands for the total variation. A rare token may so become many times
    likelier, and a common one hardly at all, the reverse of what a ratio clip allows. Bounds of 0.2 are our choice, as
    a clip has.
    """

    name: Literal["dppo"] = "dppo"
    low: float = Field(default=0.2, gt=0, le=1)
    """A bad token has no gradient once its probability has fallen by more than this."""
    high: float = Field(default=0.2, gt=0, le=1)
    """A good token has none once its probability has risen by more than this."""
    most: float = Field(default=20.0, ge=1)
    """Ratios are truncated above at this."""

    def tokens(self, now: Now) -> torch.Tensor:
        """[N] loss of each token, before weights and normaliser."""
        ratio_N = ratio(now.logp_N.detach(), now.old_logp_N).clamp(max=self.most)
        return torch.where(self.clipped(now), 0.0, -ratio_N * now.advantage_N * now.logp_N)

    def clipped(self, now: Now) -> torch.Tensor:
        """[N] True outside the trust region."""
        moved_N = now.logp_N.detach().exp() - now.old_logp_N.exp()
        above_N = (now.advantage_N > 0) & (moved_N > self.high)
        return above_N | ((now.advantage_N <= 0) & (moved_N < -self.low))
