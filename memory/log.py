"""EpisodeLog: the source of truth. What `append` has acknowledged is on disk and stays as it was.

One row an episode, one transaction an append; everything else (memory, replay, reports) is derived from here.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    func,
    insert,
    select,
)

from agentkit.errors import RecordError
from agentkit.memory.codec import decode, encode
from agentkit.memory.database import Database
from agentkit.memory.records import FORMAT_VERSION, Episode

LAYOUT_VERSION = 1
"""Version of the tables below; `FORMAT_VERSION` is that of the episodes in them."""
_PAGE = 64  # rows read at once while streaming
_BATCH = 256  # episodes written in one transaction while importing

_tables = MetaData()
_about = Table("about", _tables, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))
_episodes = Table(
    "episodes",
    _tables,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("env_id", Text, nullable=False),
    Column("split", Text, nullable=False),
    Column("task_key", Text, nullable=False),
    Column("group_id", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("policy_version", Integer, nullable=False),
    Column("success", Boolean, nullable=False),
    Column("episode_return", Double, nullable=False),
    Column("num_turns", Integer, nullable=False),
    Column("error", Text),
    Column("started_at", Double, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("format", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)
_INSERT = insert(_episodes)
_KNOWN = select(_episodes.c.id, _episodes.c.seq, _episodes.c.fingerprint).where(
    _episodes.c.id.in_(bindparam("ids", expanding=True))
)
_STORED = (_episodes.c.seq, _episodes.c.id, _episodes.c.format, _episodes.c.payload)


class EpisodeLog:
    """An append-only log of episodes; several processes may append to one log at the same time.

    Use `EpisodeLog.open`. Opened before a fork, it must be opened again in the child.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.location = database.location
        """Path or URL, as shown in errors."""
        with database.writing() as connection:
            about = {row.key: row.value for row in connection.execute(select(_about))}
            if not about:
                about = {"layout": str(LAYOUT_VERSION), "id": uuid.uuid4().hex}
                connection.execute(insert(_about), [{"key": k, "value": v} for k, v in about.items()])
        if int(about["layout"]) > LAYOUT_VERSION:
            raise RecordError(
                f"{self.location} was written by a newer agentkit (layout {about['layout']}, this one knows "
                f"up to {LAYOUT_VERSION}); upgrade agentkit to read it"
            )
        self.id = about["id"]
        """Names this log; a reader that remembers a sequence number remembers it with this."""

    @classmethod
    def open(cls, path_or_url: str | os.PathLike[str], *, durable: bool = False) -> EpisodeLog:
        """The log at a path (SQLite) or an SQLAlchemy URL; made if it is not there.

        Args:
            path_or_url: e.g. `runs/one/episodes.sqlite` or `postgresql+psycopg://host/agentkit`.
            durable: SQLite: False (`synchronous=NORMAL`) survives the death of the process, `kill -9`
                included; True (`FULL`) also a power loss, at the price of a disk flush an append.

        Raises:
            RecordError: It cannot be opened, or a newer agentkit wrote it.
        """
        database = Database(path_or_url, _tables, durable=durable)
        try:
            return cls(database)
        except BaseException:
            database.close()
            raise

    def append(self, episode: Episode) -> int:
        """Record an episode and return its sequence number; once this returns, the episode is safe.

        An episode recorded before (same id and `fingerprint()`) keeps its number: a resumed run may replay.

        Raises:
            RecordError: The id is taken by another episode, or the database failed; nothing was recorded.
        """
        return self.append_many([episode])[0]

    def append_many(self, episodes: Iterable[Episode]) -> list[int]:
        """Record episodes in one transaction, all or none; returns their sequence numbers in order."""
        rows = [self._row(episode) for episode in episodes]
        if not rows:
            return []
        with self._database.writing() as connection:
            known = {}
            for start in range(0, len(rows), 1000):  # databases limit the parameters of one statement
                ids = [row["id"] for row in rows[start : start + 1000]]
                for id, seq, fingerprint in connection.execute(_KNOWN, {"ids": ids}):
                    known[id] = (seq, fingerprint)
            numbers = []
            for row in rows:
                if row["id"] not in known:
                    inserted = connection.execute(_INSERT, row).inserted_primary_key
                    assert inserted is not None
                    known[row["id"]] = (inserted[0], row["fingerprint"])
                seq, fingerprint = known[row["id"]]
                if fingerprint != row["fingerprint"]:
                    raise RecordError(
                        f"episode id {row['id']!r} is already in {self.location} with other content; nothing "
                        "of this call was recorded. Give the new attempt its own id, or record to another log"
                    )
                numbers.append(seq)
        return numbers

    def get(self, id: str) -> Episode | None:
        """The episode of that id, or None.

        Raises:
            RecordError: It is there but damaged.
        """
        with self._database.reading() as connection:
            row = connection.execute(select(*_STORED).where(_episodes.c.id == id)).one_or_none()
        return None if row is None else self._episode(row)

    def __contains__(self, id: str) -> bool:
        query = select(_episodes.c.seq).where(_episodes.c.id == id)
        with self._database.reading() as connection:
            return connection.execute(query).first() is not None

    def episodes(
        self,
        *,
        after: int = 0,
        env_id: str | None = None,
        split: str | None = None,
        success: bool | None = None,
        group_id: str | None = None,
    ) -> Iterator[Episode]:
        """The episodes in sequence order, streamed; those recorded later than the first step are not seen.

        Args:
            after: Only those with a greater sequence number.
            env_id: Only of this environment.
            split: Only of this split.
            success: Only successes (True) or failures (False).
            group_id: Only of this group.

        Raises:
            RecordError: An episode is damaged, or the database failed.
        """
        filters = {"env_id": env_id, "split": split, "success": success, "group_id": group_id}
        for row in self._stored(after, _where(filters)):
            yield self._episode(row)

    def numbered(self, *, after: int = 0, success: bool | None = None) -> Iterator[tuple[int, Episode]]:
        """Like `episodes`, each with its sequence number: for readers that come back for more."""
        for row in self._stored(after, _where({"success": success})):
            yield row.seq, self._episode(row)

    @property
    def last_seq(self) -> int:
        """The greatest sequence number; 0 if the log is empty. Numbers rise but may leave gaps."""
        with self._database.reading() as connection:
            return connection.execute(select(func.max(_episodes.c.seq))).scalar() or 0

    def __len__(self) -> int:
        return self.count()

    def count(
        self,
        *,
        env_id: str | None = None,
        split: str | None = None,
        success: bool | None = None,
        group_id: str | None = None,
    ) -> int:
        """Number of episodes; the filters are those of `episodes`."""
        filters = {"env_id": env_id, "split": split, "success": success, "group_id": group_id}
        query = select(func.count()).select_from(_episodes).where(*_where(filters))
        with self._database.reading() as connection:
            return connection.execute(query).scalar_one()

    def verify(self) -> list[str]:
        """Check the database and every episode; returns the problems in words, none if all is well.

        Every payload must match its checksum and decode, and say the same as the columns beside it.
        """
        problems = self._database.integrity()
        try:
            for stored in self._stored(0, [], columns=tuple(_episodes.c)):
                try:
                    expected = self._row(self._episode(stored))
                except RecordError as error:
                    problems.append(str(error))
                    continue
                wrong = [k for k, v in expected.items() if k != "payload" and getattr(stored, k) != v]
                if wrong:
                    problems.append(
                        f"episode {stored.id!r} in {self.location}: columns {', '.join(wrong)} disagree with "
                        "the recorded episode; restore the log from a copy"
                    )
        except RecordError as error:
            problems.append(str(error))
        return problems

    def export_jsonl(self, path: str | os.PathLike[str]) -> int:
        """Write every episode as one line of JSON (infinities and NaN as such); returns how many.

        The file appears complete or not at all.
        """
        target = Path(path)
        partial = target.with_name(target.name + ".partial")
        count = 0
        try:
            with partial.open("w", encoding="utf-8", newline="\n") as file:
                for episode in self.episodes():
                    file.write(episode.model_dump_json() + "\n")
                    count += 1
            os.replace(partial, target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            if isinstance(error, RecordError):
                raise
            raise RecordError(f"cannot export to {target}: {error.strerror}; give a path with space") from error
        return count

    def import_jsonl(self, path: str | os.PathLike[str]) -> int:
        """Record the episodes of a JSON-lines export; returns how many were new.

        Raises:
            RecordError: The file cannot be read, a line is not an episode (the message has its number), or an
                id is taken. Batches (256 lines) before the bad one are recorded; repeating is safe.
        """
        before = len(self)
        batch: list[Episode] = []
        try:
            with Path(path).open(encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    try:
                        batch.append(Episode.model_validate_json(line))
                    except ValidationError as error:
                        raise RecordError(
                            f"line {number} of {path} is not an episode of format {FORMAT_VERSION} "
                            f"({error.errors()[0]['msg']}); mend or remove the line and import again"
                        ) from error
                    if len(batch) == _BATCH:
                        self.append_many(batch)
                        batch = []
        except (OSError, UnicodeDecodeError) as error:
            if isinstance(error, RecordError):
                raise
            raise RecordError(f"cannot import {path}: {error}; give a file `export_jsonl` wrote") from error
        self.append_many(batch)
        return len(self) - before

    def close(self) -> None:
        """Release the database."""
        self._database.close()

    def __enter__(self) -> EpisodeLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stored(
        self, after: int, where: list[ColumnElement[bool]], columns: tuple[Any, ...] = _STORED
    ) -> Iterator[Any]:
        last = self.last_seq
        while after < last:
            query = select(*columns).where(_episodes.c.seq > after, _episodes.c.seq <= last, *where)
            with self._database.reading() as connection:  # short reads: a slow reader must not hold back writers
                page = connection.execute(query.order_by(_episodes.c.seq).limit(_PAGE)).all()
            if not page:
                return
            yield from page
            after = page[-1].seq

    def _row(self, episode: Episode) -> dict[str, Any]:
        try:
            payload = encode(episode)
            task_key, fingerprint = episode.task.key, episode.fingerprint()
        except ValueError as error:
            raise RecordError(
                f"episode {episode.id!r} cannot be recorded: {error}; give it values of its format"
            ) from error
        return {
            "id": episode.id,
            "env_id": episode.task.env_id,
            "split": episode.task.split,
            "task_key": task_key,
            "group_id": episode.group_id,
            "policy": episode.policy,
            "policy_version": episode.policy_version,
            "success": episode.success,
            "episode_return": episode.episode_return,
            "num_turns": len(episode.turns),
            "error": episode.error and episode.error.replace("\0", "\ufffd"),  # PostgreSQL takes no NUL
            "started_at": episode.started_at,
            "fingerprint": fingerprint,
            "format": episode.format,
            "payload": payload,
        }

    def _episode(self, row: Any) -> Episode:
        if row.format > FORMAT_VERSION:
            raise RecordError(
                f"episode {row.id!r} in {self.location} has format {row.format}, and this agentkit reads up "
                f"to {FORMAT_VERSION}; upgrade agentkit"
            )
        try:
            return decode(row.payload)
        except ValueError as error:
            raise RecordError(
                f"episode {row.id!r} in {self.location} is damaged: {error}; restore the log from a copy or "
                "an export (`verify` lists every damaged episode)"
            ) from error


def _where(filters: dict[str, Any]) -> list[ColumnElement[bool]]:
    return [_episodes.c[name] == value for name, value in filters.items() if value is not None]
