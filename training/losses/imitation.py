"""Self-imitation of replayed tokens."""

from __future__ import annotations

import torch

from agentkit.training.losses.terms import ratio


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
    return ratio(logp_N.detach(), behaviour_logp_N).clamp(max=truncation)
