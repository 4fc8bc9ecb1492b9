"""Latency, throughput, memory and recall of the memory store as it grows, against comparing with everything.

Run: python benchmarks/store.py [--size 1000 100000] [--queries 200] [--batch 1000] [--gate]. Vectors are clustered
(200 topics, 384 numbers), made by a look-up that takes microseconds: the times are the store's own. Times are wall
time; where a rate is given, CPU seconds stand beside it, for other work on the machine slows down the former only.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from agentkit.memory.kinds import Draft, FactBody, Source
from agentkit.memory.store import GATE, MemoryStore

DIM, TOPICS, ENVIRONMENTS, NOISES = 384, 200, 100, 4096


class Topics:
    """Embeds `topic7 ...` near all other texts on topic 7."""

    dim = DIM
    fingerprint = "topics-2"

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self._centres = generator.standard_normal((TOPICS, DIM), np.float32)
        self._noises = generator.standard_normal((NOISES, DIM), np.float32)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[N, DIM] unit vectors; what is not its topic is drawn from 16 million."""
        hashes = np.array([zlib.crc32(text.encode()) for text in texts], np.int64)
        noise = self._noises[hashes % NOISES] + self._noises[hashes // NOISES % NOISES]
        vectors = self._centres[[int(text.split()[0][5:]) for text in texts]] + 0.5 * noise
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
    """p50 and p95 in milliseconds of `work(0)` ..., and CPU milliseconds of one."""
    seconds, cpu = [], time.process_time()
    for one in range(number):
        begun = time.perf_counter()
        work(one)
        seconds.append(time.perf_counter() - begun)
    p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
    return f"p50 {p50:7.2f} ms, p95 {p95:7.2f} ms; CPU {(time.process_time() - cpu) / number * 1e3:.2f} ms"


@contextmanager
def rate(what: str, number: int):
    """Print how many a second the block does, and its CPU seconds."""
    begun, cpu = time.perf_counter(), time.process_time()
    yield
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    print(f"  {what:<41}{number / seconds:8.0f} a second ({seconds:.1f} s, {cpu:.1f} CPU s)", flush=True)


@contextmanager
def meanwhile(work: Callable[[int], object]):
    """Do `work(0)`, `work(1)` ... in another thread while the block runs."""
    over = threading.Event()

    def go_on() -> None:
        one = 0
        while not over.is_set():
            work(one)
            one += 1

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def measure(size: int, queries: int, batch: int, folder: Path, *, gated: bool) -> None:
    """Fill a store and time it."""
    embedder, gate = Topics(), GATE if gated else None
    print(f"\n{size} memories, {'with' if gated else 'without'} the gate")
    written = size

    def show(what: str, said: str) -> None:
        print(f"  {what:<41}{said}", flush=True)

    with MemoryStore.open(folder, embedder=embedder, gate=gate) as memory:

        def write(num: int) -> None:
            nonlocal written
            memory.write(list(map(draft, range(written, written + num))))
            written += num

        with rate(f"write, {batch} at once", size):
            for start in range(0, size, batch):
                memory.write(list(map(draft, range(start, min(start + batch, size)))))
        begun = time.perf_counter()
        while memory.index_lag:
            time.sleep(0.01)
        show("until the index has the last of them", f"{time.perf_counter() - begun:.2f} s")
        show("write, one by one", cuts(lambda _: write(1), 300))

        def recall(one: int, **scope: str) -> list[str]:
            return [found.id for found in memory.recall(f"topic{one % TOPICS} query {one}", 10, **scope)]  # type: ignore[arg-type]

        recall(0)
        recall(0, env_id="env3")
        show("recall of 10, all in scope", cuts(recall, queries))
        show("recall of 10, 1 % in scope", cuts(lambda one: recall(one, env_id="env3"), queries))
        before = written
        with meanwhile(lambda _: write(1)):
            show("  all, beside a thread that writes", cuts(recall, queries))
            show("  1 %, beside it", cuts(lambda one: recall(one, env_id="env3"), queries))
        show("  written meanwhile", f"{written - before}")
        with meanwhile(lambda _: write(100)):
            show("  all, beside one that writes 100 at once", cuts(recall, queries))
        lag = memory.index_lag
        begun = time.perf_counter()
        while memory.index_lag:
            time.sleep(0.01)
        show("index lag at the end of that", f"{lag} vectors; none after {time.perf_counter() - begun:.2f} s")
        megabytes, alone = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, size * DIM * 4 / 1e6
        disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        show("resident at most; on disk", f"{megabytes:.0f} MB; {disk:.0f} MB (the vectors alone {alone:.0f} MB)")
        asked: list[float] = []

        def ask(one: int) -> None:
            begun = time.perf_counter()
            recall(one)
            asked.append((time.perf_counter() - begun) * 1e3)
            time.sleep(0.02)

        with rate("rebuild of the index", size), meanwhile(ask):
            memory.rebuild()
        p50, p95 = np.percentile(asked, [50, 95])
        show(
            "  recall of 10, all in scope, meanwhile", f"p50 {p50:.2f} ms, p95 {p95:.2f} ms, worst {max(asked):.0f} ms"
        )
        found = [recall(one) for one in range(queries)]
        narrow = [recall(one, env_id="env3") for one in range(queries)]
    begun = time.perf_counter()
    memory = MemoryStore.open(folder, embedder=embedder, gate=gate)
    opened = time.perf_counter() - begun
    memory.recall("topic1 x", 10)
    show("open; with the first recall", f"{opened:.2f} s; {time.perf_counter() - begun:.2f} s")
    memory.close()
    with MemoryStore.open(folder, embedder=embedder, gate=gate, index="exact") as memory:
        recall(0)
        few = min(queries, 50)
        show("recall of 10, all compared", cuts(recall, few))
        for name, given, scope in (("all", found, {}), ("1 %", narrow, {"env_id": "env3"})):
            true = [set(recall(one, **scope)) for one in range(few)]
            hits = sum(len(true_ids & set(ids)) for true_ids, ids in zip(true, given, strict=False))
            show(f"recall@10 against comparing all, {name}", f"{hits / sum(map(len, true)):.4f}")


def main() -> None:
    """Measure each size in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--batch", type=int, default=1000, help="memories in one write")
    parser.add_argument("--gate", action="store_true", help="judge every memory before it is written")
    options = parser.parse_args()
    for size in options.size:
        with tempfile.TemporaryDirectory() as folder:
            measure(size, options.queries, options.batch, Path(folder), gated=options.gate)


if __name__ == "__main__":
    main()
