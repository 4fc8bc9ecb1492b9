"""VectorMatrix: vectors in memory, so that comparing with many costs no reading."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from sqlalchemy import Connection

Reader = Callable[[Connection, int, int], tuple[Sequence[int], np.ndarray]]
"""Reads the vectors numbered beyond one number and up to another: the numbers, in order, and the vectors [N, dim]."""
_FIRST = 1024  # rows to begin with; doubled when they are full
_PAGE = 20_000  # rows read at once


class VectorMatrix:
    """Vectors by number, read from a database when first needed; shared by threads.

    A number is given once, later vectors get greater ones, and a vector never changes; it may go.
    """

    def __init__(self, read: Reader, dim: int) -> None:
        self._read = read
        self._dim = dim
        self._guard = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget everything; what is asked for is read anew."""
        with self._guard:
            self._numbers = np.zeros(_FIRST, np.int64)
            self._vectors = np.zeros((_FIRST, self._dim), np.float32)
            self._size = 0

    @property
    def size(self) -> int:
        """Number of vectors in memory, those included that have gone since."""
        return self._size

    def rows(self, connection: Connection, numbers: np.ndarray) -> np.ndarray:
        """The vectors [N, dim] of these numbers [N], which rise and are all known.

        The connection must see them; others may see more or fewer.
        """
        with self._guard:
            last = int(self._numbers[self._size - 1]) if self._size else 0
            if len(numbers) and int(numbers[-1]) > last:
                for start in range(last, int(numbers[-1]), _PAGE):
                    self._append(*self._read(connection, start, min(start + _PAGE, int(numbers[-1]))))
            known, vectors = self._numbers[: self._size], self._vectors[: self._size]
        if len(numbers) == len(known):  # all of them: no copy
            return vectors
        return vectors[np.searchsorted(known, numbers)]

    def _append(self, numbers: Sequence[int], matrix: np.ndarray) -> None:
        size = self._size + len(numbers)
        if size > len(self._numbers):
            more = max(size, 2 * len(self._numbers)) - len(self._numbers)
            self._numbers = np.concatenate([self._numbers, np.zeros(more, np.int64)])
            self._vectors = np.concatenate([self._vectors, np.zeros((more, self._dim), np.float32)])
        self._numbers[self._size : size] = numbers
        self._vectors[self._size : size] = matrix
        self._size = size
