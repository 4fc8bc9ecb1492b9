"""Batched sampling from a causal language model with a KV cache.

B rows, P prompt positions (left-padded), V vocabulary. Each row draws from its own seeded generator, so what a
row samples does not depend on its neighbours. Rows that have ended leave the batch once half of it has.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from agentkit.policies.policy import Sampling


@dataclass(slots=True)
class Sampled:
    """One sampled response."""

    ids: list[int] = field(default_factory=list)
    """[R], the end of sequence included if it was sampled."""
    logprobs: list[float] = field(default_factory=list)
    """[R] natural logarithms at the sampling temperature (at temperature 1 for greedy rows)."""
    ended: bool = False
    """The end of sequence was sampled, rather than the token limit reached."""
    drafted: int = 0
    """How many of the ids, from the first on, come from a draft."""

    def is_whole(self, sampling: Sampling) -> bool:
        """Whether nothing is left to sample."""
        return self.ended or len(self.ids) >= sampling.max_new_tokens

    def remaining(self, sampling: Sampling) -> Sampling:
        """How to sample what is left."""
        if not self.ids:
            return sampling
        return sampling.model_copy(update={"max_new_tokens": sampling.max_new_tokens - len(self.ids)})

    def then(self, rest: Sampled) -> Sampled:
        """Itself, and what was sampled after it."""
        return Sampled([*self.ids, *rest.ids], [*self.logprobs, *rest.logprobs], rest.ended, self.drafted)


def _pick(logits_BV: torch.Tensor, temperature_B: torch.Tensor, uniform_B: torch.Tensor) -> tuple[Any, Any]:
    """One id a row by inverse transform sampling, and its log-probability: ([B], [B])."""
    greedy_B = temperature_B == 0
    scale_B = torch.where(greedy_B, torch.ones_like(temperature_B), temperature_B)
    logp_BV = torch.log_softmax(logits_BV.float() / scale_B[:, None], dim=-1)
    cumulative_BV = logp_BV.double().exp().cumsum(dim=-1)
    # Scaling the draw by the row's own total keeps rounding from ever picking past the last likely token.
    target_B = uniform_B * cumulative_BV[:, -1]
    drawn_B = torch.searchsorted(cumulative_BV, target_B[:, None], right=True)[:, 0]
    drawn_B = drawn_B.clamp(max=logp_BV.shape[1] - 1)
    id_B = torch.where(greedy_B, logp_BV.argmax(dim=-1), drawn_B)
    return id_B, logp_BV.gather(1, id_B[:, None])[:, 0]


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    seeds: Sequence[int],
    end_ids: Collection[int],
) -> list[Sampled]:
    """Sample one response for each prompt.

    Args:
        model: A transformers causal language model.
        prompts: B lists of token ids, none empty.
        samplings: B temperatures and token limits.
        seeds: B seeds.
        end_ids: Ids that end a response.

    Raises:
        FloatingPointError: The model's logits are not finite.
    """
    from transformers import DynamicCache

    if not prompts:
        return []
    device = model.device
    results = [Sampled() for _ in prompts]
    limit = np.array([sampling.max_new_tokens for sampling in samplings])
    uniform = np.stack([np.random.default_rng(seed).random(limit.max()) for seed in seeds])
    temperature_B = torch.tensor([sampling.temperature for sampling in samplings], device=device)

    # Attempts of a group begin with the same prompt: it is computed once, and its cache copied to each.
    places: dict[tuple[int, ...], int] = {}
    place_B = torch.tensor([places.setdefault(tuple(prompt), len(places)) for prompt in prompts], device=device)
    width = max(len(prompt) for prompt in prompts)
    ids_BP = torch.zeros(len(places), width, dtype=torch.long)
    mask_BP = torch.zeros_like(ids_BP)
    for prompt, row in places.items():
        ids_BP[row, width - len(prompt) :] = torch.tensor(prompt)
        mask_BP[row, width - len(prompt) :] = 1
    ids_BP, mask_BP = ids_BP.to(device), mask_BP.to(device)
    position_BP = (mask_BP.cumsum(dim=1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    active = np.arange(len(prompts))

    for step in range(int(limit.max())):
        logits_BV = model(
            input_ids=ids_BP,
            attention_mask=mask_BP,
            position_ids=position_BP,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if step == 0 and len(places) < len(prompts):
            cache.batch_select_indices(place_B)
            logits_BV, mask_BP, position_BP = logits_BV[place_B], mask_BP[place_B], position_BP[place_B]
        uniform_B = torch.from_numpy(uniform[active, step]).to(device)
        id_B, logp_B = _pick(logits_BV, temperature_B, uniform_B)
        going = np.zeros(len(active), dtype=bool)
        for row, (token, logp) in enumerate(zip(id_B.tolist(), logp_B.tolist(), strict=True)):
            result = results[active[row]]
            if result.ended or len(result.ids) >= limit[active[row]]:
                continue
            result.ids.append(token)
            result.logprobs.append(logp)
            if not math.isfinite(logp):
                raise FloatingPointError("its logits are not finite; go back to weights from before they diverged")
            result.ended = token in end_ids
            going[row] = not result.ended and len(result.ids) < limit[active[row]]
        if not going.any():
            break
        ids_BP, position_BP = id_B[:, None], position_BP[:, -1:] + 1
        if going.sum() * 2 <= len(going):
            keep = torch.from_numpy(np.flatnonzero(going)).to(device)
            cache.batch_select_indices(keep)
            ids_BP, position_BP, mask_BP = ids_BP[keep], position_BP[keep], mask_BP[keep]
            temperature_B, active = temperature_B[keep], active[going]
        mask_BP = torch.cat([mask_BP, mask_BP.new_ones(len(mask_BP), 1)], dim=1)
    return results
