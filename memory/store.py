"""MemoryStore: memories of all kinds, recalled by how much their keys look like the present situation.

The journal (SQLite) holds everything; the vector index holds numbers and vectors and can be rebuilt.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Unpack

from sqlalchemy import Connection, func, insert, select

from agentkit.errors import RecordError, unknown_name
from agentkit.memory import history, journal, lessons, lexical, places, writer
from agentkit.memory.case import draft_of
from agentkit.memory.database import Database
from agentkit.memory.embedders import Embedder, MiniLMEmbedder
from agentkit.memory.exchange import read_memories, write_memories
from agentkit.memory.gate import Gate
from agentkit.memory.history import Receipt, Write
from agentkit.memory.journal import memories, memory_of, read_state, snapshots, write_state
from agentkit.memory.keeper import IndexKeeper
from agentkit.memory.kinds import KEY_FIELDS, Draft, Kind, Memory, Status, Trust
from agentkit.memory.ledger import Ledger
from agentkit.memory.lessons import Lesson
from agentkit.memory.lock import FolderLock
from agentkit.memory.log import EpisodeLog
from agentkit.memory.migration import Migration
from agentkit.memory.planner import EXACT_LIMIT, RECALLED, Planner, Scope, ScopeOptions, Space
from agentkit.memory.records import Episode
from agentkit.memory.shelf import shelf_of
from agentkit.memory.writer import Decision, Plan, Writer, version_of
from agentkit.task import Task

GATE = Gate()
"""The gate of stores that are given none of their own."""


class MemoryStore:
    """Memories in a folder that belongs to this object until it is closed.

    Use `MemoryStore.open`. May be shared by threads, not by processes.
    """

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
            self._journal = Database(folder / "memory.sqlite", journal.tables)
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

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        embedder: Embedder | None = None,
        index: str | None = None,
        exact_limit: int = EXACT_LIMIT,
        grants: Collection[str] | None = None,
        rebuild: bool = False,
        wait_s: float = 0.0,
        gate: Gate | None = GATE,
    ) -> MemoryStore:
        """The store in `folder`, made if it is not there; `memory.sqlite` and `chroma/` are its files.

        If the index turns out unreadable, a `RuntimeWarning` says so, `trouble` keeps the reason, and recalls
        compare all memories until `rebuild()`.

        Args:
            folder: A folder of its own.
            embedder: What the store was made with; MiniLM by default.
            index: `chroma`; or the URL of a Chroma server, e.g. `http://127.0.0.1:8000`; or `exact` for none: every
                recall compares all keys in scope. By default the server it last had, or else `chroma`.
            exact_limit: With Chroma, scopes up to this many keys are compared one by one all the same.
            grants: Namespaces that may be read and written through this object; None for all.
            rebuild: Make the index anew, and the vectors too if the embedder has changed.
            wait_s: Seconds to wait while another process has it open, so that several may take turns.
            gate: What judges drafts before they are written; None writes them as they are given.

        Raises:
            OwnedElsewhereError: Another process has it open.
            RecordError: It cannot be opened, or was made with another embedder.
        """
        if index not in (None, "chroma", "exact") and not index.startswith(("http://", "https://")):
            raise unknown_name("vector index", index, ["chroma", "exact", "http://127.0.0.1:8000"])
        embedder = embedder or MiniLMEmbedder()
        return cls(Path(folder).expanduser(), embedder, index, exact_limit, grants, rebuild, wait_s, gate)

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

    def write(self, drafts: Iterable[Draft], what: str = "write", *, once: bool = False) -> list[Memory]:
        """Write memories in one transaction, all or none; returns them as they now stand, in order.

        A draft that says what its memory says already changes nothing; any other becomes its next version. Of several
        drafts of one memory, the last counts. The gate judges each (`consider` tells how, without writing): what is
        suspicious goes to quarantine, what is untrusted or not borne out on probation; of one that repeats a memory,
        that memory is returned, with the draft's evidence if it has any. No draft lifts a quarantine.

        Args:
            drafts: What to remember.
            what: What the write is, for `history`.
            once: Write nothing if there was a write of that name, and return what it wrote as that now stands; so that
                a step which is run again leaves no trace.

        Raises:
            RecordError: A namespace is not granted, a draft is malformed (the message says how), or the journal
                failed: nothing was written.
        """
        self._lock.check()
        drafts = list(drafts)
        for draft in drafts:
            self._check_granted([draft.namespace])
            if not draft.keys or not set(draft.keys) <= set(KEY_FIELDS):
                raise RecordError(
                    f"a memory needs one or more keys among {', '.join(KEY_FIELDS)}, got {list(draft.keys)}"
                )
        with self._guard:
            if once and (before := self._named(what)):
                return before
            plan = self._plan(drafts)
            if refused := [decision for decision in plan.decisions if not decision.memory_id]:
                raise RecordError(f"nothing was written, for a draft is malformed: {'; '.join(refused[0].reasons)}")
            self._append(plan.versions, what, plan.notes)
            ids = list(dict.fromkeys(decision.memory_id for decision in plan.decisions))
            now = {memory.id: memory for memory in plan.versions}
            if unchanged := [id for id in ids if id not in now]:
                with self._journal.reading() as connection:
                    now |= {id: memory_of(row) for id, row in journal.current(connection, unchanged).items()}
        return [now[id] for id in ids]

    def revise(self, drafts: Iterable[Draft], what: str) -> int:
        """Write drafts just as they are, for whoever has weighed them already: the gate is not asked.

        Returns the number of the write, 0 if nothing would change.
        """
        self._lock.check()
        wanted = {journal.memory_id(draft): draft for draft in drafts}
        self._check_granted({draft.namespace for draft in wanted.values()})
        with self._guard:
            with self._journal.reading() as connection:
                rows = journal.current(connection, list(wanted))
            held = {id: memory_of(row) for id, row in rows.items() if row.draft}
            changed = {id: draft for id, draft in wanted.items() if id not in held or held[id].draft() != draft}
            number = {id: row.version for id, row in rows.items()}
            return self._append([version_of(id, one, number.get(id, 0) + 1) for id, one in changed.items()], what)

    def consider(self, drafts: Iterable[Draft]) -> list[Decision]:
        """What would become of drafts, and why, one decision each; nothing is written."""
        self._lock.check()
        with self._guard:
            return self._plan(drafts).decisions

    def reasons(self, id: str) -> tuple[str, ...]:
        """Why a memory was given its status, in sentences; none if there was nothing to say."""
        self._lock.check()
        with self._journal.reading() as connection:
            return writer.notes_on(connection, id)

    def add(self, episode: Episode) -> Memory | None:
        """Remember a successful episode; a failed one is passed over (None). Twice is the same as once."""
        return self.write([draft_of(episode)], "add")[0] if episode.success else None

    def sync(self, log: EpisodeLog, kinds: Collection[Kind] = lessons.SUCCESSES) -> int:
        """Remember what `log` has recorded since the last sync with it; returns how many memories are new.

        Killed and repeated, it ends with the same store. What an episode shows is checked against its record, and a
        `RuntimeWarning` tells of memories that cannot be written.

        Args:
            log: Recorded episodes.
            kinds: `episode`: the successes; `step` and `fact`: every transition, and rules of the dynamics; `failure`:
                ways to fail, with what helped; `insight` and `skill`: what attempts say together, drawn anew from
                the newest 2,000 episodes. Successes alone by default: a policy that follows cases has no use for
                the others, and in a recall of all kinds they take the place of cases.

        Raises:
            UnknownNameError: There is no such kind.
        """
        self._lock.check()
        lessons.check_kinds(kinds)
        added, refused = 0, list[str]()
        with self._guard:
            with self._journal.reading() as connection:
                state = read_state(connection)
            for lesson in lessons.lessons(log, kinds, state):
                plan = self._plan(lesson.drafts, lesson, log)
                self._append(plan.versions, f"sync {log.id}", plan.notes, **lesson.cursors)
                added += sum(memory.version == 1 for memory in plan.versions)
                refused += [decision.reasons[0] for decision in plan.decisions if not decision.memory_id]
            self._keeper.apply()
            self._ledger.settle_from(log)
        if refused:
            message = f"{len(refused)} memories of the log {log.location} cannot be written, the first: {refused[0]}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        return added

    def get(self, id: str, *, snapshot: str | None = None) -> Memory | None:
        """The memory of that id as it stands, or stood at a snapshot; None if there was none."""
        self._lock.check()
        with self._journal.reading() as connection:
            scope = journal.held_at(self._seq(connection, snapshot))
            row = connection.execute(select(memories).where(memories.c.id == id, *scope)).one_or_none()
        return None if row is None or not row.draft else memory_of(row)

    def versions(self, id: str) -> list[Memory]:
        """All versions of a memory that are not forgotten, oldest first."""
        self._lock.check()
        with self._journal.reading() as connection:
            query = select(memories).where(memories.c.id == id, memories.c.draft != "").order_by(memories.c.seq)
            return [memory_of(row) for row in connection.execute(query)]

    def decide(self, id: str, status: Status, *, trust: Trust | None = None, why: str = "") -> Memory:
        """Give a memory another status, and another trust if one is given, as its next version.

        Args:
            id: Of the memory.
            status: What it is to be.
            trust: How far it is trusted from now on; None for as far as before.
            why: A sentence for `reasons`.

        Raises:
            RecordError: There is no such memory.
        """
        memory = self.get(id)
        if memory is None:
            raise RecordError(f"there is no memory {id!r} in {self.folder}; `agentkit memory search` lists ids")
        self._check_granted([memory.namespace])
        decided = memory.draft(status=status, trust=memory.trust if trust is None else trust)
        if decided != memory.draft():
            with self._guard:
                version = version_of(id, decided, memory.version + 1)
                self._append([version], f"decide {status}", {id: (why,)} if why else None)
        return self.get(id) or memory

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

    def held(self, *, snapshot: str | None = None, env_id: str | None = None) -> list[Memory]:
        """All memories that are not retired, quarantined and disputed ones included, in order of their ids.

        Args:
            snapshot: As they stood at that snapshot.
            env_id: Only those from this environment.
        """
        self._lock.check()
        with self._journal.reading() as connection:
            scope = [*journal.held_at(self._seq(connection, snapshot)), memories.c.status != "retired"]
            if env_id is not None:
                scope.append(memories.c.env_id == env_id)
            rows = connection.execute(select(memories).where(*scope).order_by(memories.c.id))
            return [memory_of(row) for row in rows if self._may(row.namespace)]

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write all memories that `held` gives to a file of JSON lines; returns how many."""
        return write_memories(path, self.held())

    def take_in(self, path: str | os.PathLike[str], *, most_trust: Trust = Trust.TRUSTED) -> int:
        """Write the memories of an exported file that say something new, all or none; returns how many.

        Args:
            path: What `export` has written.
            most_trust: Trust in the file: nothing in it is trusted more.

        Raises:
            RecordError: It is no such file, or was changed; a namespace is not granted. Nothing was written.
        """
        self._lock.check()
        found = {memory.id: memory for memory in read_memories(path, most_trust)}
        self._check_granted({memory.namespace for memory in found.values()})
        with self._guard:
            with self._journal.reading() as connection:
                known = journal.current(connection, list(found))
            new = [
                memory
                if memory.id not in known
                else memory.model_copy(update={"version": known[memory.id].version + 1})
                for memory in found.values()
                if memory.id not in known or known[memory.id].draft != journal.draft_text(memory)
            ]
            new, notes = self._writer.screened(new, known)
            self._append(new, f"import {Path(path).name}", notes)
        return len(new)

    def history(self) -> list[Write]:
        """All writes, oldest first."""
        self._lock.check()
        with self._journal.reading() as connection:
            return history.writes_of(connection)

    def undo(self, number: int) -> int:
        """Undo a write: every memory it touched is again what it was before. Returns the number of this write.

        Raises:
            RecordError: There is no such write, or a later one has touched the same memories: undo that one first.
        """
        self._lock.check()
        with self._guard:
            with self._journal.reading() as connection:
                versions = history.before(connection, number)
            return self._append(versions, f"undo {number}")

    def retract(self, source_name: str, since_s: float = 0.0, status: Status = "quarantine") -> list[Memory]:
        """Take back what a source wrote since then and all that was made from it, as one write that can be undone.

        Args:
            source_name: `Source.name` of what went wrong.
            since_s: Unix time in seconds.
            status: `quarantine`, or `retired` if nobody needs to look.

        Returns:
            The memories as they were; what is in quarantine or retired already is not among them.
        """
        with self._journal.reading() as connection:
            found = history.influenced(connection, source_name, since_s)
        return self.set_aside(dict.fromkeys(found, f"{source_name} is retracted"), status)

    def set_aside(self, why: Mapping[str, str], status: Status = "quarantine") -> list[Memory]:
        """Put memories in quarantine, or retire them, as one write that can be undone; returns them as they were.

        Args:
            why: Id of each -> the reason, for `reasons`.
            status: `quarantine` or `retired`; what has one of the two already stays as it is.
        """
        self._lock.check()
        with self._guard:
            with self._journal.reading() as connection:
                rows = journal.current(connection, sorted(why))
            found = [memory_of(rows[id]) for id in sorted(rows) if rows[id].draft]
            found = [memory for memory in found if memory.status not in ("quarantine", "retired")]
            self._check_granted({memory.namespace for memory in found})
            versions = [version_of(one.id, one.draft(status=status), one.version + 1) for one in found]
            self._append(versions, f"set aside {len(found)}", {memory.id: (why[memory.id],) for memory in found})
        return found

    def forget(
        self,
        *,
        id: str | None = None,
        episode_id: str | None = None,
        source_name: str | None = None,
        run: str | None = None,
        subject: str | None = None,
    ) -> Receipt:
        """Erase memories and all that was made from them: text, keys, vectors, index and free space of the file.

        What stays is that something was there: its place in the journal, its id and the hash of what it said, so
        that snapshots keep their names.

        Args:
            id: This memory.
            episode_id: All that was made from this episode.
            source_name: All that this source has written.
            run: All that this run has written (`Source.run`).
            subject: All facts about this subject.

        Raises:
            RecordError: Not exactly one of them is given, or an empty text.
        """
        self._lock.check()
        named = {"id": id, "episode_id": episode_id, "source_name": source_name, "run": run, "subject": subject}
        with self._keeper.working:  # nobody tells the index anything until it is made anew
            with self._guard:
                receipt = history.forget(self._journal, named)
                self._planner.clear()
            if receipt.num_versions:
                self.rebuild()
        return receipt

    def __len__(self) -> int:
        """Number of memories that can be recalled."""
        self._lock.check()
        with self._journal.reading() as connection:
            held = [memories.c.ended.is_(None), memories.c.status.in_(RECALLED)]
            return connection.execute(select(func.count()).select_from(memories).where(*held)).scalar_one()

    def counts(self) -> dict[tuple[str, str], int]:
        """Number of memories by kind and status; those that are forgotten or retired are left out."""
        self._lock.check()
        at = memories.c
        with self._journal.reading() as connection:
            query = select(at.kind, at.status, func.count()).where(at.ended.is_(None), at.status != "retired")
            rows = connection.execute(query.group_by(at.kind, at.status))
            return {(kind, status): num for kind, status, num in rows}

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

    def __enter__(self) -> MemoryStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def _plan(self, drafts: Iterable[Draft], lesson: Lesson | None = None, log: EpisodeLog | None = None) -> Plan:
        with self._journal.reading() as connection:
            if lesson is None or log is None:
                return self._writer.plan(connection, drafts)
            return lessons.plan(connection, self._writer, lesson, log)

    def _named(self, what: str) -> list[Memory]:
        """What writes of that name wrote, as it now stands; empty if there was none."""
        with self._journal.reading() as connection:
            return [memory_of(row) for row in journal.written_as(connection, what) if row.draft]

    def _append(
        self, versions: Sequence[Memory], what: str, notes: Mapping[str, tuple[str, ...]] | None = None, **cursor: int
    ) -> int:
        """Append versions as one write; returns its number, 0 if there is nothing to append."""
        texts = sorted({text for memory in versions for text in memory.keys.values()})
        with self._journal.reading() as connection:
            known = journal.known_texts(connection, texts)
        new = [text for text in texts if text not in known]
        embeddings = {text: vector.tobytes() for text, vector in zip(new, self._planner.embed(new), strict=True)}
        with self._journal.writing() as connection:
            fingerprint = self._planner.space.fingerprint
            number = journal.append(connection, what, versions, embeddings, fingerprint, time.time())
            first = journal.last_seq(connection) - len(versions) + 1
            lexical.add(connection, first, versions)
            places.add(connection, first, versions)
            writer.mark(connection, versions, notes or {})
            newest = journal.last_vector(connection)
            if cursor:
                write_state(connection, **cursor)
        self._keeper.note(newest)
        return number

    def _release(self) -> None:
        self._keeper.close()
        self._journal.close()
        self._lock.close()
