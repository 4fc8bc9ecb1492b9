"""The exact arm: memories that passed through this very state of the world, told by its key and not by its looks."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

from sqlalchemy import Connection, delete, insert, select

from agentkit.memory.kinds import EpisodeBody, Memory, StepBody
from agentkit.memory.layout import keys, memories, places
from agentkit.memory.planner import Scope


def add(connection: Connection, first: int, versions: Sequence[Memory]) -> None:
    """Note the states of versions numbered from `first` on, within the transaction that appends them."""
    rows = [
        {"state_key": state_key, "seq": seq, "worth": int(memory.trust) + nearness}
        for seq, memory in zip(itertools.count(first), versions)
        for state_key, nearness in states_of(memory).items()
    ]
    if rows:
        connection.execute(insert(places), rows)


def sweep(connection: Connection) -> None:
    """Remove the states of versions that are forgotten, which have no keys any more."""
    connection.execute(delete(places).where(places.c.seq.not_in(select(keys.c.seq))))


def states_of(memory: Memory) -> dict[str, float]:
    """Key of each state in which it acted -> nearness to the end of success: 1 / (1 + actions left), 0 where it failed.

    The last visit counts. A step tells of success only if it ended the episode with a reward.

    >>> from agentkit.memory.kinds import Source
    >>> body = EpisodeBody(success=True, episode_return=1.0, actions=("a", "b"), state_keys=("s0", "s1"))
    >>> where = {"env_id": "lake", "source": Source(writer="environment"), "keys": {}, "text": ""}
    >>> states_of(Memory(id="m-1", body=body, **where))
    {'s0': 0.3333333333333333, 's1': 0.5}
    """
    body = memory.body
    match body:
        case EpisodeBody():
            num = len(body.state_keys)
            found = {key: 1.0 / (1 + num - turn) if body.success else 0.0 for turn, key in enumerate(body.state_keys)}
        case StepBody():
            found = {body.state_key: 0.5 if body.terminated and body.reward > 0 else 0.0}
        case _:
            found = {}
    found.pop("", None)
    return found


def search(
    connection: Connection, state_key: str, k: int, scope: Scope, also: Collection[int] = ()
) -> dict[int, float]:
    """Scores by sequence number of `k` memories in scope that passed through a state.

    Those trusted most come first, then those nearest to the end of success, then the newest. The score is ½ plus the
    nearness, ½ to 1: the state is the same in any case, and trust has its own factor in the rank.

    Args:
        connection: A transaction on the journal.
        state_key: Hash of the state; nothing is found for an empty one.
        k: At most this many.
        scope: Which memories.
        also: Versions in scope whose scores are wanted besides, if they passed through it.
    """
    if not state_key:
        return {}
    at = places.c
    query = select(at.seq, at.worth).join_from(places, memories, at.seq == memories.c.seq)
    here = query.where(at.state_key == state_key)
    ranked = here.where(*scope.conditions(by_index=False)).order_by(at.worth.desc(), at.seq.desc()).limit(k)
    found = dict(tuple(row) for row in connection.execute(ranked))
    if also:
        found |= dict(tuple(row) for row in connection.execute(here.where(at.seq.in_(sorted(also)))))
    return {seq: 0.5 + worth % 1.0 for seq, worth in found.items()}
