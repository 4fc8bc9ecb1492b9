"""Holdings: what a memory store holds, read, compared with drafts and situations, and its index kept in order.

No memory is written here; `MemoryStore` adds that. It is a subclass, rather than a holder that repeats each method,
because reading and writing share one folder, one lock and one journal.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Self, Unpack

from sqlalchemy import Connection, func, insert, select

from agentkit.errors import RecordError
from agentkit.memory import history, journal, layout, lessons, writer
from agentkit.memory.database import Database
from agentkit.memory.embedders import Embedder
from agentkit.memory.exchange import write_memories
from agentkit.memory.gate import Gate
from agentkit.memory.history import Write
from agentkit.memory.journal import memory_of
from agentkit.memory.keeper import IndexKeeper
from agentkit.memory.kinds import KEY_FIELDS, Draft, Kind, Memory
from agentkit.memory.layout import memories, snapshots
from agentkit.memory.ledger import Ledger
from agentkit.memory.lessons import Lesson
from agentkit.memory.lock import FolderLock
from agentkit.memory.log import EpisodeLog
from agentkit.memory.migration import Migration
from agentkit.memory.planner import RECALLED, Planner, Scope, ScopeOptions, Space
from agentkit.memory.shelf import shelf_of
from agentkit.memory.writer import Decision, Plan, Writer
from agentkit.task import Task


class Holdings:
    """All of a `MemoryStore` but what writes memories."""

    def __init__(
        self,
        folder: Path,
        embedder: Embedder,
        index: str | None,
        exact_limit: int,
        grants: Collection[str] | None,
        rebuild: bool,
        wait_s: float,
        gate: Gate | None,
    ) -> None:
        self.folder = folder
        self._grants = None if grants is None else frozenset(grants)
        self._guard = threading.RLock()
        self._lock = FolderLock(folder, wait_s)
        try:
            self._journal = Database(folder / "memory.sqlite", layout.tables)
            history.greet(self._journal, folder, embedder.fingerprint, rebuild)
            shelf = shelf_of(folder, self._journal, index)
        except BaseException:
            self._lock.close()
            raise
        used = index != "exact"
        self._keeper = IndexKeeper(self._journal, embedder.fingerprint, embedder.dim, shelf, used=used)
        self._planner = Planner(self._journal, self._keeper, embedder, exact_limit if used else None)
        self._migration: Migration | None = None
        self._ledger = Ledger(self._journal)
        self.gate = gate
        """What judges drafts before they are written; None if nothing does."""
        self._writer = Writer(gate, self._planner.embed)
        try:
            if rebuild:
                self.rebuild()
            else:
                self._keeper.open()
        except BaseException:
            self._release()
            raise

    @property
    def database(self) -> Database:
        """The journal, for the other parts of this package."""
        self._lock.check()
        return self._journal

    @property
    def trouble(self) -> str | None:
        """Why the index is not used (recalls then compare all memories), or None if all is well."""
        return self._keeper.trouble

    @property
    def index_lag(self) -> int:
        """Vectors that the index has not been told of yet; a recall compares them one by one."""
        self._lock.check()
        return self._keeper.lag()

    @property
    def ledger(self) -> Ledger:
        """What was shown and how it ended, and what the memories are worth by that."""
        self._lock.check()
        return self._ledger

    def get(self, id: str, *, snapshot: str | None = None) -> Memory | None:
        """The memory of that id as it stands, or stood at a snapshot; None if there was none."""
        with self.database.reading() as connection:
            scope = journal.held_at(self._seq(connection, snapshot))
            row = connection.execute(select(memories).where(memories.c.id == id, *scope)).one_or_none()
        return None if row is None or not row.draft else memory_of(row)

    def versions(self, id: str) -> list[Memory]:
        """All versions of a memory that are not forgotten, oldest first."""
        with self.database.reading() as connection:
            query = select(memories).where(memories.c.id == id, memories.c.draft != "").order_by(memories.c.seq)
            return [memory_of(row) for row in connection.execute(query)]

    def reasons(self, id: str) -> tuple[str, ...]:
        """Why a memory was given its status, in sentences; none if there was nothing to say."""
        with self.database.reading() as connection:
            return writer.notes_on(connection, id)

    def history(self) -> list[Write]:
        """All writes, oldest first."""
        with self.database.reading() as connection:
            return history.writes_of(connection)

    def held(self, *, snapshot: str | None = None, env_id: str | None = None) -> list[Memory]:
        """All memories that are not retired, quarantined and disputed ones included, in order of their ids.

        Args:
            snapshot: As they stood at that snapshot.
            env_id: Only those from this environment.
        """
        with self.database.reading() as connection:
            scope = [*journal.held_at(self._seq(connection, snapshot)), memories.c.status != "retired"]
            if env_id is not None:
                scope.append(memories.c.env_id == env_id)
            rows = connection.execute(select(memories).where(*scope).order_by(memories.c.id))
            return [memory_of(row) for row in rows if self._may(row.namespace)]

    def counts(self) -> dict[tuple[str, str], int]:
        """Number of memories by kind and status; those that are forgotten or retired are left out."""
        self._lock.check()
        at = memories.c
        with self._journal.reading() as connection:
            query = select(at.kind, at.status, func.count()).where(at.ended.is_(None), at.status != "retired")
            rows = connection.execute(query.group_by(at.kind, at.status))
            return {(kind, status): num for kind, status, num in rows}

    def consider(self, drafts: Iterable[Draft]) -> list[Decision]:
        """What would become of drafts, and why, one decision each; nothing is written."""
        self._lock.check()
        with self._guard:
            return self._plan(drafts).decisions

    def __len__(self) -> int:
        """Number of memories that can be recalled."""
        with self.database.reading() as connection:
            held = [memories.c.ended.is_(None), memories.c.status.in_(RECALLED)]
            return connection.execute(select(func.count()).select_from(memories).where(*held)).scalar_one()

    def recall(
        self,
        query: str | Mapping[str, str],
        k: int = 3,
        *,
        env_id: str | None = None,
        split: str | None = None,
        exclude_tasks: Iterable[str | Task] = (),
        snapshot: str | None = None,
        kinds: Collection[Kind] | None = None,
        namespaces: Collection[str] = ("",),
        at_s: float | None = None,
    ) -> list[Memory]:
        """The memories whose keys are nearest to `query`, nearest first and equals by id.

        Args:
            query: What the situation looks like, usually an observation, compared with keys of every field; or a
                text for each field that is to be compared. Cut at 4,000 characters.
            k: At most this many.
            env_id: Only memories from this environment.
            split: Only memories of tasks of this split.
            exclude_tasks: Tasks (or their keys) whose memories are hidden, e.g. the task under test.
            snapshot: See only what was there at that `snapshot()`, by its id or name.
            kinds: Only memories of these kinds.
            namespaces: Only memories in these.
            at_s: Only memories that held in the world at that Unix time.

        Raises:
            RecordError: The snapshot is not one of this store, a namespace is not granted, or the journal cannot be
                read.
        """
        options: ScopeOptions = {"env_id": env_id, "split": split, "exclude_tasks": exclude_tasks, "snapshot": snapshot}
        options |= {"kinds": kinds, "namespaces": namespaces, "at_s": at_s}
        asked = dict.fromkeys(KEY_FIELDS, query) if isinstance(query, str) else query
        with self.database.reading() as connection:
            scope = self.scope(connection, **options)
            if k < 1 or scope.newest == 0:
                return []
            score_of = self.nearest(connection, asked, k, scope)
            best = journal.best_of(connection, score_of, k)
            row_of = {row.seq: row for row in journal.rows_of(connection, best)}
        return [memory_of(row_of[seq], score_of[seq]) for seq in best]

    def scope(self, connection: Connection, **options: Unpack[ScopeOptions]) -> Scope:
        """Which memories `recall` sees with these options, for the other parts of this package.

        Raises:
            RecordError: The snapshot is not one of this store, or a namespace is not granted.
        """
        namespaces, given = options.get("namespaces", ("",)), options.get("exclude_tasks", ())
        self._check_granted(namespaces)
        tasks = [given] if isinstance(given, (str, Task)) else given
        return Scope(
            self._seq(connection, options.get("snapshot")),
            tuple(namespaces),
            options.get("env_id"),
            options.get("split"),
            {task.key if isinstance(task, Task) else task for task in tasks},
            options.get("kinds"),
            options.get("at_s"),
        )

    def nearest(
        self, connection: Connection, asked: Mapping[str, str], k: int, scope: Scope, also: Collection[int] = ()
    ) -> dict[int, float]:
        """As `Planner.nearest`, for the other parts of this package."""
        return self._planner.nearest(connection, asked, k, scope, also)

    def snapshot(self, name: str | None = None) -> str:
        """The id of what the store holds now; equal for stores that were told the same in the same order.

        Args:
            name: Also remember it by this name, which may be passed for the id from then on.

        Raises:
            RecordError: Another snapshot has that name.
        """
        self._lock.check()
        with self._journal.writing() if name else self._journal.reading() as connection:
            seq = journal.last_seq(connection)
            id = f"{seq}-{journal.chain_at(connection, seq)}"
            if name:
                known = connection.execute(select(snapshots.c.snapshot).where(snapshots.c.name == name)).scalar()
                if known not in (None, id):
                    raise RecordError(f"the snapshot {name!r} is {known} already; give this one another name")
                if known is None:
                    connection.execute(insert(snapshots), {"name": name, "snapshot": id})
            return id

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write all memories that `held` gives to a file of JSON lines; returns how many."""
        return write_memories(path, self.held())

    def verify(self) -> list[str]:
        """Check journal and index against each other; returns the problems in words, none if all is well.

        The chain must agree with what the versions say, every key have a vector of this embedder, the index exactly
        the journal's keys, and 99 % of a sample be found by their own vectors. Chroma is read in another process,
        which may crash.
        """
        self._lock.check()
        with self._guard:
            problems = self._journal.integrity()
            if not problems:
                space = self._planner.space
                with self._journal.reading() as connection:
                    problems = history.problems(connection, space.fingerprint, space.dim)
        return problems or self._keeper.problems()

    def rebuild(self) -> None:
        """Make the index anew from the journal, and the vectors too where the embedder has changed.

        The new index is made beside the old one and takes its place in one transaction: a crash on the way
        leaves the store as it was. Other threads may recall and write meanwhile.
        """
        self._lock.check()
        Migration(self._journal, self._keeper, self._planner, self._guard, self._planner.space).run()

    def migrate(self, embedder: Embedder) -> Migration:
        """Change the embedder in a thread while the store is in use; recalls use the old one until all is embedded.

        Cut short by `close` or a crash, it goes on where it stopped at the next `migrate` with that embedder; until it
        is done the store is opened with the old one, from then on with the new one.

        Raises:
            RecordError: A change to yet another embedder is under way.
        """
        self._lock.check()
        with self._guard:
            if self._migration is not None and not self._migration.done:
                return self._migration.same(embedder)
            parts = (self._journal, self._keeper, self._planner, self._guard)
            self._migration = Migration(*parts, Space(embedder))
            return self._migration.start()

    def close(self) -> None:
        """Bring the index up to date and give the folder back; harmless if done twice."""
        if self._migration is not None:
            self._migration.stop()
        with self._guard:
            try:
                self._lock.check()
            except RecordError:
                return  # closed already, or a forked child's copy
            try:
                self._keeper.seal()
            finally:
                self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _plan(self, drafts: Iterable[Draft], lesson: Lesson | None = None, log: EpisodeLog | None = None) -> Plan:
        with self._journal.reading() as connection:
            if lesson is None or log is None:
                return self._writer.plan(connection, drafts)
            return lessons.plan(connection, self._writer, lesson, log)

    def _seq(self, connection: Connection, snapshot: str | None) -> int:
        return journal.last_seq(connection) if snapshot is None else journal.snapshot_seq(connection, snapshot)

    def _may(self, namespace: str) -> bool:
        return self._grants is None or namespace in self._grants

    def _check_granted(self, namespaces: Collection[str]) -> None:
        refused = sorted(namespace for namespace in namespaces if not self._may(namespace))
        if refused:
            raise RecordError(
                f"namespace {refused[0]!r} is not granted here; open the store with grants={refused!r} added, or "
                "leave it out"
            )

    def _release(self) -> None:
        self._keeper.close()
        self._journal.close()
        self._lock.close()
