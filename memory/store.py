"""EpisodicMemory: past successes, recalled by how much their situation looked like the present one.

The journal (SQLite) holds everything; the vector index holds ids and vectors and can be rebuilt. A recall
settles its scope in the journal first: up to `exact_limit` memories in scope are compared one by one, and
only a larger scope asks the index. So no answer depends on what an index cannot filter.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from sqlalchemy import ColumnElement, func, insert, select

from agentkit.errors import RecordError, unknown_name
from agentkit.memory import journal
from agentkit.memory.case import KEY_LIMIT, clip, content_of, key_of
from agentkit.memory.database import Database
from agentkit.memory.embedders import Embedder, MiniLMEmbedder
from agentkit.memory.index import nearest
from agentkit.memory.journal import Memory, memories, memory_of, read_state, write_state
from agentkit.memory.keeper import IndexKeeper
from agentkit.memory.lock import FolderLock
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode, encodable
from agentkit.task import Task

__all__ = ["EpisodicMemory", "Memory"]

EXACT_LIMIT = 20_000
"""Memories in scope up to which every one is compared."""
_EMBED_BATCH = 64
_MOST_PROPOSALS = 5_000  # beyond this the index is no faster than comparing all


class EpisodicMemory:
    """Successful episodes as memories in a folder that belongs to this object until it is closed.

    Use `EpisodicMemory.open`. May be shared by threads, not by processes.
    """

    def __init__(self, folder: Path, embedder: Embedder, index: str, exact_limit: int, rebuild: bool) -> None:
        self.folder = folder
        self._embedder = embedder
        self._exact_limit = exact_limit
        self._guard = threading.RLock()
        self._lock = FolderLock(folder)
        try:
            self._journal = Database(folder / "memory.sqlite", journal.tables)
        except BaseException:
            self._lock.close()
            raise
        self._keeper = IndexKeeper(folder, self._journal, embedder.dim, chroma=index == "chroma")
        try:
            self._greet(rebuild)
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
        rebuild: bool = False,
    ) -> EpisodicMemory:
        """The store in `folder`, made if it is not there; `memory.sqlite` and `chroma/` are its files.

        If the index turns out unreadable, a `RuntimeWarning` says so, `trouble` keeps the reason, and recalls
        compare all memories until `rebuild()`.

        Args:
            folder: A folder of its own.
            embedder: What the store was made with; MiniLM by default.
            index: `chroma`, or `exact` for none on disk.
            exact_limit: Scopes up to this many memories are compared one by one.
            rebuild: Make the index anew, and the vectors too if the embedder has changed.

        Raises:
            OwnedElsewhereError: Another process has it open.
            RecordError: It cannot be opened, or was made with another embedder.
        """
        if index not in ("chroma", "exact"):
            raise unknown_name("vector index", index, ["chroma", "exact"])
        return cls(Path(folder).expanduser(), embedder or MiniLMEmbedder(), index, exact_limit, rebuild)

    @property
    def trouble(self) -> str | None:
        """Why the index is not used (recalls then compare all memories), or None if all is well."""
        return self._keeper.trouble

    def add(self, episode: Episode, log_seq: int | None = None) -> Memory | None:
        """Remember a successful episode; a failed one is passed over (None). Twice is the same as once."""
        self._lock.check()
        if not episode.success:
            return None
        with self._guard:
            self._remember([(log_seq, episode)])
            query = select(memories).where(memories.c.episode_id == episode.id)
            with self._journal.reading() as connection:
                return memory_of(connection.execute(query).one())

    def sync(self, log: EpisodeLog) -> int:
        """Remember the successes recorded in `log` since the last sync with it; returns how many are new."""
        self._lock.check()
        cursor = f"cursor:{log.id}"
        with self._guard:
            with self._journal.reading() as connection:
                after = int(read_state(connection).get(cursor, 0))
            last, added = log.last_seq, 0
            batch: list[tuple[int | None, Episode]] = []
            for seq, episode in log.numbered(after=after, success=True):
                if seq > last:
                    break
                batch.append((seq, episode))
                if len(batch) == _EMBED_BATCH:
                    added += self._remember(batch, **{cursor: seq})
                    batch = []
            added += self._remember(batch, **{cursor: last})
            self._keeper.apply()
            return added

    def recall(
        self,
        query: str,
        k: int = 3,
        *,
        env_id: str | None = None,
        split: str | None = None,
        exclude_tasks: Iterable[str | Task] = (),
        snapshot: str | None = None,
    ) -> list[Memory]:
        """The memories whose keys are nearest to `query`, nearest first and equals by id.

        Args:
            query: What the situation looks like, usually an observation; cut at 4,000 characters.
            k: At most this many.
            env_id: Only memories from this environment.
            split: Only memories of tasks of this split.
            exclude_tasks: Tasks (or their keys) whose memories are hidden, e.g. the task under test.
            snapshot: See only what was there at that `snapshot()`.

        Raises:
            RecordError: The snapshot is not one of this store, or the journal cannot be read.
        """
        self._lock.check()
        given = [exclude_tasks] if isinstance(exclude_tasks, (str, Task)) else exclude_tasks
        hidden = sorted({task.key if isinstance(task, Task) else task for task in given})
        with self._journal.reading() as connection:
            newest = journal.last_seq(connection)
            if snapshot is not None:
                newest = journal.snapshot_seq(connection, snapshot)
        if k < 1 or newest == 0:
            return []
        scope: list[ColumnElement[bool]] = [memories.c.seq <= newest]
        if env_id is not None:
            scope.append(memories.c.env_id == env_id)
        if split is not None:
            scope.append(memories.c.split == split)
        if hidden:
            scope.append(memories.c.task_key.not_in(hidden))
        ranked = self._nearest(self._embed([query])[0], k, scope, newest)
        with self._journal.reading() as connection:
            rows = connection.execute(select(memories).where(memories.c.id.in_([id for id, _ in ranked])))
            by_id = {row.id: row for row in rows}
        return [memory_of(by_id[id], score) for id, score in ranked]

    def snapshot(self) -> str:
        """A name for what the store holds now; equal for stores that were told the same in the same order."""
        self._lock.check()
        with self._journal.reading() as connection:
            seq = journal.last_seq(connection)
            return f"{seq}-{journal.chain_at(connection, seq)}"

    def __len__(self) -> int:
        self._lock.check()
        with self._journal.reading() as connection:
            return connection.execute(select(func.count()).select_from(memories)).scalar_one()

    def verify(self) -> list[str]:
        """Check journal and index against each other; returns the problems in words, none if all is well.

        Every memory must have a vector of this embedder, the index exactly the journal's ids, and 99 % of a
        sample must be found by their own vectors. Chroma is read in another process, which may crash.
        """
        self._lock.check()
        foreign = select(memories.c.id).where(
            (memories.c.fingerprint != self._embedder.fingerprint)
            | (func.length(memories.c.embedding) != self._embedder.dim * 4)
        )
        with self._guard:
            problems = self._journal.integrity()
            if not problems:
                with self._journal.reading() as connection:
                    problems = [
                        f"memory {id!r} has a vector that is not of this embedder; call `rebuild()`"
                        for id in connection.execute(foreign).scalars()
                    ]
            return problems or self._keeper.problems()

    def rebuild(self) -> None:
        """Make the index anew from the journal, and the vectors too where the embedder has changed.

        The new index is made beside the old one and takes its place in one transaction: a crash on the way
        leaves the store as it was.
        """
        self._lock.check()
        with self._guard:
            self._keeper.rebuild(self._embedder.fingerprint, self._embed)

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

    def __enter__(self) -> EpisodicMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _greet(self, rebuild: bool) -> None:
        """Check that this agentkit and this embedder can use the store."""
        with self._journal.writing() as connection:
            known = read_state(connection)
            if not known:
                known = {
                    "layout": str(journal.LAYOUT_VERSION),
                    "fingerprint": self._embedder.fingerprint,
                    "generation": "1",
                    "applied": "0",
                }
                write_state(connection, **known)
            if int(known["layout"]) > journal.LAYOUT_VERSION:
                raise RecordError(
                    f"the memory store {self.folder} is of a newer agentkit (layout {known['layout']}, this "
                    f"one knows up to {journal.LAYOUT_VERSION}); upgrade agentkit"
                )
            if known["fingerprint"] != self._embedder.fingerprint and not rebuild:
                raise RecordError(
                    f"the memory store {self.folder} was made with embedder {known['fingerprint']!r}, not "
                    f"{self._embedder.fingerprint!r}; open it with that one, or embed all memories anew with "
                    "EpisodicMemory.open(folder, embedder=..., rebuild=True)"
                )

    def _remember(self, numbered: Sequence[tuple[int | None, Episode]], **cursor: int) -> int:
        """Write the new ones among `numbered` to the journal, with the cursor; returns how many were new."""
        unique = {episode.id: (log_seq, episode) for log_seq, episode in numbered}
        with self._journal.reading() as connection:
            query = select(memories.c.episode_id).where(memories.c.episode_id.in_(list(unique)))
            known = set(connection.execute(query).scalars())
        new = [pair for id, pair in unique.items() if id not in known]
        keys = [key_of(episode) for _, episode in new]
        vectors = self._embed(keys)
        rows = []
        with self._journal.writing() as connection:
            seq = journal.last_seq(connection)
            chain = journal.chain_at(connection, seq)
            for (log_seq, episode), key, vector in zip(new, keys, vectors, strict=True):
                seq, id, text = seq + 1, journal.memory_id(episode.id), content_of(episode)
                chain = journal.link(chain, id, text)
                rows.append(
                    {
                        "seq": seq,
                        "id": id,
                        "log_seq": log_seq,
                        "episode_id": episode.id,
                        "env_id": episode.task.env_id,
                        "task_key": episode.task.key,
                        "split": episode.task.split,
                        "key": key,
                        "text": text,
                        "fingerprint": self._embedder.fingerprint,
                        "version": journal.LAYOUT_VERSION,
                        "chain": chain,
                        "embedding": vector.tobytes(),
                    }
                )
            if rows:
                connection.execute(insert(memories), rows)
            if cursor:
                write_state(connection, **cursor)
        self._keeper.note(seq)
        return len(rows)

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        if not texts:
            return np.zeros((0, self._embedder.dim), np.float32)
        fit = [clip(encodable(text), KEY_LIMIT) for text in texts]
        return np.asarray(self._embedder.embed(fit), np.float32)

    def _nearest(
        self, vector: np.ndarray, k: int, scope: list[ColumnElement[bool]], newest: int
    ) -> list[tuple[str, float]]:
        """Ids and scores of the `k` nearest memories in scope."""
        if newest > self._exact_limit and self.trouble is None:
            with self._journal.reading() as connection:
                query = select(func.count()).select_from(memories).where(*scope)
                in_scope = connection.execute(query).scalar_one()
            if in_scope > self._exact_limit:
                found = self._from_index(vector, k, scope, newest / in_scope)
                if found is not None:
                    return found
        with self._journal.reading() as connection:
            ids, matrix = journal.vectors(connection, scope, self._embedder.dim)
        return nearest(ids, matrix, vector, k)

    def _from_index(
        self, vector: np.ndarray, k: int, scope: list[ColumnElement[bool]], surplus: float
    ) -> list[tuple[str, float]] | None:
        """Like `_nearest`, among what the index proposes; None if that takes too many proposals."""
        wanted = 10 + int(2 * k * surplus)
        while wanted <= _MOST_PROPOSALS and self.trouble is None:
            with self._guard:
                proposed = self._keeper.propose(vector, wanted)
            with self._journal.reading() as connection:
                within = [*scope, memories.c.id.in_(proposed)]
                ids, matrix = journal.vectors(connection, within, self._embedder.dim)
            if len(ids) >= k:
                return nearest(ids, matrix, vector, k)
            wanted *= 4
        return None

    def _release(self) -> None:
        self._keeper.close()
        self._journal.close()
        self._lock.close()
