"""What every loss is made of: ratios, sums over sequences, the effective sample size."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agentkit.lazy import lazy_module

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


LOG_RATIO_BOUND = 20.0
"""Log ratios are clamped to ± this before the exponential, as verl does, so that none overflows."""


class Now(NamedTuple):
    """What a loss reads of N tokens: those of one micro-batch, or of the whole optimizer step."""

    logp_N: torch.Tensor
    """log π of the policy that learns, with gradient."""
    old_logp_N: torch.Tensor
    """log π_old."""
    advantage_N: torch.Tensor
    sequence_N: torch.Tensor
    """Number of each token's sequence, 0, 1, … in the optimizer step. A sequence is an episode's tokens in the step,
    however many rows and micro-batches they are in."""
    weight_N: torch.Tensor | None = None
    """What the loss of a token is multiplied by elsewhere: credit times factors. None counts all tokens alike."""
    group_N: torch.Tensor | None = None
    """Number of the group of each token's episode; None unless a loss `needs_groups`."""
    reference_logp_N: torch.Tensor | None = None
    """log π_ref; None unless something asks the reference."""
    place_N: torch.Tensor | None = None
    """Place of each token in the optimizer step; None for all of it, in order."""

    def at(self, places_M: torch.Tensor, logp_M: torch.Tensor) -> Now:
        """M of the tokens, with these log-probabilities of the policy that learns, and on their device."""
        parts = {name: part[places_M].to(logp_M.device) for name, part in self._asdict().items() if part is not None}
        return Now(**(parts | {"logp_N": logp_M}))


def ratio(logp_N: torch.Tensor, old_logp_N: torch.Tensor) -> torch.Tensor:
    """[N] π/π_old."""
    return (logp_N - old_logp_N).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def sums(value_N: torch.Tensor, place_N: torch.Tensor) -> torch.Tensor:
    """[S] sum of the values of each place, in float64.

    >>> sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1, 0, 1])).tolist()
    [2.0, 5.0]
    """
    total_S = torch.zeros(int(place_N.max()) + 1, dtype=torch.float64, device=value_N.device)
    return total_S.index_add_(0, place_N, value_N.double())


def means(value_N: torch.Tensor, place_N: torch.Tensor) -> torch.Tensor:
    """[S] mean of the values of each place, in float64."""
    return sums(value_N, place_N) / sums(torch.ones_like(value_N), place_N).clamp(min=1)


def effective_sample_size(importance_N: torch.Tensor) -> float:
    """(Σw)² / (N Σw²) in (0, 1]: the share of tokens that importance weighting leaves; 0 if it leaves none.

    >>> effective_sample_size(torch.tensor([1.0, 1.0]))
    1.0
    """
    squares = importance_N.square().sum()
    return float(importance_N.sum() ** 2 / (len(importance_N) * squares)) if squares > 0 else 0.0
