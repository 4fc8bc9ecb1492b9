"""Conversation to token ids, piece by piece, so that every prompt token has a role and sampled ids stay as they are.

A chat template is a function of the whole conversation; applied anew each turn it would re-tokenise what was
sampled. So its literal text is read off once, by rendering a conversation of markers, and pieces are encoded on
their own. The cuts lie at the template's special tokens, where tokenisers cut as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from agentkit.errors import PolicyFault
from agentkit.memory.records import Message, Role

_SYSTEM, _USER, _ASSISTANT, _LAST = "\x01system\x01", "\x01user\x01", "\x01assistant\x01", "\x01last\x01"


@dataclass(frozen=True, slots=True)
class Literals:
    """The fixed text of a chat template between the contents of messages."""

    before_system: str
    system_to_user: str
    before_user: str
    """In front of a first user message when there is no system message."""
    user_to_assistant: str
    assistant_to_user: str
    """Begins with the end-of-turn token where the template has one (white space may precede it)."""


PLAIN = Literals(
    before_system="",
    system_to_user="\n\n",
    before_user="",
    user_to_assistant="\n",
    assistant_to_user="\n",
)
"""For models without a chat template."""


def read_literals(tokenizer: Any) -> Literals:
    """The literals of the tokenizer's chat template; `PLAIN` if it has none.

    Templates that know no system message get it in front of the first user message, as their authors advise.
    """
    if not getattr(tokenizer, "chat_template", None):
        return PLAIN

    def between(messages: list[dict[str, str]], markers: list[str]) -> list[str]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        gaps = []
        for marker in markers:
            if text.count(marker) != 1:
                raise PolicyFault(
                    f"the chat template shows {marker!r} {text.count(marker)} times instead of once; "
                    "a template that drops or repeats messages cannot be used token-exactly: edit "
                    "chat_template.jinja in the model folder"
                )
            gap, text = text.split(marker)
            gaps.append(gap)
        return [*gaps, text]

    user = {"role": "user", "content": _USER}
    rest = [{"role": "assistant", "content": _ASSISTANT}, {"role": "user", "content": _LAST}]
    before_user, _, assistant_to_user, user_to_assistant = between([user, *rest], [_USER, _ASSISTANT, _LAST])
    try:
        before_system, system_to_user, _ = between([{"role": "system", "content": _SYSTEM}, user], [_SYSTEM, _USER])
    except Exception as error:
        if isinstance(error, PolicyFault) or type(error).__module__.split(".")[0] == "jinja2":
            before_system, system_to_user = before_user, "\n\n"
        else:
            raise
    # Templates of reasoning models open the thought themselves; here the tag is sampled, as the format rule asks.
    user_to_assistant = re.sub(r"<think>\s*\Z", "", user_to_assistant)
    return Literals(before_system, system_to_user, before_user, user_to_assistant, assistant_to_user)


def _end_of_turn(tokenizer: Any, gap: str) -> tuple[int | None, str]:
    """(id of the token that ends an assistant's turn, what of `gap` comes after it).

    Not always the tokenizer's end of sequence: Gemma ends turns with `<end_of_turn>`, Phi-3 with `<|end|>`. A
    template without such a token leaves the end of sequence, and the whole of `gap` after it.
    """
    for token in tokenizer.encode(gap, add_special_tokens=False):
        if token in tokenizer.added_tokens_decoder:
            before, _, after = gap.partition(tokenizer.added_tokens_decoder[token].content)
            if not before.strip():
                return token, after
            break
    return tokenizer.eos_token_id, gap


class Renderer:
    """Turns conversations into ids and roles for one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.literals = read_literals(tokenizer)
        self.end_id: int | None
        self.end_id, self._after_end = _end_of_turn(tokenizer, self.literals.assistant_to_user)

        def encode(text: str, literal: bool = True) -> tuple[int, ...]:
            if not text:
                return ()
            return tuple(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=not literal))

        self.encode: Callable[..., tuple[int, ...]] = lru_cache(maxsize=65_536)(encode)
        """Ids of a text; unless `literal`, what spells a special token in it is ordinary text."""

    def render(self, messages: Sequence[Message]) -> tuple[tuple[int, ...], tuple[Role, ...]]:
        """([P] ids, [P] roles) of the prompt that asks for the next assistant message.

        Raises `PolicyFault` if the messages do not alternate as system?, user, (assistant, user)*.
        """
        ids: list[int] = []
        roles: list[Role] = []

        def put(text: str, role: Role, literal: bool = True) -> None:
            piece = self.encode(text, literal)
            ids.extend(piece)
            roles.extend((role,) * len(piece))

        before: Message | None = None
        for message in messages:
            put(self._gap(before, message), Role.SYSTEM)
            if message.ids is not None:
                ids.extend(message.ids)
                roles.extend(message.roles or (Role.OTHER,) * len(message.ids))
            else:
                if message.pictures:
                    raise PolicyFault("this model reads text only; leave AgentConfig.images off, or ask one that sees")
                for part in message.parts:
                    # A page or a memory that spells the end of a turn must not end it.
                    put(part.text, part.role, message.speaker == "assistant")
            before = message
        if before is None or before.speaker != "user":
            raise PolicyFault("a prompt must end with a user message")
        put(self.literals.user_to_assistant, Role.SYSTEM)
        return tuple(ids), tuple(roles)

    def _gap(self, before: Message | None, message: Message) -> str:
        literals = self.literals
        match (before.speaker if before else None, message.speaker):
            case (None, "system"):
                return literals.before_system
            case (None, "user"):
                return literals.before_user
            case ("system", "user"):
                return literals.system_to_user
            case ("user", "assistant"):
                return literals.user_to_assistant
            case ("assistant", "user"):
                assert before is not None
                text = literals.assistant_to_user
                ended = before.ids is not None and before.ids[-1:] == (self.end_id,)
                return self._after_end if ended else text
            case (first, second):
                raise PolicyFault(
                    f"a message of the {second} cannot {f'follow one of the {first}' if first else 'come first'}"
                )
