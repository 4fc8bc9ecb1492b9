"""What every loss is made of: ratios, the effective sample size, the KL terms."""

from __future__ import annotations

from typing import NamedTuple

import torch

LOG_RATIO_BOUND = 20.0
"""Log ratios are clamped to ± this before the exponential, as verl does, so that none overflows."""


class Now(NamedTuple):
    """What a loss reads of N tokens: all those of one micro-batch, whole rows."""

    logp_N: torch.Tensor
    """log π of the policy that learns, with gradient."""
    old_logp_N: torch.Tensor
    """log π_old."""
    advantage_N: torch.Tensor
    row_N: torch.Tensor
    """Number of each token's row, 0, 1, … in the micro-batch."""


def ratio(logp_N: torch.Tensor, old_logp_N: torch.Tensor) -> torch.Tensor:
    """[N] π/π_old."""
    return (logp_N - old_logp_N).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


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
