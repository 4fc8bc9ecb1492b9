"""An episode as a case: what the situation looked like, what was done in it, and how it ended."""

from __future__ import annotations

import re

from agentkit.memory.kinds import Draft, EpisodeBody, Source
from agentkit.memory.records import Episode

KEY_LIMIT = 4_000
"""Characters of a text that are compared; embedding models read about a thousand."""
ACTION_LIMIT = 500
"""Characters of an action as a case keeps it."""
CONTENT_LIMIT = 8_000
"""Characters of a case as it is shown to the policy."""

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def draft_of(episode: Episode) -> Draft:
    """The memory of an attempt, to be found by how it began."""
    played = [turn for turn in episode.turns if turn.action is not None and turn.valid]
    return Draft(
        body=EpisodeBody(
            success=episode.success,
            episode_return=episode.episode_return,
            actions=tuple(clip(turn.action or "", ACTION_LIMIT) for turn in played),
            state_keys=tuple(turn.state_key for turn in played),
        ),
        text=printable(content_of(episode)),
        keys={"state": printable(key_of(episode))},
        env_id=episode.task.env_id,
        task_key=episode.task.key,
        split=episode.task.split,
        source=Source(
            writer="environment",
            episode_ids=(episode.id,),
            policy=episode.policy,
            policy_version=episode.policy_version,
        ),
    )


def key_of(episode: Episode) -> str:
    """What to find the case by: the first observation, or the goal if there was none."""
    first = episode.turns[0].observation if episode.turns else ""
    return clip(first or episode.task.goal, KEY_LIMIT)


def content_of(episode: Episode) -> str:
    """What to show of the case: the first observation, the action of every turn, the outcome."""
    lines = [clip(episode.turns[0].observation if episode.turns else episode.task.goal, 2_000)]
    for number, turn in enumerate(episode.turns, 1):
        lines.append(f"{number}. {'(no valid action)' if turn.action is None else clip(turn.action, ACTION_LIMIT)}")
    outcome = "success" if episode.success else "failure"
    turns = f"{len(episode.turns)} turn{'' if len(episode.turns) == 1 else 's'}"
    last = f"Outcome: {outcome} after {turns}, return {episode.episode_return:g}."
    return clip("\n".join(lines), CONTENT_LIMIT - len(last) - 1) + "\n" + last


def printable(text: str) -> str:
    """`text` as it is shown: control characters, as terminals send them, are U+FFFD; tabs and line ends stay.

    >>> printable("red\\x1b[0m\\tgreen\\n")
    'red\ufffd[0m\\tgreen\\n'
    """
    return _CONTROL.sub("\ufffd", text)


def clip(text: str, limit: int) -> str:
    """`text`, or its beginning and how much was cut, in at most `limit` characters.

    >>> clip("short", 60), clip("x" * 10_000_000, 50)
    ('short', 'xxxxxxx… [cut: the first 7 of 10000000 characters]')
    """
    if len(text) <= limit:
        return text
    room = limit - len(f"… [cut: the first {limit} of {len(text)} characters]")
    kept = max(room, 0)
    while kept < limit and len(_cut(text, kept + 1)) <= limit:
        kept += 1
    return _cut(text, kept)


def _cut(text: str, kept: int) -> str:
    return f"{text[:kept]}… [cut: the first {kept} of {len(text)} characters]"
