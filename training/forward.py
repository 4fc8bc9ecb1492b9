"""One pass of the network over rows: log-probability, entropy and energy of the sampled tokens, and nothing else.

N sampled tokens of the micro-batch, V vocabulary. Rows are padded on the right, where causal attention never looks, so
a mask is needed only where rows share their beginning; the output layer runs on the N sampled positions only, in chunks
that are computed again in the backward pass, so [B, L, V] never exists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.checkpoint import checkpoint

from agentkit.errors import ConfigError, PolicyFault
from agentkit.training.advantages.values import ValueHead
from agentkit.training.packing import Layout, hidden_states, micro_batches, pair_cost
from agentkit.training.rows import Row, probe

CHUNK_LOGITS = 1 << 24
"""Most logits held at once (64 MiB in float32)."""
LARGE_LOGIT = 1000.0
"""Far beyond any soft cap in use (Gemma 2: 30)."""


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Of N sampled tokens, in the order of their rows."""

    logp_N: torch.Tensor
    """Natural log-probability at the sampling temperature."""
    entropy_N: torch.Tensor
    """Entropy in nats of the distribution the token was drawn from."""
    energy_N: torch.Tensor
    """−logsumexp of the raw logits (ActFocus eq. 4): low where the model is confident."""
    value_N: torch.Tensor | None = None
    """What a value head says of what stands before the token; None without one."""

    def of(self, places: torch.Tensor) -> TokenStats:
        """Those of some of the tokens."""
        value_N = None if self.value_N is None else self.value_N[places]
        return TokenStats(self.logp_N[places], self.entropy_N[places], self.energy_N[places], value_N)


