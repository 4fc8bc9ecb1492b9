"""Latency, throughput and recall of the memory store as it grows, against comparing with everything.

Run: python benchmarks/store.py [--sizes 1000 100000] [--queries 200]. Vectors are clustered (200 topics, 384
numbers), made by a look-up that takes microseconds: the times are the store's own. Times are wall seconds.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from agentkit.memory.kinds import Draft, FactBody, Source
from agentkit.memory.store import MemoryStore

DIM, TOPICS, ENVIRONMENTS = 384, 200, 100


class Topics:
    """Embeds `topic7 ...` near all other texts on topic 7."""

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


def draft(number: int) -> Draft:
    """One of any number of facts."""
    return Draft(
        body=FactBody(subject=f"thing {number}", relation="is", value="so"),
        text=f"thing {number} is so. " * 10,
        keys={"state": f"topic{number % TOPICS} item {number}"},
        env_id=f"env{number % ENVIRONMENTS}",
        source=Source(writer="environment", name="benchmark"),
    )


def cuts(work: Callable[[int], object], number: int) -> str:
    """p50 and p95 in milliseconds of `work(0)` ..."""
    seconds = []
    for one in range(number):
        begun = time.perf_counter()
        work(one)
        seconds.append(time.perf_counter() - begun)
    p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
    return f"p50 {p50:7.2f} ms, p95 {p95:7.2f} ms"


def measure(size: int, queries: int, folder: Path) -> None:
    """Fill a store and time it."""
    embedder = Topics()
    print(f"\n{size} memories")
    with MemoryStore.open(folder, embedder=embedder) as memory:
        begun = time.perf_counter()
        for start in range(0, size, 1000):
            memory.write(draft(number) for number in range(start, min(start + 1000, size)))
        seconds = time.perf_counter() - begun
        print(f"  write, 1,000 at once, index included     {size / seconds:8.0f} a second")
        print(f"  write, one by one                        {cuts(lambda one: memory.write([draft(size + one)]), 200)}")

        def recall(one: int, **scope: str) -> list[str]:
            return [found.id for found in memory.recall(f"topic{one % TOPICS} query {one}", 10, **scope)]  # type: ignore[arg-type]

        recall(0)
        print(f"  recall of 10, all in scope               {cuts(recall, queries)}")
        print(f"  recall of 10, 1 % in scope               {cuts(lambda one: recall(one, env_id='env3'), queries)}")
        found = [recall(one) for one in range(queries)]
        narrow = [recall(one, env_id="env3") for one in range(queries)]
        megabytes, alone = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, size * DIM * 4 / 1e6
        print(f"  resident at most                         {megabytes:.0f} MB, the vectors alone {alone:.0f}")
    begun = time.perf_counter()
    memory = MemoryStore.open(folder, embedder=embedder)
    opened = time.perf_counter() - begun
    memory.recall("topic1 x", 10)
    first = time.perf_counter() - begun
    print(f"  open                                     {opened:.2f} s; with the first recall {first:.2f} s")
    memory.close()
    with MemoryStore.open(folder, embedder=embedder, index="exact") as memory:
        recall(0)
        print(f"  recall of 10, all compared               {cuts(recall, min(queries, 50))}")
        for name, given, scope in (("all", found, {}), ("1 %", narrow, {"env_id": "env3"})):
            true = [set(recall(one, **scope)) for one in range(queries)]
            hits = sum(len(true_ids & set(ids)) for true_ids, ids in zip(true, given, strict=True))
            print(f"  recall@10 against comparing all, {name:3}     {hits / sum(map(len, true)):.4f}")


def main() -> None:
    """Measure each size in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            measure(size, options.queries, Path(folder))


if __name__ == "__main__":
    main()
