"""Provenance: all that is known about a memory in one answer. Where it is from, what it became, what it is worth."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from agentkit.errors import RecordError
from agentkit.memory.journal import memory_of
from agentkit.memory.kinds import Kind, Memory, Source, Status
from agentkit.memory.layout import memories, writes
from agentkit.memory.records import Record
from agentkit.memory.utility import Utility

if TYPE_CHECKING:
    from agentkit.memory.store import MemoryStore


class Version(Record):
    """A version and the write that made it."""

    version: int
    status: Status
    recorded_s: float
    """Unix time in seconds."""
    write: int
    """Number of the write, for `undo`."""
    what: str
    """What the write was, in words."""
    valid_from: float | None
    valid_to: float | None
    forgotten: bool


class Ancestor(Record):
    """A memory from which another was made, directly or through others."""

    id: str
    depth: int
    """1 for a parent."""
    kind: Kind | None
    """None if it is not there, or forgotten."""
    status: Status | None
    episode_ids: tuple[str, ...]
    text: str
    """First line of what it says."""


class Why(Record):
    """Why a memory is what it is."""

    id: str
    kind: Kind
    status: Status
    reasons: tuple[str, ...]
    """How it came to its status, and what else speaks for or against it, in words."""
    source: Source
    episode_ids: tuple[str, ...]
    """Episodes it goes back to, those of its ancestors included."""
    turns: tuple[int, ...]
    """Turns of the first episode of its source; empty for all."""
    ancestors: tuple[Ancestor, ...]
    """Nearest first."""
    versions: tuple[Version, ...]
    """Oldest first."""
    num_shown: int
    """Recalls that showed it."""
    num_hidden: int
    """Recalls in which it was a candidate and was not shown."""
    utility: Utility


def why(store: MemoryStore, memory_id: str) -> Why:
    """Everything on record about a memory.

    Raises:
        RecordError: There is no such memory, or it is forgotten.
    """
    with store.database.reading() as connection:
        query = (
            select(memories, writes.c.what)
            .join_from(memories, writes, writes.c.number == memories.c.write, isouter=True)
            .where(memories.c.id == memory_id)
            .order_by(memories.c.seq)
        )
        rows = connection.execute(query).all()
        if not rows or not rows[-1].draft:
            gone = (
                "is forgotten: only its id is left"
                if rows
                else "is not in this store; `agentkit memory search` lists ids"
            )
            raise RecordError(f"memory {memory_id!r} {gone}")
        memory = memory_of(rows[-1])
        ancestors = _ancestors(connection, memory)
    versions = tuple(
        Version(
            version=row.version,
            status=row.status,
            recorded_s=row.recorded_s,
            write=row.write,
            what=row.what or "",
            valid_from=row.valid_from,
            valid_to=row.valid_to,
            forgotten=not row.draft,
        )
        for row in rows
    )
    episodes = (*memory.source.episode_ids, *(id for one in ancestors for id in one.episode_ids))
    utility = store.ledger.utilities([memory_id])[memory_id]
    shown = store.ledger.shown(memory_id)
    return Why(
        id=memory_id,
        kind=memory.kind,
        status=memory.status,
        reasons=tuple(_reasons(memory, versions, ancestors, utility)),
        source=memory.source,
        episode_ids=tuple(dict.fromkeys(episodes)),
        turns=memory.source.turns,
        ancestors=ancestors,
        versions=versions,
        num_shown=shown.shown,
        num_hidden=shown.hidden,
        utility=utility,
    )


def _ancestors(connection: Connection, memory: Memory) -> tuple[Ancestor, ...]:
    found: list[Ancestor] = []
    seen, level, depth = {memory.id}, memory.source.parents, 1
    while level:
        wanted = [id for id in dict.fromkeys(level) if id not in seen]
        seen.update(wanted)
        row_of = {}
        for start in range(0, len(wanted), 500):  # databases limit the parameters of one statement
            some = memories.c.id.in_(wanted[start : start + 500])
            query = select(memories.c.id, memories.c.draft).where(some, memories.c.ended.is_(None))
            row_of.update({id: json.loads(draft) for id, draft in connection.execute(query) if draft})
        level = ()
        for id in wanted:
            said = row_of.get(id)
            source = said["source"] if said else {}
            found.append(
                Ancestor(
                    id=id,
                    depth=depth,
                    kind=said["body"]["kind"] if said else None,
                    status=said["status"] if said else None,
                    episode_ids=tuple(source.get("episode_ids", ())),
                    text=(said["text"].splitlines() or [""])[0] if said else "",
                )
            )
            level = (*level, *source.get("parents", ()))
        depth += 1
    return tuple(found)


def _reasons(
    memory: Memory, versions: tuple[Version, ...], ancestors: tuple[Ancestor, ...], utility: Utility
) -> list[str]:
    since = versions[-1]
    for version in reversed(versions):
        if version.status != memory.status:
            break
        since = version
    reasons = [f"{memory.status} since write {since.write} ({since.what})"]
    if memory.valid_to is not None:
        reasons.append(f"holds in the world up to {memory.valid_to:g} (Unix time)")
    if utility.harmful:
        reasons.append(f"proved harmful (evidence {utility.harm:.0f}, {utility.num_shown} times shown)")
    elif utility.low > 0:
        reasons.append(f"helps: success {utility.uplift:+.2f}, at least {utility.low:+.2f}")
    elif not utility.num_shown + utility.num_hidden:
        reasons.append("worth unknown: no coin was tossed for it in an episode with an outcome")
    lost = [one.id for one in ancestors if one.status not in ("active", "probation")]
    if lost:
        reasons.append(f"made from {lost[0]}, which is no longer recalled" + (", and others" if lost[1:] else ""))
    return reasons
