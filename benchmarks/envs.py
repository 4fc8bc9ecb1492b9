"""Speed of the bundled environments and the FrozenLake optimum, in CPU seconds of one process.

Run: python benchmarks/envs.py. Every environment is made by `gymnasium.make`, as is the bare FrozenLake-v1 it
is compared with in the same run; resets are included. "grouped" plays 16 attempts at each instance, as
training does (a level is drawn once); "fresh" draws a new level at every reset.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any

import gymnasium

from agentkit.envs import make_tasks, optimal_success, random_success, register_envs

NUM_STEPS = 20_000
GROUP = 16
RUNS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("agentkit/FrozenLake-v0", {}),
    ("agentkit/FrozenLake-v0", {"slip": 0.2, "text": "coords"}),
    ("agentkit/Sokoban-v0", {}),
    ("agentkit/Sudoku-v0", {}),
)
SUCCESS_RATES = (1.0, 0.98, 0.95, 0.9, 0.8, 0.5, 1 / 3)
PUBLISHED = {
    "1 action": (100, 99.7, 99.3, 98.4, 95.6, 74.2, 57.9),
    "2": (100, 99.7, 99.2, 98.0, 94.5, 71.3, 56.1),
}
"""Our reference on another 1000 maps, in percent: with 1 and with 2 actions a turn."""


def steps_per_second(env: gymnasium.Env, act: Callable[[], Any], seed_of: Callable[[int], Any]) -> float:
    """Steps per CPU second of random play, resets included."""
    episodes = 0
    env.reset(**seed_of(episodes))
    begun = time.process_time()
    for _ in range(NUM_STEPS):
        _, _, terminated, truncated, _ = env.step(act())
        if terminated or truncated:
            episodes += 1
            env.reset(**seed_of(episodes))
    return NUM_STEPS / (time.process_time() - begun)


def grouped(episode: int) -> dict[str, Any]:
    """Arguments of reset: 16 attempts at each instance."""
    return {"seed": episode // GROUP, "options": {"attempt": episode % GROUP}}


def fresh(episode: int) -> dict[str, Any]:
    """Arguments of reset: a new instance every time."""
    return {"seed": 1_000_000 + episode}


def print_speed() -> None:
    """A line an environment."""
    rng = Random(0)
    bare = gymnasium.make("FrozenLake-v1", disable_env_checker=True)
    speed = steps_per_second(bare, lambda: int(rng.random() * 4), lambda episode: {"seed": episode})
    print(f"{'env.step per CPU second, resets included':62} grouped    fresh")
    print(f"{'FrozenLake-v1 (bare Gymnasium, one map)':62} {speed:7,.0f}")
    for env_id, params in RUNS:
        env = gymnasium.make(env_id, **params)
        _, info = env.reset(seed=0)
        actions = info["admissible_actions"]
        act = lambda: " || ".join(actions[int(rng.random() * len(actions))] for _ in range(2))  # noqa: B023
        speeds = [steps_per_second(env, act, seed_of) for seed_of in (grouped, fresh)]
        print(f"{env_id + ' ' + str(params or ''):62} {speeds[0]:7,.0f}  {speeds[1]:7,.0f}")


def print_optimum() -> None:
    """FrozenLake's optimum and chance on 1000 maps, beside the reference."""
    print("\nFrozenLake 4x4, p=0.9, 10 actions, 1000 training maps: success in % (reference: other maps)")
    print("P(as intended)          " + "".join(f"{rate:>14.2f}" for rate in SUCCESS_RATES))
    for row, per_turn in (("1 action", 1), ("2", 2)):
        cells = []
        for rate, reference in zip(SUCCESS_RATES, PUBLISHED[row], strict=True):
            params = {"slip": 1 - rate, "max_actions_per_turn": per_turn, "max_turns": 10 // per_turn}
            chances = optimal_success(make_tasks("agentkit/FrozenLake-v0", num=1000, params=params))
            cells.append(f"{100 * sum(chances) / len(chances):>7.1f} ({reference:4.1f})")
        print(f"optimal, {row + ' a turn':15}" + "".join(f"{cell:>14}" for cell in cells))
    shares = random_success(make_tasks("agentkit/FrozenLake-v0", num=1000), attempts=16)
    print(f"random (measured, 16 attempts a map): {100 * sum(shares) / len(shares):.1f} (26.5)")


if __name__ == "__main__":
    register_envs()
    print_speed()
    print_optimum()
