"""ChromaMemoryStore: a LangGraph store (`BaseStore`) in a folder, searched by meaning.

SQLite holds items and vectors and decides every answer. Chroma is asked only where more vectors would have to be
compared than is quick, and then only for candidates; it can be deleted and is made anew.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
)
from sqlalchemy import ColumnElement, Connection, Row, func, select

from agentkit.errors import ConfigError, RecordError, unknown_name
from agentkit.memory import graph_rows as rows
from agentkit.memory.database import Database
from agentkit.memory.graph_rows import JOINT, Change, Name
from agentkit.memory.graph_vectors import CachedVectors, Indexing, Proposer, Vectors, Wish, texts_at
from agentkit.memory.lock import FolderLock

_THREADS = 4


class ChromaMemoryStore(BaseStore):
    """LangGraph's long-term memory, kept in a folder that this object owns.

    Use it where LangGraph takes a store: `graph.compile(store=ChromaMemoryStore(folder, index=...))`. A batch is one
    transaction: its reads see the state before its puts, and of several puts of one item the last counts. What a
    call has acknowledged survives the death of the process.

    * Without a query, items come last changed first, then by key, then by namespace, as from LangGraph's database
      stores (its `InMemoryStore` keeps the order of insertion). With one, by cosine similarity of their most similar
      vector, to six decimals, ties in that same order; items without a vector follow, with score None.
    * A put of what is there already changes nothing but the item's time to live, so a node that LangGraph runs again
      leaves no trace. Values are kept as JSON: tuples come back as lists.
    * An item is gone from the minute its time to live is over; puts and opening delete such items for good.

    Args:
        folder: Made if it is not there.
        index: What to embed and how, as for every LangGraph store: `dims`, `embed` (function, async function,
            LangChain `Embeddings`, or an `Embedder` of agentkit), `fields` (paths; the whole value by default).
            None: no search by meaning.
        ttl: `default_ttl` in minutes and `refresh_on_read`.
        exact_limit: Up to this many vectors in scope are compared one by one; with more, Chroma proposes, which is
            approximate: it may miss one, and picks among more equally similar items than fit.
        durable: False survives the death of the process; True also a power loss, for one disk flush a write.
        clock: Unix seconds.

    Raises:
        OwnedElsewhereError: Another process, or another object in this one, has the folder open.
        ConfigError: The settings are malformed, or the folder's vectors were made by another embedder.
        RecordError: The folder cannot be read or written.
    """

    supports_ttl = True

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        exact_limit: int = 20_000,
        durable: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = Path(folder).expanduser()
        self.ttl_config = _checked_ttl(ttl)
        self._index = None if index is None else Indexing(index)
        self._exact_limit = exact_limit
        self._clock = clock
        self._lock = FolderLock(self.folder)
        try:
            self._database = Database(self.folder / "graph.sqlite", rows.tables, durable=durable)
            with self._database.writing() as connection:
                if self._index is not None:
                    self._index.claim(connection)
                rows.sweep(connection, clock())
                columns = (func.max(rows.items.c.updated), func.max(rows.items.c.expires))
                newest, expires = connection.execute(select(*columns)).one()
        except BaseException:
            self._lock.close()
            raise
        self._updated = newest or 0.0
        self._any_expires = expires is not None
        dims = 0 if self._index is None else self._index.dims
        self._chroma = Proposer(self.folder / "chroma", self._database, dims)
        self._vectors = CachedVectors(dims)
        self._pool = ThreadPoolExecutor(_THREADS, "graph-store")
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Results of the operations, in their order.

        Raises:
            asyncio.InvalidStateError: Called on an event loop that uses the store asynchronously, which it would block.
            ConfigError: An operation is malformed; nothing of the batch has been done.
        """
        self._refuse_on_loop()
        steps = self._steps(list(ops))
        wish, results = _advance(steps, None)
        while wish is not None:
            wish, results = _advance(steps, wish.grant())
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Results of the operations, in their order; files and embedder are used in threads, four at most."""
        loop = asyncio.get_running_loop()
        self._loops.add(loop)
        steps = self._steps(list(ops))
        wish, results = await loop.run_in_executor(self._pool, _advance, steps, None)
        while wish is not None:
            answer = await wish.agrant()
            wish, results = await loop.run_in_executor(self._pool, _advance, steps, answer)
        return results

    def rebuild(self) -> None:
        """Forget Chroma's files; the next search that needs them makes new ones from the journal."""
        self._lock.check()
        self._chroma.restart()

    def close(self) -> None:
        """Wait for what is under way and give the folder back; harmless if done twice."""
        self._pool.shutdown()
        try:
            self._lock.check()
        except RecordError:
            return
        self._chroma.close()
        self._database.close()
        self._lock.close()

    def __enter__(self) -> ChromaMemoryStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse_on_loop(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if loop in self._loops:
            raise asyncio.InvalidStateError(
                "a synchronous call of the store would block the event loop that it is used on; "
                "await the asynchronous one: `aget` for `get`, `aput` for `put`, and so on"
            )

    def _steps(self, ops: list[Op]) -> Generator[Wish, Vectors, list[Result]]:
        """A batch as the steps between its wishes for vectors: one course for the sync and the async caller."""
        self._lock.check()
        changes = self._changes(ops)
        queries = self._queries(ops)
        known = Vectors({}, {})
        while True:
            lacking = self._lacking(changes, known) if self._index is not None else []
            if self._index is not None and (lacking or queries - known.queries.keys()):
                wish = self._index.wish(lacking, sorted(queries - known.queries.keys()))
                found = yield wish
                self._index.check(found, self._database)
                known = known.joined(found)
            if queries and self._wants_chroma(ops):
                self._chroma.catch_up()
            results = self._run(ops, changes, known)
            if results is not None:
                return results

    def _changes(self, ops: Sequence[Op]) -> list[Change]:
        changes: dict[Name, Change] = {}
        for op in ops:
            _check_op(op)
            if isinstance(op, PutOp):
                change = self._change(op)
                changes[change.name] = change
        return list(changes.values())

    def _change(self, op: PutOp) -> Change:
        name = (JOINT.join(op.namespace), op.key)
        if op.value is None:
            return Change(name, None, "[]", None, {})
        value = _json_of(op)
        paths = [] if self._index is None else self._index.paths(op)
        texts = texts_at(json.loads(value), paths) if paths else {}
        return Change(name, value, json.dumps(paths), op.ttl, texts)

    def _queries(self, ops: Sequence[Op]) -> set[str]:
        if self._index is None:
            return set()
        return {op.query for op in ops if isinstance(op, SearchOp) and op.query}

    def _lacking(self, changes: Sequence[Change], known: Vectors) -> list[str]:
        """Texts to embed for items that are not there already."""
        waiting = [change for change in changes if not change.has_all(known.texts)]
        if not waiting:
            return []
        with self._database.reading() as connection:
            there = rows.items_named(connection, [change.name for change in waiting], self._clock())
        new = (change for change in waiting if not change.same_as(there.get(change.name)))
        return list(dict.fromkeys(text for change in new for text in change.texts.values()))

    def _wants_chroma(self, ops: Sequence[Op]) -> bool:
        """Whether a search by meaning has more in scope than is compared one by one."""
        with self._database.reading() as connection:
            return any(
                rows.num_vectors(connection, op.namespace_prefix) > self._exact_limit
                for op in ops
                if isinstance(op, SearchOp) and op.query
            )

    def _run(self, ops: Sequence[Op], changes: Sequence[Change], known: Vectors) -> list[Result] | None:
        """The transaction; None if an item was changed meanwhile, so that a vector is lacking."""
        with self._transaction(ops, changes) as connection:
            now = self._clock()
            waiting = [change for change in changes if not change.has_all(known.texts)]
            there = rows.items_named(connection, [change.name for change in waiting], now)
            if not all(change.same_as(there.get(change.name)) for change in waiting):
                return None
            results = [self._answer(connection, op, known, now) for op in ops]
            if changes:
                rows.sweep(connection, now)
                self._updated = max(now, self._updated + 1e-6)  # one batch after another, whatever the clock does
                self._any_expires |= any(change.ttl_minutes is not None for change in changes)
                rows.apply_changes(connection, changes, known.texts, now, self._updated)
        return results

    def _transaction(self, ops: Sequence[Op], changes: Sequence[Change]) -> AbstractContextManager[Connection]:
        """One that writes where something is put, or the time to live of what is read starts anew."""
        refreshes = self._any_expires and any(getattr(op, "refresh_ttl", False) for op in ops)
        return self._database.writing() if changes or refreshes else self._database.reading()

    def _answer(self, connection: Connection, op: Op, known: Vectors, now: float) -> Result:
        if isinstance(op, GetOp):
            row = rows.item_at(connection, (JOINT.join(op.namespace), op.key), now)
            if row is not None and op.refresh_ttl:
                rows.refresh(connection, [row], now)
            return None if row is None else Item(**_fields(row))
        if isinstance(op, SearchOp):
            found = self._search(connection, op, known.queries.get(op.query or ""), now)
            if op.refresh_ttl:
                rows.refresh(connection, [row for row, _ in found], now)
            return [SearchItem(**_fields(row), score=score) for row, score in found]
        return _namespaces(connection, op, now) if isinstance(op, ListNamespacesOp) else None

    def _search(
        self, connection: Connection, op: SearchOp, query: np.ndarray | None, now: float
    ) -> list[tuple[Row[Any], float | None]]:
        scope = [rows.within(rows.items, op.namespace_prefix), rows.alive(now)]
        stop = op.offset + op.limit
        if query is None or stop == 0:
            return [(row, None) for row in rows.listed(connection, scope, op.filter, op.offset, stop)]
        scores = self._scores(connection, op, scope, query)
        found = [(row, scores[name]) for name, row in rows.items_named(connection, list(scores), now).items()]
        found.sort(key=lambda pair: (-pair[1], -pair[0].updated, pair[0].key, pair[0].ns))
        page: list[tuple[Row[Any], float | None]] = list(found[op.offset : stop])
        if len(found) < stop:  # all that have vectors are in, so the others follow
            bare = [*scope, rows.without_vectors()]
            start = max(0, op.offset - len(found))
            page += [(row, None) for row in rows.listed(connection, bare, op.filter, start, stop - len(found))]
        return page

    def _scores(
        self, connection: Connection, op: SearchOp, scope: Sequence[ColumnElement[bool]], query: np.ndarray
    ) -> dict[Name, float]:
        """Scores of the best items up to the end of the page asked for, and maybe of others; or of all there are."""
        num = op.offset + op.limit
        names = None
        if op.filter:
            names = rows.names_that_meet(connection, scope, op.filter)
        size = rows.num_vectors(connection, op.namespace_prefix) if names is None else len(names)
        if size > self._exact_limit:
            names = self._chroma.propose(connection, scope, names, query, num) or names
        vectors = rows.vectors_in(connection, scope) if names is None else rows.vectors_of(connection, names)
        if not vectors:
            return {}
        matrix = self._vectors.of(connection, [vec_id for vec_id, _ in vectors])
        return {name: score for score, name in rows.best([name for _, name in vectors], matrix, query, num)}


def _advance(steps: Generator[Wish, Vectors, list[Result]], answer: Any) -> tuple[Wish | None, list[Result]]:
    """The next wish of a batch, or None and its results."""
    try:
        return steps.send(answer), []
    except StopIteration as end:
        return None, end.value


def _namespaces(connection: Connection, op: ListNamespacesOp, now: float) -> list[tuple[str, ...]]:
    found = {
        namespace[: op.max_depth]
        for namespace in rows.namespaces(connection, now)
        if all(_matches(namespace, condition) for condition in op.match_conditions or ())
    }
    return sorted(found)[op.offset : op.offset + op.limit]


def _matches(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    wanted = condition.path
    if len(namespace) < len(wanted):
        return False
    labels = namespace[: len(wanted)] if condition.match_type == "prefix" else namespace[-len(wanted) :]
    return all(want in ("*", label) for label, want in zip(labels, wanted, strict=False))


def _fields(row: Row[Any]) -> dict[str, Any]:
    return {
        "namespace": tuple(row.ns.split(JOINT)),
        "key": row.key,
        "value": json.loads(row.value),
        "created_at": rows.moment(row.created),
        "updated_at": rows.moment(row.updated),
    }


def _json_of(op: PutOp) -> str:
    try:
        return json.dumps(dict(op.value or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the value of {op.key!r} in {op.namespace} cannot be kept as JSON ({error}); store texts, finite numbers, "
            "booleans, None, lists and mappings of these"
        ) from error


def _check_op(op: Op) -> None:
    if isinstance(op, GetOp | PutOp):
        _check_labels(op.namespace)
        _check_text("key", op.key)
    if isinstance(op, PutOp):
        if not op.namespace:
            raise InvalidNamespaceError("an item needs a namespace of at least one label")
        if op.ttl is not None and not (op.ttl > 0 and math.isfinite(op.ttl)):
            raise ConfigError(f"ttl={op.ttl!r} of {op.key!r}: give minutes above 0, or None for no end")
    elif isinstance(op, SearchOp):
        _check_labels(op.namespace_prefix)
        rows.check_condition(op.filter or {})
    elif isinstance(op, ListNamespacesOp):
        for condition in op.match_conditions or ():
            _check_labels(condition.path)
            if condition.match_type not in ("prefix", "suffix"):
                raise ConfigError(f"namespaces match by 'prefix' or 'suffix', not by {condition.match_type!r}")
    elif not isinstance(op, GetOp):
        raise ConfigError(f"{op!r} is no operation of a LangGraph store; give GetOp, PutOp, SearchOp, ListNamespacesOp")
    if isinstance(op, SearchOp | ListNamespacesOp) and min(op.limit, op.offset) < 0:
        raise ConfigError(f"limit={op.limit}, offset={op.offset}: give numbers from 0")


def _check_labels(namespace: Sequence[str]) -> None:
    for label in namespace:
        if not isinstance(label, str) or not label or set(label) & {".", "\x00", JOINT}:
            raise InvalidNamespaceError(
                f"{label!r} in {tuple(namespace)} is no label of a namespace; give texts that are not empty and hold "
                "neither a period nor the characters 0 and 31"
            )
        _check_text("label", label)


def _check_text(what: str, text: Any) -> None:
    try:
        text.encode()
    except (AttributeError, UnicodeEncodeError) as error:
        raise ConfigError(f"the {what} {text!r} is no Unicode text") from error


def _checked_ttl(ttl: TTLConfig | None) -> TTLConfig | None:
    for key, value in (ttl or {}).items():
        if key not in ("default_ttl", "refresh_on_read", "omit_expired"):
            raise unknown_name("time-to-live setting", key, ["default_ttl", "refresh_on_read", "omit_expired"])
        if key == "omit_expired" and not value:
            raise ConfigError("ttl={'omit_expired': False}: this store never returns expired items; leave it out")
    return ttl
