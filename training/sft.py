"""Supervised fine-tuning: imitate the responses of given episodes, an expert's or logged ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from pydantic import Field

from agentkit.errors import ConfigError, PolicyFault
from agentkit.memory.records import Episode, Turn
from agentkit.policies.local import LocalPolicy
from agentkit.seeding import derive_seed
from agentkit.spans import parse_response, response_roles
from agentkit.training.forward import check_model, forward, micro_batches
from agentkit.training.rows import Tokens, build_rows, recorded_tokens
from agentkit.training.schedule import cosine_decay, warmup
from agentkit.training.settings import Settings


class SftConfig(Settings):
    """Supervised fine-tuning."""

    steps: int = Field(default=200, ge=1)
    """Optimizer steps."""
    rows_per_step: int = Field(default=64, ge=1)
    """Rows in one step."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Peak of a linear warm-up and a cosine decay to a tenth."""
    warmup_steps: int = Field(default=10, ge=0)
    """Optimizer steps of linear warm-up."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    micro_batch_tokens: int = Field(default=16_384, ge=1)
    """Most tokens, padding included, in one pass of the network."""


def written_tokens(policy: LocalPolicy) -> Callable[[Turn], Tokens | None]:
    """Tokens of a turn: as recorded, else its text encoded by the policy's tokenizer (experts, hosted chat)."""

    def tokens_of(turn: Turn) -> Tokens | None:
        recorded = recorded_tokens(turn)
        if recorded is not None:
            if policy.decode_text(turn.response_ids)[0] != turn.response:
                raise ConfigError(
                    "the episodes were recorded with another tokenizer than the model's; record them with a model of "
                    "its family, or with a policy that records texts (an expert, a hosted model)"
                )
            return recorded
        if not turn.messages:
            return None
        prompt, _ = policy.renderer.render(turn.messages)
        ids, offsets = policy.encode_response(turn.response)
        return prompt, ids, response_roles(parse_response(turn.response), offsets), [0.0] * len(ids)

    return tokens_of


def fine_tune(
    policy: LocalPolicy,
    episodes: Sequence[Episode],
    config: SftConfig | None = None,
    *,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train the policy's model on the responses of `episodes`; returns the loss (nats a token) of each step.

    The loss is the mean over all sampled tokens of a step. Rows are gone through in a new random order each
    time all have been used.

    Raises:
        ConfigError: No episode has a turn to learn from.
        PolicyFault: The gradient is not finite.
    """
    config = config or SftConfig()
    check_model(policy.model)
    rows, _ = build_rows(episodes, written_tokens(policy))
    if not rows:
        raise ConfigError(f"none of the {len(episodes)} episodes has a turn to learn from")
    highest = max(int(row.ids.max()) for row in rows)
    vocabulary = policy.model.get_input_embeddings().weight.shape[0]
    if highest >= vocabulary:
        raise ConfigError(
            f"token id {highest} is beyond the model's vocabulary of {vocabulary}: the episodes were "
            "recorded with another tokenizer"
        )
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    rng = np.random.default_rng(derive_seed(seed, "sft"))
    order: list[int] = []
    losses = []
    for step in range(config.steps):
        while len(order) < config.rows_per_step:
            order.extend(rng.permutation(len(rows)).tolist())
        batch, order = [rows[i] for i in order[: config.rows_per_step]], order[config.rows_per_step :]
        num_tokens = sum(row.num_sampled for row in batch)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for indices in micro_batches(batch, config.micro_batch_tokens):
            loss = -forward(policy.model, [batch[i] for i in indices]).logp_N.sum() / num_tokens
            loss.backward()
            total += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), config.max_grad_norm)
        if not torch.isfinite(norm):
            raise PolicyFault(f"the gradient of step {step} is not finite; lower learning_rate")
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warmup(step, config.warmup_steps) * cosine_decay(step, config.steps)
        optimizer.step()
        losses.append(total)
        if on_step is not None:
            on_step(step, total)
    return losses
