"""Planner: how a query is answered, exactly or by the index.

What is in scope is settled in the journal. A small scope is compared key by key; for a large store, the index proposes
keys and the journal says which of them are in scope. So no answer depends on what an index cannot filter.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from sqlalchemy import ColumnElement, Connection, or_

from agentkit.errors import RecordError
from agentkit.memory import index, journal, layout
from agentkit.memory.case import KEY_LIMIT, clip
from agentkit.memory.database import Database
from agentkit.memory.embedders import Embedder
from agentkit.memory.keeper import IndexKeeper
from agentkit.memory.kinds import KEY_FIELDS, Kind
from agentkit.memory.layout import keys, memories
from agentkit.memory.matrix import VectorMatrix
from agentkit.memory.records import encodable
from agentkit.task import Task

EXACT_LIMIT = 20_000
"""Keys in scope up to which every one is compared."""
RECALLED = ("active", "probation")
"""Statuses of memories that are recalled."""
_EMBED_BATCH = 64  # texts embedded while queries wait
_MOST_PROPOSALS = 5_000  # beyond this the index is no faster than comparing all


@dataclass(frozen=True)
class Scope:
    """Which memories a recall may see; None is no condition."""

    newest: int
    """Sequence number of the snapshot that is read."""
    namespaces: Collection[str]
    env_id: str | None = None
    split: str | None = None
    hidden_tasks: Collection[str] = ()
    kinds: Collection[Kind] | None = None
    at_s: float | None = None

    @property
    def narrow(self) -> bool:
        """Whether it is likely to leave out most memories."""
        return self.env_id is not None or self.kinds is not None

    def conditions(self, *, by_index: bool = True) -> list[ColumnElement[bool]]:
        """As conditions on the rows of the journal.

        Args:
            by_index: Let the database find the rows by its index; not where a few rows are named anyway, for
                databases without statistics would go through the whole scope all the same.
        """
        at = memories.c
        own = [column if by_index else column.concat("") for column in (at.namespace, at.env_id, at.kind)]
        namespace, env_id, kind = own
        found = [*journal.held_at(self.newest), at.status.in_(RECALLED), namespace.in_(sorted(self.namespaces))]
        if self.env_id is not None:
            found.append(env_id == self.env_id)
        if self.split is not None:
            found.append(at.split == self.split)
        if self.kinds is not None:
            found.append(kind.in_(sorted(self.kinds)))
        if self.hidden_tasks:
            found.append(at.task_key.not_in(sorted(self.hidden_tasks)))
        if self.at_s is not None:
            found.append(or_(at.valid_from.is_(None), at.valid_from <= self.at_s))
            found.append(or_(at.valid_to.is_(None), at.valid_to > self.at_s))
        return found


class ScopeOptions(TypedDict, total=False):
    """What a reader may say about which memories it sees: as in `MemoryStore.recall`."""

    env_id: str | None
    split: str | None
    exclude_tasks: Iterable[str | Task]
    snapshot: str | None
    kinds: Collection[Kind] | None
    namespaces: Collection[str]
    at_s: float | None


class Space:
    """An embedder and the vectors it made: only these are compared with what it makes of a query."""

    def __init__(self, embedder: Embedder) -> None:
        self.fingerprint = embedder.fingerprint
        self.dim = embedder.dim
        self.matrix = VectorMatrix(self._read, embedder.dim)
        self._embedder = embedder
        self._embedding = threading.Lock()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[N, dim] vectors of texts, cut at `KEY_LIMIT` characters; embedders need not know of threads."""
        made = [np.zeros((0, self.dim), np.float32)]
        for start in range(0, len(texts), _EMBED_BATCH):
            if start:
                time.sleep(0)  # between the batches of a writer, queries get their turn
            fit = [clip(encodable(text), KEY_LIMIT) for text in texts[start : start + _EMBED_BATCH]]
            with self._embedding:
                vectors = np.asarray(self._embedder.embed(fit), np.float32)
            if vectors.shape != (len(fit), self.dim) or not np.isfinite(vectors).all():
                raise RecordError(
                    f"embedder {self.fingerprint!r} gave vectors of shape {vectors.shape}, or not finite, for "
                    f"{len(fit)} texts, its dim is {self.dim}; make them agree"
                )
            made.append(vectors)
        return np.concatenate(made)

    def _read(self, connection: Connection, after: int, upto: int) -> tuple[list[int], np.ndarray]:
        at = layout.vectors.c
        return journal.read_vectors(connection, [at.number > after, at.number <= upto], self.dim)


