"""Scheme: what every token credit offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentkit.lazy import lazy_module
from agentkit.training.settings import Part
from agentkit.training.stream import Stream

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


class Scheme(Part):
    """How much of the gradient each sampled token gets; a subclass each, chosen by its `name`."""

    @property
    def needs_reference(self) -> bool:
        """Whether it reads `stream.reference`, which costs a pass of the frozen reference."""
        return False

    @property
    def needs_policy(self) -> bool:
        """Whether it reads `stream.policy`, which costs a pass of the policy before it learns."""
        return False

    @property
    def counted(self) -> bool:
        """Whether the divisors of losses count its weights, or all tokens alike."""
        return True

    def weights(self, stream: Stream) -> torch.Tensor:
        """[N] weight of each sampled token of the training batch, non-negative."""
        return torch.ones(len(stream.role_N))
