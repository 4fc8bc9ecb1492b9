"""Reflections: what is said about a failed attempt, and the turn at which the next one should leave it.

The record alone says how an attempt failed: loops, answers that were not understood, a losing end. A model may say
more; what it says is checked against the record, which speaks where the model is not believed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from pydantic import Field

from agentkit.agent import seen, system_message
from agentkit.memory.case import clip
from agentkit.memory.distiller import Chat, Distiller
from agentkit.memory.ingestion import ingest, state_of
from agentkit.memory.kinds import Draft, FailureBody
from agentkit.memory.records import Episode, Record, Text
from agentkit.memory.slots import bind, match, slots_of
from agentkit.memory.store import MemoryStore
from agentkit.policies.policy import Policy, Request, Sampling

MOST_FAILURES = 5
"""Ways to fail that one reflection tells of."""
SEEN_LIMIT = 600
"""Characters of an observation in a reflection."""
CANDIDATES = 20
"""Remembered failures among which a fix is looked for."""


class Reflection(Record):
    """What the next attempt is told about a failed one."""

    text: Text
    turn: int = Field(default=0, ge=0)
    """Turn at which the next attempt leaves this one; 0 for a new start."""


Reflect = Callable[[Episode], str | Reflection | Awaitable[str | Reflection]]
"""Looks back on a failed attempt; a text alone means a new start."""


def from_record(memory: MemoryStore | None = None, *, branch: bool = False) -> Callable[[Episode], Reflection]:
    """Reflects without a model: how the attempt failed, where, and what is known to help.

    Args:
        memory: Where to look for failures of the same signature and environment that have a fix, as `distil` writes
            them; the nearest by what was seen counts.
        branch: Leave the failed attempt at its `pivotal_turn`, rather than to start anew.
    """

    def reflect(episode: Episode) -> Reflection:
        told = [_told(episode, draft, memory) for draft in ingest(episode, ("failure",))[:MOST_FAILURES]]
        text = "\n".join(told) or "Failed, and the record does not show why."
        return Reflection(text=text, turn=pivotal_turn(episode) if branch else 0)

    return reflect


def by_model(
    distiller: Distiller, *, branch: bool = False, otherwise: Callable[[Episode], Reflection] | None = None
) -> Callable[[Episode], Coroutine[Any, Any, Reflection]]:
    """Reflects with a model, as Reflexion (Shinn et al. 2023) and R³L (arXiv 2601.03715) do.

    Args:
        distiller: Asks the model and checks what it says.
        branch: Leave the failed attempt at the first turn that the model cites as its mistake (R³L's pivot).
        otherwise: Reflects where the model's answer cannot be used; `from_record` by default.
    """
    fallback = otherwise or from_record(branch=branch)

    async def reflect(episode: Episode) -> Reflection:
        drafts = (await distiller.reflection(episode)).drafts
        if not drafts:
            return fallback(episode)
        return Reflection(text=drafts[0].text, turn=min(drafts[0].source.turns, default=0) if branch else 0)

    return reflect


def chat_with(policy: Policy, sampling: Sampling | None = None) -> Chat:
    """A policy as the model that a `Distiller` asks; it must not need an environment."""
    settings = sampling or Sampling(temperature=0.0, max_new_tokens=512)

    async def chat(messages: list[dict[str, str]]) -> str:
        asked = tuple(
            system_message(message["content"]) if message["role"] == "system" else seen(message["content"])
            for message in messages
        )
        return (await policy.complete(Request(asked, settings, seed=0, world=_Nowhere()))).text

    return chat


def pivotal_turn(episode: Episode) -> int:
    """The turn at which a failed attempt went wrong, as far as its record shows it; 0 if it does not.

    The earliest turn in whose state the attempt was again later: all that it did between the two was in vain. Without
    such a loop, the last turn of an attempt that a losing end broke off. R³L asks a model for this turn; a budget that
    ran out without a loop has no turn of its own, so such an attempt starts anew.
    """
    # a turn without an action that counts as valid was only asked for: it led nowhere, and was not meant to
    acted = [(number, state_of(turn)) for number, turn in enumerate(episode.turns) if turn.action or not turn.valid]
    last = {state: number for number, state in acted}
    for number, state in acted:
        if last[state] > number:
            return number
    return len(episode.turns) - 1 if episode.turns and episode.turns[-1].terminated else 0


class _Nowhere:
    """What a policy is shown of the environment where there is none."""

    admissible_actions: Sequence[str] = ()
    state_key = ""

    async def expert_action(self) -> str:
        return ""


def _told(episode: Episode, draft: Draft, memory: MemoryStore | None) -> str:
    """One way in which the attempt failed, where that was, and the fix if one is known."""
    lines = []
    action, observation = "", ""
    if draft.source.turns:
        turn = episode.turns[draft.source.turns[0]]
        action, observation = turn.action or "", turn.observation
        lines.append(f"Seen: {clip(observation, SEEN_LIMIT)}")
    lines.append(draft.text)
    fix = _fix(draft, action, observation, memory) if memory is not None else ""
    if fix:
        lines.append(f"What has succeeded there is `{fix}`.")
    return "\n".join(lines)


def _fix(draft: Draft, action: str, observation: str, memory: MemoryStore) -> str:
    """What a remembered failure of the same signature says helps, in terms of what was played here."""
    assert isinstance(draft.body, FailureBody)
    query = {"state": observation} if observation else draft.keys
    for known in memory.recall(query, CANDIDATES, env_id=draft.env_id, kinds=["failure"]):
        body = known.body
        if isinstance(body, FailureBody) and body.signature == draft.body.signature and body.fix:
            binding = (match(body.action, action) if body.action else None) or {}
            if set(slots_of(body.fix)) <= set(binding):
                return bind(body.fix, binding)
    return ""
