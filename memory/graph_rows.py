"""Rows of a LangGraph store: items, the vectors of their texts, and the questions asked of both.

A namespace is one text, its labels joined by a character that no label may hold, so a prefix is a range of the key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Table,
    Text,
    and_,
    cast,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    true,
    tuple_,
    update,
)

from agentkit.errors import ConfigError

JOINT = "\x1f"
"""Stands between the labels of a namespace."""
_PAGE = 400
"""Names in one statement; databases limit the parameters."""

tables = MetaData()
state = Table("state", tables, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))
items = Table(
    "items",
    tables,
    Column("ns", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("paths", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("expires", Float),
    Column("ttl_minutes", Float),
    Index("items_by_expiry", "expires"),
)
"""`value` and `paths` (what of it is embedded) are JSON; the times are Unix seconds."""
item_vectors = Table(
    "item_vectors",
    tables,
    Column("vec_id", Integer, primary_key=True),
    Column("ns", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("embedding", LargeBinary, nullable=False),
    Index("item_vectors_by_item", "ns", "key"),
    sqlite_autoincrement=True,  # or Chroma could take a new vector for a deleted one
)
"""`embedding` is float32, as the embedder gave it; `path` says which text of the item it is of."""
gone_vectors = Table("gone_vectors", tables, Column("vec_id", Integer, primary_key=True))
"""Deleted vectors that Chroma may still have; up to the number `applied` of the state it was told of every vector."""

Name = tuple[str, str]
"""Namespace, as one text, and key: the name of an item."""


@dataclass(frozen=True)
class Change:
    """What one put makes of an item."""

    name: Name
    value: str | None
    """JSON; None deletes."""
    paths: str
    """JSON list of the paths to embed."""
    ttl_minutes: float | None
    texts: Mapping[str, str]
    """Path -> text to embed."""

    def has_all(self, vectors: Mapping[str, object]) -> bool:
        """Whether all its texts have a vector."""
        return all(text in vectors for text in self.texts.values())

    def same_as(self, row: Row[Any] | None) -> bool:
        """Whether the item in `row` is already what this put makes of it, but for its time to live."""
        return row is not None and (row.value, row.paths) == (self.value, self.paths)


def read_state(connection: Connection) -> dict[str, str]:
    """Everything in the state table."""
    return {row.key: row.value for row in connection.execute(select(state))}


def write_state(connection: Connection, **values: object) -> None:
    """Set keys of the state table."""
    connection.execute(delete(state).where(state.c.key.in_(list(values))))
    connection.execute(insert(state), [{"key": key, "value": str(value)} for key, value in values.items()])


def alive(now: float) -> ColumnElement[bool]:
    """The condition on items not to have expired."""
    return or_(items.c.expires.is_(None), items.c.expires > now)


def within(table: Table, prefix: Sequence[str]) -> ColumnElement[bool]:
    """The condition on rows of a table to be in a namespace or below it."""
    if not prefix:
        return true()
    ns = JOINT.join(prefix)
    below = and_(table.c.ns > ns + JOINT, table.c.ns < ns + chr(ord(JOINT) + 1))
    return or_(table.c.ns == ns, below)


def without_vectors() -> ColumnElement[bool]:
    """The condition on items to have no vector."""
    return ~exists().where(_of_the_item)


def item_at(connection: Connection, name: Name, now: float) -> Row[Any] | None:
    """The item of a name, unless it has expired."""
    named = (items.c.ns == name[0], items.c.key == name[1])
    return connection.execute(select(items).where(*named, alive(now))).first()


def items_named(connection: Connection, names: Sequence[Name], now: float) -> dict[Name, Row[Any]]:
    """The items of these names that have not expired."""
    found: dict[Name, Row[Any]] = {}
    for page in _pages(names):
        rows = connection.execute(select(items).where(tuple_(items.c.ns, items.c.key).in_(page), alive(now)))
        found.update({(row.ns, row.key): row for row in rows})
    return found


def listed(
    connection: Connection,
    scope: Sequence[ColumnElement[bool]],
    condition: Mapping[str, Any] | None,
    start: int,
    stop: int,
) -> list[Row[Any]]:
    """Items of the scope that meet the condition, last changed first, from the `start`-th to before the `stop`-th."""
    query = select(items).where(*scope).order_by(*_LAST_CHANGED_FIRST)
    if not condition:
        return list(connection.execute(query.offset(start).limit(stop - start)))
    found: list[Row[Any]] = []
    for row in connection.execute(query.where(*_equal_texts(condition))):
        if len(found) == stop:
            break
        if meets(json.loads(row.value), condition):
            found.append(row)
    return found[start:]


def names_that_meet(
    connection: Connection, scope: Sequence[ColumnElement[bool]], condition: Mapping[str, Any]
) -> list[Name]:
    """Names of the items of the scope that meet the condition."""
    rows = connection.execute(select(items.c.ns, items.c.key, items.c.value).where(*scope, *_equal_texts(condition)))
    return [(row.ns, row.key) for row in rows if meets(json.loads(row.value), condition)]


def namespaces(connection: Connection, now: float) -> list[tuple[str, ...]]:
    """All namespaces that hold an item."""
    found = connection.execute(select(items.c.ns).distinct().where(alive(now))).scalars()
    return [tuple(ns.split(JOINT)) for ns in found]


def num_vectors(connection: Connection, prefix: Sequence[str]) -> int:
    """How many vectors a namespace and those below it hold, expired ones included."""
    return int(
        connection.execute(
            select(func.count()).select_from(item_vectors).where(within(item_vectors, prefix))
        ).scalar_one()
    )


def vectors_of(connection: Connection, names: Sequence[Name]) -> list[tuple[int, Name]]:
    """Numbers of all vectors of the named items, in order, and whose they are."""
    found: list[tuple[int, Name]] = []
    columns = (item_vectors.c.vec_id, item_vectors.c.ns, item_vectors.c.key)
    for page in _pages(names):
        rows = connection.execute(select(*columns).where(tuple_(*columns[1:]).in_(page)))
        found += [(vec_id, (ns, key)) for vec_id, ns, key in rows]
    return sorted(found)


def vectors_in(connection: Connection, scope: Sequence[ColumnElement[bool]]) -> list[tuple[int, Name]]:
    """Numbers of all vectors of the items of the scope, in order, and whose they are."""
    columns = (item_vectors.c.vec_id, item_vectors.c.ns, item_vectors.c.key)
    joined = select(*columns).join_from(items, item_vectors, _of_the_item)
    return sorted((vec_id, (ns, key)) for vec_id, ns, key in connection.execute(joined.where(*scope)))


def read_embeddings(
    connection: Connection, dims: int, *, ids: Sequence[int] | None = None, after: int = 0, upto: int = 0
) -> tuple[list[int], np.ndarray]:
    """Numbers, in order, and vectors [N, dims] of these ids, or else of all beyond `after` up to `upto`."""
    at = item_vectors.c
    pages = [at.vec_id.in_(page) for page in _pages(ids)] if ids is not None else [at.vec_id.between(after + 1, upto)]
    query = select(at.vec_id, at.embedding)
    rows = sorted((vec_id, data) for page in pages for vec_id, data in connection.execute(query.where(page)))
    matrix = np.frombuffer(b"".join([data for _, data in rows]), np.float32).reshape(len(rows), dims)
    return [vec_id for vec_id, _ in rows], matrix


def owners(connection: Connection, vec_ids: Sequence[int], scope: Sequence[ColumnElement[bool]]) -> set[Name]:
    """Names of the items of the scope that have one of these vectors."""
    found: set[Name] = set()
    joined = select(items.c.ns, items.c.key).join_from(items, item_vectors, _of_the_item)
    for page in _pages(vec_ids):
        rows = connection.execute(joined.where(item_vectors.c.vec_id.in_(page), *scope))
        found.update((row.ns, row.key) for row in rows)
    return found


def best(whose: Sequence[Name], matrix: np.ndarray, query: np.ndarray, num: int) -> list[tuple[float, Name]]:
    """The `num` items most like `query` [dim], and all that are as like it as the last; in no order.

    `matrix` [N, dim] has the vectors, and `whose` [N] the items they are of.

    An item is as like the query as the most like of its vectors: their cosine similarity, 0 with a vector of length
    0, to six decimals. One product finds the candidates; these are scored once more, each by itself, since a matrix
    product rounds differently by position.
    """
    numbers: dict[Name, int] = {}
    owner = np.array([numbers.setdefault(name, len(numbers)) for name in whose], np.int64)
    unit = query / (np.linalg.norm(query) or 1.0)
    lengths = np.linalg.norm(matrix, axis=1)
    rough = matrix @ unit.astype(np.float32) / np.where(lengths > 0, lengths, 1)
    pooled = _greatest(rough, owner, len(numbers))
    least = np.partition(pooled, -num)[-num] if 0 < num < len(numbers) else -np.inf
    rows = np.flatnonzero(rough >= least - 1e-5)
    near = matrix[rows].astype(np.float64)
    lengths = np.sqrt((near * near).sum(axis=1))
    scores = ((near * unit).sum(axis=1) / np.where(lengths > 0, lengths, 1)).round(6)
    pooled = _greatest(scores, owner[rows], len(numbers))
    return [(float(pooled[number]), name) for name, number in numbers.items() if pooled[number] > -np.inf]


def _greatest(scores: np.ndarray, owner: np.ndarray, num: int) -> np.ndarray:
    pooled = np.full(num, -np.inf, scores.dtype)
    np.maximum.at(pooled, owner, scores)
    return pooled


def apply_changes(
    connection: Connection, changes: Sequence[Change], vectors: Mapping[str, np.ndarray], now: float, updated: float
) -> None:
    """Make puts of different items; `vectors` has that of every text of an item that is not there already.

    A put of what is there already only starts the item's time to live anew.
    """
    before = items_named(connection, [change.name for change in changes], now)
    item_rows, vector_rows, replaced = [], [], []
    for change in changes:
        ns, key = change.name
        old = before.get(change.name)
        expires = None if change.ttl_minutes is None else now + 60 * change.ttl_minutes
        life = {"ttl_minutes": change.ttl_minutes, "expires": expires}
        if change.same_as(old):
            connection.execute(update(items).where(items.c.ns == ns, items.c.key == key).values(life))
            continue
        if old is not None:
            replaced.append(change.name)
        if change.value is not None:
            times = {"created": updated if old is None else old.created, "updated": updated, **life}
            item_rows.append({"ns": ns, "key": key, "value": change.value, "paths": change.paths, **times})
            vector_rows += [
                {"ns": ns, "key": key, "path": path, "embedding": vectors[text].tobytes()}
                for path, text in change.texts.items()
            ]
    _delete(connection, replaced)
    for table, new in ((items, item_rows), (item_vectors, vector_rows)):
        if new:
            connection.execute(insert(table), new)


def refresh(connection: Connection, rows: Iterable[Row[Any]], now: float) -> None:
    """Start the time to live of these items anew, where they have one."""
    for row in rows:
        if row.ttl_minutes is not None:
            named = (items.c.ns == row.ns, items.c.key == row.key)
            connection.execute(update(items).where(*named).values(expires=now + 60 * row.ttl_minutes))


def sweep(connection: Connection, now: float) -> None:
    """Delete the items that have expired."""
    expired = connection.execute(select(items.c.ns, items.c.key).where(items.c.expires <= now))
    _delete(connection, [(row.ns, row.key) for row in expired])


def _delete(connection: Connection, names: Sequence[Name]) -> None:
    applied = select(cast(state.c.value, Integer)).where(state.c.key == "applied").scalar_subquery()
    for page in _pages(names):
        of_vectors = tuple_(item_vectors.c.ns, item_vectors.c.key).in_(page)
        in_chroma = select(item_vectors.c.vec_id).where(of_vectors, item_vectors.c.vec_id <= applied)
        connection.execute(insert(gone_vectors).from_select(["vec_id"], in_chroma))
        connection.execute(delete(item_vectors).where(of_vectors))
        connection.execute(delete(items).where(tuple_(items.c.ns, items.c.key).in_(page)))


def _pages(names: Sequence[Any]) -> list[list[Any]]:
    return [list(names[start : start + _PAGE]) for start in range(0, len(names), _PAGE)]


_of_the_item = and_(items.c.ns == item_vectors.c.ns, items.c.key == item_vectors.c.key)
_LAST_CHANGED_FIRST = (items.c.updated.desc(), items.c.key, items.c.ns)


def moment(seconds: float) -> datetime:
    """A Unix time as LangGraph has it."""
    return datetime.fromtimestamp(seconds, UTC)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


_COMPARISONS = {
    "$gt": lambda one, other: one > other,
    "$gte": lambda one, other: one >= other,
    "$lt": lambda one, other: one < other,
    "$lte": lambda one, other: one <= other,
}


def check_condition(condition: Any) -> None:
    """Raise `ConfigError` for a filter with an operator that there is not, or a bound that is no number."""
    if isinstance(condition, Mapping):
        operators = any(str(key).startswith("$") for key in condition)
        for key, wanted in condition.items():
            if not operators:
                check_condition(wanted)
            elif key not in ("$eq", "$ne", *_COMPARISONS):
                raise ConfigError(f"a filter has no operator {key!r}; there are $eq, $ne, {', '.join(_COMPARISONS)}")
            elif key in _COMPARISONS and _number(wanted) is None:
                raise ConfigError(f"the filter's {key} compares with {wanted!r}; give it a number")
    elif isinstance(condition, list | tuple):
        for part in condition:
            check_condition(part)


def meets(value: Any, condition: Any) -> bool:
    """Whether a value meets a filter's condition, as LangGraph's stores read it.

    A mapping without operators asks for each of its keys, a list for as many elements that meet its own, anything
    else for equality. `$gt`, `$gte`, `$lt`, `$lte` compare as numbers; what is no number, or not there, is not met.

    >>> meets({"year": 2017, "by": {"name": "Ada"}}, {"year": {"$gt": 2000, "$ne": 2001}, "by": {"name": "Ada"}})
    True
    >>> meets({"year": None}, {"year": {"$gt": 2000}})
    False
    """
    if isinstance(condition, Mapping):
        if any(str(key).startswith("$") for key in condition):
            return all(_compares(value, operator, other) for operator, other in condition.items())
        return isinstance(value, dict) and all(meets(value.get(key), wanted) for key, wanted in condition.items())
    if isinstance(condition, list | tuple):
        same_length = isinstance(value, list) and len(value) == len(condition)
        return same_length and all(meets(part, wanted) for part, wanted in zip(value, condition, strict=True))
    return bool(value == condition)


def _compares(value: Any, operator: str, other: Any) -> bool:
    if operator in ("$eq", "$ne"):
        return bool(value == other) == (operator == "$eq")
    one, bound = _number(value), _number(other)
    return one is not None and bound is not None and bool(_COMPARISONS[operator](one, bound))


def _equal_texts(condition: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """What of a condition the database can decide: top-level fields that are to equal a text."""
    return [
        func.json_extract(items.c.value, f"$.{field}") == wanted
        for field, wanted in condition.items()
        if field.isascii() and field.isidentifier() and isinstance(wanted, str) and wanted.isprintable()
    ]
