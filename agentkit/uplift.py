"""Uplift: what a memory is worth to an agent, measured by playing the same tasks with and without it.

The arms differ in nothing but the memory, and play the same tasks with the same seeds, so differences are paired. What
is measured is how often an agent that comes back to a task succeeds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np

from agentkit.errors import ConfigError
from agentkit.evaluation import Interval, bootstrap
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.records import Episode, Record
from agentkit.memory.store import MemoryStore
from agentkit.policies.cases import CasePolicy
from agentkit.policies.doubles import ExpertPolicy
from agentkit.policies.policy import Policy
from agentkit.rollout import collect
from agentkit.seeding import derive_seed
from agentkit.task import Task

Arm = Literal["none", "random", "stale", "frozen", "live", "oracle"]
ARMS: tuple[Arm, ...] = ("none", "random", "stale", "frozen", "live", "oracle")
"""No memory; a few cases of what was played before, drawn at random (a placebo); the expert's at other tasks; that of
the first round only; all that was played before; the expert's at these tasks."""
PLACEBO_CASES = 3
"""Cases of the random arm, as many as a recall usually shows."""


class ArmResult(Record):
    """How the agent did with one memory."""

    arm: Arm
    success: Interval
    """Over the rounds after the first, with a bootstrap interval over tasks and seeds, 95 %."""
    uplift: Interval
    """Success minus that of `none` at the same tasks, seeds and rounds, with a paired bootstrap interval, 95 %."""
    harmed: float
    """Share of the tasks, seeds and rounds that `none` solved and this arm did not."""
    turns: float
    """Mean turns of an episode."""
    p: float
    """Of an uplift this far from 0 if the memory did nothing, from flipping the signs of the tasks' differences."""


def measure_uplift(
    tasks: Sequence[Task],
    agent: Policy,
    *,
    other_tasks: Sequence[Task],
    rounds: int = 4,
    seeds: Sequence[int] = range(5),
    arms: Sequence[Arm] = ARMS,
    on_round: Callable[[], None] | None = None,
) -> list[ArmResult]:
    """Play all tasks once a round with every arm, and compare the rounds after the first.

    The agent is a `CasePolicy` over the arm's memory that asks `agent` where no case knows the state. Memories are
    written between rounds only. Environments whose noise differs from attempt to attempt would show the same noise
    every round here: use deterministic ones.

    Args:
        tasks: What to play.
        agent: Who plays without a memory.
        other_tasks: Tasks of the same environment whose memories make the stale arm.
        rounds: At least 2.
        seeds: Seeds of the agent.
        arms: Which; `none` is always played.
        on_round: Called after each round of an arm.

    Raises:
        ConfigError: Fewer than two rounds, no task or no seed.
    """
    if rounds < 2 or not tasks or not seeds:
        raise ConfigError(f"uplift needs two rounds, a task and a seed; got {rounds}, {len(tasks)} and {len(seeds)}")
    played: dict[Arm, list[list[Episode]]] = {}
    for arm in dict.fromkeys(("none", *arms)):
        played[arm] = []
        for seed in seeds:
            found = _play(arm, tasks, agent, other_tasks, rounds, seed, on_round)
            played[arm].append([episode for later in found[1:] for episode in later])
    plain = _successes(played["none"])
    return [_result(arm, played[arm], plain) for arm in played]


def _play(
    arm: Arm,
    tasks: Sequence[Task],
    agent: Policy,
    other_tasks: Sequence[Task],
    rounds: int,
    seed: int,
    on_round: Callable[[], None] | None,
) -> list[list[Episode]]:
    """The episodes of each round."""
    played: list[list[Episode]] = []
    with (
        tempfile.TemporaryDirectory(prefix="agentkit-uplift-") as folder,
        MemoryStore.open(Path(folder), embedder=HashEmbedder(), index="exact") as memory,
    ):
        if arm == "oracle":
            _remember(memory, collect(ExpertPolicy(), tasks))
        elif arm == "stale":
            _remember(memory, collect(ExpertPolicy(), other_tasks))
        for number in range(rounds):
            cases = [] if arm == "none" else memory.held()
            if arm == "random":
                cases = Random(f"{seed} {number}").sample(cases, min(PLACEBO_CASES, len(cases)))
            policy = CasePolicy(cases, agent) if cases else agent
            played.append(collect(policy, tasks, seed=derive_seed(seed, number)))
            if arm in ("live", "random") or (arm == "frozen" and number == 0):
                _remember(memory, played[-1])
            if on_round is not None:
                on_round()
    return played


def _remember(memory: MemoryStore, episodes: Sequence[Episode]) -> None:
    for episode in episodes:
        memory.add(episode)


def _successes(played: Sequence[Sequence[Episode]]) -> np.ndarray:
    """[seeds * rounds * tasks] 0 or 1."""
    return np.array([episode.success for episodes in played for episode in episodes], np.float64)


def _result(arm: Arm, played: Sequence[Sequence[Episode]], plain: np.ndarray) -> ArmResult:
    successes = _successes(played)
    num_tasks = len({episode.task.key for episode in played[0]})
    by_task = successes.reshape(len(played), -1, num_tasks).mean(axis=1).ravel()  # rounds of a task are not independent
    plain_by_task = plain.reshape(len(played), -1, num_tasks).mean(axis=1).ravel()
    turns = [len(episode.turns) for episodes in played for episode in episodes]
    by_task_only = (by_task - plain_by_task).reshape(len(played), num_tasks).mean(axis=0)
    return ArmResult(
        arm=arm,
        success=bootstrap(by_task, np.random.default_rng(0)),
        uplift=bootstrap(by_task - plain_by_task, np.random.default_rng(0)),
        harmed=float(np.mean((plain == 1) & (successes == 0))),
        turns=float(np.mean(turns)),
        p=sign_flip_p(by_task_only, np.random.default_rng(0)),
    )


def sign_flip_p(differences_T: np.ndarray, rng: np.random.Generator, draws: int = 10_000) -> float:
    """Two-sided p of a mean this far from 0 if the sign of every difference were chance; never below 1 / (draws + 1).

    >>> round(sign_flip_p(np.ones(3), np.random.default_rng(0)), 1)  # 2 of 8 patterns of signs
    0.2
    """
    flipped = rng.choice([-1.0, 1.0], (draws, len(differences_T))) @ differences_T
    extreme = np.abs(flipped) >= abs(differences_T.sum()) - 1e-9
    return float((extreme.sum() + 1) / (draws + 1))
