"""Pairs: what an attempt that succeeded said where an attempt that failed, the same until then, said something else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentkit.memory.records import Episode, Turn


@dataclass(frozen=True, slots=True)
class Pair:
    """Two attempts at a task that were the same up to a turn and answered it differently."""

    better: Episode
    """It succeeded."""
    worse: Episode
    """It failed."""
    turn: int
    """Number of the first turn in which they differ."""

    @property
    def chosen(self) -> Turn:
        """What the success answered."""
        return self.better.turns[self.turn]

    @property
    def rejected(self) -> Turn:
        """What the failure answered."""
        return self.worse.turns[self.turn]


def preference_pairs(episodes: Iterable[Episode], per_group: int | None = None) -> list[Pair]:
    """The pairs of all groups: each success with each failure, at their first difference.

    Attempts form a pair if they are of one task and group, and their prompts are the same, id for id, until their
    answers differ; where the world answered differently first, there is nothing to compare. Equal comparisons are made
    once a group. A success's malformed turn is not preferred to anything.

    Args:
        episodes: Attempts; those with an `error` are left out.
        per_group: Most pairs of a group, taken so that attempts are used evenly; None for all.
    """
    groups: dict[tuple[str, str], list[Episode]] = defaultdict(list)
    for episode in episodes:
        if episode.error is None:
            groups[episode.task.key, episode.group_id].append(episode)
    pairs = []
    for attempts in groups.values():
        won = [episode for episode in attempts if episode.success]
        lost = [episode for episode in attempts if not episode.success]
        known: dict[Any, Pair] = {}
        for shift, place in np.ndindex(len(lost), len(won)):
            better, worse = won[place], lost[(place + shift) % len(lost)]
            turn = _difference(better, worse)
            if turn is not None and better.turns[turn].valid:
                pair = Pair(better, worse, turn)
                known.setdefault((_prompt(pair.chosen), pair.chosen.response, pair.rejected.response), pair)
        pairs += list(known.values())[:per_group]
    return pairs


def labelled_turns(episodes: Iterable[Episode]) -> list[tuple[Turn, bool]]:
    """Every turn with whether its attempt succeeded; a success's malformed turns are left out."""
    return [
        (turn, episode.success)
        for episode in episodes
        if episode.error is None
        for turn in episode.turns
        if turn.valid or not episode.success
    ]


def _prompt(turn: Turn) -> Any:
    return turn.prompt_ids or turn.messages


def _difference(one: Episode, other: Episode) -> int | None:
    """The first turn whose prompts are the same and whose answers are not."""
    for number, (mine, theirs) in enumerate(zip(one.turns, other.turns, strict=False)):
        if not _prompt(mine) or _prompt(mine) != _prompt(theirs):
            return None
        if mine.response != theirs.response:
            return number
    return None
