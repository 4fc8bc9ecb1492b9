"""MemoryStore: memories of all kinds, recalled by how much their keys look like the present situation.

The journal (SQLite) holds everything; the vector index holds numbers and vectors and can be rebuilt.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, func, insert, select

from agentkit.errors import RecordError, unknown_name
from agentkit.memory import history, journal
from agentkit.memory.case import draft_of
from agentkit.memory.database import Database
from agentkit.memory.embedders import Embedder, MiniLMEmbedder
from agentkit.memory.exchange import read_memories, write_memories
from agentkit.memory.history import Receipt, Write
from agentkit.memory.journal import memories, memory_of, read_state, snapshots, write_state
from agentkit.memory.keeper import IndexKeeper
from agentkit.memory.kinds import KEY_FIELDS, Draft, Kind, Memory, Status, Trust
from agentkit.memory.lock import FolderLock
from agentkit.memory.log import EpisodeLog
from agentkit.memory.planner import EXACT_LIMIT, RECALLED, Planner, Scope
from agentkit.memory.records import Episode
from agentkit.task import Task

_EMBED_BATCH = 64


class MemoryStore:
    """Memories in a folder that belongs to this object until it is closed.

    Use `MemoryStore.open`. May be shared by threads, not by processes.
    """

    def __init__(
        self,
        folder: Path,
        embedder: Embedder,
        index: str,
        exact_limit: int,
        grants: Collection[str] | None,
        rebuild: bool,
    ) -> None:
        self.folder = folder
        self._embedder = embedder
        self._grants = None if grants is None else frozenset(grants)
        self._guard = threading.RLock()
        self._lock = FolderLock(folder)
        try:
            self._journal = Database(folder / "memory.sqlite", journal.tables)
        except BaseException:
            self._lock.close()
            raise
        self._keeper = IndexKeeper(folder, self._journal, embedder.dim, chroma=index == "chroma")
        self._planner = Planner(self._journal, self._keeper, embedder, exact_limit if index == "chroma" else None)
        try:
            history.greet(self._journal, folder, embedder.fingerprint, rebuild)
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
        index: Literal["chroma", "exact"] = "chroma",
        exact_limit: int = EXACT_LIMIT,
        grants: Collection[str] | None = None,
        rebuild: bool = False,
    ) -> MemoryStore:
        """The store in `folder`, made if it is not there; `memory.sqlite` and `chroma/` are its files.

        If the index turns out unreadable, a `RuntimeWarning` says so, `trouble` keeps the reason, and recalls
        compare all memories until `rebuild()`.

        Args:
            folder: A folder of its own.
            embedder: What the store was made with; MiniLM by default.
            index: `chroma`, or `exact` for none on disk: every recall compares all keys in scope.
            exact_limit: With `chroma`, scopes up to this many keys are compared one by one all the same.
            grants: Namespaces that may be read and written through this object; None for all.
            rebuild: Make the index anew, and the vectors too if the embedder has changed.

        Raises:
            OwnedElsewhereError: Another process has it open.
            RecordError: It cannot be opened, or was made with another embedder.
        """
        if index not in ("chroma", "exact"):
            raise unknown_name("vector index", index, ["chroma", "exact"])
        return cls(Path(folder).expanduser(), embedder or MiniLMEmbedder(), index, exact_limit, grants, rebuild)

    @property
    def database(self) -> Database:
        """The journal, for the other parts of this package."""
        self._lock.check()
        return self._journal

    @property
    def trouble(self) -> str | None:
        """Why the index is not used (recalls then compare all memories), or None if all is well."""
        return self._keeper.trouble

    def write(self, drafts: Iterable[Draft], what: str = "write") -> list[Memory]:
        """Write memories in one transaction, all or none; returns them as they now stand, in order.

        A draft that says what its memory says already changes nothing; any other becomes its next version. Of several
        drafts of one memory, the last counts.

        Args:
            drafts: What to remember.
            what: What the write is, for `history`.

        Raises:
            RecordError: A namespace is not granted, a draft has no key, or the journal failed: nothing was written.
        """
        self._lock.check()
        wanted = {journal.memory_id(draft): draft for draft in drafts}
        for draft in wanted.values():
            self._check_granted([draft.namespace])
            if not draft.keys or not set(draft.keys) <= set(KEY_FIELDS):
                raise RecordError(
                    f"a memory needs one or more keys among {', '.join(KEY_FIELDS)}, got {list(draft.keys)}"
                )
        with self._guard:
            self._write(wanted, what)
            with self._journal.reading() as connection:
                rows = journal.current(connection, list(wanted))
        return [memory_of(rows[id]) for id in wanted]

    def add(self, episode: Episode) -> Memory | None:
        """Remember a successful episode; a failed one is passed over (None). Twice is the same as once."""
        return self.write([draft_of(episode)], "add")[0] if episode.success else None

    def sync(self, log: EpisodeLog) -> int:
        """Remember the successes recorded in `log` since the last sync with it; returns how many are new."""
        self._lock.check()
        cursor = f"cursor:{log.id}"
        with self._guard:
            with self._journal.reading() as connection:
                after = int(read_state(connection).get(cursor, 0))
            last, added = log.last_seq, 0
            batch: list[Episode] = []
            for seq, episode in log.numbered(after=after, success=True):
                if seq > last:
                    break
                batch.append(episode)
                if len(batch) == _EMBED_BATCH:
                    added += self._remember(batch, log, **{cursor: seq})
                    batch = []
            added += self._remember(batch, log, **{cursor: last})
            self._keeper.apply()
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

    def decide(self, id: str, status: Status) -> Memory:
        """Give a memory another status, as its next version.

        Raises:
            RecordError: There is no such memory.
        """
        memory = self.get(id)
        if memory is None:
            raise RecordError(f"there is no memory {id!r} in {self.folder}; `agentkit memory search` lists ids")
        return self.write([memory.draft(status=status)], f"decide {status}")[0]

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
        self._lock.check()
        self._check_granted(namespaces)
        given = [exclude_tasks] if isinstance(exclude_tasks, (str, Task)) else exclude_tasks
        hidden = {task.key if isinstance(task, Task) else task for task in given}
        asked = dict.fromkeys(KEY_FIELDS, query) if isinstance(query, str) else query
        with self._journal.reading() as connection:
            newest = self._seq(connection, snapshot)
            if k < 1 or newest == 0:
                return []
            scope = Scope(newest, tuple(namespaces), env_id, split, hidden, kinds, at_s)
            with self._guard:
                score_of = self._planner.nearest(connection, asked, k, scope)
            best = journal.best_of(connection, score_of, k)
            row_of = {row.seq: row for row in journal.rows_of(connection, best)}
        return [memory_of(row_of[seq], score_of[seq]) for seq in best]

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
            self._append(new, f"import {Path(path).name}")
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

    def forget(
        self, *, id: str | None = None, episode_id: str | None = None, source_name: str | None = None
    ) -> Receipt:
        """Erase memories and all that was made from them: text, keys, vectors, index and free space of the file.

        What stays is that something was there: its place in the journal, its id and the hash of what it said, so
        that snapshots keep their names.

        Args:
            id: This memory.
            episode_id: All that was made from this episode.
            source_name: All that this source has written.

        Raises:
            RecordError: Not exactly one of the three is given.
        """
        self._lock.check()
        with self._guard:
            receipt = history.forget(self._journal, id=id, episode_id=episode_id, source_name=source_name)
            if receipt.num_versions:
                self._planner.clear()
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
                with self._journal.reading() as connection:
                    problems = history.problems(connection, self._embedder.fingerprint, self._embedder.dim)
            return problems or self._keeper.problems()

    def rebuild(self) -> None:
        """Make the index anew from the journal, and the vectors too where the embedder has changed.

        The new index is made beside the old one and takes its place in one transaction: a crash on the way
        leaves the store as it was.
        """
        self._lock.check()
        with self._guard:
            self._keeper.rebuild(self._embedder.fingerprint, self._planner.embed)
            self._planner.clear()

    def close(self) -> None:
        """Bring the index up to date and give the folder back; harmless if done twice."""
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

    def _remember(self, episodes: Sequence[Episode], log: EpisodeLog, **cursor: int) -> int:
        """Write the episodes that are new, with the cursor; returns how many were new."""
        drafts = {journal.memory_id(draft): draft for draft in map(draft_of, episodes)}
        with self._journal.reading() as connection:
            known = journal.current(connection, list(drafts))
        new = [_version(id, 1, draft) for id, draft in drafts.items() if id not in known]
        self._append(new, f"sync {log.id}", **cursor)
        return len(new)

    def _write(self, wanted: Mapping[str, Draft], what: str) -> None:
        with self._journal.reading() as connection:
            known = journal.current(connection, list(wanted))
        entries = []
        for id, draft in wanted.items():
            if id not in known:
                entries.append(_version(id, 1, draft))
            elif known[id].draft != journal.draft_text(draft):
                entries.append(_version(id, known[id].version + 1, draft))
        self._append(entries, what)

    def _append(self, versions: Sequence[Memory], what: str, **cursor: int) -> int:
        """Append versions as one write; returns its number, 0 if there is nothing to append."""
        texts = sorted({text for memory in versions for text in memory.keys.values()})
        with self._journal.reading() as connection:
            known = journal.known_texts(connection, texts)
        new = [text for text in texts if text not in known]
        embeddings = {text: vector.tobytes() for text, vector in zip(new, self._planner.embed(new), strict=True)}
        with self._journal.writing() as connection:
            number = journal.append(connection, what, versions, embeddings, self._embedder.fingerprint, time.time())
            newest = journal.last_vector(connection)
            if cursor:
                write_state(connection, **cursor)
        self._keeper.note(newest)
        return number

    def _release(self) -> None:
        self._keeper.close()
        self._journal.close()
        self._lock.close()


def _version(id: str, number: int, draft: Draft) -> Memory:
    said = {name: getattr(draft, name) for name in Draft.model_fields}
    return Memory.model_construct(**said, id=id, version=number, recorded_s=time.time(), score=None)
