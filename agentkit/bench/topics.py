"""Memories about topics, as many as wanted: clustered vectors that cost microseconds, so that times are the store's."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from agentkit.memory.kinds import Draft, FactBody, Source
from agentkit.memory.store import MemoryStore

DIM = 384
TOPICS = 200
SHARES = {"0.1 %": 1, "1 %": 10, "10 %": 100, "50 %": 500}
"""Name of an environment -> how many of each 1,000 memories are from it; the others are from `rest`."""
_BATCH = 1000


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
    """Memory `number`: about 200 characters, one key."""
    return Draft(
        body=FactBody(subject=f"thing {number}", relation="is", value="so"),
        text=f"thing {number} is so. " * 10,
        keys={"state": topic_key(number)},
        env_id=environment_of(number),
        source=Source(writer="environment", name="benchmark"),
    )


def fill(store: MemoryStore, size: int) -> None:
    """Write the first `size` memories, a thousand at once."""
    for batch in _batches(size):
        store.write([topic_draft(number) for number in batch])


def open_topics(folder: Path) -> MemoryStore:
    """A store for them, with its index as by default."""
    return MemoryStore.open(folder, embedder=TopicEmbedder())


def all_vectors(size: int) -> np.ndarray:
    """[size, DIM] the vectors of the first `size` memories."""
    embedder = TopicEmbedder()
    found = [embedder.embed([topic_key(number) for number in batch]) for batch in _batches(size)]
    return np.concatenate(found)


def _batches(size: int) -> Iterator[range]:
    for start in range(0, size, _BATCH):
        yield range(start, min(start + _BATCH, size))
