"""SPEAR: imitation of past successes against a moving baseline, with the surest tokens left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from agentkit.lazy import lazy_module
from agentkit.training.losses.clip import Clip, beyond, surrogate
from agentkit.training.losses.covariance import drawn
from agentkit.training.losses.imitation import ImitationLoss
from agentkit.training.losses.terms import Now, ratio

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


class SPEAR(ImitationLoss):
    """The replay loss of SPEAR (2509.22601): recalibrated advantage, clip, covariance clipping.

    The advantage is (R − P50)₊ (`imitation.baseline`), the ratio that to the policy that acted. Of the tokens whose
    advantage and log-probability go together most, (A − mean A)(log π − mean log π) between `least` and `most`, a
    random `dropped` share of all replayed tokens is not learnt from (Clip-Cov, as in the authors' code): these make a
    policy sure too early. They stay in the normaliser. The dual clip bounds bad tokens only, and recalibration leaves
    none, so there is no such number. Numbers are those of the authors' runs on agent tasks.
    """

    name: Literal["spear"] = "spear"
    low: float = Field(default=0.2, gt=0, lt=1)
    """Ratios are clipped below at 1 − this."""
    high: float = Field(default=0.28, gt=0)
    """Ratios are clipped above at 1 + this."""
    dropped: float = Field(default=0.02, ge=0, lt=1)
    """Share of the replayed tokens; 0 for no covariance clipping."""
    least: float = 2.0
    """Covariance above which a token may be dropped (1 on mathematics)."""
    most: float = 60.0
    """Covariance from which on it may not (40 on mathematics)."""

    @model_validator(mode="after")
    def _consistent(self) -> SPEAR:
        if not self.least < self.most:
            raise ValueError(f"least = {self.least:g} must be below most = {self.most:g}")
        return self

    @property
    def needs_batch(self) -> bool:
        """Whether it chooses among all replayed tokens first, which costs a pass without gradient."""
        return self.dropped > 0

    def weighted(self, now: Now, weight_N: torch.Tensor) -> torch.Tensor:
        """[N] loss of each token times its weight, before the normaliser."""
        return weight_N * surrogate(ratio(now.logp_N, now.old_logp_N), now.advantage_N, self._bounds)

    def factor(self, now: Now) -> torch.Tensor:
        """[N] the ratio where it is not clipped, else 0."""
        ratio_N = ratio(now.logp_N.detach(), now.old_logp_N)
        return torch.where(beyond(ratio_N, now.advantage_N, self._bounds), 0.0, ratio_N)

    def kept(self, now: Now, rng: np.random.Generator) -> torch.Tensor:
        """[N] False for the tokens that covariance clipping drops."""
        return ~drawn(now, self._bounds, self.dropped, (self.least, self.most), rng)

    @property
    def _bounds(self) -> Clip:
        return Clip(low=self.low, high=self.high)
