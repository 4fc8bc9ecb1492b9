"""Migration: gives the texts of a store vectors by another embedder, then lets these take the place of the old.

The new vectors lie in a table of their own until then, so nothing is ever compared with both; the last of them tells
where to go on after a crash. Recalls are answered from the old ones to the end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select, update

from agentkit.errors import RecordError
from agentkit.memory.database import Database
from agentkit.memory.embedders import Embedder
from agentkit.memory.index import PAGE
from agentkit.memory.keeper import IndexKeeper
from agentkit.memory.layout import next_vectors, vectors
from agentkit.memory.planner import Planner, Space

_BATCH = 64  # texts embedded and acknowledged together


class Migration:
    """One change of embedder, or a rebuild with the same one; `MemoryStore.migrate` starts it in a thread.

    Args:
        database: The journal.
        keeper: The index beside it.
        planner: Is told of the new embedder.
        guard: Held while memories are written.
        space: The new embedder's.
    """

    def __init__(
        self, database: Database, keeper: IndexKeeper, planner: Planner, guard: threading.RLock, space: Space
    ) -> None:
        self.fingerprint = space.fingerprint
        """Of the new embedder."""
        self._space = space
        self._database = database
        self._keeper = keeper
        self._planner = planner
        self._guard = guard
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Migration:
        """Run in a thread of its own; what was made for yet another embedder is dropped."""
        with self._database.writing() as connection:
            connection.execute(delete(next_vectors).where(next_vectors.c.fingerprint != self.fingerprint))
        self._thread = threading.Thread(target=self._run_quietly, name="memory-migration")
        self._thread.start()
        return self

    def run(self) -> None:
        """Embed what is not of this embedder, make the index anew, and swap."""
        while self._step():
            if self._stopped.is_set() or not threading.main_thread().is_alive():
                return
        self._keeper.rebuild(self._page, self._space.dim, self.fingerprint, self._still(), self._swap)

    def same(self, embedder: Embedder) -> Migration:
        """This one, if it is to that embedder.

        Raises:
            RecordError: It is to another.
        """
        if embedder.fingerprint != self.fingerprint:
            raise RecordError(
                f"a change to embedder {self.fingerprint!r} is under way; `wait` for it, then change to "
                f"{embedder.fingerprint!r}"
            )
        return self

    @property
    def done(self) -> bool:
        """Whether it is over, be it for an error or because the store was closed."""
        return self._thread is None or not self._thread.is_alive()

    def progress(self) -> tuple[int, int]:
        """Number of vectors that are of this embedder, and of all."""
        with self._database.reading() as connection:
            total = connection.execute(select(func.count()).select_from(vectors)).scalar_one()
            stale = connection.execute(select(func.count()).select_from(vectors).where(self._stale)).scalar_one()
            new = connection.execute(select(func.count()).select_from(next_vectors).where(self._ours)).scalar_one()
        return total - stale + new, total

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is over, at most so long; returns whether it is.

        Raises:
            RecordError: It failed; the store answers from the old vectors, and `migrate` goes on where it stopped.
        """
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self._error is not None:
            raise RecordError(
                f"the change to embedder {self.fingerprint!r} stopped ({self._error}); the store answers as before, "
                "and `migrate` with that embedder goes on from there"
            ) from self._error
        return self.done

    def stop(self) -> None:
        """Stop after the batch at hand; `migrate` goes on from there."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def _stale(self) -> ColumnElement[bool]:
        return vectors.c.fingerprint != self.fingerprint

    @property
    def _ours(self) -> ColumnElement[bool]:
        return next_vectors.c.fingerprint == self.fingerprint

    def _run_quietly(self) -> None:
        try:
            self.run()
        except Exception as error:  # noqa: BLE001  # told by `wait`; the embedder may raise anything
            self._error = error

    def _step(self) -> bool:
        """Embed the next batch of texts; False if there was none."""
        with self._database.reading() as connection:
            after = connection.execute(select(func.max(next_vectors.c.number)).where(self._ours)).scalar() or 0
            query = select(vectors.c.number, vectors.c.text).where(self._stale, vectors.c.number > after)
            rows = connection.execute(query.order_by(vectors.c.number).limit(_BATCH)).all()
        if not rows:
            return False
        made = self._space.embed([row.text for row in rows])
        new = {row.number: vector.tobytes() for row, vector in zip(rows, made, strict=True)}
        with self._database.writing() as connection:
            kept = connection.execute(select(vectors.c.number).where(vectors.c.number.in_(list(new)))).scalars()
            own = {"fingerprint": self.fingerprint}  # some may be forgotten by now
            values = [{"number": number, "embedding": new[number], **own} for number in kept]
            if values:
                connection.execute(insert(next_vectors), values)
        return True

    def _page(self, after: int) -> tuple[list[int], np.ndarray]:
        """The next vectors after a number, as they will be."""
        embedding = func.coalesce(next_vectors.c.embedding, vectors.c.embedding)
        both = vectors.outerjoin(next_vectors, and_(vectors.c.number == next_vectors.c.number, self._ours))
        query = select(vectors.c.number, embedding).select_from(both).where(vectors.c.number > after)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(vectors.c.number).limit(PAGE)).all()
        data = np.frombuffer(b"".join([row[1] for row in rows]), np.float32)
        return [row[0] for row in rows], data.reshape(len(rows), self._space.dim)

    @contextmanager
    def _still(self) -> Iterator[None]:
        with self._guard:
            while self._step():  # what was written meanwhile
                pass
            self._planner.expect(self._space)
            yield
            self._planner.enter(self._space)

    def _swap(self, connection: Connection) -> None:
        its_own = and_(next_vectors.c.number == vectors.c.number, self._ours)
        new = select(next_vectors.c.embedding).where(its_own).scalar_subquery()
        some = vectors.c.number.in_(select(next_vectors.c.number).where(self._ours))
        connection.execute(update(vectors).where(some).values(embedding=new, fingerprint=self.fingerprint))
        connection.execute(delete(next_vectors).where(self._ours))
