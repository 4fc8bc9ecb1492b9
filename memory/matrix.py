"""VectorMatrix: the vectors of all keys in memory, so that comparing with many costs no reading."""

from __future__ import annotations

import numpy as np

from agentkit.memory import journal
from agentkit.memory.database import Database
from agentkit.memory.journal import vectors

_FIRST = 1024  # rows to begin with; doubled when they are full
_PAGE = 20_000  # rows read at once


class VectorMatrix:
    """Vectors by number, read from the journal when first needed; one thread at a time."""

    def __init__(self, database: Database, dim: int) -> None:
        self._database = database
        self._dim = dim
        self.clear()

    def clear(self) -> None:
        """Forget everything; what is asked for is read anew."""
        self._numbers = np.zeros(_FIRST, np.int64)
        self._vectors = np.zeros((_FIRST, self._dim), np.float32)
        self._size = 0

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """The vectors [N, dim] of these numbers [N], which rise and are all known."""
        last = int(self._numbers[self._size - 1]) if self._size else 0
        if len(numbers) and int(numbers[-1]) > last:
            self._read(last)
        if len(numbers) == self._size:  # all of them: no copy
            return self._vectors[: self._size]
        return self._vectors[np.searchsorted(self._numbers[: self._size], numbers)]

    def _read(self, after: int) -> None:
        """Read the vectors numbered beyond `after`."""
        with self._database.reading() as connection:
            newest = journal.last_vector(connection)
            for start in range(after, newest, _PAGE):
                page = [vectors.c.number > start, vectors.c.number <= start + _PAGE]
                numbers, matrix = journal.read_vectors(connection, page, self._dim)
                size = self._size + len(numbers)
                self._make_room(size)
                self._numbers[self._size : size] = numbers
                self._vectors[self._size : size] = matrix
                self._size = size

    def _make_room(self, size: int) -> None:
        if size <= len(self._numbers):
            return
        more = max(size, 2 * len(self._numbers)) - len(self._numbers)
        self._numbers = np.concatenate([self._numbers, np.zeros(more, np.int64)])
        self._vectors = np.concatenate([self._vectors, np.zeros((more, self._dim), np.float32)])
