"""Gradients: what each stream of an optimizer step adds to the gradient, micro-batch by micro-batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from agentkit.memory.records import Role
from agentkit.training.config import TrainConfig
from agentkit.training.forward import TokenStats, forward, measure, micro_batches
from agentkit.training.losses import Now, effective_sample_size, imitation_loss, importance, kl_loss, scales
from agentkit.training.stream import Stream

SPANS = {"thought": Role.THOUGHT, "action": Role.ACTION, "format": Role.FORMAT, "other": Role.OTHER}


def policy_gradient(
    model: Any, stream: Stream, chosen: Sequence[int], config: TrainConfig, temperature: float
) -> dict[str, float]:
    """Backward of the policy loss, reduced as the settings say, entropy and KL over the token count; returns metrics.

    Args:
        model: Its gradients are added to.
        stream: The policy stream.
        chosen: Indices of the rows of this optimizer step.
        config: The numbers.
        temperature: The sampling temperature.
    """
    step = stream.places(chosen)
    weight_N, num_tokens = stream.weight_N[step], len(step)
    scale = torch.zeros(len(stream.role_N))
    scale[step] = scales(config.reduction, weight_N, stream.episode_N[step], horizon=config.horizon) * weight_N
    policy = config.loss
    if policy.needs_batch:
        logp_N = measure(model, [stream.rows[i] for i in chosen], config.micro_batch_tokens, temperature).logp_N
        policy = policy.fitted(Now(logp_N, stream.old_logp_N[step], stream.advantage_N[step], stream.row_N[step]))
    sums = {"loss/policy": 0.0, "entropy": 0.0, "kl": 0.0}
    clipped = torch.zeros(len(stream.role_N))
    for at, stats in _passes(model, stream, chosen, config, temperature):
        device = stats.logp_N.device
        _, row_N = torch.unique_consecutive(stream.row_N[at], return_inverse=True)
        now = Now(stats.logp_N, stream.old_logp_N[at].to(device), stream.advantage_N[at].to(device), row_N.to(device))
        surrogate = (scale[at].to(device) * policy.tokens(now)).sum()
        loss = surrogate - config.entropy_coef * stats.entropy_N.sum() / num_tokens
        if stream.reference is not None and config.kl_coef > 0:
            kl = kl_loss(stats.logp_N, stream.reference.logp_N[at].to(device))
            loss = loss + config.kl_coef * kl / num_tokens
            sums["kl"] += float(kl.detach()) / num_tokens
        loss.backward()
        sums["loss/policy"] += float(surrogate.detach())
        sums["entropy"] += float(stats.entropy_N.detach().sum()) / num_tokens
        clipped[at] = policy.clipped(now._replace(logp_N=stats.logp_N.detach())).float().cpu()
    role_N, total_weight = stream.role_N[step], weight_N.sum().clamp(min=1e-8)
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
