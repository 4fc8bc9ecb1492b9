"""History of a memory store: its writes, how to undo one, how to erase, and whether the journal is sound."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import Connection, delete, func, select, update

from agentkit.errors import RecordError
from agentkit.memory import journal, ledger, lexical, places, writer
from agentkit.memory.database import Database
from agentkit.memory.journal import memory_of, read_state, write_state
from agentkit.memory.kinds import FactBody, InsightBody, Memory
from agentkit.memory.layout import LAYOUT_VERSION, keys, memories, next_vectors, vectors, writes
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
                "layout": str(LAYOUT_VERSION),
                "fingerprint": fingerprint,
                "generation": "1",
                "applied": "0",
            }
            write_state(connection, **known)
        if not known.get("layout", "").isdecimal():
            raise RecordError(
                f"{folder / 'memory.sqlite'} is no memory store, but something else; give another folder, or move that "
                "file away"
            )
        if known["layout"] == str(LAYOUT_VERSION):
            lexical.prepare(connection)
    layout = int(known["layout"])
    if layout != LAYOUT_VERSION:
        way_out = (
            "upgrade agentkit"
            if layout > LAYOUT_VERSION
            else "make the store anew from the episode log: `agentkit memory build LOG --out FOLDER`"
        )
        raise RecordError(
            f"the memory store {folder} has layout {layout}, this agentkit knows {LAYOUT_VERSION}; {way_out}"
        )
    if known["fingerprint"] != fingerprint and not rebuild:
        raise RecordError(
            f"the memory store {folder} was made with embedder {known['fingerprint']!r}, not {fingerprint!r}; open it "
            "with that one (and change it with `migrate`, while the store is in use), or embed all memories anew first "
            "with MemoryStore.open(folder, embedder=..., rebuild=True)"
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
        raise RecordError(f"there is no write {number} to undo; `history()` and `agentkit memory stats` list them")
    versions = []
    first = {row.id: row.seq for row in reversed(touched)}  # a write may hold several versions of a memory
    for row in {row.id: row for row in touched}.values():
        if row.ended is not None:
            later = connection.execute(select(memories.c.write).where(memories.c.seq == row.ended)).scalar()
            raise RecordError(f"write {later} has changed memory {row.id} since write {number}; undo {later} first")
        query = select(memories).where(memories.c.id == row.id, memories.c.seq < first[row.id])
        earlier = connection.execute(query.order_by(memories.c.seq.desc()).limit(1)).one_or_none()
        if not row.draft or (earlier is not None and not earlier.draft):
            raise RecordError(f"memory {row.id} of write {number} is forgotten; that cannot be undone")
        if earlier is None:
            gone: dict[str, object] = {"status": "retired", "version": row.version + 1, "recorded_s": time.time()}
            versions.append(memory_of(row).model_copy(update=gone))
        else:
            versions.append(memory_of(earlier))
    return versions


def forget(database: Database, named: Mapping[str, str | None]) -> Receipt:
    """Erase what is named and all that was made from it from the journal; the index must be made anew then."""
    given = {name: value for name, value in named.items() if value is not None}
    if len(given) != 1 or not all(given.values()):
        raise RecordError(f"forget by exactly one of {', '.join(named)}, and not by an empty text; got {given}")
    episode_id = given.get("episode_id")
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
                if _is_named(memory, **given) or doomed.intersection(memory.source.parents)
            }
            grown, doomed = not found <= doomed, doomed | found
        seqs = [seq for seq, memory in held if memory.id in doomed]
        for start in range(0, len(seqs), 500):
            some = seqs[start : start + 500]
            connection.execute(delete(keys).where(keys.c.seq.in_(some)))
            nothing = {"draft": "", "status": "retired", "source_name": "", "task_key": ""}
            connection.execute(update(memories).where(memories.c.seq.in_(some)).values(nothing))
        if seqs:
            for table in (vectors, next_vectors):
                connection.execute(delete(table).where(table.c.number.not_in(select(keys.c.vector))))
            places.sweep(connection)
            lexical.remake(connection)
            writer.unmark(connection, doomed)
            # Should the process die before the index is made anew, the one that has the erased vectors is left behind.
            generation = str(int(read_state(connection)["generation"]) + 1)
            write_state(connection, generation=generation, applied=0, files=None)
        links = ledger.erase(connection, doomed, episode_id)
    if seqs or links:
        database.compact()
    return Receipt(ids=tuple(sorted(doomed)), num_versions=len(seqs), time_s=time.time())


def _is_named(
    memory: Memory,
    id: str | None = None,
    episode_id: str | None = None,
    source_name: str | None = None,
    run: str | None = None,
    subject: str | None = None,
) -> bool:
    body, source = memory.body, memory.source
    evidence = (*body.evidence_for, *body.evidence_against) if isinstance(body, InsightBody) else ()
    return (
        id == memory.id
        or episode_id in (*source.episode_ids, *evidence)
        or source_name == source.name
        or run == source.run
        or (isinstance(body, FactBody) and subject == body.subject)
    )


def influenced(connection: Connection, source_name: str, since_s: float) -> list[str]:
    """Ids, in order, of what a source wrote since then and of all that was made from it."""
    parents = select(memories.c.id, func.json_extract(memories.c.draft, "$.source.parents").label("parents"))
    held = connection.execute(parents.where(memories.c.ended.is_(None), memories.c.draft != "")).all()
    made_from = {row.id: json.loads(row.parents) for row in held}
    written = select(memories.c.id).where(memories.c.source_name == source_name, memories.c.recorded_s >= since_s)
    tainted = {id for (id,) in connection.execute(written)} & made_from.keys()
    grown = True
    while grown:
        found = {id for id, ids in made_from.items() if tainted.intersection(ids)}
        grown, tainted = not found <= tainted, tainted | found
    return sorted(tainted)


def problems(connection: Connection, fingerprint: str, dim: int) -> list[str]:
    """What is wrong with the journal, in words: changed versions, broken chain, wrong ends, foreign vectors."""
    found, chain = [], "empty"
    for row in connection.execute(select(memories).order_by(memories.c.seq)):
        if row.draft and journal.digest_of(row.id, row.version, row.draft) != row.digest:
            found.append(f"version {row.seq} (memory {row.id!r}) is not what was written; restore a copy of the store")
        chain = journal.link(chain, row.digest)
        if chain != row.chain:
            return [*found, f"the chain of the journal breaks at version {row.seq}; restore a copy of the store"]
    found += _wrong_ends(connection)
    foreign = (vectors.c.fingerprint != fingerprint) | (func.length(vectors.c.embedding) != dim * 4)
    bad: Sequence[int] = connection.execute(select(vectors.c.number).where(foreign)).scalars().all()
    found += [f"vector {number} is not of this embedder; call `rebuild()`" for number in bad]
    lost = select(keys.c.seq).where(keys.c.vector.not_in(select(vectors.c.number))).distinct()
    unfound: Sequence[int] = connection.execute(lost).scalars().all()
    found += [f"version {seq} has lost the vector of a key; restore a copy of the store" for seq in unfound]
    return found


def _wrong_ends(connection: Connection) -> list[str]:
    """Versions that do not end where the next of their memory begins; of each memory, just the newest is open."""
    query = select(memories.c.id, memories.c.seq, memories.c.ended).order_by(memories.c.id, memories.c.seq)
    rows = connection.execute(query).all()
    found = []
    for row, after in itertools.zip_longest(rows, rows[1:]):
        end = after.seq if after is not None and after.id == row.id else None
        if row.ended != end:
            where, must = (f"at version {seq}" if seq is not None else "nowhere" for seq in (row.ended, end))
            found.append(
                f"version {row.seq} (memory {row.id!r}) ends {where} and must end {must}; restore a copy of the store"
            )
    return found
