"""PolicyLoss: what every loss of the policy's own tokens offers."""

from __future__ import annotations

from typing import ClassVar, Self

import torch

from agentkit.training.losses.terms import Now
from agentkit.training.settings import Settings


class PolicyLoss(Settings):
    """A loss of N sampled tokens; a subclass each, chosen by its `name`."""

    needs_batch: ClassVar[bool] = False
    """Whether it sets numbers of its own by all tokens of the optimizer step, which costs a pass without gradient."""

    def tokens(self, now: Now) -> torch.Tensor:
        """[N] loss of each token, before weights and normaliser."""
        raise NotImplementedError

    def clipped(self, now: Now) -> torch.Tensor:
        """[N] True where the loss takes the gradient away; by default nowhere."""
        return torch.zeros_like(now.logp_N, dtype=torch.bool)

    def fitted(self, now: Now) -> Self:
        """Itself, with the numbers set that depend on all tokens of the optimizer step; they carry no gradient."""
        return self
