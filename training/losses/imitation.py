"""Losses of replayed tokens. A class each, chosen by its `name`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from agentkit.lazy import lazy_module
from agentkit.training.losses.clip import Clip, beyond, surrogate
from agentkit.training.losses.terms import Now, ratio
from agentkit.training.settings import Part

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


class ImitationLoss(Part):
    """A loss of N tokens that an earlier policy μ sampled; `now.old_logp_N` is log μ, as recorded."""

    @property
    def needs_batch(self) -> bool:
        """Whether it chooses among all replayed tokens first, which costs a pass without gradient."""
        return False

    @property
    def skips_errors(self) -> bool:
        """Whether turns that were malformed or not understood are context only."""
        return False

    @property
    def needs_estimate(self) -> bool:
        """Whether its advantages are those of the run's estimator, as a fresh token's are; else R − b."""
        return False

    def weighted(self, now: Now, weight_N: torch.Tensor) -> torch.Tensor:
        """[N] loss of each token times its weight, before the normaliser."""
        raise NotImplementedError

    def factor(self, now: Now) -> torch.Tensor:
        """[N] what ∇log π is multiplied by besides advantage and weight, without gradient."""
        raise NotImplementedError

    def kept(self, now: Now, rng: np.random.Generator) -> torch.Tensor:
        """[N] True where a token of the optimizer step's replay is learnt from."""
        return torch.ones_like(now.logp_N, dtype=torch.bool)


class SIL(ImitationLoss):
    """−w·min(π/μ, C)·A⁺·log π: self-imitation (Oh et al. 2018, 1806.05635, eq. 2), without a learnt value.

    The truncated ratio corrects for how far the policy has moved since and carries no gradient. A⁺ = (R − b)₊, b the
    group's mean, is at most 1, as in the authors' code, and never divided by a deviation.

    >>> now = Now(torch.zeros(1), torch.full((1,), -5.0), torch.ones(1), torch.zeros(1).long())
    >>> SIL().weighted(now, torch.ones(1)).item(), SIL().factor(now).item()
    (-0.0, 2.0)
    """

    name: Literal["sil"] = "sil"
    truncation: float = Field(default=2.0, gt=0)
    """C: upper bound of the importance weight π/μ."""

    def weighted(self, now: Now, weight_N: torch.Tensor) -> torch.Tensor:
        """[N] loss of each token times its weight, before the normaliser."""
        return -(weight_N * self.factor(now) * now.advantage_N.clamp(0, 1) * now.logp_N)

    def factor(self, now: Now) -> torch.Tensor:
        """[N] min(π/μ, C)."""
        return ratio(now.logp_N.detach(), now.old_logp_N).clamp(max=self.truncation)


class Shaped(ImitationLoss):
    """−w·f(π/μ)·A with f(ρ) = ρ/(ρ + β) (ExGRPO, 2510.02245): no clip.

    ∇log π is multiplied by βρ/(ρ + β)², greatest where ρ = β: tokens that have become unlikely count most, and at ρ = 1
    the loss is some 12 times weaker than the policy's own.
    """

    name: Literal["shaped"] = "shaped"
    beta: float = Field(default=0.1, gt=0)
    """β."""

    @property
    def needs_estimate(self) -> bool:
        """Whether its advantages are those of the run's estimator: it goes on with what the policy's loss began."""
        return True

    def weighted(self, now: Now, weight_N: torch.Tensor) -> torch.Tensor:
        """[N] loss of each token times its weight, before the normaliser."""
        ratio_N = ratio(now.logp_N, now.old_logp_N)
        return -(weight_N * now.advantage_N * ratio_N / (ratio_N + self.beta))

    def factor(self, now: Now) -> torch.Tensor:
        """[N] βρ/(ρ + β)²."""
        ratio_N = ratio(now.logp_N.detach(), now.old_logp_N)
        return self.beta * ratio_N / (ratio_N + self.beta).square()


class Replayed(ImitationLoss):
    """The clipped surrogate, with the ratio to μ (RePO, 2506.09340) or to π itself (RLEP, 2507.07451).

    RLEP's ratio is to the policy before the update. A replayed token serves one optimizer step here, so that policy is
    π: the ratio is 1, nothing is ever clipped, and the gradient is A·∇log π however unlikely the token has become.
    """

    name: Literal["surrogate"] = "surrogate"
    base: Literal["recorded", "current"] = "recorded"
    """What the ratio is to: μ (RePO, SPEAR) or the policy that learns (RLEP)."""
    low: float = Field(default=0.2, gt=0, lt=1)
    """Ratios are clipped below at 1 − this."""
    high: float = Field(default=0.2, gt=0)
    """Ratios are clipped above at 1 + this; 0.2 in RePO."""
    dual: float | None = None
    """As `Clip.dual`."""

    @property
    def needs_estimate(self) -> bool:
        """Whether its advantages are those of the run's estimator: it goes on with what the policy's loss began."""
        return True

    @model_validator(mode="after")
    def _consistent(self) -> Replayed:
        self.bounds()
        if self.base == "current" and {"low", "high", "dual"} & self.changed:
            raise ValueError("base = 'current' has the ratio 1, which nothing clips: leave out low, high and dual")
        return self

    def bounds(self) -> Clip:
        """The clip."""
        return Clip(low=self.low, high=self.high, dual=self.dual)

    def weighted(self, now: Now, weight_N: torch.Tensor) -> torch.Tensor:
        """[N] loss of each token times its weight, before the normaliser."""
        old_N = now.logp_N.detach() if self.base == "current" else now.old_logp_N
        return weight_N * surrogate(ratio(now.logp_N, old_N), now.advantage_N, self.bounds())

    def factor(self, now: Now) -> torch.Tensor:
        """[N] the ratio where it is not clipped, else 0."""
        if self.base == "current":
            return torch.ones_like(now.logp_N)
        ratio_N = ratio(now.logp_N.detach(), now.old_logp_N)
        return torch.where(beyond(ratio_N, now.advantage_N, self.bounds()), 0.0, ratio_N)


class Supervised(ImitationLoss):
    """−w·log π of what is replayed, whatever its advantage: fine-tuning on the policy's own successes.

    With `mask_errors`, turns that were malformed or not understood are context only and have no weight: the model
    sees a mistake and learns the recovery from it (the partial masking of STeP, 2505.20023).
    """

    name: Literal["supervised"] = "supervised"
    mask_errors: bool = True
    """Whether turns that were malformed or not understood have no weight."""

    @property
    def skips_errors(self) -> bool:
        """Whether turns that were malformed or not understood are context only."""
        return self.mask_errors

    def weighted(self, now: Now, weight_N: torch.Tensor) -> torch.Tensor:
        """[N] loss of each token times its weight, before the normaliser."""
        return -(weight_N * now.logp_N)

    def factor(self, now: Now) -> torch.Tensor:
        """[N] ones."""
        return torch.ones_like(now.logp_N)
