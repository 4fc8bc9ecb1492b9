"""The journal of a memory store: every version of every memory, the vectors of its keys, and what came of them.

A write appends versions; the one before ends where the next begins, so the store as it was at any sequence number can
be read. Nothing is changed but the end of a version, and nothing removed but by `forget`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Row, case, delete, func, insert, or_, select

from agentkit.errors import RecordError
from agentkit.memory.kinds import Draft, Memory
from agentkit.memory.layout import keys, memories, snapshots, state, vectors, writes


def memory_of(row: Row[Any], score: float | None = None) -> Memory:
    """The memory in a row of the journal."""
    return Memory(**json.loads(row.draft), id=row.id, version=row.version, recorded_s=row.recorded_s, score=score)


def memory_id(draft: Draft) -> str:
    """The id of a memory: a hash of its identity, equal in every store."""
    return "m-" + _hash(*draft.identity)


def draft_text(draft: Draft) -> str:
    """A draft as the journal keeps it: JSON."""
    return draft.model_dump_json(include=set(Draft.model_fields))


def digest_of(id: str, version: int, draft: str) -> str:
    """Hash of what a version says."""
    return _hash(id, str(version), draft)


def link(chain: str, digest: str) -> str:
    """The chain one version further."""
    return _hash(chain, digest)


def text_digest(text: str) -> bytes:
    """What a text of a key is known by."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _hash(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


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
    """Sequence number of the newest version; 0 if there is none."""
    return connection.execute(select(func.max(memories.c.seq))).scalar() or 0


def held_at(seq: int) -> list[ColumnElement[bool]]:
    """Conditions on the versions that were the current ones at a sequence number, be they recalled or not."""
    return [memories.c.seq <= seq, or_(memories.c.ended.is_(None), memories.c.ended > seq)]


def last_vector(connection: Connection) -> int:
    """Number of the newest vector; 0 if there is none."""
    return connection.execute(select(func.max(vectors.c.number))).scalar() or 0


def keys_in(connection: Connection, scope: Sequence[ColumnElement[bool]]) -> np.ndarray:
    """[N, 2] sequence number and vector of every key of the memories in scope."""
    query = select(keys.c.seq, keys.c.vector).join_from(keys, memories, keys.c.seq == memories.c.seq).where(*scope)
    flat = list(itertools.chain.from_iterable(connection.execute(query).all()))
    return np.array(flat, np.int64).reshape(-1, 2)


def count_keys(connection: Connection, scope: Sequence[ColumnElement[bool]], most: int) -> int:
    """Number of the keys of the memories in scope; counted up to `most`."""
    some = select(keys.c.seq).join_from(keys, memories, keys.c.seq == memories.c.seq).where(*scope).limit(most)
    return connection.execute(select(func.count()).select_from(some.subquery())).scalar_one()


def best_of(connection: Connection, score_of: Mapping[int, float], k: int) -> list[int]:
    """The `k` sequence numbers of the greatest scores, equals in the order of their memories' ids."""
    if len(score_of) <= 1:
        return list(score_of)[:k]
    least = sorted(score_of.values(), reverse=True)[:k][-1]
    id_of: dict[int, str] = {}
    near = [seq for seq, score in score_of.items() if score >= least]
    for start in range(0, len(near), 500):  # databases limit the parameters of one statement
        query = select(memories.c.seq, memories.c.id).where(memories.c.seq.in_(near[start : start + 500]))
        id_of.update((seq, id) for seq, id in connection.execute(query))
    return sorted(id_of, key=lambda seq: (-score_of[seq], id_of[seq]))[:k]


def rows_of(connection: Connection, seqs: Sequence[int]) -> list[Row[Any]]:
    """The versions of these sequence numbers, in any order."""
    found: list[Row[Any]] = []
    for start in range(0, len(seqs), 500):  # databases limit the parameters of one statement
        some = memories.c.seq.in_(list(seqs[start : start + 500]))
        found += connection.execute(select(memories).where(some)).all()
    return found


def read_vectors(
    connection: Connection, where: Sequence[ColumnElement[bool]], dim: int
) -> tuple[list[int], np.ndarray]:
    """Numbers of the vectors that meet all conditions, in order, and the vectors [N, dim]."""
    query = select(vectors.c.number, vectors.c.embedding).where(*where).order_by(vectors.c.number)
    rows = connection.execute(query).all()
    data = b"".join([row[1] for row in rows])
    if len(data) != len(rows) * dim * 4:
        raise RecordError(
            f"the memory journal holds vectors that are not {dim} numbers long; call `verify()` for which, "
            "and restore the store from a copy or make it anew from the episode log with `sync`"
        )
    matrix = np.frombuffer(data, np.float32).reshape(len(rows), dim)
    return [row[0] for row in rows], matrix


def known_texts(connection: Connection, texts: Sequence[str]) -> dict[str, int]:
    """Those of the texts that have a vector -> its number."""
    text_of = {text_digest(text): text for text in texts}
    digests, found = list(text_of), dict[str, int]()
    for start in range(0, len(digests), 500):  # databases limit the parameters of one statement
        some = vectors.c.digest.in_(digests[start : start + 500])
        query = select(vectors.c.digest, vectors.c.number).where(some)
        found.update((text_of[digest], number) for digest, number in connection.execute(query))
    return found


