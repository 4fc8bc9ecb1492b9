"""GSPO: the surrogate with one ratio a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from agentkit.lazy import lazy_module
from agentkit.training.losses.clip import Clip, beyond, surrogate
from agentkit.training.losses.policy import SequenceLoss, follow
from agentkit.training.losses.reduction import Reduction
from agentkit.training.losses.terms import LOG_RATIO_BOUND, Now, means

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


class GSPO(SequenceLoss):
    """The clipped surrogate of s = exp(mean over the sequence of log ρ) (Zheng et al. 2025, 2507.18071, eq. 5 to 7).

    Written in its token form, sg[s]·π/sg[π] (eq. 14), which has the same value and, as long as a sequence has one
    advantage, the same gradient; advantages may then also differ by turn. The mean is over all sampled tokens of the
    episode, whatever their credit. Under `seq-mean-token-sum` each sequence's loss is multiplied by its length: LUSPO
    (2602.05261), under which long answers are worth no less a token than short ones.
    """

    name: Literal["gspo"] = "gspo"
    low: float = Field(default=3e-4, gt=0, lt=1)
    """Ratios are clipped below at 1 − this."""
    high: float = Field(default=4e-4, gt=0)
    """Ratios are clipped above at 1 + this."""
    reductions: ClassVar[tuple[Reduction, ...] | None] = ("seq-mean-token-mean", "seq-mean-token-sum")

    def sequences(self, now: Now) -> torch.Tensor:
        """[S] s."""
        mean_S = means(now.logp_N - now.old_logp_N, now.sequence_N)
        return mean_S.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()

    def tokens(self, now: Now) -> torch.Tensor:
        """[N] loss of each token, before weights and normaliser."""
        return surrogate(follow(self.value(now), now.logp_N), now.advantage_N, self._bounds)

    def clipped(self, now: Now) -> torch.Tensor:
        """[N] True where clipping takes the gradient away."""
        return beyond(self.value(now), now.advantage_N, self._bounds)

    @property
    def _bounds(self) -> Clip:
        return Clip(low=self.low, high=self.high)
