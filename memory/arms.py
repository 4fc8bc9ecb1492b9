"""Arms: the ways in which a memory is found for a situation, asked one after the other within one transaction."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Connection, select

from agentkit.memory import lexical, places
from agentkit.memory.fusion import ArmWeights
from agentkit.memory.kinds import KEY_FIELDS
from agentkit.memory.layout import memories
from agentkit.memory.planner import Scope
from agentkit.memory.records import Record, Text
from agentkit.memory.store import MemoryStore

ARMS = ("goal", "state", "lexical", "exact")
"""What may find a memory: its goal by meaning, what it looked like by meaning, its words, the state itself."""
DEFAULT_ARMS = ArmWeights(
    weights={"goal": 0.2, "state": 0.4, "lexical": 0.2, "exact": 0.2}, ranges=dict.fromkeys(ARMS, (0.0, 1.0))
)


class Situation(Record):
    """What an agent has before it; what is empty is not searched by."""

    goal: Text = ""
    """What is to be reached, in words."""
    observation: Text = ""
    """What the world looks like."""
    state_key: str = ""
    """Hash of the state behind it."""


class Found(NamedTuple):
    """What the arms found for one situation."""

    arms: dict[str, dict[str, float]]
    """Arm -> id -> what it said; arms that found nothing are left out."""
    seq_of: dict[str, int]
    """The version of each id."""


class Arms:
    """Searches one store; may be shared by threads.

    Args:
        store: Open as long as this is used.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._guard = threading.Lock()
        self._lexical = lexical.Lexical()
        with store.database.reading() as connection:
            reason = lexical.absence(connection)
        self.absent = {"lexical": reason} if reason else {}
        """Arms that there are not, and why."""

    def search(
        self, connection: Connection, situation: Situation, k: int, scope: Scope, also: Collection[str] = ()
    ) -> Found:
        """At most `k` memories in scope by each arm.

        The arms by meaning come last and tell of all that the others found how near it is. Without a goal, the
        observation is compared with keys of every field, as `MemoryStore.recall` does. If nothing is asked, whatever is
        in scope is as relevant as can be.

        Args:
            connection: A transaction on the journal.
            situation: What to search by.
            k: At most so many by each arm.
            scope: Which memories.
            also: Ids that are looked at too, as far as they are in scope.
        """
        goal, seen = situation.goal, situation.observation
        seqs = set(_versions(connection, also, scope))
        found = {"exact": places.search(connection, situation.state_key, k, scope, seqs)}
        if "lexical" not in self.absent:
            with self._guard:
                found["lexical"] = self._lexical.search(connection, f"{goal}\n{seen}", k, scope, seqs)
        seqs.update(*found.values())
        if goal.strip() and seen.strip():
            found["goal"] = self._store.nearest(connection, {"goal": goal}, k, scope, seqs)
            found["state"] = self._store.nearest(connection, {"state": seen, "condition": seen}, k, scope, seqs)
        else:
            found["state"] = self._store.nearest(connection, dict.fromkeys(KEY_FIELDS, seen or goal), k, scope, seqs)
        if not (goal.strip() or seen.strip() or situation.state_key):
            found["state"] = dict.fromkeys(found["state"], 1.0)
        id_of = _ids(connection, {seq for scores in found.values() for seq in scores})
        arms = {name: {id_of[seq]: scores[seq] for seq in scores} for name, scores in found.items() if scores}
        return Found(arms, {id: seq for seq, id in id_of.items()})


def _versions(connection: Connection, ids: Collection[str], scope: Scope) -> list[int]:
    """The versions of some ids that are in scope."""
    if not ids:
        return []
    query = select(memories.c.seq).where(memories.c.id.in_(sorted(ids)), *scope.conditions(by_index=False))
    return list(connection.execute(query).scalars())


def _ids(connection: Connection, seqs: Collection[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    ordered = sorted(seqs)
    for start in range(0, len(ordered), 500):  # databases limit the parameters of one statement
        query = select(memories.c.seq, memories.c.id).where(memories.c.seq.in_(ordered[start : start + 500]))
        found.update((seq, id) for seq, id in connection.execute(query))
    return found