def pages(connection: Connection, size: int) -> Iterator[Sequence[Row[Any]]]:
    """All vectors in order, `size` rows at a time."""
    after = 0
    while True:
        query = select(vectors).where(vectors.c.number > after).order_by(vectors.c.number).limit(size)
        rows = connection.execute(query).all()
        if not rows:
            return
        yield rows
        after = rows[-1].number


def append(
    connection: Connection,
    what: str,
    versions: Sequence[Memory],
    embeddings: Mapping[str, bytes],
    fingerprint: str,
    time_s: float,
) -> int:
    """Append versions as one write and end those that they follow; returns its number, 0 if there are none.

    Of several versions of one memory, each ends where the next begins.

    Args:
        connection: A transaction that writes.
        what: What the write is, in words.
        versions: What to append.
        embeddings: The vector of every text of their keys that has none yet.
        fingerprint: Of the embedder.
        time_s: Unix time.
    """
    if not versions:
        return 0
    seq = last_seq(connection)
    chain = chain_at(connection, seq)
    number = (connection.execute(select(func.max(writes.c.number))).scalar() or 0) + 1
    connection.execute(insert(writes), {"number": number, "time_s": time_s, "what": what})
    new = [
        {"digest": text_digest(text), "text": text, "fingerprint": fingerprint, "embedding": embedding}
        for text, embedding in embeddings.items()
    ]
    if new:
        connection.execute(insert(vectors), new)
    number_of = known_texts(connection, sorted({text for memory in versions for text in memory.keys.values()}))
    rows, key_rows = [], []
    begins: dict[str, int] = {}  # where the first version of each memory begins, and so the one before it ends
    newest: dict[str, dict[str, Any]] = {}
    for memory in versions:
        seq, text = seq + 1, draft_text(memory)
        digest = digest_of(memory.id, memory.version, text)
        chain = link(chain, digest)
        columns = {name: getattr(memory, name) for name in _COLUMNS}
        row = {
            **columns,
            "seq": seq,
            "ended": None,
            "write": number,
            "source_name": memory.source.name,
            "draft": text,
            "digest": digest,
            "chain": chain,
        }
        if memory.id in newest:
            newest[memory.id]["ended"] = seq
        newest[memory.id] = row
        rows.append(row)
        begins.setdefault(memory.id, seq)
        key_rows += [{"seq": seq, "field": field, "vector": number_of[text]} for field, text in memory.keys.items()]
    end = "UPDATE versions SET ended = :seq WHERE id = :id AND ended IS NULL"
    connection.exec_driver_sql(end, [{"id": id, "seq": seq} for id, seq in begins.items()])
    connection.execute(insert(memories), rows)
    if key_rows:
        connection.execute(insert(keys), key_rows)
    return number


_COLUMNS = (
    *("id", "version", "recorded_s", "kind", "status", "namespace", "env_id", "task_key", "split"),
    *("valid_from", "valid_to"),
)


def current(connection: Connection, ids: Sequence[str]) -> dict[str, Row[Any]]:
    """The newest version of each id that is known."""
    found: dict[str, Row[Any]] = {}
    for start in range(0, len(ids), 500):  # databases limit the parameters of one statement
        query = select(memories).where(memories.c.id.in_(list(ids[start : start + 500])), memories.c.ended.is_(None))
        found.update({row.id: row for row in connection.execute(query)})
    return found


def written_as(connection: Connection, what: str) -> list[Row[Any]]:
    """The newest versions of what writes of that name wrote, in the order of the first writing."""
    touched = select(memories.c.id, func.min(memories.c.seq).label("place")).join(
        writes, writes.c.number == memories.c.write
    )
    first = touched.where(writes.c.what == what).group_by(memories.c.id).subquery()
    query = select(memories).join(first, first.c.id == memories.c.id).where(memories.c.ended.is_(None))
    return list(connection.execute(query.order_by(first.c.place)))


def of_run(connection: Connection, run: str) -> list[Row[Any]]:
    """All versions whose source names that run, or a checkpoint of that thread, oldest first."""
    # forgotten versions hold no JSON, and the order of conditions is the database's own
    source = case((memories.c.draft != "", func.json_extract(memories.c.draft, "$.source.run")), else_="")
    within = func.substr(source, 1, len(run) + 1) == f"{run}/"
    return list(connection.execute(select(memories).where(or_(source == run, within)).order_by(memories.c.seq)))


def chain_at(connection: Connection, seq: int) -> str:
    """The chain up to the version numbered `seq`; `empty` for 0, and for a number that is not there."""
    return connection.execute(select(memories.c.chain).where(memories.c.seq == seq)).scalar() or "empty"


def snapshot_seq(connection: Connection, snapshot: str) -> int:
    """The sequence number up to which a snapshot sees; `snapshot` is one's id or its name.

    Raises:
        RecordError: It is no snapshot of this store.
    """
    named = connection.execute(select(snapshots.c.snapshot).where(snapshots.c.name == snapshot)).scalar()
    number, _, chain = (named or snapshot).partition("-")
    seq = int(number) if number.isdecimal() else -1
    if seq < 0 or (seq == 0) != (chain == "empty") or chain_at(connection, seq) != chain:
        raise RecordError(
            f"{snapshot!r} is no snapshot of this memory store; pass what `snapshot()` of this store returned, or the "
            "name that it was given"
        )
    return seq
