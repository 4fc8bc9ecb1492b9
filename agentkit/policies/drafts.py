"""Drafts: the beginning of an earlier response is kept as far as the policy of today agrees (SPEC-RL, 2509.23232).

A draft's ids are scored in one pass under the present policy π and kept up to the first that is rejected, each with
probability min(1, ℓ·π/μ); μ sampled the draft. From there on `decode` samples from π. Speculative decoding would draw
the first id after a rejection from the rest (π − μ)₊; that needs the whole distribution of μ, whose weights are gone.
What holds of the result:

* given what was kept, each id from the rejected place on has the distribution of π exactly, whatever ℓ is;
* the response as a whole has that of π only if π = μ along the draft and ℓ ≥ 1 (then it is the draft, and so no fresh
  sample), or as ℓ → 0 (then it is sampled anew). Given that the draft was kept so far, at ℓ = 1 an id has probability
  min(μ, π) + d·π instead of π, where d = Σ(π − μ)₊ is the total variation between the two; so it is at most
  d(1 − d) ≤ ¼ from π in total variation. With another ℓ it has min(μ, ℓπ) + (1 − Σ min(μ, ℓπ))·π.

V vocabulary. Rows are scored in chunks, so that no more than `CHUNK_LOGITS` logits are held at once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agentkit.policies.decode import Sampled
from agentkit.policies.policy import Request

CHUNK_LOGITS = 1 << 26
"""Most logits held at once (256 MiB in float32), unless one row alone has more."""


def num_kept(
    logp_D: NDArray[np.float64], draft_logp_D: NDArray[np.float64], uniform_D: NDArray[np.float64], lenience: float
) -> int:
    """How many ids are kept: those before the first with u > min(1, ℓ·π/μ) (SPEC-RL, its acceptance rule).

    >>> num_kept(np.log([0.5, 0.2, 0.9]), np.log([0.4, 0.4, 0.9]), np.array([0.99, 0.6, 0.1]), 1.0)
    1
    """
    with np.errstate(divide="ignore"):
        rejected_D = np.log(uniform_D) > np.log(lenience) + logp_D - draft_logp_D
    return int(rejected_D.argmax()) if rejected_D.any() else len(rejected_D)


def keep_drafts(
    model: Any, prompts: Sequence[Sequence[int]], requests: Sequence[Request], end_ids: Collection[int]
) -> list[Sampled]:
    """What each request keeps of its draft, scored under the model; nothing where there is no draft.

    A greedy request keeps nothing: it has no probabilities to compare. The draws that decide do not depend on those
    that `decode` makes from the same seed.

    Args:
        model: A transformers causal language model.
        prompts: Token ids of each request's prompt.
        requests: With their drafts, temperatures and limits.
        end_ids: Ids that end a response.
    """
    results = [Sampled() for _ in requests]
    having = [i for i, request in enumerate(requests) if request.draft is not None and request.sampling.temperature > 0]
    having.sort(key=lambda i: len(prompts[i]))
    while having:
        widest, num = 0, 0
        for i in having:
            widest = max(widest, _limit(requests[i]) + 1)
            if num and (num + 1) * widest * model.config.get_text_config().vocab_size > CHUNK_LOGITS:
                break
            num += 1
        chunk, having = having[:num], having[num:]
        logps = _score(model, [prompts[i] for i in chunk], [requests[i] for i in chunk])
        for i, logp_D in zip(chunk, logps, strict=True):
            results[i] = _kept(requests[i], logp_D, end_ids)
    return results


def _limit(request: Request) -> int:
    """Ids of the draft that are looked at: as many as the response may have."""
    assert request.draft is not None
    return min(len(request.draft.ids), request.sampling.max_new_tokens)


@torch.inference_mode()
def _score(model: Any, prompts: Sequence[Sequence[int]], requests: Sequence[Request]) -> list[NDArray[np.float64]]:
    """[D] log-probabilities of each draft's ids. Prompts are padded on the left, drafts on the right."""
    before = max(len(prompt) for prompt in prompts)
    after = max(_limit(request) for request in requests)
    ids_BL = torch.zeros(len(prompts), before + after, dtype=torch.long)
    mask_BL = torch.zeros_like(ids_BL)
    for row, (prompt, request) in enumerate(zip(prompts, requests, strict=True)):
        assert request.draft is not None
        whole = (*prompt, *request.draft.ids[: _limit(request)])
        span = slice(before - len(prompt), before - len(prompt) + len(whole))
        ids_BL[row, span] = torch.tensor(whole)
        mask_BL[row, span] = 1
    ids_BL, mask_BL = ids_BL.to(model.device), mask_BL.to(model.device)
    logits_BDV = model(
        input_ids=ids_BL,
        attention_mask=mask_BL,
        position_ids=(mask_BL.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=after + 1,
    ).logits[:, :-1]
    scored = []
    for row, request in enumerate(requests):
        num = _limit(request)
        logp_DV = torch.log_softmax(logits_BDV[row, :num].float() / request.sampling.temperature, dim=-1)
        logp_D = logp_DV.gather(1, ids_BL[row, before : before + num, None])[:, 0]
        scored.append(logp_D.double().cpu().numpy())
    return scored


def _kept(request: Request, logp_D: NDArray[np.float64], end_ids: Collection[int]) -> Sampled:
    if not np.isfinite(logp_D).all():
        raise FloatingPointError("its logits are not finite; go back to weights from before they diverged")
    assert request.draft is not None
    num = len(logp_D)
    draft_logp_D = np.array(request.draft.logprobs[:num], np.float64)
    uniform_D = np.random.default_rng([request.seed, 1]).random(num)
    num = num_kept(logp_D, draft_logp_D, uniform_D, request.draft.lenience)
    ids = list(request.draft.ids[:num])
    return Sampled(ids, logp_D[:num].tolist(), bool(ids) and ids[-1] in end_ids, drafted=num)
