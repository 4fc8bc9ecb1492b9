"""Reading: how long it takes, how well each arm and their fusion find, how calm the context stays from step to step.

Run: python benchmarks/reading.py [--sizes 1000 100000] [--queries 200]. Memories come in groups of three that mean the
same and share three rare words among many common ones; a query has the meaning, or two of the words, or both, and now
and then the state. Half of the answered queries fit the weights, the other half judge. Vectors are made by a look-up
that takes microseconds: the times are the store's own. The gates are on CPU time, which other programs do not touch.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from agentkit.memory.arms import ARMS, Arms, Situation
from agentkit.memory.fusion import fuse, ndcg_at, recall_at
from agentkit.memory.hysteresis import Hysteresis
from agentkit.memory.kinds import Draft, EpisodeBody, Source
from agentkit.memory.lexical import Lexical
from agentkit.memory.reader import Reader, ReadSettings
from agentkit.memory.store import MemoryStore

DIM, TOPICS, ENVIRONMENTS, GROUP = 384, 200, 100, 3
GATES_MS = {1_000: 10.0, 100_000: 30.0}
"""p95 of the CPU time of a read at so many memories."""
_SIGNS = str.maketrans("0123456789", "!$%&/()=?+")  # what a text means, spelt without a word that could be searched for


class Meanings:
    """Embeds texts that begin with the same topic near each other, and nearer if they are of the same group."""

    dim = DIM
    fingerprint = "meanings"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[N, DIM] unit vectors."""
        vectors = np.empty((len(texts), DIM), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            topic, _, group = text.partition(" ")[0].partition(":")
            row[:] = _noise(topic) + 0.6 * _noise(f"{topic}:{group}") + 0.6 * _noise(text)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _noise(name: str) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(DIM, np.float32)


class World:
    """Texts of groups, some 30 words each, the common ones as frequent as words are (Zipf)."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        share = 1.0 / np.arange(1, 5_001)
        self._share = share / share.sum()

    def text(self, group: int, *, meaning: bool = True, words: int = 3) -> str:
        """What is seen in a situation of a group.

        Args:
            group: Which.
            meaning: Whether it means what the group means, or another one on the same topic.
            words: How many of the group's own words it holds.
        """
        about = f"{group % TOPICS}:{group if meaning else 10_000_000 + group}".translate(_SIGNS)
        common = [f"w{number}" for number in self._random.choice(5_000, 25, p=self._share)]
        own = [f"thing{group}{letter}" for letter in "abc"][:words]
        return " ".join([about, *self._random.permutation([*common, *own]).tolist()])

    def draft(self, number: int) -> Draft:
        """One of any number of episodes."""
        group = number // GROUP
        seen = self.text(group)
        return Draft(
            body=EpisodeBody(success=True, episode_return=1.0, actions=("go",), state_keys=(f"s{number}",)),
            text=f"{seen}\n1. go\nOutcome: success after 1 turn, return 1.",
            keys={"state": seen},
            env_id=f"env{group % ENVIRONMENTS}",
            source=Source(writer="environment", name="benchmark", episode_ids=(f"e{number}",)),
        )

    def query(self, one: int, groups: int) -> tuple[Situation, int]:
        """A situation, and the group it belongs to."""
        group = int(self._random.integers(groups))
        meaning, words = ((True, 0), (False, 2), (True, 2))[one % 3]
        state_key = f"s{GROUP * group}" if one % 5 == 0 else ""
        return Situation(observation=self.text(group, meaning=meaning, words=words), state_key=state_key), group


def cuts(work: Callable[[int], object], number: int) -> np.ndarray:
    """[2, 2] p50 and p95 of `work(0)` ... in milliseconds, of the clock and of this process's CPU."""
    seconds = []
    for one in range(number):
        begun = time.perf_counter(), time.process_time()
        work(one)
        seconds.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    cut: np.ndarray = np.percentile(seconds, [50, 95], axis=0) * 1e3
    return cut


def say(what: str, cut: np.ndarray) -> None:
    """Print one line of times."""
    (p50, cpu50), (p95, cpu95) = cut
    print(f"  {what:40} p50 {p50:6.1f} ms, p95 {p95:6.1f} ms; CPU {cpu50:6.1f} and {cpu95:6.1f} ms")


def measure_times(reader: Reader, world: World, groups: int, number: int) -> float:
    """Print how long reads take; returns the greatest p95 of CPU time of those without a writer."""
    asked = [world.query(one, groups)[0] for one in range(number)]
    words, worst = Lexical(), 0.0

    def read(one: int) -> object:
        return reader.read(asked[one])

    def narrow(one: int) -> object:
        return reader.read(asked[one], env_id="env3")

    def search(one: int) -> object:
        with reader.store.database.reading() as connection:
            return words.search(connection, asked[one].observation, 32, reader.store.scope(connection))

    works = {"read, all in scope": read, "read, 1 % in scope": narrow, "the lexical arm, all in scope": search}
    for what, work in works.items():
        work(0)
        cut = cuts(work, number)
        worst = max(worst, float(cut[1, 1]))
        say(what, cut)
    stop, written = threading.Event(), [0]

    def write() -> None:
        while not stop.is_set():
            reader.store.write([world.draft(10_000_000 + written[0])])
            written[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    begun = time.perf_counter()
    cut = cuts(read, number)
    rate = written[0] / (time.perf_counter() - begun)
    stop.set()
    writer.join()
    say(f"read, beside {rate:.0f} writes a second", cut)
    return worst


def measure_finding(reader: Reader, world: World, groups: int, ids: Sequence[str], number: int) -> float:
    """Print what each arm finds, alone and fused; returns by how much the best one alone is better than fusion."""
    answered = []
    for one in range(number):
        situation, group = world.query(one, groups)
        answered.append((situation, ids[GROUP * group : GROUP * (group + 1)]))
    fit = reader.fit(answered[: number // 2])
    print(f"  fitted weights                           {fit.weights.weights}")
    search = Arms(reader.store)
    found: dict[str, list[list[str]]] = {name: [] for name in (*ARMS, "fused")}
    for situation, _ in answered[number // 2 :]:
        with reader.store.database.reading() as connection:
            arms = search.search(connection, situation, reader.settings.pool, reader.store.scope(connection)).arms
        for name in ARMS:
            found[name].append(sorted(arms.get(name, {}), key=lambda id: (-arms[name][id], id)))
        found["fused"].append(list(fuse(arms, reader.weights)))
    ndcg = {}
    for name, rankings in found.items():
        pairs = [(ranking, relevant) for ranking, (_, relevant) in zip(rankings, answered[number // 2 :], strict=True)]
        ndcg[name] = float(np.mean([ndcg_at(*pair, 10) for pair in pairs]))
        recall = np.mean([recall_at(*pair, 10) for pair in pairs])
        print(f"  {name:8} nDCG@10 {ndcg[name]:.3f}, recall@10 {recall:.3f}")
    return max(ndcg[name] for name in ARMS) - ndcg["fused"]


def measure_calm(reader: Reader, world: World, groups: int, steps: int = 200) -> None:
    """Print how much of the context changes in a step, with and without a margin, and the tokens shown."""
    for margin in (0.0, reader.settings.margin):
        calm, tokens, words = Hysteresis(margin), [], np.random.default_rng(1)
        for step in range(steps):
            world._random = words  # the same walk for both
            seen = world.text(
                (step // 50) % groups, words=1
            )  # 50 steps at a place, seen a little differently each time
            reads = reader.rank(Situation(observation=seen), also=calm.shown)
            now = calm.step([read.candidate for read in reads], partial(reader.select, reads=reads, most=2))
            tokens.append(sum(one.tokens for one in now.candidates))
        print(
            f"  churn a step, margin {margin:.1f}                 {calm.churn:.3f}; {np.mean(tokens):.0f} tokens shown"
        )


def main() -> None:
    """Measure each size in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    held = True
    for size in options.sizes:
        print(f"\n{size} memories")
        with (
            tempfile.TemporaryDirectory() as folder,
            MemoryStore.open(Path(folder), embedder=Meanings(), gate=None) as store,
        ):
            world, ids, groups = World(), list[str](), size // GROUP
            begun = time.perf_counter()
            for start in range(0, size, 1000):
                ids += [one.id for one in store.write(map(world.draft, range(start, min(start + 1000, size))))]
            print(f"  filled in {time.perf_counter() - begun:.0f} s")
            reader = Reader(store, ReadSettings())
            gap = measure_finding(reader, world, groups, ids, 2 * options.queries)
            measure_calm(reader, world, groups)
            p95 = measure_times(reader, world, groups, options.queries)
            gate = min((ms for most, ms in GATES_MS.items() if size <= most), default=100.0)
            print(f"  gates: p95 {p95:.1f} <= {gate:g} ms, fusion {100 * gap:+.1f} <= 1 point behind the best arm")
            held = held and p95 <= gate and gap <= 0.01
    print(f"\nall gates hold: {held}")


if __name__ == "__main__":
    main()
