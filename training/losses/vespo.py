"""VESPO: a smooth weight of the sequence's ratio in place of clipping."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from agentkit.lazy import lazy_module
from agentkit.training.losses.policy import SequenceLoss
from agentkit.training.losses.terms import LOG_RATIO_BOUND, Now, sums

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")

LEAST_LOG_RATIO = math.log(1e-8)
"""Log ratios of sequences are clamped below at this, as in the authors' code and TRL."""


class VESPO(SequenceLoss):
    """−sg[φ(w)]·Â·log π with φ(w) = e^λ·w^k·e^{−λw}, w = Π ρ over the sequence (2602.10693; as in TRL and verl).

    φ is 1 at w = 1 and fades on either side, at w = k/λ at its peak.
    """

    name: Literal["vespo"] = "vespo"
    good_power: float = Field(default=2.0, gt=0)
    """k of tokens with Â ≥ 0."""
    good_rate: float = Field(default=3.0, gt=0)
    """λ of tokens with Â ≥ 0."""
    bad_power: float = Field(default=3.0, gt=0)
    """k of the others."""
    bad_rate: float = Field(default=2.0, gt=0)
    """λ of the others."""

    def sequences(self, now: Now) -> torch.Tensor:
        """[S] log w."""
        log_ratio_N = (now.logp_N - now.old_logp_N).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
        return sums(log_ratio_N, now.sequence_N).clamp(LEAST_LOG_RATIO, LOG_RATIO_BOUND)

    def tokens(self, now: Now) -> torch.Tensor:
        """[N] loss of each token, before weights and normaliser."""
        log_N, good_N = self.value(now), now.advantage_N >= 0
        power_N = torch.full_like(log_N, self.bad_power).masked_fill(good_N, self.good_power)
        rate_N = torch.full_like(log_N, self.bad_rate).masked_fill(good_N, self.good_rate)
        phi_N = (rate_N + power_N * log_N - rate_N * log_N.exp()).exp()
        return -phi_N * now.advantage_N * now.logp_N
