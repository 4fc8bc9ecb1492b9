"""KL: what keeps the policy near the reference, estimated from the policy's own tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agentkit.lazy import lazy_module
from agentkit.training.losses.terms import LOG_RATIO_BOUND

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")

KL = Literal["k1", "k2", "k3"]
"""Estimators of KL(π‖π_ref) from x = log π − log π_ref of tokens that π sampled (Schulman 2020)."""


def kl_tokens(logp_N: torch.Tensor, reference_logp_N: torch.Tensor, estimator: KL = "k3") -> torch.Tensor:
    """[N] estimate of KL(π‖π_ref) at each token.

    | name | value         | unbiased value | gradient, in expectation over tokens of π              |
    |------|---------------|----------------|--------------------------------------------------------|
    | k1   | x             | yes            | that of KL(π‖π_ref): unbiased                          |
    | k2   | x²/2          | no             | that of KL(π‖π_ref): unbiased                          |
    | k3   | e^{−x} + x − 1 | yes           | that of KL(π_ref‖π), the other direction (GRPO's term) |

    x alone has a gradient of expectation zero, so k1 takes its value from x and its gradient from k2.

    >>> half, quarter = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    >>> [round(kl_tokens(half, quarter, name).item(), 4) for name in ("k1", "k2", "k3")]
    [0.6931, 0.2402, 0.1931]
    """
    d_N = (reference_logp_N - logp_N).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    if estimator == "k3":
        return d_N.exp() - d_N - 1
    k2_N = d_N.square() / 2
    if estimator == "k2":
        return k2_N
    return k2_N - k2_N.detach() - d_N.detach()
