"""Rates of the episode log in CPU seconds, beside plain inserts; the memory store's are `agentkit memory bench`.

Run: python benchmarks/memory.py
"""

from __future__ import annotations

import random
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode, Message, Part, Role, Turn
from agentkit.task import Task

WORDS = [
    "red",
    "blue",
    "green",
    "door",
    "key",
    "box",
    "lamp",
    "table",
    "drawer",
    "open",
    "north",
    "west",
    "behind",
]


def make_episode(name: str, rng: random.Random, *, grows: bool) -> Episode:
    """Five turns of 300 random ids each; with `grows` every prompt repeats the history before it."""
    turns: list[Turn] = []
    history: tuple[int, ...] = ()
    messages: tuple[Message, ...] = ()
    for number in range(5):
        observation = " ".join(rng.choices(WORDS, k=40))
        prompt = history + tuple(rng.randrange(50_000) for _ in range(250))
        response = tuple(rng.randrange(50_000) for _ in range(50))
        said = Message(speaker="user", parts=(Part(role=Role.OBSERVATION, text=observation),))
        messages = (*messages, said) if grows else (said,)
        turns.append(
            Turn(
                observation=observation,
                messages=messages,
                prompt_ids=prompt,
                prompt_roles=(Role.OBSERVATION,) * len(prompt),
                response="<think>so</think><answer>go</answer>",
                response_ids=response,
                response_roles=(Role.ACTION,) * 50,
                logprobs=tuple(-rng.random() for _ in response),
                action="go",
                reward=float(number == 4),
            )
        )
        history = prompt + response if grows else ()
    task = Task(env_id="benchmark/Env-v0", seed=rng.randrange(1 << 30))
    return Episode(id=name, task=task, turns=tuple(turns), success=True)


@contextmanager
def timed(name: str, number: int) -> Iterator[None]:
    """Print what the block cost for each of `number` things."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{name:<54} {cpu / number * 1e3:8.3f} CPU ms {wall / number * 1e3:8.3f} ms {number / cpu:6.0f}/CPU s")


def measure_log(folder: Path) -> None:
    rng = random.Random(0)
    for grows in (False, True):
        kind = "growing history" if grows else "300 ids a turn"
        episodes = [make_episode(f"{grows}-{n}", rng, grows=grows) for n in range(500)]
        with EpisodeLog.open(folder / f"{grows}.sqlite") as log:
            start = time.process_time()
            with timed(f"append, {kind}", len(episodes)):
                for episode in episodes:
                    log.append(episode)
            ours = time.process_time() - start
            with timed(f"read, {kind}", len(episodes)):
                assert sum(1 for _ in log.episodes()) == len(episodes)
        plain = sqlite3.connect(folder / f"plain-{grows}.sqlite", isolation_level=None)
        plain.execute("PRAGMA journal_mode=WAL")
        plain.execute("PRAGMA synchronous=NORMAL")
        plain.execute("CREATE TABLE episodes (id TEXT PRIMARY KEY, json TEXT)")
        start = time.process_time()
        with timed(f"plain sqlite3 insert of the same JSON, {kind}", len(episodes)):
            for episode in episodes:
                plain.execute("INSERT INTO episodes VALUES (?, ?)", (episode.id, episode.model_dump_json()))
        plain_s = time.process_time() - start
        plain.close()
        sizes = [
            sum(f.stat().st_size for f in folder.glob(f"{name}.sqlite*")) for name in (f"{grows}", f"plain-{grows}")
        ]
        print(f"  append: {ours / plain_s:.2f} x the plain insert's CPU, {sizes[0] / sizes[1]:.2f} of its space")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        measure_log(Path(folder))


if __name__ == "__main__":
    main()
