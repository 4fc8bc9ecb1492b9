"""Planner: how a query is answered, exactly or by the index.

What is in scope is settled in the journal. A small scope is compared key by key; for a large store, the index proposes
keys and the journal says which of them are in scope. So no answer depends on what an index cannot filter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import ColumnElement, Connection, or_

from agentkit.memory import index, journal
from agentkit.memory.case import KEY_LIMIT, clip
from agentkit.memory.database import Database
from agentkit.memory.embedders import Embedder
from agentkit.memory.journal import keys, memories
from agentkit.memory.keeper import IndexKeeper
from agentkit.memory.kinds import KEY_FIELDS, Kind
from agentkit.memory.matrix import VectorMatrix
from agentkit.memory.records import encodable

EXACT_LIMIT = 20_000
"""Keys in scope up to which every one is compared."""
RECALLED = ("active", "probation")
"""Statuses of memories that are recalled."""
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


class Planner:
    """Finds the nearest memories; one thread at a time.

    Args:
        database: The journal.
        keeper: The index beside it.
        embedder: Embeds queries and keys.
        exact_limit: Scopes up to this many keys are compared one by one; None for all scopes.
    """

    def __init__(self, database: Database, keeper: IndexKeeper, embedder: Embedder, exact_limit: int | None) -> None:
        self._keeper = keeper
        self._embedder = embedder
        self._exact_limit = exact_limit
        self._matrix = VectorMatrix(database, embedder.dim)

    def clear(self) -> None:
        """Forget the vectors that were read; they have changed."""
        self._matrix.clear()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[N, dim] vectors of texts, cut at `KEY_LIMIT` characters."""
        if not texts:
            return np.zeros((0, self._embedder.dim), np.float32)
        fit = [clip(encodable(text), KEY_LIMIT) for text in texts]
        return np.asarray(self._embedder.embed(fit), np.float32)

    def nearest(self, connection: Connection, asked: Mapping[str, str], k: int, scope: Scope) -> dict[int, float]:
        """Cosines by sequence number of memories in scope, the `k` nearest among them.

        Args:
            connection: A transaction on the journal.
            asked: The text that each field of keys is compared with.
            k: How many.
            scope: Which memories.
        """
        texts = sorted(set(asked.values()))
        best: dict[int, float] = {}
        for text, vector in zip(texts, self.embed(texts), strict=True):
            fields = sorted(field for field, about in asked.items() if about == text)
            within: list[ColumnElement[bool]] = []
            if len(fields) < len(KEY_FIELDS):
                within.append(keys.c.field.in_(fields))
            most = k * len(fields)  # a memory has one key of a field
            found = self._from_index(connection, vector, most, scope, within)
            if found is None:
                everything = journal.keys_in(connection, [*scope.conditions(), *within])
                found = self._compare(everything, vector, most)
            for seq, score in found:
                best[seq] = max(score, best.get(seq, score))
        return best

    def _from_index(
        self, connection: Connection, vector: np.ndarray, k: int, scope: Scope, within: list[ColumnElement[bool]]
    ) -> list[tuple[int, float]] | None:
        """The `k` nearest among what the index proposes; None where all in scope should be compared.

        What the index proposes first and is in scope is nearest in scope too, so `k` of it suffice. A scope that is
        `narrow` is likely to be small, so it is counted before the index is asked; any other after it was in vain.
        """
        limit, first = self._exact_limit, 4 * k + 10
        if limit is None or max(journal.last_seq(connection), journal.last_vector(connection)) <= limit:
            return None

        def few() -> bool:
            return journal.count_keys(connection, [*scope.conditions(), *within], limit + 1) <= limit

        if scope.narrow and few():
            return None
        wanted, conditions = first, [*scope.conditions(by_index=False), *within]
        while wanted <= _MOST_PROPOSALS and self._keeper.trouble is None:
            proposed = self._keeper.propose(vector, wanted)
            found = journal.keys_in(connection, [*conditions, keys.c.vector.in_(proposed)])
            if len(found) >= k:
                return self._compare(found, vector, k)
            if wanted == first and not scope.narrow and few():
                return None
            wanted *= 4
        return None

    def _compare(self, found: np.ndarray, vector: np.ndarray, k: int) -> list[tuple[int, float]]:
        """Sequence numbers and cosines of the `k` nearest of some keys [N, 2], and of those as near as the last."""
        numbers, place_of = np.unique(found[:, 1], return_inverse=True)
        near = dict(index.nearest(range(len(numbers)), self._matrix.rows(numbers), vector, k, ties=True))
        rows = np.flatnonzero(np.isin(place_of, list(near)))
        return [(int(seq), near[int(place)]) for seq, place in zip(found[rows, 0], place_of[rows], strict=True)]
