"""Reductions: how the losses of tokens become the loss of an optimizer step (verl's `agg_loss`, all of its modes)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agentkit.lazy import lazy_module

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


Reduction = Literal["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean"]
"""Σwℓ/Σw (DAPO, ActFocus); Σwℓ; mean over sequences of Σwℓ; that over a constant (Dr.GRPO); mean over sequences of
Σwℓ/Σw (GRPO, GSPO, SAPO). A sequence is an episode, however many rows it was split into."""


def scales(
    reduction: Reduction, weight_N: torch.Tensor, sequence_N: torch.Tensor, *, horizon: int | None = None
) -> torch.Tensor:
    """[N] s such that the loss of the step is Σ s·w·ℓ, whatever micro-batches it is split into.

    Args:
        reduction: Which.
        weight_N: Weights of all tokens of the optimizer step.
        sequence_N: The sequence of each token.
        horizon: Divisor of `seq-mean-token-sum-norm`: most tokens of a sequence.

    >>> weight, sequence = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([7, 7, 9])
    >>> scales("token-mean", weight, sequence).tolist(), scales("seq-mean-token-mean", weight, sequence).tolist()
    ([0.25, 0.25, 0.25], [0.25, 0.25, 0.25])
    """
    ones_N = torch.ones_like(weight_N)
    if reduction == "token-sum":
        return ones_N
    if reduction == "token-mean":
        return ones_N / weight_N.sum().clamp(min=1e-8)
    known, place_N = torch.unique(sequence_N, return_inverse=True)
    total_S = torch.zeros(len(known)).index_add_(0, place_N, weight_N.float())
    num_taught = max(1, int((total_S > 0).sum()))  # as in verl, one without any weight is no sequence
    if reduction == "seq-mean-token-sum":
        return ones_N / num_taught
    if reduction == "seq-mean-token-sum-norm":
        if horizon is None:
            raise ValueError("seq-mean-token-sum-norm needs a horizon")
        return ones_N / (num_taught * horizon)
    return ones_N / (num_taught * total_S.clamp(min=1e-8)[place_N])
