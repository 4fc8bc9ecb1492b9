"""How much of a memory is needed: success with a CasePolicy against the share of the memories that is kept.

Run: python benchmarks/lifecycle.py [--tasks 60] [--seeds 3] [--rounds 4]. An agent without a language model plays all
tasks for some rounds and remembers its successes; then memories are retired and it plays once more. The peers keep as
many, the newest or at random. No utilities are known here: what is compared is coverage and redundancy.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np

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


def keep(store: MemoryStore, rule: str, num: int, seed: int) -> list[Memory]:
    """The memories that a rule keeps; the store is as before afterwards."""
    held = store.held()
    if rule == "newest":
        return sorted(held, key=lambda memory: (memory.recorded_s, memory.id))[-num:]
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


def measure(env_id: str, agent: Policy, tasks: Sequence[Task], seeds: int, rounds: int) -> None:
    """Print one table."""
    rows: dict[tuple[str, float], list[float]] = {}
    sizes, plain, plan_s = [], [], []
    for seed in range(seeds):
        with (
            tempfile.TemporaryDirectory(prefix="agentkit-lifecycle-") as folder,
            MemoryStore.open(Path(folder), embedder=HashEmbedder(), index="exact") as store,
        ):
            for number in range(rounds):
                for episode in collect(agent, tasks, seed=derive_seed(seed, number)):
                    store.add(episode)
            sizes.append(len(store))
            last = derive_seed(seed, rounds)
            plain.append(success([], agent, tasks, last))
            for fraction in FRACTIONS:
                for rule in RULES:
                    begun = time.process_time()
                    kept = keep(store, rule, max(round(fraction * len(store)), 1), seed)
                    if rule == "planned":
                        plan_s.append(time.process_time() - begun)
                    rows.setdefault((rule, fraction), []).append(success(kept, agent, tasks, last))
    print(
        f"\n{env_id}: {agent.name}, {len(tasks)} tasks, {rounds} rounds, {seeds} seeds, {np.mean(sizes):.0f} memories"
    )
    print(f"without memory {np.mean(plain):.3f}; plan, write and undo {np.mean(plan_s):.2f} CPU s")
    print("| kept | " + " | ".join(f"{fraction:.0%}" for fraction in FRACTIONS) + " |")
    print("|---|" + "---|" * len(FRACTIONS))
    for rule in RULES:
        cells = [
            f"{np.mean(rows[rule, fraction]):.3f} ± {np.std(rows[rule, fraction], ddof=1) / seeds**0.5:.3f}"
            for fraction in FRACTIONS
        ]
        print(f"| {rule} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print a table for each environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    for env_id, agent in CASES:
        tasks = make_tasks(env_id, num=options.tasks)
        measure(env_id, agent, tasks, max(options.seeds, 2), options.rounds)


if __name__ == "__main__":
    main()
