"""Gradients: what each stream of an optimizer step adds to the gradient, micro-batch by micro-batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from agentkit.errors import PolicyFault
from agentkit.memory.records import Role
from agentkit.training.advantages import GAE
from agentkit.training.advantages.values import ValueHead, value_loss
from agentkit.training.config import TrainConfig
from agentkit.training.forward import TokenStats, forward, measure
from agentkit.training.losses import (
    EntropyHistory,
    EntropyStep,
    ImitationLoss,
    Now,
    PolicyLoss,
    Reduction,
    effective_sample_size,
    kl_tokens,
    scales,
)
from agentkit.training.packing import micro_batches, pair_cost
from agentkit.training.stream import Stream

SPANS = {"thought": Role.THOUGHT, "action": Role.ACTION, "format": Role.FORMAT, "other": Role.OTHER}


def policy_gradient(
    model: Any,
    stream: Stream,
    chosen: Sequence[int],
    config: TrainConfig,
    temperature: float,
    history: EntropyHistory | None = None,
    iteration: int = 0,
    values: ValueHead | None = None,
    rng: np.random.Generator | None = None,
) -> dict[str, float]:
    """Backward of policy loss and KL, reduced as the settings say, and of the entropy term; returns metrics.

    With a value head, its loss is added too, a mean over the tokens. Rows that do not learn count in the divisors of
    the policy loss and are not computed.

    Args:
        model: Its gradients are added to.
        stream: The policy stream.
        chosen: Indices of the rows of this optimizer step.
        config: The numbers.
        temperature: The sampling temperature.
        history: Entropies seen so far; this step's are added.
        iteration: Iterations done, for the entropy term's schedule.
        values: The value head, where advantages come from one; its gradients are added to.
        rng: For losses that choose among tokens at random.

    Raises:
        PolicyFault: A log-probability or a loss is not finite.
    """
    scale_N = _scales(stream, chosen, config)
    chosen = [i for i in chosen if stream.learns_R[i]]
    step = stream.places(chosen)
    num_tokens = len(step)
    place = torch.zeros(len(stream.role_N), dtype=torch.long)
    place[step] = torch.arange(num_tokens)  # of each token of the stream within the step
    sequence_N = torch.unique(stream.episode_N[step], return_inverse=True)[1]
    plain_N = scales(config.reduction, torch.ones(num_tokens), sequence_N, horizon=config.horizon)  # credit has no part
    weight_N, turn_N, scale_N = (stream.weight_N * stream.factor_N)[step], stream.turn_N[step], scale_N[step]
    now = Now(
        logp_N=stream.old_logp_N[step],
        old_logp_N=stream.old_logp_N[step],
        advantage_N=stream.advantage_N[step],
        sequence_N=sequence_N,
        weight_N=weight_N,
        group_N=None if stream.group_N is None else stream.group_N[step],
        reference_logp_N=None if stream.reference is None else stream.reference.logp_N[step],
        place_N=torch.arange(num_tokens),
    )
    history, nucleus, measured = history or EntropyHistory(), config.entropy.nucleus, None
    if config.loss.needs_batch or config.entropy.needs_batch:
        rows = [stream.rows[i] for i in chosen]
        measured = measure(model, rows, config.micro_batch_tokens, temperature, nucleus)
        _check(measured.logp_N, "log-probability", stream, step)
    policy: PolicyLoss = config.loss
    if policy.needs_batch and measured is not None:
        policy = policy.fitted(now._replace(logp_N=measured.logp_N), rng)
    progress = iteration / max(1, config.iterations // 2)
    entropies = None if measured is None else measured.entropy_N
    gain = config.entropy.fitted(EntropyStep(turn_N, sequence_N, entropies, history, progress))
    sums = {"loss/policy": 0.0, "entropy": 0.0, "kl": 0.0}
    clipped_N, entropy_N = torch.zeros(num_tokens), torch.zeros(num_tokens)
    for at, stats in _passes(model, stream, chosen, config, temperature, nucleus, values):
        device, inside = stats.logp_N.device, place[at]
        here = now.at(inside, stats.logp_N)
        surrogate = (scale_N[inside].to(device) * _token_losses(policy, here, stream, at, config)).sum()
        loss = surrogate - config.entropy_coef * gain.of(stats.entropy_N, inside) / gain.divisor
        if here.reference_logp_N is not None and config.kl_coef > 0:
            kl_M = kl_tokens(stats.logp_N, here.reference_logp_N, config.kl)
            loss = loss + config.kl_coef * (plain_N[inside].to(device) * kl_M).sum()
            sums["kl"] += float(kl_M.detach().sum()) / num_tokens
        if stats.value_N is not None:
            error = _value_loss(stats.value_N, stream, at, config) / num_tokens
            loss = loss + error
            sums["loss/value"] = sums.get("loss/value", 0.0) + float(error.detach())
        _check(loss.detach(), "loss", stream, at)
        loss.backward()
        sums["loss/policy"] += float(surrogate.detach())
        sums["entropy"] += float(stats.entropy_N.detach().sum()) / num_tokens
        clipped = policy.clipped(here._replace(logp_N=stats.logp_N.detach())).cpu()
        clipped_N[inside] = (clipped if stream.injected_N is None else clipped & ~stream.injected_N[at]).float()
        entropy_N[inside] = stats.entropy_N.detach().float().cpu()
    history.add(turn_N, entropy_N)
    role_N, total_weight = stream.role_N[step], weight_N.sum().clamp(min=1e-8)
    sums["tokens/policy"] = float(num_tokens)
    for name, role in SPANS.items():
        of_role = role_N == role
        sums[f"share/{name}"] = float(weight_N[of_role].sum() / total_weight)
        sums[f"clipped/{name}"] = float(clipped_N[of_role].mean()) if of_role.any() else 0.0
    return sums


def imitation_gradient(
    model: Any,
    stream: Stream,
    factor: float,
    config: TrainConfig,
    temperature: float,
    rng: np.random.Generator | None = None,
    loss_of: ImitationLoss | None = None,
    reduction: Reduction = "token-mean",
) -> dict[str, float]:
    """Backward of `factor` times the loss of replayed tokens, reduced over the stream's own; returns metrics.

    Args:
        model: Its gradients are added to.
        stream: What is replayed.
        factor: How much it counts.
        config: The numbers.
        temperature: The sampling temperature.
        rng: For losses that choose among tokens at random.
        loss_of: The loss of replayed tokens; None for that of `config.imitation`.
        reduction: How their losses become one number.

    Raises:
        PolicyFault: A log-probability or a loss is not finite.
    """
    imitation, rows = loss_of or config.imitation.loss, range(len(stream.rows))
    num_tokens = len(stream.role_N)
    scale_N = scales(reduction, stream.weight_N, stream.episode_N, horizon=config.horizon)  # what is dropped counts
    sequence_N = torch.unique(stream.episode_N, return_inverse=True)[1]
    recorded_N, counts_N = stream.behaviour_logp_N, stream.weight_N * stream.factor_N
    everything = Now(recorded_N, recorded_N, stream.advantage_N, sequence_N, counts_N)
    weight_N, found = scale_N * counts_N, {}
    if imitation.needs_batch:
        logp_N = measure(model, stream.rows, config.micro_batch_tokens, temperature).logp_N
        _check(logp_N, "log-probability", stream, torch.arange(num_tokens))
        kept_N = imitation.kept(everything._replace(logp_N=logp_N), rng or np.random.default_rng(0))
        weight_N, found = weight_N * kept_N, {"imitation/kept": float(kept_N.float().mean())}
    loss_sum, factor_N = 0.0, torch.zeros(num_tokens)
    for at, stats in _passes(model, stream, rows, config, temperature):
        now = everything.at(at, stats.logp_N)
        loss = imitation.weighted(now, weight_N[at].to(stats.logp_N.device)).sum()
        _check(loss.detach(), "imitation loss", stream, at)
        (factor * loss).backward()
        loss_sum += float(loss.detach())
        importance_M = imitation.factor(now._replace(logp_N=stats.logp_N.detach())).float().cpu()
        factor_N[at] = importance_M * stream.factor_N[at]
    return {
        "loss/imitation": loss_sum,
        "imitation/factor": factor,
        "imitation/ess": effective_sample_size(factor_N),
        "tokens/imitation": float(num_tokens),
    } | found


def _scales(stream: Stream, chosen: Sequence[int], config: TrainConfig) -> torch.Tensor:
    """[N] what each token's loss is multiplied by, at the places of these rows; divisors are of all of them."""
    step = stream.places(chosen)
    weight_N, scale_N = stream.weight_N[step], torch.zeros_like(stream.weight_N)
    reduced_N = scales(config.reduction, weight_N, stream.episode_N[step], horizon=config.horizon)
    scale_N[step] = reduced_N * weight_N * stream.factor_N[step]
    return scale_N


