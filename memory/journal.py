"""The journal of a memory store: every memory with its vector, and what is known of the index beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
)

from agentkit.errors import RecordError
from agentkit.memory.records import Record

LAYOUT_VERSION = 1
"""Version of the tables below."""

tables = MetaData()
state = Table("state", tables, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))
memories = Table(
    "memories",
    tables,
    Column("seq", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("log_seq", Integer),
    Column("episode_id", Text, nullable=False, unique=True),
    Column("env_id", Text, nullable=False),
    Column("task_key", Text, nullable=False),
    Column("split", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("chain", Text, nullable=False),
    Column("embedding", LargeBinary, nullable=False),
    Index("memories_of_env", "env_id", "seq"),
)
"""`chain` is a hash over this memory and all before it, so that a snapshot can be named by what it holds."""


class Memory(Record):
    """One memory: a past success at some task."""

    id: str
    """Unique in its store; the same episode gets the same id in every store."""
    episode_id: str
    """The episode it was made from, in the log."""
    log_seq: int | None = None
    """Sequence number of that episode, if known."""
    env_id: str
    task_key: str
    """`Task.key` of the task that was solved."""
    split: str
    """Split of that task."""
    key: str
    """What it is found by: the first observation."""
    text: str
    """What to show: first observation, actions, outcome."""
    score: float | None = None
    """Cosine similarity of its key to the query, -1 to 1; None outside a recall."""


def memory_of(row: Row[Any], score: float | None = None) -> Memory:
    """The memory in a row of the journal."""
    fields = {name: getattr(row, name) for name in Memory.model_fields if name != "score"}
    return Memory(**fields, score=score)


def memory_id(episode_id: str) -> str:
    """The id of the memory of an episode."""
    return "m-" + hashlib.blake2b(episode_id.encode(), digest_size=8).hexdigest()


def link(chain: str, id: str, text: str) -> str:
    """The chain one memory further."""
    return hashlib.blake2b(f"{chain}\0{id}\0{text}".encode(), digest_size=8).hexdigest()


def read_state(connection: Connection) -> dict[str, str]:
    """Everything in the state table."""
    return {row.key: row.value for row in connection.execute(select(state))}


def write_state(connection: Connection, **values: object) -> None:
    """Set keys of the state table; None removes a key."""
    connection.execute(delete(state).where(state.c.key.in_(list(values))))
    rows = [{"key": key, "value": str(value)} for key, value in values.items() if value is not None]
    if rows:
        connection.execute(insert(state), rows)


def last_seq(connection: Connection) -> int:
    """Sequence number of the newest memory; 0 if there is none."""
    return connection.execute(select(func.max(memories.c.seq))).scalar() or 0


def vectors(connection: Connection, where: Sequence[ColumnElement[bool]], dim: int) -> tuple[list[str], np.ndarray]:
    """Ids and vectors [N, dim] of the memories that meet all conditions, in order of age."""
    query = select(memories.c.id, memories.c.embedding).where(*where).order_by(memories.c.seq)
    rows = connection.execute(query).all()
    data = b"".join([row[1] for row in rows])
    if len(data) != len(rows) * dim * 4:
        raise RecordError(
            f"the memory journal holds vectors that are not {dim} numbers long; call `verify()` for which, "
            "and restore the store from a copy or make it anew from the episode log with `sync`"
        )
    return [row[0] for row in rows], np.frombuffer(data, np.float32).reshape(len(rows), dim)


def pages(connection: Connection, size: int) -> Iterator[Sequence[Row[Any]]]:
    """All memories, oldest first, `size` rows at a time."""
    after = 0
    while True:
        query = select(memories).where(memories.c.seq > after).order_by(memories.c.seq).limit(size)
        rows = connection.execute(query).all()
        if not rows:
            return
        yield rows
        after = rows[-1].seq


def chain_at(connection: Connection, seq: int) -> str:
    """The chain up to the memory numbered `seq`; `empty` for 0, and for a number that is not there."""
    return connection.execute(select(memories.c.chain).where(memories.c.seq == seq)).scalar() or "empty"


def snapshot_seq(connection: Connection, snapshot: str) -> int:
    """The sequence number up to which a snapshot sees.

    Raises:
        RecordError: It is no snapshot of this store.
    """
    number, _, chain = snapshot.partition("-")
    seq = int(number) if number.isdecimal() else -1
    if seq < 0 or (seq == 0) != (chain == "empty") or chain_at(connection, seq) != chain:
        raise RecordError(
            f"{snapshot!r} is no snapshot of this memory store; pass what `snapshot()` of this store returned"
        )
    return seq
