"""Losses over N sampled tokens. Each returns a sum; the caller divides by the normaliser of the whole optimizer batch.

All tensors are flat over the sampled tokens of a micro-batch. Dividing by the batch's Σw (and not the
micro-batch's) makes the gradient independent of how rows are split.
"""

from __future__ import annotations

import torch

LOG_RATIO_BOUND = 20.0
"""Log ratios are clamped to ± this before the exponential, as verl does, so that none overflows."""


def _ratio(logp_N: torch.Tensor, old_logp_N: torch.Tensor) -> torch.Tensor:
    return (logp_N - old_logp_N).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def policy_loss(
    logp_N: torch.Tensor,
    old_logp_N: torch.Tensor,
    advantage_N: torch.Tensor,
    weight_N: torch.Tensor,
    clip_low: float,
    clip_high: float,
) -> torch.Tensor:
    """−Σ w·min(ρÂ, clip(ρ, 1−ε_l, 1+ε_h)Â) (Schulman et al. 2017, eq. 7; ActFocus eq. 6 before its 1/Σw).

    >>> one = torch.ones(1)
    >>> round(policy_loss(torch.log(one * 2), torch.zeros(1), one, one, 0.2, 0.28).item(), 4)
    -1.28
    """
    ratio_N = _ratio(logp_N, old_logp_N)
    clipped_N = ratio_N.clamp(1 - clip_low, 1 + clip_high)
    gain_N = torch.minimum(ratio_N * advantage_N, clipped_N * advantage_N)
    return -(weight_N * gain_N).sum()


def clipped_fraction(
    logp_N: torch.Tensor,
    old_logp_N: torch.Tensor,
    advantage_N: torch.Tensor,
    clip_low: float,
    clip_high: float,
) -> torch.Tensor:
    """[N] 1.0 where clipping takes the gradient away."""
    ratio_N = _ratio(logp_N, old_logp_N)
    above_N = (advantage_N > 0) & (ratio_N > 1 + clip_high)
    below_N = (advantage_N < 0) & (ratio_N < 1 - clip_low)
    return (above_N | below_N).float()


def imitation_loss(
    logp_N: torch.Tensor,
    behaviour_logp_N: torch.Tensor,
    advantage_N: torch.Tensor,
    weight_N: torch.Tensor,
    truncation: float,
) -> torch.Tensor:
    """−Σ w·min(π/μ, C)·A⁺·log π: self-imitation (Oh et al. 2018, eq. 2) of replayed tokens.

    μ is the policy that sampled the token, from its stored log-probability; the truncated ratio corrects for
    how far the policy has moved since and carries no gradient. A⁺ = (R − b)₊ is at most 1, as in the authors'
    code.

    >>> imitation_loss(torch.zeros(1), torch.full((1,), -5.0), torch.ones(1), torch.ones(1), 2.0).item()
    -0.0
    """
    importance_N = importance(logp_N, behaviour_logp_N, truncation)
    return -(weight_N * importance_N * advantage_N.clamp(0, 1) * logp_N).sum()


def importance(logp_N: torch.Tensor, behaviour_logp_N: torch.Tensor, truncation: float) -> torch.Tensor:
    """[N] min(π/μ, C), without gradient: the truncated importance weight of tokens that μ sampled."""
    return _ratio(logp_N.detach(), behaviour_logp_N).clamp(max=truncation)


def kl_loss(logp_N: torch.Tensor, reference_logp_N: torch.Tensor) -> torch.Tensor:
    """Σ (e^d − d − 1), d = log π_ref − log π: the k3 estimate of KL(π‖π_ref) (Schulman 2020)."""
    d_N = (reference_logp_N - logp_N).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return (d_N.exp() - d_N - 1).sum()


def effective_sample_size(importance_N: torch.Tensor) -> float:
    """(Σw)² / (N Σw²) in (0, 1]: the share of tokens that importance weighting leaves.

    >>> effective_sample_size(torch.tensor([1.0, 1.0]))
    1.0
    """
    return float(importance_N.sum() ** 2 / (len(importance_N) * importance_N.square().sum()))
