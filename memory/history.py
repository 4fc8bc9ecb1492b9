"""History of a memory store: its writes, how to undo one, how to erase, and whether the journal is sound."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, delete, func, select, update

from agentkit.errors import RecordError
from agentkit.memory import journal
from agentkit.memory.database import Database
from agentkit.memory.journal import keys, memories, memory_of, read_state, vectors, write_state, writes
from agentkit.memory.kinds import Memory
from agentkit.memory.records import Record


class Write(Record):
    """One transaction that wrote memories."""

    number: int
    time_s: float
    """Unix time in seconds."""
    what: str
    num_versions: int


class Receipt(Record):
    """What `forget` has erased."""

    ids: tuple[str, ...]
    """Memories, those made from them included."""
    num_versions: int
    time_s: float
    """Unix time in seconds."""


def greet(database: Database, folder: Path, fingerprint: str, rebuild: bool) -> None:
    """Check that this agentkit and an embedder of this fingerprint can use the store; begin a new one."""
    with database.writing() as connection:
        known = read_state(connection)
        if not known:
            known = {
                "layout": str(journal.LAYOUT_VERSION),
                "fingerprint": fingerprint,
                "generation": "1",
                "applied": "0",
            }
            write_state(connection, **known)
    layout = int(known["layout"])
    if layout != journal.LAYOUT_VERSION:
        way_out = (
            "upgrade agentkit"
            if layout > journal.LAYOUT_VERSION
            else "make the store anew from the episode log: `agentkit memory build LOG --out FOLDER`"
        )
        raise RecordError(
            f"the memory store {folder} has layout {layout}, this agentkit knows {journal.LAYOUT_VERSION}; {way_out}"
        )
    if known["fingerprint"] != fingerprint and not rebuild:
        raise RecordError(
            f"the memory store {folder} was made with embedder {known['fingerprint']!r}, not {fingerprint!r}; open it "
            "with that one, or embed all memories anew with MemoryStore.open(folder, embedder=..., rebuild=True)"
        )


def writes_of(connection: Connection) -> list[Write]:
    """All writes, oldest first."""
    query = (
        select(writes, func.count(memories.c.seq).label("num_versions"))
        .join_from(writes, memories, memories.c.write == writes.c.number)
        .group_by(writes.c.number)
        .order_by(writes.c.number)
    )
    return [Write(**row._mapping) for row in connection.execute(query)]


def before(connection: Connection, number: int) -> list[Memory]:
    """The versions that undo a write: what each memory it touched was before, or that it is retired.

    Raises:
        RecordError: There is no such write, what it replaced is forgotten, or a later one builds upon it.
    """
    touched = connection.execute(select(memories).where(memories.c.write == number).order_by(memories.c.seq)).all()
    if not touched:
        raise RecordError(f"there is no write {number} to undo; `history()` lists them")
    versions = []
    for row in touched:
        if row.ended is not None:
            later = connection.execute(select(memories.c.write).where(memories.c.seq == row.ended)).scalar()
            raise RecordError(f"write {later} has changed memory {row.id} since write {number}; undo {later} first")
        query = select(memories).where(memories.c.id == row.id, memories.c.seq < row.seq)
        earlier = connection.execute(query.order_by(memories.c.seq.desc()).limit(1)).one_or_none()
        if not row.draft or (earlier is not None and not earlier.draft):
            raise RecordError(f"memory {row.id} of write {number} is forgotten; that cannot be undone")
        if earlier is None:
            gone: dict[str, object] = {"status": "retired", "version": row.version + 1, "recorded_s": time.time()}
            versions.append(memory_of(row).model_copy(update=gone))
        else:
            versions.append(memory_of(earlier))
    return versions


def forget(database: Database, *, id: str | None, episode_id: str | None, source_name: str | None) -> Receipt:
    """Erase what is named and all that was made from it from the journal; the index must be made anew then."""
    if (id, episode_id, source_name).count(None) != 2:
        raise RecordError("forget by exactly one of id, episode_id and source_name")
    with database.writing() as connection:
        doomed: set[str] = set()
        held = [
            (row.seq, memory_of(row))
            for row in connection.execute(select(memories).where(memories.c.draft != "").order_by(memories.c.seq))
        ]
        grown = True
        while grown:  # what was made from something doomed is doomed
            found = {
                memory.id
                for _, memory in held
                if memory.id == id
                or episode_id in memory.source.episode_ids
                or source_name == memory.source.name
                or doomed & set(memory.source.parents)
            }
            grown, doomed = not found <= doomed, doomed | found
        seqs = [seq for seq, memory in held if memory.id in doomed]
        for start in range(0, len(seqs), 500):
            some = seqs[start : start + 500]
            connection.execute(delete(keys).where(keys.c.seq.in_(some)))
            nothing = {"draft": "", "status": "retired", "source_name": "", "task_key": ""}
            connection.execute(update(memories).where(memories.c.seq.in_(some)).values(nothing))
        if seqs:
            connection.execute(delete(vectors).where(vectors.c.number.not_in(select(keys.c.vector))))
    if seqs:
        database.compact()
    return Receipt(ids=tuple(sorted(doomed)), num_versions=len(seqs), time_s=time.time())


def problems(connection: Connection, fingerprint: str, dim: int) -> list[str]:
    """What is wrong with the journal, in words: changed versions, broken chain, foreign vectors."""
    found, chain = [], "empty"
    for row in connection.execute(select(memories).order_by(memories.c.seq)):
        if row.draft and journal.digest_of(row.id, row.version, row.draft) != row.digest:
            found.append(f"version {row.seq} (memory {row.id!r}) is not what was written; restore a copy of the store")
        chain = journal.link(chain, row.digest)
        if chain != row.chain:
            return [*found, f"the chain of the journal breaks at version {row.seq}; restore a copy of the store"]
    foreign = (vectors.c.fingerprint != fingerprint) | (func.length(vectors.c.embedding) != dim * 4)
    bad: Sequence[int] = connection.execute(select(vectors.c.number).where(foreign)).scalars().all()
    found += [f"vector {number} is not of this embedder; call `rebuild()`" for number in bad]
    lost = select(keys.c.seq).where(keys.c.vector.not_in(select(vectors.c.number))).distinct()
    unfound: Sequence[int] = connection.execute(lost).scalars().all()
    found += [f"version {seq} has lost the vector of a key; restore a copy of the store" for seq in unfound]
    return found
