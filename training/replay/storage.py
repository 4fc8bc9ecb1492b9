"""Storage: the file of a replay buffer, from which its state at the end of any iteration can be read again.

An entry is never changed after it is written but for the iteration in which it left, and what does change (priorities)
is written anew with its iteration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import (
    JSON,
    Column,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from agentkit.errors import RecordError
from agentkit.training.replay.entry import Entry

_META = MetaData()
_ENTRIES = Table(
    "entries",
    _META,
    Column("number", Integer, primary_key=True),
    Column("episode_id", String, nullable=False),
    Column("advantage", Float, nullable=False),
    Column("policy_version", Integer, nullable=False),
    Column("task", String, nullable=False),
    Column("group", String, nullable=False),
    Column("episode_return", Float, nullable=False),
    Column("mean_logp", Float, nullable=False),
    Column("slot", Integer, nullable=False),
    Column("turn_advantages", JSON, nullable=False),
    Column("added_at", Integer, nullable=False),
    Column("left_at", Integer, nullable=True),
)
_PRIORITIES = Table(
    "priorities",
    _META,
    Column("number", Integer, primary_key=True),
    Column("iteration", Integer, primary_key=True),
    Column("priority", Float, nullable=False),
)
_FIELDS = tuple(Entry.__dataclass_fields__)


@dataclass(frozen=True)
class Stored:
    """What the file says of the present."""

    entries: list[Entry]
    """Those that have not left, in order of admission."""
    next: int
    """Number of the next entry: those that have left keep theirs, for the buffer of their time can be restored."""
    priorities: dict[int, float]
    """By number of the entry."""


class Storage:
    """The file of a replay buffer.

    Args:
        path: SQLite file; created if missing.

    Raises:
        RecordError: The file cannot be used; so says every method.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine = create_engine(URL.create("sqlite", database=str(path)))
        try:
            _META.create_all(self._engine)
        except SQLAlchemyError as error:
            raise self._fault(error) from error

    def write(
        self, iteration: int, fresh: Sequence[Entry], left: Sequence[int], priorities: Mapping[int, float]
    ) -> None:
        """Write what an iteration has changed, all of it or nothing.

        Args:
            iteration: Which one.
            fresh: Entries that were admitted.
            left: Numbers of those that left.
            priorities: New priorities, by number of the entry.
        """
        try:
            with self._engine.begin() as connection:
                if fresh:
                    times = {"added_at": iteration, "left_at": None}
                    entries = [{name: getattr(entry, name) for name in _FIELDS} | times for entry in fresh]
                    connection.execute(_ENTRIES.insert(), entries)
                for first in range(0, len(left), 500):  # as many names as every SQLite takes in one statement
                    some = left[first : first + 500]
                    connection.execute(update(_ENTRIES).where(_ENTRIES.c.number.in_(some)).values(left_at=iteration))
                if priorities:
                    changed = [{"number": n, "iteration": iteration, "priority": p} for n, p in priorities.items()]
                    connection.execute(_PRIORITIES.insert().prefix_with("OR REPLACE"), changed)
        except SQLAlchemyError as error:
            raise self._fault(error) from error

    def go_back(self, iteration: int) -> None:
        """Put the file back to the end of `iteration`: what came later is gone, what left later is back."""
        try:
            with self._engine.begin() as connection:
                connection.execute(delete(_ENTRIES).where(_ENTRIES.c.added_at > iteration))
                connection.execute(update(_ENTRIES).where(_ENTRIES.c.left_at > iteration).values(left_at=None))
                connection.execute(delete(_PRIORITIES).where(_PRIORITIES.c.iteration > iteration))
        except SQLAlchemyError as error:
            raise self._fault(error) from error

    def read(self) -> Stored:
        """What it says of the present."""
        columns = [_ENTRIES.c[name] for name in _FIELDS]  # in the order of an entry's fields; `turn_advantages` is last
        query = select(*columns).where(_ENTRIES.c.left_at.is_(None)).order_by(_ENTRIES.c.number)
        newest = select(_PRIORITIES.c.number, _PRIORITIES.c.priority).order_by(_PRIORITIES.c.iteration)
        try:
            with self._engine.connect() as connection:
                entries = [Entry(*(*known, tuple(of_turns))) for *known, of_turns in connection.execute(query)]
                last = connection.execute(select(func.max(_ENTRIES.c.number))).scalar() or 0
                newest_of = {row.number: row.priority for row in connection.execute(newest)}
                priorities = {entry.number: newest_of[entry.number] for entry in entries if entry.number in newest_of}
                return Stored(entries, last + 1, priorities)
        except SQLAlchemyError as error:
            raise self._fault(error) from error

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    def _fault(self, error: Exception) -> RecordError:
        return RecordError(
            f"the replay buffer {str(self.path)!r} cannot be used: {error.__cause__ or error}. Free the disk "
            "if it is full; a damaged buffer can be deleted: training then goes on without its entries"
        )
