"""Clip-Cov and KL-Cov: tokens whose advantage and log-probability go together make a policy sure too early."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from agentkit.lazy import lazy_module
from agentkit.training.losses.clip import Clip, beyond, surrogate
from agentkit.training.losses.policy import PolicyLoss
from agentkit.training.losses.terms import LOG_RATIO_BOUND, Now, ratio

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


class CovarianceLoss(PolicyLoss):
    """A loss that treats some tokens otherwise, picked once per optimizer step by their covariance."""

    needs_batch: ClassVar[bool] = True
    _picked_N: Any = PrivateAttr(default=None)

    def pick(self, now: Now, rng: np.random.Generator) -> torch.Tensor:
        """[N] True for the tokens picked, from all tokens of the optimizer step."""
        raise NotImplementedError

    def fitted(self, now: Now, rng: np.random.Generator | None = None) -> Self:
        """Itself, knowing the tokens picked."""
        fitted = self.model_copy()
        fitted._picked_N = self.pick(now._replace(logp_N=now.logp_N.detach()), rng or np.random.default_rng(0))
        return fitted

    def picked(self, now: Now) -> torch.Tensor:
        """[N] whether each token is picked."""
        assert self._picked_N is not None, "a covariance loss is fitted to the optimizer step before it is asked"
        picked_N = self._picked_N.to(now.logp_N.device)
        return picked_N if now.place_N is None else picked_N[now.place_N]


class ClipCov(CovarianceLoss):
    """The clipped surrogate without a few of the tokens of large covariance (Clip-Cov; Cui et al. 2505.22617).

    A random `dropped` share of all tokens, drawn among those that are not clipped and whose covariance lies between
    `least` and `most`, has no gradient; the divisor goes on counting them. Means are over the tokens that are computed:
    rows without any advantage may be missing. The numbers are SPEAR's (2509.22601); the paper drops a share of 0.0002
    between 1 and 5.
    """

    name: Literal["clip-cov"] = "clip-cov"
    low: float = Field(default=0.2, gt=0, lt=1)
    """Ratios are clipped below at 1 − this."""
    high: float = Field(default=0.28, gt=0)
    """Ratios are clipped above at 1 + this."""
    dual: float | None = None
    """As `Clip.dual` (10 in SPEAR)."""
    dropped: float = Field(default=0.02, gt=0, lt=1)
    """Share of the tokens that is dropped at most; always at least one, if one may be."""
    least: float = 1.0
    """Covariance above which a token may be dropped."""
    most: float = 40.0
    """Covariance from which on it may not."""

    @model_validator(mode="after")
    def _consistent(self) -> ClipCov:
        self._bounds()
        if not self.least < self.most:
            raise ValueError(f"least = {self.least:g} must be below most = {self.most:g}")
        return self

    def pick(self, now: Now, rng: np.random.Generator) -> torch.Tensor:
        """[N] True for the tokens dropped."""
        return drawn(now, self._bounds(), self.dropped, (self.least, self.most), rng)

    def tokens(self, now: Now) -> torch.Tensor:
        """[N] loss of each token, before weights and normaliser."""
        loss_N = surrogate(ratio(now.logp_N, now.old_logp_N), now.advantage_N, self._bounds())
        return torch.where(self.picked(now), 0.0, loss_N)

    def clipped(self, now: Now) -> torch.Tensor:
        """[N] True where clipping or dropping takes the gradient away."""
        return beyond(ratio(now.logp_N, now.old_logp_N), now.advantage_N, self._bounds()) | self.picked(now)

    def _bounds(self) -> Clip:
        return Clip(low=self.low, high=self.high, dual=self.dual)


class KLCov(CovarianceLoss):
    """−ρÂ, with β·|log π − log π_old| added at the tokens of largest covariance (KL-Cov; Cui et al. 2505.22617).

    There is no clip: the penalty bounds the tokens that would make the policy sure, and nothing the others.
    """

    name: Literal["kl-cov"] = "kl-cov"
    share: float = Field(default=0.002, gt=0, lt=1)
    """Share of the tokens that is penalised, at least one: the paper's for 7 B parameters (0.0002 for 32 B)."""
    beta: float = Field(default=1.0, gt=0)
    """Strength of the penalty; the paper's."""
    pulls: ClassVar[bool] = True

    def pick(self, now: Now, rng: np.random.Generator) -> torch.Tensor:
        """[N] True for the tokens penalised."""
        covariance_N = covariance(now)
        num = max(1, round(self.share * int(covariance_N.isfinite().sum())))
        picked_N = torch.zeros(len(covariance_N), dtype=torch.bool)
        picked_N[covariance_N.topk(num).indices] = True
        return picked_N

    def tokens(self, now: Now) -> torch.Tensor:
        """[N] loss of each token, before weights and normaliser."""
        distance_N = (now.logp_N - now.old_logp_N).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).abs()
        loss_N = -ratio(now.logp_N, now.old_logp_N) * now.advantage_N
        return torch.where(self.picked(now), loss_N + self.beta * distance_N, loss_N)


def covariance(now: Now) -> torch.Tensor:
    """[N] (Â − mean Â)(log π − mean log π) in float64; −∞ for tokens of weight 0, which no mean counts.

    >>> now = Now(torch.tensor([-1.0, -3.0]), torch.zeros(2), torch.tensor([2.0, 0.0]), torch.zeros(2).long())
    >>> covariance(now).tolist()
    [1.0, 1.0]
    """
    logp_N, advantage_N = now.logp_N.double(), now.advantage_N.double()
    counts_N = torch.ones_like(logp_N, dtype=torch.bool) if now.weight_N is None else now.weight_N > 0
    product_N = (advantage_N - advantage_N[counts_N].mean()) * (logp_N - logp_N[counts_N].mean())
    return torch.where(counts_N, product_N, -torch.inf)


def drawn(now: Now, bounds: Clip, share: float, band: tuple[float, float], rng: np.random.Generator) -> torch.Tensor:
    """[N] True for a share of all tokens, drawn among those that are not clipped and whose covariance is in the band.

    Args:
        now: All tokens of the optimizer step.
        bounds: What clips.
        share: Of the tokens; at least one is drawn, and no more than there are in the band.
        band: Least and greatest covariance, both excluded.
        rng: Draws.
    """
    covariance_N = covariance(now)
    free_N = ~beyond(ratio(now.logp_N, now.old_logp_N), now.advantage_N, bounds)
    places = torch.nonzero(free_N & (covariance_N > band[0]) & (covariance_N < band[1]))[:, 0].numpy()
    num = min(len(places), max(1, round(share * int(covariance_N.isfinite().sum()))))
    drawn_N = torch.zeros(len(covariance_N), dtype=torch.bool)
    drawn_N[torch.from_numpy(rng.choice(places, size=num, replace=False))] = True
    return drawn_N
