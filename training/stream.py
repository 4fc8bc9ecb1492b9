"""Stream: the sampled tokens of some rows, flat, with all that credit and losses may look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from agentkit.training.forward import TokenStats
from agentkit.training.rows import Row


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
    weight_N: torch.Tensor
    """Credit, times any correction for the mismatch of μ and π_old."""
    reference: TokenStats | None = None
    """What the frozen reference says of the tokens; None if nothing asks it."""
    policy: TokenStats | None = None
    """What the policy says of them before it learns; None if nothing asks it."""

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
    """The stream of some rows, every token of weight 1.

    Args:
        rows: What is learnt from.
        advantage_N: [N] of each sampled token.
        reference: What the reference says of the same tokens.
        policy: What the policy says of them; its log-probabilities become π_old.
    """
    counts = [row.num_sampled for row in rows]
    behaviour_logp_N = torch.from_numpy(np.concatenate([row.logprobs[row.sampled] for row in rows]))
    return Stream(
        rows=rows,
        starts=np.concatenate([[0], np.cumsum(counts)]),
        role_N=torch.from_numpy(np.concatenate([row.roles[row.sampled] for row in rows])),
        turn_N=torch.from_numpy(np.concatenate([row.turns[row.sampled] for row in rows])),
        row_N=torch.from_numpy(np.repeat(np.arange(len(rows)), counts)),
        episode_N=torch.from_numpy(np.repeat([row.episode for row in rows], counts)),
        behaviour_logp_N=behaviour_logp_N,
        old_logp_N=behaviour_logp_N if policy is None else policy.logp_N,
        advantage_N=advantage_N.float(),
        weight_N=torch.ones(sum(counts)),
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
