"""KeyMatrix: the vectors of all keys in memory, so that comparing with many costs no reading."""

from __future__ import annotations

import numpy as np

from agentkit.memory import journal
from agentkit.memory.database import Database
from agentkit.memory.journal import keys

_FIRST = 1024  # rows to begin with; doubled when they are full
_PAGE = 20_000  # rows read at once


class KeyMatrix:
    """Vectors by the number of their key, read from the journal when first needed; one thread at a time."""

    def __init__(self, database: Database, dim: int) -> None:
        self._database = database
        self._dim = dim
        self.clear()

    def clear(self) -> None:
        """Forget everything; what is asked for is read anew."""
        self._numbers = np.zeros(_FIRST, np.int64)
        self._seqs = np.zeros(_FIRST, np.int64)
        self._vectors = np.zeros((_FIRST, self._dim), np.float32)
        self._size = 0

    def rows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sequence numbers [N] and vectors [N, dim] of the keys of these numbers [N], which rise and are all known."""
        last = int(self._numbers[self._size - 1]) if self._size else 0
        if len(numbers) and int(numbers[-1]) > last:
            self._read(last)
        if len(numbers) == self._size:  # all of them: no copy
            return self._seqs[: self._size], self._vectors[: self._size]
        places = np.searchsorted(self._numbers[: self._size], numbers)
        return self._seqs[places], self._vectors[places]

    def _read(self, after: int) -> None:
        """Read the keys numbered beyond `after`."""
        with self._database.reading() as connection:
            newest = journal.last_key(connection)
            for start in range(after, newest, _PAGE):
                page = [keys.c.number > start, keys.c.number <= start + _PAGE]
                numbers, seqs, vectors = journal.vectors(connection, page, self._dim)
                size = self._size + len(numbers)
                self._make_room(size)
                self._numbers[self._size : size] = numbers
                self._seqs[self._size : size] = seqs
                self._vectors[self._size : size] = vectors
                self._size = size

    def _make_room(self, size: int) -> None:
        if size <= len(self._numbers):
            return
        more = max(size, 2 * len(self._numbers)) - len(self._numbers)
        self._numbers = np.concatenate([self._numbers, np.zeros(more, np.int64)])
        self._seqs = np.concatenate([self._seqs, np.zeros(more, np.int64)])
        self._vectors = np.concatenate([self._vectors, np.zeros((more, self._dim), np.float32)])
