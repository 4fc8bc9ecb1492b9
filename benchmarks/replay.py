"""Speed of the replay buffer: adding, drawing and restoring, and whether a restored buffer draws the same.

Run: python benchmarks/replay.py [--size 100000] [--draw 100000] [--batch 16] [--gate]. Episodes have one short turn, so
that the times are the buffer's own; 128 are added at a time, as an iteration does, on disk. Wall and CPU seconds stand
side by side, for other work on the machine slows down the former only. With --gate, less than 5000 rows a second added
or drawn, a restore of more than 2 s, or another batch after it, ends in exit status 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode, Role, Turn
from agentkit.task import Task
from agentkit.training.replay import BufferConfig, ReplayBuffer
from agentkit.training.replay.selection import ByAdvantage, P2Value, Priority, Recent, Selection, Uniform

RULES: dict[str, Selection] = {
    "uniform": Uniform(),
    "advantage": ByAdvantage(),
    "priority": Priority(),
    "p2value": P2Value(),
    "recent": Recent(),
}
ADDED, GROUP, LEAST_ROWS_S, MOST_RESTORE_S = 128, 8, 5000, 2.0


def episodes(first: int) -> list[Episode]:
    """One iteration's attempts."""
    turn = Turn(
        observation="",
        prompt_ids=(1, 2),
        prompt_roles=(Role.OBSERVATION,) * 2,
        response="go",
        response_ids=(3, 4),
        response_roles=(Role.ACTION,) * 2,
        logprobs=(-0.5, -0.25),
        action="go",
        reward=1.0,
        terminated=True,
    )
    return [
        Episode(
            id=f"episode-{number}",
            task=Task(env_id="bench/Env-v0", seed=number // GROUP),
            group_id=f"group-{number // GROUP}",
            turns=(turn,),
            success=True,
        )
        for number in range(first, first + ADDED)
    ]


def timed(name: str, wall: float, cpu: float, rows: int = 0) -> float:
    """Print seconds and rates since then; returns the wall seconds, or rows a second."""
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if not rows:
        print(f"  {name:<22} {wall:8.2f} s  ({cpu:.2f} s CPU)")
        return wall
    print(f"  {name:<22} {rows / wall:8.0f} rows/s  ({rows / cpu:.0f} a CPU second)")
    return rows / wall


def measure(name: str, size: int, draw: int, batch: int) -> bool:
    """Whether one selection meets the bars."""
    print(name)
    config = BufferConfig(capacity=size, admit="any", max_staleness=None, select=RULES[name])
    with tempfile.TemporaryDirectory() as folder, EpisodeLog.open(Path(folder) / "log.sqlite") as log:
        buffer = ReplayBuffer(Path(folder) / "replay.sqlite", log, config)
        advantages = np.random.default_rng(0).random(ADDED)
        made = [episodes(first) for first in range(0, size, ADDED)]
        buffer.sample(1, np.random.default_rng(0))  # so that what is drawn from is kept up to date from now on
        start = time.perf_counter(), time.process_time()
        for iteration, played in enumerate(made, 1):
            buffer.update(played, advantages.tolist(), iteration=iteration, version=iteration)
        added = timed("add", *start, len(made) * ADDED)
        rng, last = np.random.default_rng(1), len(made) + 1
        start = time.perf_counter(), time.process_time()
        for _ in range(draw // batch):
            entries = buffer.sample(batch, rng)
            if name == "priority":
                buffer.refresh(entries, rng.random(len(entries)))
        drawn = timed("draw (and refresh)" if name == "priority" else "draw", *start, draw // batch * batch)
        buffer.update(episodes(size + ADDED), advantages.tolist(), iteration=last, version=last)
        expected = [buffer.sample(batch, np.random.default_rng(seed)) for seed in range(100)]
        buffer.update(episodes(size + 2 * ADDED), advantages.tolist(), iteration=last + 1, version=last + 1)
        start = time.perf_counter(), time.process_time()
        buffer.restore(last)
        restored = timed("restore", *start)
        same = [buffer.sample(batch, np.random.default_rng(seed)) for seed in range(100)] == expected
        print(f"  next 100 batches       {'identical' if same else 'DIFFERENT'}")
        buffer.close()
    return min(added, drawn) >= LEAST_ROWS_S and restored <= MOST_RESTORE_S and same


def main() -> None:
    """Measure each selection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=100_000, help="entries kept")
    parser.add_argument("--draw", type=int, default=100_000, help="entries drawn")
    parser.add_argument("--batch", type=int, default=16, help="entries of one draw")
    parser.add_argument("--select", choices=[*RULES], nargs="+", default=[*RULES])
    parser.add_argument("--gate", action="store_true", help="fail if a bar is missed")
    options = parser.parse_args()
    met = [measure(name, options.size, options.draw, options.batch) for name in options.select]
    sys.exit(int(options.gate and not all(met)))


if __name__ == "__main__":
    main()
