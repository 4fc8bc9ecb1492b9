"""KeyMatrix: the vectors of all keys in memory, so that comparing with many costs no reading."""

from __future__ import annotations

from collections.abc import Sequence

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
        self._vectors = np.zeros((_FIRST, self._dim), np.float32)
        self._size = 0

    def rows(self, numbers: Sequence[int]) -> np.ndarray:
        """[N, dim] vectors of keys that are in the journal, in the order of `numbers`."""
        wanted = np.asarray(numbers, np.int64)
        if not len(wanted):
            return np.zeros((0, self._dim), np.float32)
        last = int(self._numbers[self._size - 1]) if self._size else 0
        if int(wanted.max()) > last:
            self._read(last)
        places = np.searchsorted(self._numbers[: self._size], wanted)
        if len(wanted) == self._size:  # all of them: no copy
            return self._vectors[: self._size]
        return self._vectors[places]

    def _read(self, after: int) -> None:
        """Read the keys numbered beyond `after`."""
        while True:
            with self._database.reading() as connection:
                found, vectors = journal.vectors(
                    connection, [keys.c.number > after, keys.c.number <= after + _PAGE], self._dim
                )
                newest = journal.last_key(connection)
            self._append(found, vectors)
            after += _PAGE
            if after >= newest:
                return

    def _append(self, numbers: Sequence[int], vectors: np.ndarray) -> None:
        size = self._size + len(numbers)
        if size > len(self._numbers):
            room = max(size, 2 * len(self._numbers))
            self._numbers = np.resize(self._numbers, room)
            grown = np.zeros((room, self._dim), np.float32)
            grown[: self._size] = self._vectors[: self._size]
            self._vectors = grown
        self._numbers[self._size : size] = numbers
        self._vectors[self._size : size] = vectors
        self._size = size
