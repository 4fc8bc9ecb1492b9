"""Vectors of a LangGraph store: who makes them (`Indexing`), and who proposes some out of many (`Proposer`)."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from langgraph.store.base import Embeddings, IndexConfig, PutOp, ensure_embeddings, get_text_at_path
from sqlalchemy import ColumnElement, Connection, delete, func, select

from agentkit.errors import ConfigError, MissingExtraError, RecordError, unknown_name
from agentkit.memory.database import Database
from agentkit.memory.graph_rows import (
    Name,
    gone_vectors,
    item_vectors,
    num_vectors,
    owners,
    read_embeddings,
    read_state,
    write_state,
)
from agentkit.memory.index import BATCH, ChromaIndex, inspect
from agentkit.memory.matrix import VectorMatrix

_PROBE = "The cat sat on the mat; 7 keys open 3 doors."
"""Its vector tells one embedder from another, whatever they call themselves."""
_SAME = 0.999
"""Least cosine similarity of the vectors that one embedder gives one text; services round differently by the day."""
_SAMPLE = 100
_FEW = 1_000
"""Vectors that are read from the database every time."""


@dataclass(frozen=True)
class Vectors:
    """Vectors [dim] float32 of texts of items and of queries; the two may differ for one text."""

    texts: Mapping[str, np.ndarray]
    queries: Mapping[str, np.ndarray]

    def joined(self, other: Vectors) -> Vectors:
        """These and those of `other`."""
        return Vectors({**self.texts, **other.texts}, {**self.queries, **other.queries})


@dataclass(frozen=True)
class Wish:
    """Texts that want vectors; granted by an embedder, synchronously or not."""

    embeddings: Embeddings
    dims: int
    texts: Sequence[str]
    queries: Sequence[str]

    def grant(self) -> Vectors:
        """The vectors.

        Raises:
            ConfigError: The embedder gives other vectors than `dims` promises.
        """
        made = self.embeddings.embed_documents(list(self.texts)) if self.texts else []
        return self._checked(made, [self.embeddings.embed_query(query) for query in self.queries])

    async def agrant(self) -> Vectors:
        """The vectors, without blocking the event loop (LangChain runs synchronous embedders in a thread)."""
        made = await self.embeddings.aembed_documents(list(self.texts)) if self.texts else []
        return self._checked(made, await asyncio.gather(*map(self.embeddings.aembed_query, self.queries)))

    def _checked(self, made: Sequence[Any], asked: Sequence[Any]) -> Vectors:
        if len(made) != len(self.texts):
            raise ConfigError(f"the embedder gave {len(made)} vectors for {len(self.texts)} texts; give one for each")
        return Vectors(self._named(self.texts, made), self._named(self.queries, asked))

    def _named(self, texts: Sequence[str], vectors: Sequence[Any]) -> dict[str, np.ndarray]:
        named = {text: np.array(vector, np.float32) for text, vector in zip(texts, vectors, strict=True)}
        for vector in named.values():
            if vector.shape != (self.dims,):
                raise ConfigError(
                    f"the embedder gave a vector of shape {vector.shape}, but the index says dims={self.dims}; "
                    "make the two agree"
                )
            if not np.isfinite(vector).all():
                raise ConfigError("the embedder gave a vector with a number that is not finite")
        return named


class Indexing:
    """What of an item is embedded, and by whom.

    Args:
        config: `dims`, `embed` and `fields`, as LangGraph has them; `embed` may be an `Embedder` of agentkit.

    Raises:
        ConfigError: It is malformed.
        UnknownNameError: It has another key.
    """

    def __init__(self, config: IndexConfig) -> None:
        for key in config:
            if key not in ("dims", "embed", "fields"):
                raise unknown_name("setting of a store's index", key, ["dims", "embed", "fields"])
        embed, dims, fields = config.get("embed"), config.get("dims"), config.get("fields")
        if embed is None or not isinstance(dims, int) or dims < 1:
            raise ConfigError(f"index={dict(config)!r} needs 'dims', a whole number from 1, and 'embed', the embedder")
        self.dims = dims
        self.fields = _checked_paths("index['fields']", ["$"] if fields is None else fields)
        self.fingerprint = str(getattr(embed, "fingerprint", ""))
        """The embedder's own name for its vectors; empty if it has none."""
        self._embeddings = _OfEmbedder(embed) if hasattr(embed, "embed") else ensure_embeddings(embed)
        self._probed = False

    def paths(self, op: PutOp) -> list[str]:
        """Paths of what of a put is to be embedded."""
        if op.index is False:
            return []
        return self.fields if op.index is None else _checked_paths("index", op.index)

    def claim(self, connection: Connection) -> None:
        """Note in the store what its vectors are, or compare.

        Raises:
            ConfigError: The store's vectors have another length, or were made by an embedder of another name.
        """
        known = read_state(connection)
        if known.get("dims", str(self.dims)) != str(self.dims):
            raise ConfigError(
                f"this store's vectors have {known['dims']} numbers, the index says dims={self.dims}; open it as it "
                "was made, or make a new store in another folder"
            )
        named = known.get("fingerprint") or self.fingerprint
        if self.fingerprint and named != self.fingerprint:
            raise _another_embedder(f"{named!r}, not {self.fingerprint!r}")
        write_state(connection, dims=self.dims, fingerprint=named)

    def wish(self, texts: Sequence[str], queries: Sequence[str]) -> Wish:
        """A wish for vectors; the first one includes the probe's."""
        extra = [] if self._probed or _PROBE in texts else [_PROBE]
        return Wish(self._embeddings, self.dims, [*texts, *extra], queries)

    def check(self, vectors: Vectors, database: Database) -> None:
        """Compare the probe's vector, once, with the one that the store keeps.

        Raises:
            ConfigError: It differs: the embedder is another one.
        """
        if self._probed:
            return
        now = vectors.texts[_PROBE]
        with database.writing() as connection:
            kept = read_state(connection).get("probe")
            if kept is None:
                write_state(connection, probe=json.dumps(now.tolist()))
            elif not _alike(np.array(json.loads(kept)), now):
                raise _another_embedder("and gave the same text another vector")
        self._probed = True


