"""Watch: the detectors over what a store holds, and what they find put in quarantine.

A detector compares who wrote what, so whoever can be told apart has to be: what others wrote goes by the name of its
source, what was recorded of our own attempts by the episode.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection, select

from agentkit.memory.detectors import Collection, DetectorSettings, Finding, detect
from agentkit.memory.journal import memory_of
from agentkit.memory.kinds import Memory, Trust
from agentkit.memory.layout import keys, memories
from agentkit.memory.layout import vectors as table
from agentkit.memory.planner import RECALLED
from agentkit.memory.store import MemoryStore

MOST_QUERIES = 2_000
"""Keys that stand for what is usually asked, evenly spread over those that are held."""


def quarantined(memory: MemoryStore) -> set[str]:
    """Ids of the memories in quarantine; what was played under one of them is not replayed."""
    at = memories.c
    with memory.database.reading() as connection:
        return set(connection.execute(select(at.id).where(at.ended.is_(None), at.status == "quarantine")).scalars())


def suspects(memory: MemoryStore, settings: DetectorSettings | None = None) -> list[Finding]:
    """What the detectors find among the memories that can be recalled, one finding each, the strongest first.

    Situations and conditions of the held memories stand for what is usually asked. Two sorts are compared with and
    never found: what a person vouches for, and what is said of recorded attempts of our own, for one that goes in
    circles floods by nature. Whether they are our own, the gate has checked if they came by `sync`.

    Args:
        memory: The store.
        settings: Thresholds; the defaults are set with `HashEmbedder`.
    """
    at = memories.c
    query = select(memories, keys.c.vector).join_from(memories, keys, memories.c.seq == keys.c.seq)
    held = query.where(at.ended.is_(None), at.status.in_(RECALLED)).order_by(at.id, keys.c.field)
    with memory.database.reading() as connection:
        rows = {row.id: row for row in connection.execute(held)}  # of several keys the last by name: the situation
        numbers = sorted({row.vector for row in rows.values()})
        vectors = _vectors(connection, numbers)
    if not rows:
        return []
    known = {id: memory_of(row) for id, row in rows.items()}
    matrix = np.stack([vectors[row.vector] for row in rows.values()])
    collection = Collection(
        list(known), matrix, [_writer_of(one) for one in known.values()], [one.recorded_s for one in known.values()]
    )
    every = -(-len(numbers) // MOST_QUERIES)
    strongest: dict[str, Finding] = {}
    for finding in detect(collection, np.stack([vectors[number] for number in numbers[::every]]), settings):
        best = strongest.get(finding.memory_id)
        if not _is_exempt(known[finding.memory_id]) and (best is None or finding.score > best.score):
            strongest[finding.memory_id] = finding
    return sorted(strongest.values(), key=lambda finding: (-finding.score, finding.memory_id))


def quarantine_suspects(
    memory: MemoryStore, settings: DetectorSettings | None = None, *, dry_run: bool = True
) -> list[Finding]:
    """Find suspects and, unless it is a dry run, put them in quarantine as one write that can be undone.

    Args:
        memory: The store.
        settings: Thresholds.
        dry_run: Only find.
    """
    found = suspects(memory, settings)
    if not dry_run:
        memory.set_aside({one.memory_id: f"{one.detector}: {one.sentence}" for one in found})
    return found


def _vectors(connection: Connection, numbers: Sequence[int]) -> dict[int, np.ndarray]:
    """Number -> vector [dim]."""
    found: dict[int, np.ndarray] = {}
    for start in range(0, len(numbers), 500):  # databases limit the parameters of one statement
        query = select(table.c.number, table.c.embedding).where(table.c.number.in_(numbers[start : start + 500]))
        found.update((number, np.frombuffer(embedding, np.float32)) for number, embedding in connection.execute(query))
    return found


def _is_exempt(memory: Memory) -> bool:
    own = memory.source.writer == "environment" and bool(memory.source.episode_ids)
    return memory.trust >= (Trust.OBSERVED if own else Trust.TRUSTED)


def _writer_of(memory: Memory) -> str:
    source = memory.source
    if source.writer == "environment" and source.episode_ids:
        return f"episode {source.episode_ids[0]}"
    return f"{source.writer} {source.name or source.run or memory.episode_id}"
