"""Floor and ceiling of a task: what chance reaches and what the expert reaches.

A success rate means little without both; the evaluator reports (success - random) / (optimal - random).
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

from agentkit.envs.contract import SEPARATOR, Expert, TextEnv, offers, whole_number
from agentkit.envs.workers import open_env
from agentkit.errors import ConfigError
from agentkit.task import Task


def optimal_success(tasks: Iterable[Task]) -> list[float]:
    """Exact probability in [0, 1] that the environment's expert succeeds, one a task.

    Raises:
        ConfigError: an environment has no expert.
    """
    chances = []
    for task in tasks:
        env: Any = open_env(task)
        if not offers(env, Expert):
            raise ConfigError(f"{task.env_id!r} has no expert (agentkit.envs.Expert) to tell its optimum")
        env.reset(seed=task.seed, options={"split": task.split})
        chances.append(env.expert_success())
        env.close()
    return chances


def random_success(tasks: Iterable[Task], *, attempts: int = 16, seed: int = 0) -> list[float]:
    """Measured share of attempts in [0, 1] that random play solves, one a task.

    Random play fills every turn with `max_actions_per_turn` actions, each drawn uniformly from the actions
    that are admissible at the start of the turn.

    Args:
        tasks: what to play.
        attempts: plays of each task, at least 1; the standard error of a mean over T tasks is at most
            0.5 / sqrt(T) from the tasks and 0.5 / sqrt(T * attempts) from chance.
        seed: seed of the random player; the same seed gives the same numbers.

    Raises:
        ConfigError: an environment does not name its admissible actions.
    """
    whole_number("attempts", attempts)
    shares = []
    for task in tasks:
        env = open_env(task)
        wins = sum(
            _play_randomly(env, task, attempt, Random(f"{seed}|{attempt}|{task.key}")) for attempt in range(attempts)
        )
        shares.append(wins / attempts)
        env.close()
    return shares


def _play_randomly(env: TextEnv, task: Task, attempt: int, rng: Random) -> bool:
    _, info = env.reset(seed=task.seed, options={"split": task.split, "attempt": attempt})
    over = False
    while not over:
        actions = info.get("admissible_actions")
        if not actions:
            raise ConfigError(f"{task.env_id!r} names no admissible actions (info) for random play to draw from")
        turn = [actions[int(rng.random() * len(actions))] for _ in range(env.max_actions_per_turn)]
        _, _, terminated, truncated, info = env.step(f" {SEPARATOR} ".join(turn))
        over = terminated or truncated
    return bool(info.get("success", False))
