"""PolicyLoss: what every loss of the policy's own tokens offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import PrivateAttr

from agentkit.lazy import lazy_module
from agentkit.training.losses.reduction import Reduction
from agentkit.training.losses.terms import LOG_RATIO_BOUND, Now
from agentkit.training.settings import Part

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


class PolicyLoss(Part):
    """A loss of N sampled tokens; a subclass each, chosen by its `name`."""

    needs_batch: ClassVar[bool] = False
    """Whether it sets numbers of its own by all tokens of the optimizer step, which costs a pass without gradient."""
    needs_reference: ClassVar[bool] = False
    """Whether it asks the frozen reference."""
    needs_groups: ClassVar[bool] = False
    """Whether it compares the attempts of a group, which must then all be in one optimizer step."""
    pulls: ClassVar[bool] = False
    """Whether it has a gradient where the advantage is 0, for it pulls to another policy."""
    reductions: ClassVar[tuple[Reduction, ...] | None] = None
    """The reductions under which it is the published loss; None allows any."""

    def tokens(self, now: Now) -> torch.Tensor:
        """[N] loss of each token, before weights and normaliser."""
        raise NotImplementedError

    def clipped(self, now: Now) -> torch.Tensor:
        """[N] True where the loss takes the gradient away; by default nowhere."""
        return torch.zeros_like(now.logp_N, dtype=torch.bool)

    def fitted(self, now: Now, rng: np.random.Generator | None = None) -> PolicyLoss:
        """The loss with the numbers set that depend on all tokens of the optimizer step; they carry no gradient.

        Args:
            now: All tokens of the optimizer step.
            rng: For losses that choose among tokens at random.
        """
        return self


class SequenceLoss(PolicyLoss):
    """A loss that multiplies each token's gradient by a number of its whole sequence.

    The numbers are set once per optimizer step, so they are the same however the sequence's rows are packed.
    """

    needs_batch: ClassVar[bool] = True
    _value_S: Any = PrivateAttr(default=None)

    def sequences(self, now: Now) -> torch.Tensor:
        """[S] number of each sequence, from all tokens of the optimizer step."""
        raise NotImplementedError

    def fitted(self, now: Now, rng: np.random.Generator | None = None) -> Self:
        """Itself, knowing the number of each sequence."""
        fitted = self.model_copy()
        fitted._value_S = self.sequences(now._replace(logp_N=now.logp_N.detach()))
        return fitted

    def value(self, now: Now) -> torch.Tensor:
        """[N] number of each token's sequence."""
        assert self._value_S is not None, "a sequence loss is fitted to the optimizer step before it is asked"
        return self._value_S.to(now.logp_N)[now.sequence_N]


def follow(value_N: torch.Tensor, logp_N: torch.Tensor) -> torch.Tensor:
    """[N] the values, with the gradient of value·log π: sg[v]·π/sg[π] (GSPO-token, 2507.18071, eq. 14)."""
    return value_N * (logp_N - logp_N.detach()).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
