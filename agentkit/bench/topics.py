"""Memories about topics, as many as wanted: clustered vectors that cost microseconds, so that times are the store's.

Texts are of some thirty words, the common ones as frequent as words are (Zipf), and three that few others have.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from agentkit.memory.arms import Situation
from agentkit.memory.gate import Gate
from agentkit.memory.kinds import Draft, EpisodeBody, Source
from agentkit.memory.store import GATE, MemoryStore

DIM = 384
TOPICS = 200
SHARES = {"0.1 %": 1, "1 %": 10, "10 %": 100, "50 %": 500}
"""Name of an environment -> how many of each 1,000 memories are from it; the others are from `rest`."""
BATCH = 1000
"""Memories in one write of many."""
_GROUP = 3
"""So many memories have the same rare words."""
_WORDS = np.array([f"w{rank}" for rank in range(1, 5001)])
_UPTO = np.cumsum(1 / np.arange(1, 5001))


class TopicEmbedder:
    """Embeds `topic7 ...` near all other texts on topic 7; no model."""

    dim = DIM
    fingerprint = "topics"

    def __init__(self) -> None:
        self._centres = np.random.default_rng(0).standard_normal((TOPICS, DIM)).astype(np.float32)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[N, DIM] unit vectors."""
        vectors = np.empty((len(texts), DIM), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            noise = np.random.default_rng(zlib.crc32(text.encode())).standard_normal(DIM, np.float32)
            row[:] = self._centres[int(text.split()[0][5:])] + 0.7 * noise
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def topic_key(number: int) -> str:
    """What memory `number` is found by; its topic has nothing to do with its environment."""
    return f"topic{zlib.crc32(str(number).encode()) % TOPICS} item {number}"


def topic_query(number: int) -> str:
    """Query `number`."""
    return f"topic{number * 37 % TOPICS} query {number}"


def environment_of(number: int) -> str:
    """Where memory `number` is from: a name in `SHARES`, or `rest`.

    >>> [environment_of(number) for number in (0, 1, 10, 11, 111, 999)]
    ['0.1 %', '1 %', '1 %', '10 %', '50 %', 'rest']
    """
    place, upto = number % 1000, 0
    for name, share in SHARES.items():
        upto += share
        if place < upto:
            return name
    return "rest"


def topic_draft(number: int) -> Draft:
    """Memory `number`: a success of one action, about 150 characters, one key."""
    return Draft(
        body=EpisodeBody(success=True, episode_return=1.0, actions=("go",), state_keys=(f"state {number}",)),
        text=_text(number),
        keys={"state": topic_key(number)},
        env_id=environment_of(number),
        source=Source(writer="environment", name="benchmark", episode_ids=(f"episode {number}",)),
    )


def topic_situation(number: int, size: int) -> Situation:
    """Situation `number`, to be read in a store of `size` memories: some words of one of them, at times its state."""
    memory = number * 997 % size
    state_key = f"state {memory}" if number % 5 == 0 else ""
    return Situation(observation=f"{topic_query(number)} {_text(memory)}", state_key=state_key)


def _text(number: int) -> str:
    common = _WORDS[np.searchsorted(_UPTO, _UPTO[-1] * np.random.default_rng(number).random(25))]
    return " ".join([*(f"thing{number // _GROUP}{letter}" for letter in "abc"), *common.tolist()])


def fill(store: MemoryStore, size: int, first: int = 0) -> None:
    """Write `size` memories about topics, a thousand at once, from number `first` on."""
    for batch in _batches(first, first + size):
        store.write([topic_draft(number) for number in batch])


def open_topics(folder: Path, *, gate: Gate | None = GATE, index: str | None = None) -> MemoryStore:
    """A store for them; with a gate and an index as by default."""
    return MemoryStore.open(folder, embedder=TopicEmbedder(), gate=gate, index=index)


def all_vectors(size: int) -> np.ndarray:
    """[size, DIM] the vectors of the first `size` memories."""
    embedder = TopicEmbedder()
    found = [embedder.embed([topic_key(number) for number in batch]) for batch in _batches(0, size)]
    return np.concatenate(found)


def _batches(first: int, upto: int) -> Iterator[range]:
    for start in range(first, upto, BATCH):
        yield range(start, min(start + BATCH, upto))