class Planner:
    """Finds the nearest memories; shared by threads.

    Args:
        database: The journal.
        keeper: The index beside it.
        embedder: Embeds queries and keys.
        exact_limit: Scopes up to this many keys are compared one by one; None for all scopes.
    """

    def __init__(self, database: Database, keeper: IndexKeeper, embedder: Embedder, exact_limit: int | None) -> None:
        self._keeper = keeper
        self._exact_limit = exact_limit
        self._spaces: dict[str, Space] = {}
        self.enter(Space(embedder))

    @property
    def space(self) -> Space:
        """Of the vectors that are written."""
        return self._space

    def expect(self, space: Space) -> None:
        """The journal's vectors are about to be those of `space`: a recall uses the one of what it sees."""
        self._spaces[space.fingerprint] = space

    def enter(self, space: Space) -> None:
        """The journal's vectors are those of `space`."""
        self.expect(space)
        self._space = space
        self.clear()

    def clear(self) -> None:
        """Forget the vectors that were read; they have changed."""
        for space in self._spaces.values():
            space.matrix.clear()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[N, dim] vectors of texts, cut at `KEY_LIMIT` characters, as they are written."""
        return self._space.embed(texts)

    def _space_of(self, connection: Connection) -> Space:
        """The space of the vectors that a transaction sees."""
        return self._spaces[journal.read_state(connection)["fingerprint"]]

    def nearest(
        self, connection: Connection, asked: Mapping[str, str], k: int, scope: Scope, also: Collection[int] = ()
    ) -> dict[int, float]:
        """Cosines by sequence number of memories in scope, the `k` nearest among them.

        Args:
            connection: A transaction on the journal.
            asked: The text that each field of keys is compared with.
            k: How many.
            scope: Which memories.
            also: Versions in scope, some hundreds at most, whose cosines are wanted besides.
        """
        texts = sorted(set(asked.values()))
        best: dict[int, float] = {}
        space = self._space_of(connection)
        for text, vector in zip(texts, space.embed(texts), strict=True):
            fields = sorted(field for field, about in asked.items() if about == text)
            within: list[ColumnElement[bool]] = []
            if len(fields) < len(KEY_FIELDS):
                within.append(keys.c.field.in_(fields))
            most = k * len(fields)  # a memory has one key of a field
            found = self._from_index(connection, space, vector, most, scope, within)
            if found is None:
                everything = journal.keys_in(connection, [*scope.conditions(), *within])
                found = _compare(connection, space, everything, vector, most)
            if also:
                some = journal.keys_in(connection, [keys.c.seq.in_(sorted(also)), *within])
                found = [*found, *_compare(connection, space, some, vector, len(some))]
            for seq, score in found:
                best[seq] = max(score, best.get(seq, score))
        return best

    def _from_index(
        self,
        connection: Connection,
        space: Space,
        vector: np.ndarray,
        k: int,
        scope: Scope,
        within: list[ColumnElement[bool]],
    ) -> list[tuple[int, float]] | None:
        """The `k` nearest among what the index proposes; None where all in scope should be compared.

        What the index proposes first and is in scope is nearest in scope too, so `k` of it suffice, together with what
        it has not been told of yet. A scope that is `narrow` is likely to be small, so it is counted before the index
        is asked; any other after it was in vain.
        """
        limit, first = self._exact_limit, 4 * k + 10
        if limit is None or max(journal.last_seq(connection), journal.last_vector(connection)) <= limit:
            return None

        def few() -> bool:
            return journal.count_keys(connection, [*scope.conditions(), *within], limit + 1) <= limit

        if scope.narrow and few():
            return None
        wanted, conditions = first, [*scope.conditions(by_index=False), *within]
        while wanted <= _MOST_PROPOSALS:
            answer = self._keeper.propose(vector, wanted, space.fingerprint)
            if answer is None:
                return None
            proposed, applied = answer
            found = journal.keys_in(connection, [*conditions, keys.c.vector.in_(proposed)])
            if len(found) >= k:
                untold = journal.keys_in(connection, [*conditions, keys.c.vector > applied])
                return _compare(connection, space, np.concatenate([found, untold]), vector, k)
            if wanted == first and not scope.narrow and few():
                return None
            wanted *= 4
        return None


def _compare(
    connection: Connection, space: Space, found: np.ndarray, vector: np.ndarray, k: int
) -> list[tuple[int, float]]:
    """Sequence numbers and cosines of the `k` nearest of some keys [N, 2], and of those as near as the last."""
    numbers, place_of = np.unique(found[:, 1], return_inverse=True)
    near = dict(index.nearest(range(len(numbers)), space.matrix.rows(connection, numbers), vector, k, ties=True))
    rows = np.flatnonzero(np.isin(place_of, list(near)))
    return [(int(seq), near[int(place)]) for seq, place in zip(found[rows, 0], place_of[rows], strict=True)]
