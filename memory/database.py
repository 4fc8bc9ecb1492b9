"""Database: one SQL database (SQLite unless told otherwise), whose failures say what to do next.

Reads and writes are explicit transactions. A write takes the write lock at its beginning, so that several
processes may write in turn and sequence numbers appear in the order in which they are committed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from agentkit.errors import RecordError

WAIT_S = 30
"""Seconds a write waits for another process's write before it gives up."""
_LOCK_KEY = 0x61676B74
"""Name of the write lock on servers (`pg_advisory_xact_lock`)."""

_WAYS_OUT = {  # prefix of SQLite's error name: (what is wrong, what to do)
    "SQLITE_FULL": (
        "the disk is full",
        "free space and record again: everything acknowledged is kept",
    ),
    "SQLITE_NOTADB": (
        "it is not a SQLite database",
        "give another path, or move that file away",
    ),
    "SQLITE_CORRUPT": (
        "the file is damaged",
        "keep a copy, then restore a backup or salvage with: sqlite3 FILE .recover | sqlite3 NEW_FILE",
    ),
    "SQLITE_READONLY": (
        "it is read-only",
        "make the file and its folder writable, or copy them to a folder that is",
    ),
    "SQLITE_PERM": ("permission was denied", "make the file and its folder writable"),
    "SQLITE_CANTOPEN": (
        "it cannot be opened or created",
        "check that its folder exists and is writable, and that the disk has space",
    ),
    "SQLITE_BUSY": (
        f"another process has held it for {WAIT_S} s",
        "end that process or let it finish, then try again",
    ),
    "SQLITE_IOERR": (
        "the disk refused to read or write",
        "check its space and health, then try again: everything acknowledged is kept",
    ),
}


class Database:
    """Tables in one database; use `reading()` and `writing()` for everything.

    Args:
        where: A path (SQLite), or an SQLAlchemy URL.
        durable: SQLite only. False survives the death of the process, `kill -9` included; True also a power
            loss, at the price of one disk flush a transaction.

    Raises:
        RecordError: The database cannot be opened; the message says why and what to do.
    """

    def __init__(self, where: str | os.PathLike[str], tables: MetaData, *, durable: bool = False) -> None:
        self._pid = os.getpid()
        url = _url(where)
        self._sqlite = url.get_backend_name() == "sqlite"
        self.location = str(url.database) if self._sqlite and url.database else url.render_as_string()
        try:
            self._engine = create_engine(url, **({"connect_args": {"timeout": WAIT_S}} if self._sqlite else {}))
        except ImportError as error:
            raise RecordError(
                f"{self.location} needs the package {error.name!r}; install the driver its URL names"
            ) from error
        if self._sqlite:
            _make_explicit(self._engine, durable)
        self._writer = self._engine.execution_options(begin="BEGIN IMMEDIATE")
        with self.writing() as connection:
            self._refuse_foreign(connection, tables)
            for table in tables.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))
                for index in sorted(table.indexes, key=lambda index: str(index.name)):
                    connection.execute(CreateIndex(index, if_not_exists=True))

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database."""
        with self._say_the_way_out(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that holds the write lock; committed when the block ends, undone if it raises."""
        with self._say_the_way_out(), self._writer.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
            yield connection

    def integrity(self) -> list[str]:
        """What the database's own check finds wrong, one sentence each; empty if nothing."""
        if not self._sqlite:
            return []
        try:
            with self.reading() as connection:
                found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        except RecordError as error:
            return [str(error)]
        return [f"{self.location}: {line}" for line in found if line != "ok"]

    def compact(self) -> None:
        """Give back what was deleted: nothing of it stays in the file or beside it. Servers do so by themselves."""
        if not self._sqlite:
            return
        with self._say_the_way_out(), self._engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            raw.execute("VACUUM")
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close all connections; the last one to leave writes SQLite's log back into the file."""
        if os.getpid() == self._pid:
            self._engine.dispose()

    def _refuse_foreign(self, connection: Connection, tables: MetaData) -> None:
        """Raise if the file holds tables and none of ours."""
        if self._sqlite:
            there = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())
            if there and not there & set(tables.tables):
                raise RecordError(
                    f"{self.location} is a SQLite database of something else (it holds the table {min(there)!r}); give "
                    "another path, or move that file away"
                )

    @contextmanager
    def _say_the_way_out(self) -> Iterator[None]:
        if os.getpid() != self._pid:  # a connection carried over a fork corrupts SQLite's locking
            raise RecordError(f"{self.location} was opened before this process forked; open it again here")
        try:
            yield
        except DBAPIError as error:
            name = getattr(error.orig, "sqlite_errorname", "")
            for prefix, (wrong, way_out) in _WAYS_OUT.items():
                if name.startswith(prefix):
                    raise RecordError(f"{self.location}: {wrong}; {way_out}") from error
            way_out = "nothing of this call was recorded"
            if str(error.orig).startswith("no such"):  # table or column
                way_out = "the file is not what agentkit makes; give another path, or move that file away"
            raise RecordError(f"{self.location}: {error.orig}; {way_out}") from error


def _url(where: str | os.PathLike[str]) -> URL:
    if isinstance(where, str) and "://" in where:
        try:
            url = make_url(where)
        except ArgumentError as error:
            raise RecordError(f"{where!r} is neither a path nor a database URL: {error}") from error
        if url.get_backend_name() != "sqlite" or not url.database:
            return url
        path = Path(url.database)
    else:
        path = Path(where).expanduser()
        url = URL.create("sqlite", database=str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(
            f"the folder of {path} cannot be made ({error.strerror}); give a path in a writable folder"
        ) from error
    return url


def _make_explicit(engine: Engine, durable: bool) -> None:
    """Transactions begin and end where we say, not where Python's driver guesses."""

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={WAIT_S * 1000}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))
