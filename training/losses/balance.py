"""Trajectory balance: each attempt's probability is fitted to the reference's, tilted by its reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from agentkit.lazy import lazy_module
from agentkit.training.losses.policy import SequenceLoss
from agentkit.training.losses.reduction import Reduction
from agentkit.training.losses.terms import Now, means, sums

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


class TrajectoryBalance(SequenceLoss):
    """(β/2)·(sg[log Ẑ] + log π(y) − log π_ref(y) − r/β)² of each sequence, log Ẑ by VarGrad (TBA, 2503.18929).

    log π(y) is the sum over the sequence, log Ẑ the mean over its group of log π_ref(y) − log π(y) + r/β, so any
    constant in r cancels within the group: r is the sequence's advantage, and an advantage that is R − mean gives the
    paper's loss. It needs no ratio, so the data may be of any policy. The paper's loss lacks the factor β/2, with which
    the gradient is that of REINFORCE with the advantage r − r̄ − β(x − x̄), x = log π(y) − log π_ref(y), and so of the
    scale of the other losses. β is the first of the paper's, which goes on to lower it to 0.004.

    Raises:
        ValueError: The tokens of a sequence differ in advantage.
    """

    name: Literal["trajectory-balance"] = "trajectory-balance"
    beta: float = Field(default=0.012, gt=0)
    """Strength of the pull to the reference."""
    needs_reference: ClassVar[bool] = True
    needs_groups: ClassVar[bool] = True
    pulls: ClassVar[bool] = True
    reductions: ClassVar[tuple[Reduction, ...] | None] = ("seq-mean-token-sum",)

    def sequences(self, now: Now) -> torch.Tensor:
        """[S, 2] β × residual of each sequence, and its number of tokens."""
        if now.reference_logp_N is None or now.group_N is None:
            raise ValueError("trajectory balance needs the reference's log-probabilities and the groups")
        reward_S = means(now.advantage_N, now.sequence_N)
        if not torch.allclose(reward_S[now.sequence_N], now.advantage_N.double(), rtol=1e-5, atol=1e-7):
            raise ValueError(
                "trajectory balance needs one advantage for all turns of an episode; choose an advantage of whole "
                "episodes, such as grpo"
            )
        group_S = means(now.group_N.double(), now.sequence_N).round().long()
        tilted_S = self.beta * sums(now.logp_N - now.reference_logp_N, now.sequence_N) - reward_S
        count_S = sums(torch.ones_like(now.logp_N), now.sequence_N)
        return torch.stack([tilted_S - means(tilted_S, group_S)[group_S], count_S], dim=1)

    def tokens(self, now: Now) -> torch.Tensor:
        """[N] loss of each token, before weights and normaliser."""
        residual_N, count_N = self.value(now).unbind(dim=1)
        # The value is spread evenly over the sequence; the gradient is that of its log-probability.
        return residual_N * (now.logp_N - now.logp_N.detach()) + residual_N.square() / (2 * self.beta * count_N)
