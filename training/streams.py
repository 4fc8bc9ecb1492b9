"""Streams: the sampled tokens of some rows with their advantage and credit, and the gradient each kind contributes.

Every stream is divided by its own Σw (or token count), taken over the whole optimizer step before it is split into
micro-batches, so replay never dilutes the policy gradient and the split changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agentkit.memory.records import Role
from agentkit.training.config import TrainConfig
from agentkit.training.forward import TokenStats, forward, micro_batches
from agentkit.training.losses import (
    clipped_fraction,
    effective_sample_size,
    imitation_loss,
    importance,
    kl_loss,
    policy_loss,
)
from agentkit.training.rows import Row

SPANS = {"thought": Role.THOUGHT, "action": Role.ACTION, "format": Role.FORMAT, "other": Role.OTHER}


@dataclass(frozen=True, slots=True)
class Stream:
    """Sampled tokens, row after row; N in all."""

    rows: Sequence[Row]
    starts: np.ndarray
    """[rows + 1] place of each row's first token."""
    role_N: torch.Tensor
    behaviour_logp_N: torch.Tensor
    advantage_N: torch.Tensor
    weight_N: torch.Tensor
    """Credit."""
    reference_logp_N: torch.Tensor | None

    def places(self, indices: Sequence[int]) -> torch.Tensor:
        """Places of the tokens of these rows."""
        return torch.from_numpy(np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in indices]))


def build_stream(
    rows: Sequence[Row], advantages: Sequence[float], config: TrainConfig, reference: TokenStats | None
) -> Stream:
    """Flatten rows into tokens; credit sees all of them, so its statistics are over the whole batch.

    Args:
        rows: What is learnt from.
        advantages: One for each row.
        config: Names the credit scheme.
        reference: What the reference says of the same tokens; None if nothing needs it.
    """
    counts = [row.num_sampled for row in rows]
    role_N = torch.from_numpy(np.concatenate([row.roles[row.sampled] for row in rows]))
    return Stream(
        rows=rows,
        starts=np.concatenate([[0], np.cumsum(counts)]),
        role_N=role_N,
        behaviour_logp_N=torch.from_numpy(np.concatenate([row.logprobs[row.sampled] for row in rows])),
        advantage_N=torch.tensor(np.repeat(advantages, counts), dtype=torch.float32),
        weight_N=config.credit.weights(role_N, reference.energy_N if reference else None),
        reference_logp_N=reference.logp_N if reference else None,
    )


def policy_gradient(
    model: Any, stream: Stream, chosen: Sequence[int], config: TrainConfig, temperature: float
) -> dict[str, float]:
    """Backward of the clipped surrogate over Σw, entropy and KL over the token count; returns metrics.

    Args:
        model: Its gradients are added to.
        stream: The policy stream.
        chosen: Indices of the rows of this optimizer step.
        config: The numbers.
        temperature: The sampling temperature.
    """
    step = stream.places(chosen)
    total_weight, num_tokens = stream.weight_N[step].sum().clamp(min=1e-8), len(step)
    sums = {"loss/policy": 0.0, "entropy": 0.0, "kl": 0.0}
    clipped = torch.zeros(len(stream.role_N))
    for at, stats in _passes(model, stream, chosen, config, temperature):
        device = stats.logp_N.device
        old_N, advantage_N = stream.behaviour_logp_N[at].to(device), stream.advantage_N[at].to(device)
        weight_N = stream.weight_N[at].to(device)
        surrogate = policy_loss(stats.logp_N, old_N, advantage_N, weight_N, config.clip_low, config.clip_high)
        loss = surrogate / total_weight - config.entropy_coef * stats.entropy_N.sum() / num_tokens
        if stream.reference_logp_N is not None and config.kl_coef > 0:
            kl = kl_loss(stats.logp_N, stream.reference_logp_N[at].to(device))
            loss = loss + config.kl_coef * kl / num_tokens
            sums["kl"] += float(kl.detach()) / num_tokens
        loss.backward()
        sums["loss/policy"] += float(surrogate.detach()) / float(total_weight)
        sums["entropy"] += float(stats.entropy_N.detach().sum()) / num_tokens
        gone_N = clipped_fraction(stats.logp_N.detach(), old_N, advantage_N, config.clip_low, config.clip_high)
        clipped[at] = gone_N.cpu()
    role_N, weight_N = stream.role_N[step], stream.weight_N[step]
    sums["tokens/policy"] = float(num_tokens)
    for name, role in SPANS.items():
        inside = role_N == role
        sums[f"share/{name}"] = float(weight_N[inside].sum() / total_weight)
        sums[f"clipped/{name}"] = float(clipped[step][inside].mean()) if inside.any() else 0.0
    return sums


def imitation_gradient(
    model: Any, stream: Stream, factor: float, config: TrainConfig, temperature: float
) -> dict[str, float]:
    """Backward of `factor` times the self-imitation loss over the stream's own Σw; returns metrics."""
    truncation = config.imitation.truncation
    total_weight, num_tokens = stream.weight_N.sum().clamp(min=1e-8), len(stream.role_N)
    loss_sum, weights = 0.0, torch.zeros(num_tokens)
    for at, stats in _passes(model, stream, range(len(stream.rows)), config, temperature):
        device = stats.logp_N.device
        behaviour_N = stream.behaviour_logp_N[at].to(device)
        advantage_N, weight_N = stream.advantage_N[at].to(device), stream.weight_N[at].to(device)
        loss = imitation_loss(stats.logp_N, behaviour_N, advantage_N, weight_N, truncation)
        (factor * loss / total_weight).backward()
        loss_sum += float(loss.detach()) / float(total_weight)
        weights[at] = importance(stats.logp_N, behaviour_N, truncation).cpu()
    return {
        "loss/imitation": loss_sum,
        "imitation/factor": factor,
        "imitation/ess": effective_sample_size(weights),
        "tokens/imitation": float(num_tokens),
    }


def _passes(
    model: Any, stream: Stream, chosen: Sequence[int], config: TrainConfig, temperature: float
) -> Iterator[tuple[torch.Tensor, TokenStats]]:
    """(places in the stream, what the network says there) of one micro-batch after the other."""
    for indices in micro_batches([stream.rows[i] for i in chosen], config.micro_batch_tokens):
        picked = [chosen[i] for i in indices]
        yield stream.places(picked), forward(model, [stream.rows[i] for i in picked], temperature)
