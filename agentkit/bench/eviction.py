"""How much of a memory is needed: success of an agent that follows cases, against the share of them that is kept.

An agent without a language model plays all tasks for some rounds and its successes are remembered; then memories are
retired, and the tasks are played once more. The peers keep as many, the newest or at random. No utilities are known
here: what is compared is coverage and redundancy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np

from agentkit.bench.table import Cell, Check, Scale, Table
from agentkit.envs import make_tasks
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.kinds import Memory
from agentkit.memory.lifecycle import apply_eviction, plan_eviction
from agentkit.memory.store import MemoryStore
from agentkit.policies.cases import CasePolicy
from agentkit.policies.doubles import ExpertPolicy, RandomPolicy
from agentkit.policies.policy import Policy
from agentkit.rollout import collect
from agentkit.seeding import derive_seed
from agentkit.task import Task

CASES: tuple[tuple[str, Policy], ...] = (
    ("agentkit/FrozenLake-v0", RandomPolicy()),
    ("agentkit/Sokoban-v0", ExpertPolicy(noise=0.5)),
)
FRACTIONS = (1.0, 0.5, 0.25, 0.12)
RULES = ("planned", "newest", "random")


def measure(scale: Scale) -> Table:
    """A row for each environment and share that is kept."""
    num, rounds = scale.pick((3, 1), (15, 5), (40, 6))
    seeds = scale.num_seeds(1, 2, 3)
    rows: list[dict[str, Cell]] = []
    for env_id, agent in CASES:
        rows += measure_env(env_id, agent, make_tasks(env_id, num=num), seeds, rounds)
    kept_all = {row["environment"]: float(row["planned"] or 0) for row in rows if row["kept"] == 1.0}
    half = [row for row in rows if row["kept"] == 0.5]
    lost = [kept_all[row["environment"]] - float(row["planned"] or 0) for row in half]
    behind = [max(float(row[rule] or 0) for rule in RULES[1:]) - float(row["planned"] or 0) for row in half]
    return Table(
        name="eviction",
        title=f"success with a share of the memories, {num} tasks, {rounds} rounds, {seeds} seeds",
        rows=tuple(rows),
        checks=(
            Check(what="success lost where half is retired as planned", value=max(lost), bar=0.01, at="most"),
            Check(what="half kept as planned behind the better peer", value=max(behind), bar=0.01, at="most"),
        ),
        notes=("none: without memory. planned, newest, random: which are kept; s.e. over seeds.",),
    )


def measure_env(env_id: str, agent: Policy, tasks: Sequence[Task], seeds: int, rounds: int) -> list[dict[str, Cell]]:
    """Play, remember, retire, and play again; means over seeds."""
    found: dict[tuple[str, float], list[float]] = {}
    sizes, plain = [], []
    for seed in range(seeds):
        last = derive_seed(seed, rounds)
        plain.append(success([], agent, tasks, last))
        with (
            tempfile.TemporaryDirectory(prefix="agentkit-bench-") as folder,
            MemoryStore.open(Path(folder), embedder=HashEmbedder(), index="exact") as store,
        ):
            for number in range(rounds):
                for episode in collect(agent, tasks, seed=derive_seed(seed, number)):
                    store.add(episode)
            sizes.append(len(store))
            for fraction in FRACTIONS:
                for rule in RULES:
                    kept = keep(store, rule, round(fraction * len(store)), seed)
                    found.setdefault((rule, fraction), []).append(success(kept, agent, tasks, last))
    return [
        {
            "environment": env_id.removeprefix("agentkit/").removesuffix("-v0"),
            "memories": round(float(np.mean(sizes))),
            "kept": fraction,
            "none": float(np.mean(plain)),
            **{rule: float(np.mean(found[rule, fraction])) for rule in RULES},
            **{f"{rule}, s.e.": _standard_error(found[rule, fraction]) for rule in RULES},
        }
        for fraction in FRACTIONS
    ]


def keep(store: MemoryStore, rule: str, num: int, seed: int) -> list[Memory]:
    """The memories that a rule keeps; the store is as before afterwards."""
    held = store.held()
    if rule == "newest":
        return sorted(held, key=lambda memory: (memory.recorded_s, memory.id))[len(held) - num :]
    if rule == "random":
        return Random(seed).sample(held, num)
    write = apply_eviction(store, plan_eviction(store, num))
    kept = store.held()
    if write:
        store.undo(write)
    return kept


def success(cases: Sequence[Memory], agent: Policy, tasks: Sequence[Task], seed: int) -> float:
    """Mean success with these cases."""
    policy = CasePolicy(cases, agent) if cases else agent
    return float(np.mean([episode.success for episode in collect(policy, tasks, seed=seed)]))


def _standard_error(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else None
