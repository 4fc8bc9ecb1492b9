"""Supervised fine-tuning: imitate the responses of given episodes, an expert's or logged ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from pydantic import Field, model_validator

from agentkit.errors import ConfigError, PolicyFault
from agentkit.memory.records import Episode, Turn
from agentkit.policies.local import LocalPolicy
from agentkit.seeding import derive_seed
from agentkit.spans import parse_response, response_roles
from agentkit.training.forward import check_model, check_vocabulary, forward
from agentkit.training.network import Network, learning_parameters
from agentkit.training.packing import micro_batches, pair_cost
from agentkit.training.rows import Row, Tokens, build_rows, named, recorded_tokens
from agentkit.training.schedule import cosine_decay, warmup
from agentkit.training.selection import Given, Selection, advantage_weights, check_judged
from agentkit.training.settings import Settings


class SftConfig(Settings):
    """Supervised fine-tuning."""

    select: Selection = Field(default_factory=Given)
    """Which of the episodes are imitated."""
    mask_invalid: bool = False
    """Whether turns that were malformed or not understood are context only, of weight 0 (STeP, 2505.20023)."""
    advantage_beta: float | None = Field(default=None, gt=0)
    """β of weights exp(A/β), A the return less the mean of all attempts given at the task; None for weights of 1."""
    max_weight: float = Field(default=20.0, ge=1)
    """Most that exp(A/β) may be; 20 in the authors' code."""
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
    network: Network = Field(default_factory=Network)

    @model_validator(mode="after")
    def _consistent(self) -> SftConfig:
        if self.advantage_beta is None and "max_weight" in self.changed:
            raise ValueError(
                f"max_weight = {self.max_weight} and advantage_beta = None: nothing is weighted; set "
                "advantage_beta, or leave out max_weight"
            )
        return self


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
    judged: Mapping[str, Collection[int]] | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train the policy's model on the responses of `episodes`; returns the loss (nats a token) of each step.

    The loss is the mean over all sampled tokens of a step, each as often as its weight. Rows are gone through in a new
    random order each time all have been used.

    Args:
        policy: Its model is changed in place.
        episodes: What was recorded; `config.select` says which of it is imitated.
        config: The numbers.
        seed: Of the order of the rows.
        judged: Numbers of the turns judged wrong, by episode id, e.g. from `corrected_turns`: they are shown and not
            imitated.
        on_step: Called with number and loss of each step.

    Raises:
        ConfigError: No episode has a turn to learn from, or the settings do not fit the model or the episodes.
        PolicyFault: A log-probability or the gradient is not finite; the error names episodes.
    """
    config = config or SftConfig()
    check_model(policy.model)
    rows, weights, ids = _weighted_rows(policy, episodes, config, judged or {})
    check_vocabulary(policy.model, rows, ids)
    config.network.prepare(policy.model)
    learns = list(learning_parameters(policy.model).values())
    optimizer = torch.optim.AdamW(learns, lr=config.learning_rate, weight_decay=config.weight_decay)
    rng = np.random.default_rng(derive_seed(seed, "sft"))
    order: list[int] = []
    losses = []
    for step in range(config.steps):
        while len(order) < config.rows_per_step:
            order.extend(rng.permutation(len(rows)).tolist())
        chosen, order = order[: config.rows_per_step], order[config.rows_per_step :]
        batch = [rows[i] for i in chosen]
        normaliser = sum(weights[i] * rows[i].num_sampled for i in chosen)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        with config.network.learning(policy.model):
            for indices, packs in micro_batches(batch, config.micro_batch_tokens, pair_cost(policy.model)):
                stats = forward(policy.model, [batch[i] for i in indices], packs=packs)
                pieces = stats.logp_N.detach().split([batch[i].num_sampled for i in indices])
                broken = [i for i, logp_T in zip(indices, pieces, strict=True) if not logp_T.isfinite().all()]
                if broken:
                    raise PolicyFault(
                        f"the log-probabilities of {named(ids[batch[i].episode] for i in broken)} are not finite at "
                        f"step {step}, which was not taken: the weights are broken; lower learning_rate"
                    )
                of_rows = [weights[chosen[i]] for i in indices]
                weight_N = torch.tensor(np.repeat(of_rows, [batch[i].num_sampled for i in indices])).to(stats.logp_N)
                loss = -(weight_N * stats.logp_N).sum() / normaliser
                loss.backward()
                total += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(learns, config.max_grad_norm)
        if not torch.isfinite(norm):
            raise PolicyFault(
                f"the gradient of step {step} is not finite, and the step was not taken; lower learning_rate. It was "
                f"of {named(ids[row.episode] for row in batch)}"
            )
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warmup(step, config.warmup_steps) * cosine_decay(step, config.steps)
        optimizer.step()
        losses.append(total)
        if on_step is not None:
            on_step(step, total)
    return losses


def _weighted_rows(
    policy: LocalPolicy, episodes: Sequence[Episode], config: SftConfig, judged: Mapping[str, Collection[int]]
) -> tuple[list[Row], list[float], list[str]]:
    """(rows that are learnt from, without marks on what is not imitated; the weight of each; ids of their episodes)."""
    check_judged(episodes, judged)
    kept = config.select.choose(episodes)
    weights = (
        {} if config.advantage_beta is None else advantage_weights(episodes, config.advantage_beta, config.max_weight)
    )
    rows = []
    for row in build_rows(kept, written_tokens(policy))[0]:
        episode = kept[row.episode]
        wrong = set(judged.get(episode.id, ()))
        if config.mask_invalid:
            wrong.update(number for number, turn in enumerate(episode.turns) if not turn.valid)
        if wrong:
            row = replace(row, sampled=row.sampled & ~np.isin(row.turns, [*wrong]))
        if row.num_sampled:
            rows.append(row)
    if not rows:
        chosen = "" if len(kept) == len(episodes) else f", of which select = {config.select.name!r} keeps {len(kept)},"
        raise ConfigError(f"none of the {len(episodes)} episodes{chosen} has a turn to learn from")
    return rows, [weights.get(kept[row.episode].id, 1.0) for row in rows], [episode.id for episode in kept]
