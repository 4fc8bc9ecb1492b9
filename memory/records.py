"""The record everything stands on: Episode, Turn, and the role of every token.

Immutable, versioned and lossless: evaluation, fine-tuning, memory and audit all read these. Tokens are kept
exactly as the engine saw and sampled them; they are never decoded and encoded again.
"""

from __future__ import annotations

import base64
import hashlib
from enum import IntEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    field_serializer,
    model_validator,
)

from agentkit.task import Task

FORMAT_VERSION = 2
"""Newest version of the record's format; 2 added pictures. An episode is written in the oldest that can hold it."""


class Role(IntEnum):
    """What a token is for. Credit assignment, masking and the diagnostics all read this."""

    SYSTEM = 0
    """Instructions and the chat template's own text in the prompt."""
    OBSERVATION = 1
    """Text the environment showed."""
    MEMORY = 2
    """Text recalled from memory."""
    THOUGHT = 3
    """Sampled reasoning, `<think>` and `</think>` included."""
    ACTION = 4
    """Sampled action text inside `<answer>`; a token that straddles a boundary belongs here."""
    FORMAT = 5
    """`<answer>` tags, end of sequence, white space between the spans of a well-formed turn."""
    OTHER = 6
    """Anything else that was sampled: text outside the tags, and the whole of a malformed turn."""


def encodable(text: str) -> str:
    """`text` with what UTF-8 cannot carry (lone surrogates, as browsers and file names yield) as U+FFFD.

    >>> encodable("caf\\u00e9"), encodable("a\\ud800b")
    ('café', 'a\ufffdb')
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


Text = Annotated[str, AfterValidator(encodable)]
"""Text from outside, made fit to be recorded."""


def _from_base64(value: Any) -> Any:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


Png = Annotated[
    bytes,
    BeforeValidator(_from_base64),
    PlainSerializer(lambda value: base64.b64encode(value).decode("ascii"), when_used="json"),
]
"""The bytes of an image file, carried as base64 where bytes cannot go."""


class Record(BaseModel):
    """Base of all records: frozen, and unknown fields are errors; infinities and NaN survive as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Part(Record):
    """A piece of a message with one role, e.g. the memory block inside a user message."""

    role: Role
    text: Text


class Picture(Record):
    """A picture in a message, for models that see."""

    role: Role
    png: Png
    """The PNG file; base64 in JSON."""

    @property
    def text(self) -> str:
        """Nothing: a picture has no words."""
        return ""


class Message(Record):
    """One chat message, as shown to the policy."""

    speaker: Literal["system", "user", "assistant"]
    parts: tuple[Part | Picture, ...]
    ids: tuple[int, ...] | None = None
    """For an assistant message: the ids that were sampled, so that a later prompt repeats them exactly."""
    roles: tuple[Role, ...] | None = None
    """For an assistant message with `ids`: the role of each."""

    @field_serializer("roles", when_used="json")
    def _roles_as_numbers(self, roles: tuple[Role, ...] | None) -> list[int] | None:
        return None if roles is None else list(bytes(roles))  # as in `Turn`

    @property
    def text(self) -> str:
        """The parts' texts joined."""
        return "".join(part.text for part in self.parts)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures among the parts."""
        return tuple(part for part in self.parts if isinstance(part, Picture))


class Turn(Record):
    """One request to the policy and what the environment answered to it."""

    node: str = "decide"
    """Name of the LangGraph node that asked."""
    observation: Text
    """What the environment had shown when the policy was asked."""
    messages: tuple[Message, ...] = ()
    """The whole prompt as messages."""
    prompt_ids: tuple[int, ...] = ()
    """[P] token ids of the prompt, as the engine saw them; empty if the engine reports none (hosted chat)."""
    prompt_roles: tuple[Role, ...] = ()
    """[P] role of each prompt token."""
    response: Text
    """The sampled text."""
    response_ids: tuple[int, ...] = ()
    """[R] sampled token ids."""
    response_roles: tuple[Role, ...] = ()
    """[R] role of each sampled token."""
    logprobs: tuple[float, ...] = ()
    """[R] natural log-probability of each sampled id under the policy (and temperature) that sampled it."""
    finish: Literal["stop", "length"] = "stop"
    """`length` if the response was cut at the token limit."""
    action: Text | None = None
    """The action given to the environment; None if the response had no well-formed answer."""
    reward: float = 0.0
    """Reward of the environment for this turn."""
    terminated: bool = False
    """The environment reached a terminal state."""
    truncated: bool = False
    """A limit ended the episode after this turn."""
    valid: bool = True
    """The response held an action and the environment understood it; True of a turn that was not acted on."""
    state_key: str = ""
    """Equal states hash equal; the state in which the policy was asked."""
    memory_ids: tuple[str, ...] = ()
    """Ids of the memories shown in the prompt."""
    policy_s: float = 0.0
    """Seconds waited for the policy."""
    env_s: float = 0.0
    """Seconds waited for the environment."""

    @field_serializer("prompt_roles", "response_roles", when_used="json")
    def _roles_as_numbers(self, roles: tuple[Role, ...]) -> list[int]:
        return list(bytes(roles))  # the same numbers, ten times as fast as enumeration members one by one

    @model_validator(mode="after")
    def _lengths_agree(self) -> Turn:
        if len(self.prompt_ids) != len(self.prompt_roles):
            raise ValueError(f"{len(self.prompt_ids)} prompt ids but {len(self.prompt_roles)} prompt roles")
        if not len(self.response_ids) == len(self.response_roles) == len(self.logprobs):
            raise ValueError(
                f"{len(self.response_ids)} response ids, {len(self.response_roles)} roles and "
                f"{len(self.logprobs)} log-probabilities; all three must agree"
            )
        return self


class Episode(Record):
    """One attempt at one task, complete or failed."""

    id: str
    """Hash of the content, timings aside: the same play has the same id, so a resumed run may record it again."""
    format: int = 1
    """Oldest version of the format that can hold the episode: 2 if it holds pictures."""
    task: Task
    attempt: int = 0
    """Number of the attempt within its group."""
    group_id: str = ""
    """Attempts at the same task under the same policy version and memory snapshot share it."""
    policy: str = ""
    """Name of the policy."""
    policy_version: int = 0
    """Optimizer steps behind the weights that acted."""
    memory_snapshot: str | None = None
    """Id of the memory snapshot recalled from; None without memory."""
    parent_id: str | None = None
    """Episode this one branched from (retries, branches)."""
    parent_turn: int | None = None
    """Turn of the parent at which it branched."""
    turns: tuple[Turn, ...] = ()
    success: bool = False
    error: Text | None = None
    """What went wrong, if the attempt could not be played to its end; such an episode counts as failed."""
    started_at: float = 0.0
    """Unix time in seconds."""
    seconds: float = 0.0
    """Wall-clock duration."""

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of the rewards."""
        return sum(turn.reward for turn in self.turns)

    def fingerprint(self) -> str:
        """Hash of everything but the timings: equal for the same episode played twice."""
        timings: Any = {"started_at": True, "seconds": True, "turns": {"__all__": {"policy_s", "env_s"}}}
        return hashlib.blake2b(self.model_dump_json(exclude=timings).encode(), digest_size=16).hexdigest()
