"""Which part of a response is thought and which is action: `<think>…</think><answer>…</answer>`.

Spans are found on the characters of the decoded text and mapped to tokens, never by searching for token ids:
byte-pair merges glue `>` to what follows, so tag ids are not stable (ActFocus, arXiv 2605.14558, leaves this
open; what we chose is said at `response_roles`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agentkit.memory.records import Role

_BETWEEN = re.compile(r"</think>\s*<answer>")


@dataclass(frozen=True, slots=True)
class Parsed:
    """The spans of a well-formed response, as character offsets [start, end) of its text."""

    thought: tuple[int, int]
    """`<think>` to `</think>`, tags included."""
    answer: tuple[int, int]
    """`<answer>` to `</answer>`, tags included."""
    action: tuple[int, int]
    """What stands inside `<answer>`."""
    text: str
    """The action's text, stripped of surrounding white space."""


def parse_response(text: str) -> Parsed | None:
    """The spans of the first `<think>…</think><answer>…</answer>` in `text`, or None if it is malformed.

    >>> parse_response("<think>go</think><answer>Up || Left</answer>").text
    'Up || Left'
    >>> parse_response("<answer>Up</answer>") is None
    True
    """
    # Found piece by piece in linear time; one expression for all of it is cubic in a text of repeated tags.
    start = text.find("<think>")
    between = _BETWEEN.search(text, start + len("<think>")) if start >= 0 else None
    if between is None:
        return None
    action = (between.end(), text.find("</answer>", between.end()))
    if action[1] < 0:
        return None
    return Parsed(
        thought=(start, between.start() + len("</think>")),
        answer=(action[0] - len("<answer>"), action[1] + len("</answer>")),
        action=action,
        text=text[slice(*action)].strip(),
    )


def response_roles(parsed: Parsed | None, offsets: Sequence[tuple[int, int]]) -> tuple[Role, ...]:
    """The role of each sampled token, given the characters [start, end) that it decoded to.

    Inside `<answer>` a token is ACTION if it holds any character of the action, so one that straddles a tag
    and the action belongs to the action. `<think>` tags are THOUGHT: they are as frequent and as easy as the
    thought around them. `<answer>` tags, the end of sequence and white space between the spans are FORMAT,
    so that format and stopping stay trainable at full weight. Text outside the tags, and every token of a
    malformed response, is OTHER.

    >>> parsed = parse_response("<think>a</think><answer>Up</answer>")
    >>> [role.name for role in response_roles(parsed, [(0, 16), (16, 25), (25, 35), (35, 35)])]
    ['THOUGHT', 'ACTION', 'ACTION', 'FORMAT']
    """
    if parsed is None:
        return (Role.OTHER,) * len(offsets)
    roles = []
    for start, end in offsets:
        if max(start, parsed.action[0]) < min(end, parsed.action[1]):
            roles.append(Role.ACTION)
        elif max(start, parsed.thought[0]) < min(end, parsed.thought[1]):
            roles.append(Role.THOUGHT)
        elif start >= end or max(start, parsed.thought[1]) < min(end, parsed.answer[1]):
            roles.append(Role.FORMAT)
        else:
            roles.append(Role.OTHER)
    return tuple(roles)
