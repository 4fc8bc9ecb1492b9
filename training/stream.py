"""Stream: the sampled tokens of some rows, flat, with all that credit and losses may look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agentkit.lazy import lazy_module
from agentkit.training.rows import Row, named

if TYPE_CHECKING:
    import torch

    from agentkit.training.forward import TokenStats
else:
    torch = lazy_module("torch")


@dataclass(frozen=True, slots=True)
class Stream:
    """N sampled tokens of one kind of experience (the policy's own, replayed, demonstrated), row after row.

    Every stream is divided by its own normaliser, taken over the whole optimizer step before it is split into
    micro-batches, so replay never dilutes the policy gradient and the split changes nothing.
    """

    rows: Sequence[Row]
    starts: np.ndarray
    """[rows + 1] place of each row's first token."""
    role_N: torch.Tensor
    """`Role` of each token."""
    turn_N: torch.Tensor
    """Number of the turn, within its episode, that sampled it."""
    row_N: torch.Tensor
    """Index of its row."""
    episode_N: torch.Tensor
    """Index of its episode in the batch."""
    behaviour_logp_N: torch.Tensor
    """log μ: of the policy that sampled it, as recorded."""
    old_logp_N: torch.Tensor
    """log π_old: of the policy that learns, before it learns; log μ where it is the same."""
    advantage_N: torch.Tensor
    memory_N: torch.Tensor
    """True where the prompt of the token's turn showed memories."""
    shared_N: torch.Tensor
    """True where the token's turn is shared with another attempt: it comes before the turn at which one branched."""
    weight_N: torch.Tensor
    """Credit, 0 for what is left out; what losses are divided by counts it."""
    factor_N: torch.Tensor
    """Correction for the mismatch of μ and π_old: multiplies losses, and no divisor counts it."""
    learns_R: NDArray[np.bool_]
    """Rows whose loss has a gradient: divisors count the others, which nobody computes."""
    reference: TokenStats | None = None
    """What the frozen reference says of the tokens; None if nothing asks it."""
    policy: TokenStats | None = None
    """What the policy says of them before it learns; None if nothing asks it."""
    group_N: torch.Tensor | None = None
    """Index of the group of its episode; None if nothing asks."""
    target_N: torch.Tensor | None = None
    """What the value before each token should be; None without a value head. The old values are `policy.value_N`."""
    injected_N: torch.Tensor | None = None
    """True for tokens of injected episodes, where the plan has a loss of its own for them; None where it has not."""
    episode_ids: Sequence[str] = ()
    """Ids of the batch's episodes, to name them in errors."""

    def names(self, places: torch.Tensor) -> str:
        """The episodes of these tokens, for an error: the first five."""
        found = torch.unique(self.episode_N[places]).tolist()
        return named(self.episode_ids[i] if i < len(self.episode_ids) else f"number {i}" for i in found)

    def places(self, indices: Sequence[int]) -> torch.Tensor:
        """Places of the tokens of these rows."""
        return torch.from_numpy(np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in indices]))


def flatten(
    rows: Sequence[Row],
    advantage_N: torch.Tensor,
    *,
    reference: TokenStats | None = None,
    policy: TokenStats | None = None,
) -> Stream:
    """The stream of some rows, every token of weight and factor 1.

    Args:
        rows: What is learnt from.
        advantage_N: [N] of each sampled token.
        reference: What the reference says of the same tokens.
        policy: What the policy says of them; its log-probabilities become π_old.
    """
    counts = [row.num_sampled for row in rows]
    behaviour_logp_N = torch.from_numpy(np.concatenate([row.logprobs[row.sampled] for row in rows]))
    turns = [row.turns[row.sampled] for row in rows]
    memory = [np.isin(turn_T, [*row.recalled]) for row, turn_T in zip(rows, turns, strict=True)]
    shared = [turn_T < row.pivot for row, turn_T in zip(rows, turns, strict=True)]
    return Stream(
        rows=rows,
        starts=np.concatenate([[0], np.cumsum(counts)]),
        role_N=torch.from_numpy(np.concatenate([row.roles[row.sampled] for row in rows])),
        turn_N=torch.from_numpy(np.concatenate(turns)),
        row_N=torch.from_numpy(np.repeat(np.arange(len(rows)), counts)),
        episode_N=torch.from_numpy(np.repeat([row.episode for row in rows], counts)),
        behaviour_logp_N=behaviour_logp_N,
        old_logp_N=behaviour_logp_N if policy is None else policy.logp_N,
        advantage_N=advantage_N.float(),
        memory_N=torch.from_numpy(np.concatenate(memory)),
        shared_N=torch.from_numpy(np.concatenate(shared)),
        weight_N=torch.ones(sum(counts)),
        factor_N=torch.ones(sum(counts)),
        learns_R=np.ones(len(rows), np.bool_),
        reference=reference,
        policy=policy,
    )


def per_token(rows: Sequence[Row], starts: np.ndarray, value_U: np.ndarray) -> torch.Tensor:
    """[N] the value of the turn that sampled each token.

    Args:
        rows: The rows of a batch of episodes.
        starts: [E+1] place of each episode's first turn.
        value_U: [U] value of each turn.
    """
    places = [starts[row.episode] + row.turns[row.sampled] for row in rows]
    return torch.from_numpy(value_U[np.concatenate(places)]).float()
