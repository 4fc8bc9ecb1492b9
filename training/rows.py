"""Rows: what the network is trained on. A turn whose prompt continues the row joins it, any other starts a new one.

A row is one sequence of ids with the sampled tokens marked, so a conversation is computed once however many turns
it has, and a windowed, summarised or branched context is a row of its own; nothing is tokenised again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agentkit.memory.records import Episode, Role, Turn

Tokens = tuple[Sequence[int], Sequence[int], Sequence[Role], Sequence[float]]
"""(prompt ids [P], response ids [R], response roles [R], log-probabilities [R]) of a turn."""


@dataclass(frozen=True, slots=True)
class Row:
    """One training sequence of L tokens."""

    episode: int
    """Index of the episode in the batch it was made from."""
    ids: NDArray[np.int64]
    """[L] token ids."""
    sampled: NDArray[np.bool_]
    """[L] True where the policy chose the token."""
    roles: NDArray[np.int8]
    """[L] `Role` of each sampled token; arbitrary elsewhere."""
    logprobs: NDArray[np.float32]
    """[L] behaviour log-probability of each sampled token; 0 elsewhere."""
    turns: NDArray[np.int32]
    """[L] number of the turn that sampled each token; arbitrary elsewhere."""
    recalled: frozenset[int] = frozenset()
    """Numbers of its episode's turns whose prompt showed memories."""
    pivot: int = 0
    """Its episode's turns before this number are shared with an attempt it branched from, or that branched from it."""

    @property
    def num_sampled(self) -> int:
        """How many of its tokens the policy chose."""
        return int(self.sampled.sum())

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class JoinCounts:
    """How the turns of a batch became rows."""

    joined: int
    """Turns that continued a row."""
    forked: int
    """Turns that had to start a new row although their episode already had one."""
    skipped: int
    """Turns without token ids."""


def named(episode_ids: Iterable[str]) -> str:
    """Episodes for an error, each once, at most five by their ids.

    >>> named(["a", "b", "a"]), named("abcdefg")
    ('episode a, b', 'episode a, b, c, d, e and 2 more')
    """
    found = list(dict.fromkeys(episode_ids))
    return "episode " + ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def recorded_tokens(turn: Turn) -> Tokens | None:
    """The tokens as the engine recorded them; None for engines that record none, or no prompt to predict from."""
    if not turn.response_ids or not turn.prompt_ids:
        return None
    return turn.prompt_ids, turn.response_ids, turn.response_roles, turn.logprobs


def build_rows(
    episodes: Iterable[Episode], tokens_of: Callable[[Turn], Tokens | None] = recorded_tokens
) -> tuple[list[Row], JoinCounts]:
    """The rows of episodes, in order, and how their turns were joined.

    Args:
        episodes: Any episodes; one without tokens yields no row.
        tokens_of: Where a turn's tokens come from; None skips the turn.
    """
    rows: list[Row] = []
    joined = forked = skipped = 0
    episodes = list(episodes)
    pivots = _pivots(episodes)
    for index, episode in enumerate(episodes):
        first = len(rows)
        ids: list[int] = []
        spans: list[tuple[int, int, Tokens]] = []
        for number, turn in enumerate(episode.turns):
            tokens = tokens_of(turn)
            if tokens is None:
                skipped += 1
                continue
            prompt, response = list(tokens[0]), list(tokens[1])
            if ids and prompt[: len(ids)] == ids:
                joined += 1
            elif ids:
                rows.append(_row(index, ids, spans))
                spans = []
                forked += 1
            spans.append((number, len(prompt), tokens))
            ids = prompt + response
        if spans:
            rows.append(_row(index, ids, spans))
        recalled = frozenset(number for number, turn in enumerate(episode.turns) if turn.memory_ids)
        if recalled or pivots[index]:
            rows[first:] = [replace(row, recalled=recalled, pivot=pivots[index]) for row in rows[first:]]
    return rows, JoinCounts(joined, forked, skipped)


def probe(row: Row, places: NDArray[np.int64]) -> Row:
    """The row with one token more behind it and these places in place of the sampled ones.

    The network predicts a place from all that stands before it: place `len(row)` asks what it knows at the row's end.
    """
    sampled = np.zeros(len(row) + 1, np.bool_)
    sampled[places] = True
    return replace(
        row,
        ids=np.append(row.ids, np.int64(0)),
        sampled=sampled,
        roles=np.append(row.roles, np.int8(0)),
        logprobs=np.append(row.logprobs, np.float32(0)),
        turns=np.append(row.turns, np.int32(0)),
    )


def _pivots(episodes: Sequence[Episode]) -> list[int]:
    """The `pivot` of each episode: where it branched, or else where the first of its branches did."""
    branched: dict[str, int] = {}
    for episode in episodes:
        if episode.parent_id is not None and episode.parent_turn is not None:
            turn = branched.get(episode.parent_id, episode.parent_turn)
            branched[episode.parent_id] = min(turn, episode.parent_turn)
    return [branched.get(episode.id, 0) if episode.parent_turn is None else episode.parent_turn for episode in episodes]


def _row(episode: int, ids: list[int], spans: list[tuple[int, int, Tokens]]) -> Row:
    sampled = np.zeros(len(ids), dtype=np.bool_)
    roles = np.zeros(len(ids), dtype=np.int8)
    logprobs = np.zeros(len(ids), dtype=np.float32)
    turns = np.zeros(len(ids), dtype=np.int32)
    for number, start, (_, response, response_roles, response_logprobs) in spans:
        span = slice(start, start + len(response))
        sampled[span] = True
        roles[span] = [int(role) for role in response_roles]
        logprobs[span] = response_logprobs
        turns[span] = number
    return Row(episode, np.array(ids, dtype=np.int64), sampled, roles, logprobs, turns)
