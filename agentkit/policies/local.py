"""LocalPolicy: a transformers model in this process. Requests that arrive together are answered in one batch.

The model runs on the event loop, so with environments that also do, the order of events, and with it every
batch and every last bit of its arithmetic, is the same in every run from the same seed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agentkit.errors import PolicyFault
from agentkit.policies.decode import Sampled, decode
from agentkit.policies.drafts import keep_drafts
from agentkit.policies.policy import Completion, Request
from agentkit.policies.rendering import Renderer

QUIET_ROUNDS = 64
"""Rounds of the event loop without a new request after which a batch counts as complete.

LangGraph takes about 8 rounds from node to node: from an answer, our agent asks again after 16 (decide, act, decide),
a worker that goes on to its next attempt after 26. So requests that belong together come at most 10 rounds apart, and
64 leave room for graphs in which one branch has six nodes more than another. They cost 0.2 ms a batch. Too few would
only make batches smaller: rounds are counted, not timed, so the same run has the same batches.
"""


@dataclass(slots=True)
class _Waiting:
    prompt_ids: tuple[int, ...]
    request: Request
    answer: asyncio.Future[Sampled]


class LocalPolicy:
    """A causal language model and its tokenizer.

    Args:
        model: A transformers causal language model; it may be trained between calls.
        tokenizer: Its (fast) tokenizer.
        name: Written into episodes.
        version: Optimizer steps behind the weights.
        max_batch: Most requests answered together.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str = "local", version: int = 0, max_batch: int = 256
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise PolicyFault(f"{type(tokenizer).__name__} is no fast tokenizer; token spans need one")
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.version = version
        self.max_batch = max_batch
        self.renderer = Renderer(tokenizer)
        configured = model.generation_config.eos_token_id
        ends = configured if isinstance(configured, list) else [configured]
        ends = [*ends, tokenizer.eos_token_id, self.renderer.end_id]
        self.end_ids = frozenset(i for i in ends if i is not None)
        self._waiting: deque[_Waiting] = deque()
        self._server: asyncio.Task[None] | None = None

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str | None = None, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> LocalPolicy:
        """Load any transformers causal language model folder; nothing is fetched from a hub.

        Args:
            folder: Holds `config.json`, `*.safetensors` and the tokenizer's files.
            device: Default: `cuda` if there is one, else `cpu`.
            dtype: Default: float32 on a CPU (bfloat16 is slower there), what the files hold on a GPU.
            kwargs: Passed to `LocalPolicy`.

        Raises:
            PolicyFault: A part is missing or unreadable; the message names it.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = Path(folder)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        precision = dtype or (torch.float32 if device == "cpu" else "auto")
        if not (folder / "config.json").is_file():
            raise PolicyFault(f"no model in {str(folder)!r}: it has no config.json; give a transformers folder")
        if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
            raise PolicyFault(
                f"no tokenizer in {str(folder)!r}: copy tokenizer.json and tokenizer_config.json of the "
                "model there, or call tokenizer.save_pretrained on the folder"
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=precision, local_files_only=True, use_safetensors=True
            )
        except Exception as error:
            raise PolicyFault(f"cannot load a model from {str(folder)!r}: {error}") from error
        return cls(model.to(device).eval(), tokenizer, **{"name": folder.name, **kwargs})

    def save(self, folder: str | Path) -> None:
        """Write model (safetensors, adapters merged into the weights) and tokenizer in transformers' format."""
        self.model.save_pretrained(folder, state_dict=_merged(self.model))
        self.tokenizer.save_pretrained(folder)

    async def complete(self, request: Request) -> Completion:
        """Sample an answer, together with the other requests that wait at the time."""
        prompt_ids, prompt_roles = self.renderer.render(request.messages)
        window = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        needed = len(prompt_ids) + request.sampling.max_new_tokens
        if window is not None and needed > window:
            raise PolicyFault(
                f"prompt and response need {needed} tokens, the model has {window}: show less history or "
                "lower max_new_tokens"
            )
        loop = asyncio.get_running_loop()
        waiting = _Waiting(prompt_ids, request, loop.create_future())
        self._waiting.append(waiting)
        if self._server is None or self._server.done() or self._server.get_loop() is not loop:
            self._server = loop.create_task(self._serve())
        sampled = await waiting.answer
        text, offsets = self.decode_text(sampled.ids)
        return Completion(
            text=text,
            prompt_ids=prompt_ids,
            prompt_roles=prompt_roles,
            response_ids=tuple(sampled.ids),
            offsets=offsets,
            logprobs=tuple(sampled.logprobs),
            finish="stop" if sampled.ended else "length",
            drafted=sampled.drafted,
        )

    async def _serve(self) -> None:
        while self._waiting:
            arrived, quiet = len(self._waiting), 0
            while quiet < QUIET_ROUNDS and len(self._waiting) < self.max_batch:
                await asyncio.sleep(0)
                quiet = quiet + 1 if len(self._waiting) == arrived else 0
                arrived = len(self._waiting)
            batch = [self._waiting.popleft() for _ in range(min(self.max_batch, len(self._waiting)))]
            batch = [waiting for waiting in batch if not waiting.answer.done()]
            if batch:
                self._answer(batch)

    def _answer(self, batch: list[_Waiting]) -> None:
        prompts = [waiting.prompt_ids for waiting in batch]
        requests = [waiting.request for waiting in batch]
        try:
            results = keep_drafts(self.model, prompts, requests, self.end_ids)
            todo = [i for i, kept in enumerate(results) if not kept.is_whole(requests[i].sampling)]
            rests = decode(
                self.model,
                [(*prompts[i], *results[i].ids) for i in todo],
                [results[i].remaining(requests[i].sampling) for i in todo],
                [requests[i].seed for i in todo],
                self.end_ids,
            )
            for i, rest in zip(todo, rests, strict=True):
                results[i] = results[i].then(rest)
        except Exception as error:  # noqa: BLE001 - whatever the model raises is the answer to each request
            for waiting in batch:
                waiting.answer.set_exception(
                    PolicyFault(f"the model failed on a batch of {len(batch)}: {type(error).__name__}: {error}")
                )
            return
        for waiting, result in zip(batch, results, strict=True):
            waiting.answer.set_result(result)

    def encode_response(self, text: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """(ids, offsets) of a response that was written rather than sampled, ended by the end of the turn."""
        ids = list(self.renderer.encode(text))
        if self.renderer.end_id is not None:
            ids.append(self.renderer.end_id)
        return tuple(ids), self.decode_text(ids)[1]

    def decode_text(self, ids: Sequence[int]) -> tuple[str, tuple[tuple[int, int], ...]]:
        """The text of sampled ids without the end of sequence, and the characters each id decoded to.

        Tokens that only together make a character share its span.
        """
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        backend = self.tokenizer.backend_tokenizer
        whole = backend.decode([token for token in ids if token not in self.end_ids], skip_special_tokens=False)
        text, open_tokens = "", 0
        offsets: list[tuple[int, int]] = []

        def close(piece: str) -> None:
            nonlocal text, open_tokens
            offsets.extend([(len(text), len(text) + len(piece))] * open_tokens)
            text, open_tokens = text + piece, 0

        for token in ids:
            if token in self.end_ids:
                if open_tokens:  # characters that were begun and never completed
                    close(whole[len(text) :])
                offsets.append((len(text), len(text)))
                continue
            open_tokens += 1
            piece = stream.step(backend, token)
            if piece is not None:
                close(piece)
        if open_tokens:
            close(whole[len(text) :])
        return text, tuple(offsets)


def _merged(model: Any) -> dict[str, torch.Tensor] | None:
    """The weights with low-rank adapters merged in, by their names without them; None for a model that has none."""
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    if not adapted:
        return None
    state = {name: value for name, value in model.state_dict().items() if ".lora_" not in name}
    for name, module in adapted.items():
        weight = state.pop(f"{name}.base_layer.weight")
        state[f"{name}.weight"] = weight + sum(module.get_delta_weight(adapter) for adapter in module.active_adapters)
        if module.base_layer.bias is not None:
            state[f"{name}.bias"] = state.pop(f"{name}.base_layer.bias")
    return state
