"""IndexKeeper: keeps a vector index in step with the journal, finds out when it is broken, and makes it anew.

The mark in the journal up to where the index has been brought (`applied`) follows the deed, so after a crash the last
page is applied twice, which is harmless. What the index lacks is compared one by one, so nobody waits for it.
"""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np
from sqlalchemy import Connection, func, select

from agentkit.errors import RecordError
from agentkit.memory import journal
from agentkit.memory.database import Database
from agentkit.memory.index import BATCH, PAGE, Page, VectorIndex
from agentkit.memory.journal import read_state, write_state
from agentkit.memory.layout import vectors
from agentkit.memory.shelf import Shelf

MOST_PENDING = 5_000
"""Vectors by which the index may lag; beyond this, writers wait for it."""
_LEAST = 50
"""Vectors told to the index at once, or a tenth of what it lacks: all threads stand still meanwhile, half a millisecond
a vector, and a page has its price too."""
_SAMPLE = 200  # vectors looked up in the index to see whether it finds them
_HIT_RATE = 0.99
_RETRY_S = 2.0  # between attempts to reach a server that has failed

Pages = Callable[[int], Page]
"""The next vectors after a number; none after the last."""


class IndexKeeper:
    """The index beside a journal; shared by threads.

    Whoever changes the index holds `working`; whoever asks it or puts another in its place holds `_asking`. The first
    is taken before the second; who writes to the store takes the first only if it is free.

    Args:
        database: The journal.
        fingerprint: Of the embedder that made its vectors.
        dim: Length of a vector.
        shelf: Where the index is kept.
        used: Ask and feed it; else it is only made worthless by a rebuild.
    """

    def __init__(self, database: Database, fingerprint: str, dim: int, shelf: Shelf, *, used: bool) -> None:
        self.trouble: str | None = None
        """Why there is no index to ask, or None."""
        self.applied = 0
        """Number up to which the index has the vectors."""
        self._database = database
        self._fingerprint = fingerprint
        self._dim = dim
        self._shelf = shelf
        self._used = used
        self._index: VectorIndex | None = None
        self.working = threading.RLock()
        """Held by whoever changes the index."""
        self._asking = threading.RLock()
        self._worker: threading.Thread | None = None
        self._retry_at = 0.0
        self._closed = False

    def open(self) -> None:
        """Open the index and bring it up to date, or say in `trouble` and a warning why that cannot be.

        An index that does not look as `seal` left it, be it for a crash, is inspected before it is trusted.
        """
        if not self._used:
            with contextlib.suppress(RecordError):  # a generation that was left behind may hold what is forgotten
                self._shelf.sweep(self._state()["generation"])
        else:
            with self.working:
                self._open()
                if self.trouble is not None:
                    warnings.warn(f"recalls compare all memories: {self.trouble}", RuntimeWarning, stacklevel=3)
                self._catch_up()

    def note(self, newest: int) -> None:
        """Told that the journal has grown to `newest`; sees to it that the index does not lag too far behind."""
        if self._used and newest - self.applied >= BATCH:
            if newest - self.applied >= MOST_PENDING and self._index is not None:
                self.apply()
            else:
                self._in_background()

    def lag(self) -> int:
        """Number of vectors that the index lacks, 0 if there is none to tell; sees to it that it is told."""
        if self._index is None:
            return 0
        with self._database.reading() as connection:
            query = select(func.count()).where(vectors.c.number > self.applied)
            lag = connection.execute(query).scalar_one()
        if lag:
            self._in_background()
        return lag

    def apply(self) -> None:
        """Bring the index up to the journal, unless somebody else is at work on it."""
        if self.working.acquire(blocking=False):
            try:
                self._catch_up()
            finally:
                self.working.release()

    def propose(self, vector: np.ndarray, k: int, fingerprint: str) -> tuple[list[int], int] | None:
        """Numbers of the vectors that the index finds nearest, and the number up to which it has been brought.

        What is numbered beyond that must be compared too. None if there is no index of that embedder's vectors.
        """
        with self._asking:
            if self._index is None or fingerprint != self._fingerprint:
                if self.trouble is not None and self._shelf.heals and time.monotonic() > self._retry_at:
                    self._in_background()
                return None
            applied = self.applied
            try:
                return [int(id) for id in self._index.query(vector, k)], applied
            except RecordError as error:
                self._give_up(str(error))
                return None

    def problems(self) -> list[str]:
        """What is wrong with the index, in words; inspected from outside, closed meanwhile."""
        if not self._used:
            return []
        with self.working:
            if self.trouble is None:
                self._catch_up()
                self._shut()
            if self.trouble is None:
                known = self._state()
                self.trouble = self._diagnose(known["generation"])
                if self.trouble is None:
                    self._index = self._shelf.open(known["generation"])
            return [self.trouble] if self.trouble else []

    def rebuild(
        self,
        pages: Pages,
        dim: int,
        fingerprint: str,
        still: AbstractContextManager[None],
        change: Callable[[Connection], None],
    ) -> None:
        """Make a new index beside the old one, then let it take its place; recalls go on meanwhile.

        Args:
            pages: The vectors to fill it with.
            dim: Their length.
            fingerprint: Of the embedder that made them.
            still: Entered when the new index is ready: nobody writes memories until it is left.
            change: Does what changes with the index, in the one transaction that notes the new one; a crash before
                its end leaves all as it was.
        """
        with self.working:
            with self._database.reading() as connection:
                size = connection.execute(select(func.count()).select_from(vectors)).scalar_one()
            generation, done = str(int(self._state()["generation"]) + 1), 0
            index: VectorIndex | None = None

            def read() -> Iterator[Page]:
                nonlocal done
                while (page := pages(done))[0]:
                    yield page
                    done = page[0][-1]

            try:
                if self._used:
                    index = self._shelf.fill(generation, size, read())
                with still, self._asking:
                    with self._database.writing() as connection:
                        change(connection)
                        place = {"place": self._shelf.place, "generation": generation, "applied": done, "files": None}
                        write_state(connection, fingerprint=fingerprint, **place)
                    self._shut()
                    self._index, self.applied, self.trouble = index, done, None
                    self._fingerprint, self._dim = fingerprint, dim
            except BaseException:
                if index is not None and index is not self._index:
                    index.close()
                raise
            self._shelf.sweep(generation)

    def seal(self) -> None:
        """Bring the index up to date, close it, and note what it looks like from outside."""
        with self.working:
            self._closed = True
            if not self._used:
                return
            self._catch_up()
            self._shut()
            if self.trouble is None:
                try:
                    files = self._shelf.mark(self._state()["generation"])
                except RecordError:
                    return  # inspected when it is opened
                with self._database.writing() as connection:
                    write_state(connection, files=files)

    def close(self) -> None:
        """Close the index; Chroma's folder may then be opened by another process."""
        with self.working:
            self._closed = True
            self._shut()

    def _open(self) -> None:
        """Open the index of the journal's generation into `_index`, or set `trouble`."""
        index: VectorIndex | None = None
        try:
            with self._database.writing() as connection:
                known = read_state(connection)
                if known.get("place", self._shelf.place) != self._shelf.place:
                    known.update(generation=str(int(known["generation"]) + 1), applied="0")
                known.update(place=self._shelf.place, files=known.pop("files", "None"))
                write_state(connection, **{**known, "files": None})
            generation, applied = known["generation"], int(known["applied"])
            self._shelf.sweep(generation)
            mark = self._shelf.mark(generation) if applied else ""
            self.applied = 0 if mark == "0" else applied  # a server that has lost everything is told everything
            trouble = self._diagnose(generation) if self.applied and known["files"] != mark else None
            if trouble is None:
                index = self._shelf.open(generation)
        except RecordError as error:
            trouble = str(error)
        with self._asking:
            self._index, self.trouble = index, trouble
            self._retry_at = time.monotonic() + _RETRY_S

    def _in_background(self) -> None:
        """Work on the index in a thread that ends when there is nothing to do."""
        with self._asking:
            if self._closed or (self._worker is not None and self._worker.is_alive()):
                return
            self._worker = threading.Thread(target=self._work, name="memory-index")
            self._worker.start()

    def _work(self) -> None:
        with self.working:
            if self._closed:
                return
            if self.trouble is not None and self._shelf.heals and time.monotonic() > self._retry_at:
                self._open()
            self._catch_up()

    def _catch_up(self) -> None:
        index = self._index
        while index is not None and index is self._index:
            with self._database.reading() as connection:
                lag = journal.last_vector(connection) - self.applied
                found = self._page(connection, self.applied, min(max(lag // 10, _LEAST), PAGE))
            if not found[0]:
                return
            try:
                index.upsert(_ids(found[0]), found[1])
            except RecordError as error:
                self._give_up(str(error))
                return
            self.applied = found[0][-1]
            with self._database.writing() as connection:
                write_state(connection, applied=self.applied)

    def _page(self, connection: Connection, after: int, size: int) -> Page:
        """The next vectors after a number."""
        number = vectors.c.number
        upto = connection.execute(select(number).where(number > after).order_by(number).limit(size)).scalars().all()
        if not upto:
            return [], np.zeros((0, self._dim), np.float32)
        return journal.read_vectors(connection, [number > after, number <= upto[-1]], self._dim)

    def _give_up(self, trouble: str) -> None:
        with self._asking:
            if self.trouble is not None:
                return
            self.trouble = trouble
            self._retry_at = time.monotonic() + _RETRY_S
            if self.working.acquire(blocking=False):  # else it may be in use
                try:
                    self._shut()
                finally:
                    self.working.release()
            self._index = None
        warnings.warn(f"recalls compare all memories: {trouble}", RuntimeWarning, stacklevel=3)

    def _shut(self) -> None:
        with self._asking:
            if self._index is not None:
                self._index.close()
                self._index = None

    def _state(self) -> dict[str, str]:
        with self._database.reading() as connection:
            return read_state(connection)

    def _diagnose(self, generation: str) -> str | None:
        """What is wrong with a closed index, or None."""
        with self._database.reading() as connection:
            numbers = connection.execute(select(vectors.c.number)).scalars().all()
        expected = set(_ids([number for number in numbers if number <= self.applied]))
        pending = set(_ids([number for number in numbers if number > self.applied]))
        ids, sample = self._sample(_SAMPLE)
        try:
            found, hits = self._shelf.inspect(generation, ids, sample)
        except RecordError as error:
            return str(error)
        missing, surplus = len(expected - found), len(found - expected - pending)
        if missing or surplus:
            wrong = f"lacks {missing} vectors and has {surplus} too many"
        elif hits < _HIT_RATE * len(ids):
            wrong = f"finds only {hits} of {len(ids)} vectors by themselves"
        else:
            return None
        return f"the Chroma index (generation {generation}, {self._shelf.place}) {wrong}; call `rebuild()`"

    def _sample(self, size: int) -> tuple[list[str], np.ndarray]:
        """Ids and vectors of up to `size` vectors that the index has, drawn the same way every time."""
        number = vectors.c.number
        with self._database.reading() as connection:
            numbers = connection.execute(select(number).where(number <= self.applied)).scalars().all()
            chosen = np.random.default_rng(0).permutation(len(numbers))[:size]
            some = [number.in_([numbers[place] for place in chosen])]
            found = journal.read_vectors(connection, some, self._dim)
        return _ids(found[0]), found[1]


def _ids(numbers: Sequence[int]) -> list[str]:
    return [str(number) for number in numbers]