def _token_losses(policy: PolicyLoss, here: Now, stream: Stream, at: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """[N] losses of the tokens at these places; those of injected episodes are the plan's."""
    if stream.injected_N is None:
        return policy.tokens(here)
    apart = None if config.plan is None else config.plan.injected_loss
    assert apart is not None
    injected_N = stream.injected_N[at].to(here.logp_N.device)
    recorded = here._replace(old_logp_N=stream.behaviour_logp_N[at].to(here.logp_N.device))
    own_N = policy.tokens(here)
    return torch.where(injected_N, apart.weighted(recorded, torch.ones_like(here.logp_N)), own_N)


def _value_loss(value_N: torch.Tensor, stream: Stream, at: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """The sum over a micro-batch's tokens, times its factor."""
    assert isinstance(config.advantage, GAE)
    assert stream.policy is not None
    assert stream.policy.value_N is not None
    assert stream.target_N is not None
    old_N, target_N = stream.policy.value_N[at].to(value_N.device), stream.target_N[at].to(value_N.device)
    return config.advantage.value_coef * value_loss(value_N, old_N, target_N, config.advantage.value_clip).sum()


def _passes(
    model: Any,
    stream: Stream,
    chosen: Sequence[int],
    config: TrainConfig,
    temperature: float,
    nucleus: float = 1.0,
    values: ValueHead | None = None,
) -> Iterator[tuple[torch.Tensor, TokenStats]]:
    """(places in the stream, what the network says there) of one micro-batch after the other."""
    rows = [stream.rows[i] for i in chosen]
    for indices, packs in micro_batches(rows, config.micro_batch_tokens, pair_cost(model)):
        picked = [chosen[i] for i in indices]
        at = stream.places(picked)
        stats = forward(model, [rows[i] for i in indices], temperature, nucleus, values, packs)
        _check(stats.logp_N.detach(), "log-probability", stream, at)
        yield at, stats


def _check(value: torch.Tensor, what: str, stream: Stream, at: torch.Tensor) -> None:
    """Raise `PolicyFault` unless all is finite; a value of no axes is of all these places together."""
    wrong = ~value.isfinite().cpu()
    if wrong.any():
        names = stream.names(at if wrong.dim() == 0 else at[wrong])
        raise PolicyFault(
            f"the {what} of {names} is not finite, no step was taken; resume from the last checkpoint with a lower "
            "learning_rate, and look at these episodes' log-probabilities and rewards"
        )
