"""How calm the context stays: memories read anew at each step of a walk, with a margin and without."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from agentkit.bench.table import Cell, Check, Scale, Table
from agentkit.bench.topics import fill, open_topics, topic_situation
from agentkit.memory.arms import Situation
from agentkit.memory.hysteresis import Hysteresis
from agentkit.memory.reader import Reader

STEPS_A_PLACE = 50
"""Steps in which something of the same memory is seen, each time with another query."""
MOST_SHOWN = 2


def measure(scale: Scale) -> Table:
    """A row without a margin, and one with that of the settings."""
    size, steps = scale.pick((100, 10), (1_000, 100), (1_000, 400))
    with tempfile.TemporaryDirectory(prefix="agentkit-bench-") as folder, open_topics(Path(folder)) as store:
        fill(store, size)
        reader = Reader(store)
        rows = [walk(reader, margin, size, steps) for margin in (0.0, reader.settings.margin)]
    without, with_margin = rows
    return Table(
        name="calm",
        title=f"what changes in the context from step to step, {steps} steps, {size:,} memories",
        rows=tuple(rows),
        checks=(
            Check(
                what="churn with the margin over that without",
                value=float(with_margin["churn"] or 0) / (float(without["churn"] or 0) or 1.0),
                bar=1,
                at="most",
            ),
        ),
        notes=("churn: ids added or dropped as a share of those shown before or after, mean of the steps.",),
    )


def walk(reader: Reader, margin: float, size: int, steps: int) -> dict[str, Cell]:
    """Read at each step of a walk, and keep what is shown by a margin."""
    calm, tokens = Hysteresis(margin), []
    for step in range(steps):
        situation = seen_at(step, size)
        reads = reader.rank(situation, also=calm.shown)
        shown = calm.step([read.candidate for read in reads], partial(reader.select, reads=reads, most=MOST_SHOWN))
        tokens.append(sum(one.tokens for one in shown.candidates))
    return {"margin": margin, "churn": calm.churn, "tokens shown": float(np.mean(tokens))}


def seen_at(step: int, size: int) -> Situation:
    """What is seen at a step: of its place the topic, and most of the words in another order."""
    there = topic_situation(step // STEPS_A_PLACE, size).observation.split()
    words = np.random.default_rng(step).permutation(there[3:])[:20].tolist()
    return Situation(observation=" ".join([there[0], "step", str(step), *words]))
