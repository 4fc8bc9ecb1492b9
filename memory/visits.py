"""Visits: how often each state was met, for a bonus on what is new.

Two ways to say which states are one: by their key, exactly; or by what they look like, where every state is new. The
counts are made anew from the log whenever they are wanted, so there is nothing to keep in step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import select

from agentkit.errors import ConfigError
from agentkit.memory.layout import vectors

if TYPE_CHECKING:
    from agentkit.memory.embedders import Embedder
    from agentkit.memory.log import EpisodeLog
    from agentkit.memory.records import Episode
    from agentkit.memory.store import MemoryStore

UNSEEN = 0.01
"""What is added to counts, so that the bonus of an unseen state is finite: 10 (Bellemare et al. 2016, §5.1)."""


class Visits:
    """Number of visits to each state; states are told apart by a text.

    Args:
        counts: State -> visits so far.
    """

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self._counts = Counter(counts or {})
        self._read: dict[str, int] = {}

    @classmethod
    def of(cls, log: EpisodeLog, *, split: str = "train") -> Visits:
        """The visits of the episodes of one split of a log, by `Turn.state_key`."""
        visits = cls()
        visits.update(log, split=split)
        return visits

    def update(self, log: EpisodeLog, *, split: str = "train") -> int:
        """Count what was recorded since the last update with this log; returns the number of episodes of the split."""
        num, after = 0, self._read.get(log.id, 0)
        for seq, episode in log.numbered(after=after):
            after = seq
            if episode.task.split == split:
                self.see(episode)
                num += 1
        self._read[log.id] = after
        return num

    def see(self, episode: Episode) -> None:
        """Count the states of an episode, each turn once."""
        self.add(turn.state_key for turn in episode.turns)

    def add(self, states: Iterable[str]) -> None:
        """Count visits; the empty key, of environments that give none, is passed over."""
        self._counts.update(states)
        del self._counts[""]

    def count(self, state: str) -> int:
        """Visits to a state."""
        return self._counts[state]

    def bonus(self, state: str, scale: float = 1.0) -> float:
        """Intrinsic reward of a state: scale / √(visits + 0.01) (Bellemare et al. 2016, eq. 7, with true counts; Tang
        et al. 2017, eq. 1, has no 0.01, since it counts the present visit first).

        >>> visits = Visits({"known": 4})
        >>> round(visits.bonus("known"), 3), round(visits.bonus("new"), 3)
        (0.499, 10.0)
        """
        return scale / math.sqrt(self._counts[state] + UNSEEN)

    def counts(self) -> dict[str, int]:
        """All counts, states in order."""
        return dict(sorted(self._counts.items()))

    def __len__(self) -> int:
        """Number of states that were met."""
        return len(self._counts)


class Hashing:
    """Names for states by what they look like: the sides of random planes they lie on (Tang et al. 2017, eq. 2).

    States that look alike get the same name; the fewer bits, the more of them.

    Args:
        embedder: Makes vectors of texts.
        bits: Planes; at most 2^bits names.
        seed: Of the planes.
    """

    def __init__(self, embedder: Embedder, bits: int = 16, seed: int = 0) -> None:
        if bits < 1:
            raise ConfigError(f"{bits} bits tell nothing apart; give 1 or more")
        self._embedder = embedder
        self._planes = np.random.default_rng(seed).standard_normal((embedder.dim, bits))

    def names(self, observations: Sequence[str]) -> list[str]:
        """The name of each text."""
        if not observations:
            return []
        return self.names_of(self._embedder.embed(list(observations)))

    def names_of(self, rows: np.ndarray) -> list[str]:
        """The name of each row of [N, dim] vectors."""
        packed = np.packbits(rows @ self._planes > 0, axis=1)
        return [row.tobytes().hex() for row in packed]


class Clusters:
    """Names for states by the nearest of some vectors, e.g. the keys of a memory store.

    Args:
        centres: [K, dim] unit vectors.
    """

    def __init__(self, centres: np.ndarray) -> None:
        if centres.ndim != 2 or not len(centres):
            raise ConfigError(f"clusters need centres [K, dim], got an array of shape {centres.shape}")
        self._centres = centres

    @classmethod
    def of(cls, store: MemoryStore) -> Clusters:
        """One cluster for each text that memories of a store are found by, in the order in which they came."""
        with store.database.reading() as connection:
            found = connection.execute(select(vectors.c.embedding).order_by(vectors.c.number)).scalars().all()
        if not found:
            raise ConfigError(f"the memory store {store.folder} is empty: nothing to be near to; write memories first")
        return cls(np.stack([np.frombuffer(embedding, np.float32) for embedding in found]))

    def names_of(self, rows: np.ndarray) -> list[str]:
        """The number of the nearest centre to each row of [N, dim], the least of equals, as text."""
        return [str(number) for number in (rows @ self._centres.T).argmax(axis=1).tolist()]
