"""Self-imitation replay: which past episodes went better than expected, on disk, restored exactly.

The buffer keeps names and numbers only; the episodes themselves stand in the episode log. An entry is never
changed after it is written but for the iteration in which it left, so the buffer of any iteration can be
restored, whatever was written after it.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import Column, Float, Integer, MetaData, String, Table, create_engine, delete, func, select, update
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from agentkit.errors import RecordError
from agentkit.memory.gate import admit_episode
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode
from agentkit.training.config import ImitationConfig
from agentkit.training.rows import Row, build_rows

_META = MetaData()
_ENTRIES = Table(
    "entries",
    _META,
    Column("number", Integer, primary_key=True),
    Column("episode_id", String, nullable=False),
    Column("advantage", Float, nullable=False),
    Column("policy_version", Integer, nullable=False),
    Column("added_at", Integer, nullable=False),
    Column("left_at", Integer, nullable=True),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One episode worth imitating."""

    number: int
    """Order of admission."""
    episode_id: str
    """Its id in the episode log."""
    advantage: float
    """(R − b)₊ at admission, b the mean return of its group."""
    policy_version: int
    """Optimizer steps behind the policy that acted."""


class ReplayBuffer:
    """Episodes that went better than their group, for imitation.

    Args:
        path: SQLite file; created if missing.
        log: Where the episodes are.
        config: Admission, staleness, capacity.
    """

    def __init__(self, path: str | Path, log: EpisodeLog, config: ImitationConfig) -> None:
        self.path = Path(path)
        self.log = log
        self.config = config
        self._engine = create_engine(URL.create("sqlite", database=str(self.path)))
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._next = 1
        self._rows: dict[str, list[Row]] = {}
        self._warned = False
        try:
            _META.create_all(self._engine)
            self._load()
        except SQLAlchemyError as error:
            raise self._fault(error) from error

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> Sequence[Entry]:
        """The entries in order of admission."""
        return tuple(self._entries.values())

    def update(
        self,
        episodes: Sequence[Episode],
        advantages: Sequence[float],
        *,
        iteration: int,
        version: int,
        quarantined: Collection[str] = (),
    ) -> int:
        """Admit what went well and drop what is stale or too much; returns how many were admitted.

        An episode whose record is doubtful, or that was shown a memory in quarantine, is left out; the first time, a
        `RuntimeWarning` says why.

        Args:
            episodes: The iteration's episodes, already in the log.
            advantages: R − mean of the group, one each. An entry needs more than `admit_above`.
            iteration: When; the buffer can be restored to the end of any iteration.
            version: Optimizer steps so far, against which staleness is counted.
            quarantined: Ids of the memories in quarantine.
        """
        admitted = [
            (episode, advantage)
            for episode, advantage in zip(episodes, advantages, strict=True)
            if episode.success and advantage > self.config.admit_above and self._is_sound(episode, quarantined)
        ]
        fresh = [
            Entry(self._next + place, episode.id, float(advantage), episode.policy_version)
            for place, (episode, advantage) in enumerate(admitted)
        ]
        kept = [
            entry
            for entry in [*self._entries.values(), *fresh]
            if version - entry.policy_version <= self.config.max_staleness
        ][-self.config.capacity :]
        alive = {entry.number for entry in kept}
        left = [entry.number for entry in [*self._entries.values(), *fresh] if entry.number not in alive]
        try:
            with self._engine.begin() as connection:
                if fresh:
                    connection.execute(
                        _ENTRIES.insert(),
                        [
                            {
                                "number": entry.number,
                                "episode_id": entry.episode_id,
                                "advantage": entry.advantage,
                                "policy_version": entry.policy_version,
                                "added_at": iteration,
                            }
                            for entry in fresh
                        ],
                    )
                if left:
                    connection.execute(update(_ENTRIES).where(_ENTRIES.c.number.in_(left)).values(left_at=iteration))
        except SQLAlchemyError as error:
            raise self._fault(error) from error
        self._next += len(fresh)
        self._keep(kept)
        return len(fresh)

    def _is_sound(self, episode: Episode, quarantined: Collection[str]) -> bool:
        verdict = admit_episode(episode, quarantined=quarantined)
        if verdict.status != "active" and not self._warned:
            self._warned = True
            why = "; ".join(verdict.reasons)
            message = f"episode {episode.id} is not replayed: {why}; further ones are left out without a warning"
            warnings.warn(message, RuntimeWarning, stacklevel=3)
        return verdict.status == "active"

    def sample(self, num: int, rng: np.random.Generator) -> list[Entry]:
        """Up to `num` different entries, drawn in proportion to their advantage (Schaul et al. 2016, α = 1)."""
        entries = list(self._entries.values())
        if not entries:
            return []
        weights = np.array([entry.advantage for entry in entries])
        picks = rng.choice(len(entries), size=min(num, len(entries)), replace=False, p=weights / weights.sum())
        return [entries[pick] for pick in sorted(picks)]

    def rows(self, entry: Entry) -> list[Row]:
        """The training rows of an entry's episode, read from the log once."""
        if entry.episode_id not in self._rows:
            episode = self.log.get(entry.episode_id)
            if episode is None:
                raise RecordError(
                    f"episode {entry.episode_id} of the replay buffer {str(self.path)!r} is not in the log "
                    f"{self.log.location!r}; both belong to one run folder: restore them together"
                )
            self._rows[entry.episode_id] = build_rows([episode])[0]
        return self._rows[entry.episode_id]

    def restore(self, iteration: int) -> None:
        """Put the buffer back to the end of `iteration`: what came later is gone, what left later is back."""
        try:
            with self._engine.begin() as connection:
                connection.execute(delete(_ENTRIES).where(_ENTRIES.c.added_at > iteration))
                connection.execute(update(_ENTRIES).where(_ENTRIES.c.left_at > iteration).values(left_at=None))
            self._load()
        except SQLAlchemyError as error:
            raise self._fault(error) from error

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    def _load(self) -> None:
        query = select(_ENTRIES).where(_ENTRIES.c.left_at.is_(None)).order_by(_ENTRIES.c.number)
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
            # Entries that have left keep their numbers: the buffer of their time can still be restored.
            self._next = 1 + (connection.execute(select(func.max(_ENTRIES.c.number))).scalar() or 0)
            self._keep([Entry(row.number, row.episode_id, row.advantage, row.policy_version) for row in rows])

    def _keep(self, entries: Sequence[Entry]) -> None:
        self._entries = OrderedDict((entry.number, entry) for entry in entries)
        alive = {entry.episode_id for entry in entries}
        self._rows = {name: rows for name, rows in self._rows.items() if name in alive}

    def _fault(self, error: Exception) -> RecordError:
        return RecordError(
            f"the replay buffer {str(self.path)!r} cannot be used: {error.__cause__ or error}. Free the disk "
            "if it is full; a damaged buffer can be deleted: training then goes on without its entries"
        )