class _OfEmbedder(Embeddings):
    """An `Embedder` of agentkit as LangChain's `Embeddings`."""

    def __init__(self, embedder: Any) -> None:
        self._embedder = embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return list(self._embedder.embed(texts))

    def embed_query(self, text: str) -> list[float]:
        return self._embedder.embed([text])[0]


def _checked_paths(setting: str, paths: Any) -> list[str]:
    if isinstance(paths, str) or not all(isinstance(path, str) and path for path in paths):
        raise ConfigError(f"{setting} is {paths!r}; give a list of paths, such as ['text', 'notes[*].text']")
    return list(paths)


def texts_at(value: Mapping[str, Any], paths: Sequence[str]) -> dict[str, str]:
    """The texts of a value to embed, each under its path; a path with several has one vector for each.

    >>> texts_at({"title": "Lamps", "notes": [{"text": "red"}, {"text": "blue"}]}, ["title", "notes[*].text"])
    {'title': 'Lamps', 'notes[*].text.0': 'red', 'notes[*].text.1': 'blue'}
    """
    found = {path: get_text_at_path(value, path) for path in paths}
    return {
        f"{path}.{place}" if len(texts) > 1 else path: text
        for path, texts in found.items()
        for place, text in enumerate(texts)
    }


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return bool(np.allclose(one, other)) or (lengths > 0 and float(one @ other) / lengths >= _SAME)


def _another_embedder(how: str) -> ConfigError:
    return ConfigError(
        f"this store's vectors were made by another embedder, {how}; vectors of two embedders cannot be compared: "
        "open the store with the embedder it was made with, or make a new one in another folder"
    )


class CachedVectors:
    """Vectors of items by number: a few are read when they are asked for, of many all are kept in memory."""

    def __init__(self, dims: int) -> None:
        self._dims = dims
        self._matrix = VectorMatrix(self._read, dims)

    def of(self, connection: Connection, ids: Sequence[int]) -> np.ndarray:
        """The vectors [N, dims] of these numbers [N], which rise."""
        if len(ids) <= _FEW:
            return read_embeddings(connection, self._dims, ids=ids)[1]
        kept = self._matrix.size
        if kept > 2 * len(ids) and kept > 2 * num_vectors(connection, ()):  # most of it has been deleted
            self._matrix.clear()
        return self._matrix.rows(connection, np.array(ids, np.int64))

    def _read(self, connection: Connection, after: int, upto: int) -> tuple[list[int], np.ndarray]:
        return read_embeddings(connection, self._dims, after=after, upto=upto)


