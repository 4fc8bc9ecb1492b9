"""The Policy protocol: asked for a completion of a conversation, it returns text, ids and log-probabilities.

Tokens in, tokens out: what an engine sampled travels back in `Message.ids` and is never encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from agentkit.memory.records import Message, Role


class Sampling(BaseModel):
    """How to sample."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(default=1.0, ge=0, le=10)
    """Divides the logits; 0 takes the likeliest token."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Most tokens sampled for one response."""


class World(Protocol):
    """What a policy that is not a language model may ask of the environment (baselines, demonstrations)."""

    @property
    def admissible_actions(self) -> Sequence[str]:
        """The single actions possible now."""
        ...

    @property
    def state_key(self) -> str:
        """Equal for equal states; empty if the environment names none."""
        ...

    async def expert_action(self) -> str:
        """The environment's own solution for the turn."""
        ...


@dataclass(frozen=True, slots=True)
class Draft:
    """An earlier response to the same prompt, of which an engine may keep the beginning instead of sampling anew."""

    ids: tuple[int, ...]
    """[D]"""
    logprobs: tuple[float, ...]
    """[D] natural log-probability of each id under the policy that sampled it, at the temperature it had."""
    lenience: float = 1.0
    """ℓ: an id is kept with probability min(1, ℓ·π/μ); more keeps more, and is further from the policy."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a policy."""

    messages: tuple[Message, ...]
    """The conversation; begins with `system` or `user`, ends with `user`."""
    sampling: Sampling
    seed: int
    """Seed of this response's own randomness: a response does not depend on what else is in the batch."""
    world: World
    draft: Draft | None = None
    """Only a short cut: an engine that knows no drafts samples the whole response."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a policy. Engines without token ids (hosted chat) leave the token fields empty."""

    text: str
    prompt_ids: tuple[int, ...] = ()
    """[P]"""
    prompt_roles: tuple[Role, ...] = ()
    """[P]"""
    response_ids: tuple[int, ...] = ()
    """[R], the end of sequence included if it was sampled."""
    offsets: tuple[tuple[int, int], ...] = ()
    """[R] characters [start, end) of `text` that each sampled token decoded to; empty for special tokens."""
    logprobs: tuple[float, ...] = ()
    """[R] natural log-probability of each sampled id at the temperature it was sampled with."""
    finish: Literal["stop", "length"] = "stop"
    drafted: int = 0
    """How many of the response's ids were kept from the request's draft."""


@runtime_checkable
class Policy(Protocol):
    """Anything that answers a `Request`."""

    @property
    def name(self) -> str:
        """Written into every episode."""
        ...

    @property
    def version(self) -> int:
        """Optimizer steps behind the weights that answer."""
        ...

    async def complete(self, request: Request) -> Completion:
        """Answer one request; called concurrently. Raises `PolicyFault`."""
        ...
