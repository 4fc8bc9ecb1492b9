"""IndexKeeper: keeps a vector index in step with the journal, finds out when it is broken, and makes it anew.

The mark in the journal up to where the index has been brought (`applied`) follows the deed, so after a crash
the last batch is applied twice, which is harmless. Each rebuild puts the new index into a folder of its own.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sqlalchemy import select, update

from agentkit.errors import RecordError
from agentkit.memory import journal
from agentkit.memory.database import Database
from agentkit.memory.index import BATCH, ChromaIndex, ExactIndex, VectorIndex, inspect
from agentkit.memory.journal import read_state, vectors, write_state

_SAMPLE = 200  # vectors looked up in the index to see whether it finds them
_HIT_RATE = 0.99


class IndexKeeper:
    """The index beside a journal; the caller owns the folder and lets in one thread at a time.

    Args:
        folder: The store's folder; Chroma's files go to `chroma/<generation>/`.
        database: The journal.
        dim: Length of a vector.
        chroma: Keep a Chroma index on disk; else an exact one in memory, filled when first needed.
    """

    def __init__(self, folder: Path, database: Database, dim: int, *, chroma: bool) -> None:
        self.trouble: str | None = None
        """Why there is no index to ask, or None."""
        self.applied = 0
        """Number up to which the index has the vectors."""
        self._folder = folder / "chroma"
        self._database = database
        self._dim = dim
        self._chroma = chroma
        self._index: VectorIndex | None = None

    def open(self) -> None:
        """Open the index and bring it up to date, or say in `trouble` and a warning why that cannot be.

        Files that are not as `seal` left them, be it for a crash, may crash their reader (Chroma trusts what
        they say), so another process reads them first.
        """
        if not self._chroma:
            self._index = ExactIndex()
            return
        with self._database.writing() as connection:
            known = read_state(connection)
            write_state(connection, files=None)
        self.applied = int(known["applied"])
        self._sweep(known["generation"])
        if self.applied and known.get("files") != self._files():
            self.trouble = self._diagnose()
        if self.trouble is None:
            try:
                self._index = ChromaIndex(self._generation())
            except RecordError as error:
                self.trouble = str(error)
        if self.trouble is not None:
            self._give_up(self.trouble)
        self.apply()

    def note(self, newest: int) -> None:
        """Told that the journal has grown to `newest`; applies when there is a batch to apply."""
        if self._chroma and newest - self.applied >= BATCH:
            self.apply()

    def apply(self) -> None:
        """Bring the index up to the journal."""
        while self._index is not None:
            with self._database.reading() as connection:
                number = vectors.c.number
                upto = select(number).where(number > self.applied).order_by(number).limit(BATCH)
                last = max(connection.execute(upto).scalars(), default=None)
                if last is None:
                    return
                page = [number > self.applied, number <= last]
                found = _named(journal.read_vectors(connection, page, self._dim))
            try:
                self._index.upsert(*found)
            except RecordError as error:
                return self._give_up(str(error))
            self.applied = last
            if self._chroma:
                with self._database.writing() as connection:
                    write_state(connection, applied=self.applied)

    def propose(self, vector: np.ndarray, k: int) -> list[int]:
        """Numbers of the vectors that the index, brought up to date, finds nearest; none if it is in `trouble`."""
        self.apply()
        try:
            return [int(id) for id in self._index.query(vector, k)] if self._index is not None else []
        except RecordError as error:
            self._give_up(str(error))
            return []

    def problems(self) -> list[str]:
        """What is wrong with the index, in words; read by another process, to which it is lent meanwhile."""
        if self._chroma and self.trouble is None:
            self.apply()
            self.close()
            self.trouble = self.trouble or self._diagnose()
            if self.trouble is None:
                self._index = ChromaIndex(self._generation())
        return [self.trouble] if self.trouble else []

    def rebuild(self, fingerprint: str, embed: Callable[[Sequence[str]], np.ndarray]) -> None:
        """Make a new index beside the old one, embedding anew what has another fingerprint, then swap them.

        Vectors and swap are one transaction: a crash on the way leaves the store as it was.
        """
        done = 0
        with self._database.writing() as connection:
            generation = str(int(read_state(connection)["generation"]) + 1)
            shutil.rmtree(self._folder / generation, ignore_errors=True)
            index = ChromaIndex(self._folder / generation) if self._chroma else ExactIndex()
            try:
                for rows in journal.pages(connection, BATCH):
                    stale = [row for row in rows if row.fingerprint != fingerprint]
                    for row, vector in zip(stale, embed([row.text for row in stale]), strict=True):
                        values = {"embedding": vector.tobytes(), "fingerprint": fingerprint}
                        connection.execute(update(vectors).where(vectors.c.number == row.number).values(values))
                    last = rows[-1].number
                    page = [vectors.c.number > done, vectors.c.number <= last]
                    index.upsert(*_named(journal.read_vectors(connection, page, self._dim)))
                    done = last
                applied = done if self._chroma else 0
                write_state(connection, generation=generation, applied=applied, fingerprint=fingerprint)
            except BaseException:
                index.close()
                raise
        self.close()
        self._index, self.applied, self.trouble = index, done, None
        self._sweep(generation)

    def seal(self) -> None:
        """Bring the index up to date, close it, and note what its files look like."""
        if self._chroma:
            self.apply()
        self.close()
        if self._chroma and self.trouble is None:
            with self._database.writing() as connection:
                write_state(connection, files=self._files())

    def close(self) -> None:
        """Close the index; Chroma's folder may then be opened by another process."""
        if self._index is not None:
            self._index.close()
            self._index = None

    def _give_up(self, trouble: str) -> None:
        self.close()
        self.trouble = trouble
        warnings.warn(f"recalls compare all memories: {trouble}", RuntimeWarning, stacklevel=2)

    def _generation(self) -> Path:
        with self._database.reading() as connection:
            return self._folder / read_state(connection)["generation"]

    def _files(self) -> str:
        """Names, sizes and times of change of the index's files."""
        folder = self._generation()
        found = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
        return json.dumps([[str(path.relative_to(folder)), at.st_size, at.st_mtime_ns] for path, at in found])

    def _sweep(self, generation: str) -> None:
        """Remove indexes that are not in use: replaced ones, and those of a rebuild that was cut short."""
        for folder in self._folder.glob("*"):
            if folder.name != generation:
                shutil.rmtree(folder, ignore_errors=True)

    def _diagnose(self) -> str | None:
        """What is wrong with the index on disk, or None."""
        folder = self._generation()
        with self._database.reading() as connection:
            numbers = connection.execute(select(vectors.c.number)).scalars().all()
        expected = set(_ids([number for number in numbers if number <= self.applied]))
        pending = set(_ids([number for number in numbers if number > self.applied]))
        ids, sample = self._sample(_SAMPLE)
        try:
            found, hits = inspect(folder, ids, sample)
        except RecordError as error:
            return str(error)
        missing, surplus = len(expected - found), len(found - expected - pending)
        if missing or surplus:
            wrong = f"lacks {missing} vectors and has {surplus} too many"
        elif hits < _HIT_RATE * len(ids):
            wrong = f"finds only {hits} of {len(ids)} vectors by themselves"
        else:
            return None
        return f"the Chroma index in {folder} {wrong}; call `rebuild()`"

    def _sample(self, size: int) -> tuple[list[str], np.ndarray]:
        """Ids and vectors of up to `size` vectors that the index has, drawn the same way every time."""
        number = vectors.c.number
        with self._database.reading() as connection:
            numbers = connection.execute(select(number).where(number <= self.applied)).scalars().all()
            chosen = np.random.default_rng(0).permutation(len(numbers))[:size]
            some = [number.in_([numbers[place] for place in chosen])]
            return _named(journal.read_vectors(connection, some, self._dim))


def _named(found: tuple[list[int], np.ndarray]) -> tuple[list[str], np.ndarray]:
    return _ids(found[0]), found[1]


def _ids(numbers: Sequence[int]) -> list[str]:
    return [str(number) for number in numbers]