class Proposer:
    """Chroma's opinion on which items are near a vector; wrong or absent, it costs time but no result.

    Chroma is opened when it is first asked. If the process that last had it open did not close it, another process
    reads its files first, since damaged ones can crash their reader; unsound, it is made anew from the journal.
    """

    def __init__(self, folder: Path, database: Database, dims: int) -> None:
        self.trouble: str | None = None
        """Why Chroma is not asked, or None."""
        self._folder = folder
        self._database = database
        self._dims = dims
        self._index: ChromaIndex | None = None
        self._lock = threading.Lock()

    def catch_up(self) -> None:
        """Tell Chroma of all vectors made and deleted since it was last told."""
        with self._lock:
            if self.trouble is not None:
                return
            try:
                if self._index is None:
                    self._index = self._open()
                while self._tell(self._index):
                    pass
            except (RecordError, MissingExtraError) as error:
                self._give_up(error)

    def propose(
        self,
        connection: Connection,
        scope: Sequence[ColumnElement[bool]],
        names: Sequence[Name] | None,
        query: np.ndarray,
        num: int,
    ) -> list[Name] | None:
        """At least `num` items of the scope, those nearest to the query among them; None if comparing is better.

        `names`, where given, narrow the scope. Chroma knows no scope, so it is asked for four times as many vectors,
        then eight times and so on; once that is a quarter of all, comparing with all in scope is no slower.
        """
        index = self._index  # no lock: who tells Chroma holds it while waiting for the database, which we may hold
        if index is None:
            return None
        try:
            size, wanted = index.count(), 4 * num
            allowed = None if names is None else set(names)
            while wanted <= size // 4:
                found = owners(connection, [int(id) for id in index.query(query, wanted)], scope)
                if allowed is not None:
                    found &= allowed
                if len(found) >= num:
                    return sorted(found)
                wanted *= 2
        except RecordError as error:
            if index is self._index:  # else it was closed meanwhile
                self._index = None
                self._give_up(error)
        return None

    def restart(self) -> None:
        """Forget what Chroma has; `catch_up` tells it everything."""
        with self._lock:
            self._shut()
            with self._database.writing() as connection:
                known = read_state(connection)
                write_state(connection, generation=int(known.get("generation", 0)) + 1, applied=0, opened=0)
                connection.execute(delete(gone_vectors))
            self.trouble = None

    def close(self) -> None:
        """Close Chroma's files."""
        with self._lock:
            if self._index is not None:
                self._shut()
                with self._database.writing() as connection:
                    write_state(connection, opened=0)

    def _open(self) -> ChromaIndex:
        with self._database.reading() as connection:
            known = {"generation": "0", "applied": "0", "opened": "0", **read_state(connection)}
        generation, applied = int(known["generation"]), int(known["applied"])
        place = self._folder / str(generation)
        index = None
        if not applied or known["opened"] == "0" or self._is_sound(place, applied):
            index = ChromaIndex(place)
        if index is not None and index.count() < len(self._told(applied)):
            index.close()
            index = None
        if index is None:
            generation, applied = generation + 1, 0
            index = ChromaIndex(self._folder / str(generation))
        with self._database.writing() as connection:
            write_state(connection, generation=generation, applied=applied, opened=1)
            if not applied:
                connection.execute(delete(gone_vectors))
        for other in self._folder.iterdir():
            if other.name != str(generation):
                shutil.rmtree(other, ignore_errors=True)
        return index

    def _told(self, applied: int) -> set[str]:
        """Ids of the vectors that Chroma should have."""
        with self._database.reading() as connection:
            kept = connection.execute(select(item_vectors.c.vec_id).where(item_vectors.c.vec_id <= applied)).scalars()
            return {str(id) for id in (*kept, *connection.execute(select(gone_vectors.c.vec_id)).scalars())}

    def _is_sound(self, place: Path, applied: int) -> bool:
        with self._database.reading() as connection:
            columns = (item_vectors.c.vec_id, item_vectors.c.embedding)
            some = select(*columns).where(item_vectors.c.vec_id <= applied).order_by(func.random()).limit(_SAMPLE)
            sample = connection.execute(some).all()
        try:
            found, hits = inspect(place, [str(row.vec_id) for row in sample], self._matrix(sample))
        except RecordError:
            return False
        return self._told(applied) <= found and hits >= 0.99 * len(sample)

    def _tell(self, index: ChromaIndex) -> bool:
        """Tell Chroma of the next page of changes; False if there was none."""
        with self._database.reading() as connection:
            gone = connection.execute(select(gone_vectors.c.vec_id).limit(BATCH)).scalars().all()
            applied = int(read_state(connection)["applied"])
            query = select(item_vectors.c.vec_id, item_vectors.c.embedding).where(item_vectors.c.vec_id > applied)
            new = connection.execute(query.order_by(item_vectors.c.vec_id).limit(BATCH)).all()
        if gone:
            index.delete([str(id) for id in gone])
        if new:
            index.upsert([str(row.vec_id) for row in new], self._matrix(new))
        if not gone and not new:
            return False
        with self._database.writing() as connection:
            connection.execute(delete(gone_vectors).where(gone_vectors.c.vec_id.in_(gone)))
            if new:
                write_state(connection, applied=new[-1].vec_id)
        return True

    def _matrix(self, found: Sequence[Any]) -> np.ndarray:
        data = b"".join([row.embedding for row in found])
        return np.frombuffer(data, np.float32).reshape(len(found), self._dims)

    def _give_up(self, error: Exception) -> None:
        self._shut()
        self.trouble = str(error)
        warnings.warn(f"searches compare all vectors: {error}", RuntimeWarning, stacklevel=2)

    def _shut(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None
