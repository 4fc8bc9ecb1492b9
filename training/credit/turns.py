"""Schemes that weigh all tokens of a turn alike, by what is known of the turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from agentkit.lazy import lazy_module
from agentkit.training.credit.scheme import Scheme
from agentkit.training.stream import Stream

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


class Recalled(Scheme):
    """Tokens of turns whose prompt showed memories weigh `weight`, all others 1.

    Memory text itself is never sampled, so it never has a gradient; what can be weighed is what the policy answered
    in its presence. 0 keeps the policy from learning answers that only the memories made possible, for a policy that
    will have to do without them; more than 1 teaches it to use what is shown. No paper fixes the weight.
    """

    name: Literal["recalled"] = "recalled"
    weight: float = Field(default=0.0, ge=0)
    """Weight of tokens of turns with memories."""

    def weights(self, stream: Stream) -> torch.Tensor:
        """[N] weight of each sampled token."""
        return torch.ones(len(stream.role_N)).masked_fill(stream.memory_N, self.weight)


class Pivot(Scheme):
    """Tokens of turns before the one at which an attempt branched weigh 0 (R³L, 2601.03715, pivotal credit).

    The turns that a retry shares with the attempt it branched from say nothing about which of the two went better,
    so they are masked in both. An attempt with several branches keeps its turns from the first of them on; a retry
    that is retried itself keeps its own. Without branches in the batch every token weighs 1.
    """

    name: Literal["pivot"] = "pivot"

    def weights(self, stream: Stream) -> torch.Tensor:
        """[N] 0 before the pivot, 1 from it on."""
        return (~stream.shared_N).float()
