"""MemoryStore: memories of all kinds, recalled by how much their keys look like the present situation.

The journal (SQLite) holds everything; the vector index holds numbers and vectors and can be rebuilt. What writes is
here, one transaction each; what reads is in `holdings.py`.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from agentkit.errors import RecordError, unknown_name
from agentkit.memory import history, journal, lessons, lexical, places, writer
from agentkit.memory.case import draft_of
from agentkit.memory.embedders import Embedder, MiniLMEmbedder
from agentkit.memory.exchange import read_memories
from agentkit.memory.gate import Gate
from agentkit.memory.history import Receipt
from agentkit.memory.holdings import Holdings
from agentkit.memory.journal import memory_of, read_state, write_state
from agentkit.memory.kinds import KEY_FIELDS, Draft, Kind, Memory, Status, Trust
from agentkit.memory.log import EpisodeLog
from agentkit.memory.planner import EXACT_LIMIT
from agentkit.memory.records import Episode
from agentkit.memory.writer import version_of

GATE = Gate()
"""The gate of stores that are given none of their own."""


class MemoryStore(Holdings):
    """Memories in a folder that belongs to this object until it is closed.

    Use `MemoryStore.open`. May be shared by threads, not by processes.
    """

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

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A block in which no other thread writes: for whoever reads and then writes what follows from it."""
        with self._guard:
            yield

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

        Of several drafts of one memory, each becomes a version, in order. Returns the number of the write, 0 if
        nothing would change.
        """
        self._lock.check()
        drafts = list(drafts)
        self._check_granted({draft.namespace for draft in drafts})
        ids = [journal.memory_id(draft) for draft in drafts]
        with self._guard:
            with self._journal.reading() as connection:
                rows = journal.current(connection, list(dict.fromkeys(ids)))
            said = {id: memory_of(row).draft() for id, row in rows.items() if row.draft}
            number, versions = {id: row.version for id, row in rows.items()}, []
            for id, draft in zip(ids, drafts, strict=True):
                if said.get(id) != draft:
                    said[id], number[id] = draft, number.get(id, 0) + 1
                    versions.append(version_of(id, draft, number[id]))
            return self._append(versions, what)

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
        with self._guard:
            memory = self.get(id)
            if memory is None:
                raise RecordError(f"there is no memory {id!r} in {self.folder}; `agentkit memory search` lists ids")
            self._check_granted([memory.namespace])
            decided = memory.draft(status=status, trust=memory.trust if trust is None else trust)
            if decided != memory.draft():
                version = version_of(id, decided, memory.version + 1)
                self._append([version], f"decide {status}", {id: (why,)} if why else None)
            return self.get(id) or memory

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
        with self._guard:
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