def forward(
    model: Any,
    rows: Sequence[Row],
    temperature: float = 1.0,
    nucleus: float = 1.0,
    values: ValueHead | None = None,
    packs: Sequence[int] | None = None,
) -> TokenStats:
    """`TokenStats` of the sampled tokens of `rows`, differentiable if gradients are on.

    Args:
        model: A transformers causal language model.
        rows: Any rows; a first token cannot be a sampled one.
        temperature: The sampling temperature: log-probability and entropy are of logits / temperature.
        nucleus: Entropies are of the likeliest tokens that together have this probability, renormalised.
        values: Reads values off the hidden states.
        packs: Number of rows of each pack, as `micro_batches` cuts them; None for one.
    """
    assert not any(row.sampled[0] for row in rows), "a first token cannot be sampled: nothing predicts it"
    layout = Layout.of(rows, packs)
    target_N = layout.target_N.to(model.device)
    hidden_NH = hidden_states(model, layout)
    head = _output_layer(model)

    def chunk(hidden_CH: torch.Tensor, target_C: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits_CV = head(hidden_CH)
        logits_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
        energy_C = -logits_CV.logsumexp(dim=-1)
        if temperature == 1.0:
            logp_CV = logits_CV + energy_C[:, None]
        else:
            logp_CV = torch.log_softmax(logits_CV / temperature, dim=-1)
        entropy_C = -(logp_CV.exp() * logp_CV).sum(dim=-1) if nucleus == 1.0 else _nucleus_entropy(logp_CV, nucleus)
        return logp_CV.gather(1, target_C[:, None])[:, 0], entropy_C, energy_C

    size = max(1, CHUNK_LOGITS // model.get_output_embeddings().weight.shape[0])
    pieces = []
    for start in range(0, len(target_N), size):
        args = hidden_NH[start : start + size], target_N[start : start + size]
        if torch.is_grad_enabled() and len(target_N) > size:
            pieces.append(checkpoint(chunk, *args, use_reentrant=False))
        else:
            pieces.append(chunk(*args))
    logp_N, entropy_N, energy_N = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return TokenStats(logp_N, entropy_N, energy_N, None if values is None else values(hidden_NH))


def _output_layer(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The output layer. Autocast keeps only its casts of weights that learn, so frozen ones are cast once here."""
    head, kind = model.get_output_embeddings(), model.device.type
    if not torch.is_autocast_enabled(kind) or type(head) is not nn.Linear or head.weight.requires_grad:
        return head
    weight = head.weight.to(torch.get_autocast_dtype(kind))
    return lambda hidden_CH: nn.functional.linear(hidden_CH, weight, head.bias)


def _nucleus_entropy(logp_CV: torch.Tensor, mass: float) -> torch.Tensor:
    """[C] entropy of each distribution cut to its smallest set of likeliest tokens of at least this probability."""
    sorted_CV = logp_CV.sort(dim=-1, descending=True).values
    before_CV = sorted_CV.exp().cumsum(dim=-1) - sorted_CV.exp()
    cut_CV = sorted_CV.masked_fill(before_CV >= mass, -torch.inf).log_softmax(dim=-1)
    return -(cut_CV.exp() * cut_CV.masked_fill(cut_CV.isinf(), 0.0)).sum(dim=-1)


@torch.no_grad()
def measure(
    model: Any,
    rows: Sequence[Row],
    max_tokens: int,
    temperature: float = 1.0,
    nucleus: float = 1.0,
    values: ValueHead | None = None,
) -> TokenStats:
    """`forward` over any number of rows without gradients, in micro-batches; results in the order of the rows."""
    counts = [row.num_sampled for row in rows]
    starts = np.concatenate([[0], np.cumsum(counts)])
    out = torch.zeros(4, int(starts[-1]))
    for indices, packs in micro_batches(rows, max_tokens, pair_cost(model)):
        stats = forward(model, [rows[i] for i in indices], temperature, nucleus, values, packs)
        place = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in indices])
        value_N = torch.zeros_like(stats.logp_N) if stats.value_N is None else stats.value_N
        out[:, place] = torch.stack([stats.logp_N, stats.entropy_N, stats.energy_N, value_N]).to(out)
    return TokenStats(out[0], out[1], out[2], None if values is None else out[3])


def check_vocabulary(model: Any, rows: Sequence[Row], episode_ids: Sequence[str]) -> None:
    """Check that the model knows every id of the rows.

    Args:
        model: A transformers causal language model.
        rows: Any rows.
        episode_ids: Ids of the episodes that they are of.

    Raises:
        ConfigError: Some id is beyond its vocabulary.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    wrong = [row for row in rows if row.ids.max() >= vocabulary or row.ids.min() < 0]
    if wrong:
        ids = wrong[0].ids
        raise ConfigError(
            f"token id {ids.max() if ids.max() >= vocabulary else ids.min()} of episode "
            f"{episode_ids[wrong[0].episode]} is beyond the model's vocabulary of {vocabulary}: {len(wrong)} of "
            f"{len(rows)} rows were recorded with another tokenizer; use the model's own, or leave these episodes out"
        )


@torch.no_grad()
def measure_spans(
    model: Any, rows: Sequence[Row], ends: Sequence[NDArray[np.int64]], max_tokens: int
) -> list[torch.Tensor]:
    """For each row, [spans, 2H] the last hidden state of each span and their mean, all hidden states of mean 0, std 1.

    An empty span has the hidden state before it, and zeros for a mean. In float32, on the CPU.

    Args:
        model: A transformers causal language model.
        rows: Any rows.
        ends: Where each row's spans end, in order and above 0; the first begins at the row's beginning.
        max_tokens: Most tokens of a pass.
    """
    found: list[torch.Tensor] = [torch.zeros(0)] * len(rows)
    probes = [probe(row, np.arange(1, len(row) + 1)) for row in rows]
    for indices, packs in micro_batches(probes, max_tokens, pair_cost(model)):
        hidden_NH = hidden_states(model, Layout.of([probes[i] for i in indices], packs)).float()
        hidden_NH = nn.functional.layer_norm(hidden_NH, hidden_NH.shape[1:]).cpu()
        for i, hidden_LH in zip(indices, hidden_NH.split([len(rows[i]) for i in indices]), strict=True):
            end_S = torch.from_numpy(ends[i])
            sums_LH = nn.functional.pad(hidden_LH.double().cumsum(dim=0), (0, 0, 1, 0))
            length_S = torch.diff(end_S, prepend=end_S.new_zeros(1))
            sum_SH = torch.diff(sums_LH[end_S], dim=0, prepend=sums_LH[:1])
            mean_SH = (sum_SH / length_S.clamp(min=1)[:, None]).float()
            found[i] = torch.cat([hidden_LH[end_S - 1], mean_SH], dim=1)
    return found


@torch.no_grad()
def check_model(model: Any) -> None:
    """Check that the model can be trained: float32 weights, and logits that are those of its output layer.

    Raises:
        ConfigError: The weights are of another precision, or the model does more after its output layer (soft
            caps, scales).
        PolicyFault: Its logits are not finite: the weights are broken.
    """
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise ConfigError(
            "the weights are not float32: steps as small as a learning rate would be lost in rounding; load the model "
            "with LocalPolicy.load(folder, dtype=torch.float32)"
        )
    ids = torch.tensor([[0, 1, 2]], device=model.device)
    head = model.get_output_embeddings()
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    # The small logits of a fresh network hardly feel a soft cap, so both sides are compared at large ones.
    gain = LARGE_LOGIT / head(hidden).abs().max().clamp(min=1e-6)
    ours = head(hidden * gain).float()
    handle = head.register_forward_pre_hook(lambda _, args: (args[0] * gain,))
    try:
        theirs = model(input_ids=ids, use_cache=False).logits.float()
    finally:
        handle.remove()
    if not theirs.isfinite().all():
        raise PolicyFault(
            f"the logits of {type(model).__name__} are not finite, so its weights are broken; load them from an "
            "older checkpoint"
        )
    if not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-3 * LARGE_LOGIT):
        raise ConfigError(
            f"{type(model).__name__} changes its logits after the output layer (soft cap or scale); "
            "the chunked loss would train another distribution, so it cannot be used"
        )
