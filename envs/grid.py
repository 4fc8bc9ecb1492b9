"""Four directions on a square grid of cells numbered row by row: what FrozenLake and Sokoban share."""

from __future__ import annotations

from collections.abc import Container

DIRECTIONS = ("Left", "Down", "Right", "Up")
"""Action texts, in the order of Gymnasium's FrozenLake actions 0 to 3."""
STEPS = ((0, -1), (1, 0), (0, 1), (-1, 0))
"""(rows, columns) that each direction moves."""
_NUMBER = {name.lower(): number for number, name in enumerate(DIRECTIONS)}


def parse_direction(text: str) -> int | None:
    """Number of the direction named by `text`, or None.

    >>> parse_direction(" RIGHT "), parse_direction("north")
    (2, None)
    """
    return _NUMBER.get(text.strip().lower())


def path_lengths(size: int, start: int, blocked: Container[int]) -> dict[int, int]:
    """Steps from `start` to every cell that can be reached around the `blocked` ones; breadth first.

    >>> path_lengths(2, 0, {1})
    {0: 0, 2: 1, 3: 2}
    """
    lengths = {start: 0}
    frontier = [start]
    while frontier:
        reached = []
        for cell in frontier:
            row, column = divmod(cell, size)
            for rows, columns in STEPS:
                if 0 <= row + rows < size and 0 <= column + columns < size:
                    neighbour = cell + rows * size + columns
                    if neighbour not in lengths and neighbour not in blocked:
                        lengths[neighbour] = lengths[cell] + 1
                        reached.append(neighbour)
        frontier = reached
    return lengths


def place(size: int, cell: int) -> str:
    """Words for a cell, counted from 0 at the top left.

    >>> place(4, 6)
    'row 1 col 2'
    """
    row, column = divmod(cell, size)
    return f"row {row} col {column}"


def cell_at(size: int, words: str) -> int | None:
    """The cell that `place` calls so, or None.

    >>> cell_at(4, "row 1 col 2"), cell_at(4, "row 4 col 0"), cell_at(4, "there")
    (6, None, None)
    """
    return next((cell for cell in range(size * size) if place(size, cell) == words), None)
