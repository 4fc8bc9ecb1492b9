"""Table: what one part of the benchmark measured, beside the bars it is held against."""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import Field

from agentkit.memory.records import Record

Size = Literal["tiny", "quick", "full"]
Cell = str | int | float | None
T = TypeVar("T")


class Scale(Record):
    """How much is measured."""

    size: Size = "full"
    """`full` for figures to report; `quick` for a look, in minutes; `tiny` only shows that everything runs."""
    seeds: int | None = Field(default=None, ge=1)
    """Seeds of what is random, where a table has any; None for what the size says."""
    kills: int | None = Field(default=None, ge=1)
    """Writers that are killed; None for what the size says."""
    million: bool = False
    """Measure latency with 1,000,000 memories too."""

    def pick(self, tiny: T, quick: T, full: T) -> T:
        """The value for this size."""
        return {"tiny": tiny, "quick": quick, "full": full}[self.size]

    def num_seeds(self, tiny: int, quick: int, full: int) -> int:
        """As many seeds as are asked for, or the value for this size."""
        return self.seeds or self.pick(tiny, quick, full)


class Check(Record):
    """A figure and the bar it must reach."""

    what: str
    value: float
    bar: float
    at: Literal["least", "most"]
    """Whether the bar is the least or the most that is allowed."""

    @property
    def met(self) -> bool:
        """Whether the bar is reached; never by what is not a number."""
        return self.value >= self.bar if self.at == "least" else self.value <= self.bar

    def __str__(self) -> str:
        """One line.

        >>> print(Check(what="lost", value=2, bar=0, at="most"))
        MISSED  lost: 2, bar: at most 0
        """
        return f"{'met   ' if self.met else 'MISSED'}  {self.what}: {self.value:.4g}, bar: at {self.at} {self.bar:.4g}"


class Table(Record):
    """What one part of the benchmark found."""

    name: str
    title: str
    rows: tuple[dict[str, Cell], ...]
    """Column -> cell; all rows have the columns of the first. Shares are 0 to 1."""
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    """What was left out, and why."""
    seconds: float = 0.0
    """Wall seconds that it took."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(self.rows[0]) if self.rows else ()


def shown(cell: Cell) -> str:
    """A cell as it is printed.

    >>> [shown(cell) for cell in ("live", 12, 0.98765, None)]
    ['live', '12', '0.988', '-']
    """
    if cell is None:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
