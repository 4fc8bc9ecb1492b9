"""What wrappers cost and how fast Gymnasium's games are in text, in CPU seconds of one process.

Run: python benchmarks/wrappers.py [--steps 20000]. A wrapper's cost is the difference to the bare environment, the
least of several runs each; resets are timed apart. Games are played by random actions, one a turn, and
scored with 95 % Wilson intervals.
"""

from __future__ import annotations

import argparse
import resource
import time
from random import Random
from typing import Any

from agentkit.envs import TextEnv, make_env, make_tasks
from agentkit.envs.baselines import random_success
from agentkit.evaluation import wilson

RUNS = 7
WRAPPERS: tuple[tuple[str, list[dict[str, Any]]], ...] = (
    ("history, turns 3", [{"name": "history", "turns": 3}]),
    ("retry, tries 3", [{"name": "retry", "tries": 3}]),
    ("step_penalty", [{"name": "step_penalty"}]),
    ("length_cap, nothing to cut", [{"name": "length_cap"}]),
    ("length_cap, cut to 40", [{"name": "length_cap", "max_chars": 40}]),
    ("all of them", [{"name": name} for name in ("history", "retry", "step_penalty", "length_cap")]),
)
GAMES: tuple[dict[str, Any], ...] = (
    {"env_id": "CliffWalking-v1"},
    {"env_id": "Taxi-v4"},
    {"env_id": "Blackjack-v1"},
    {"env_id": "FrozenLake-v1"},
    {"env_id": "MountainCar-v0"},
    {"env_id": "CartPole-v1", "success_reward": 30},
)
SOKOBAN = "agentkit/Sokoban-v0"
DISCRETE = "agentkit/Discrete-v0"


def seconds(env: TextEnv, num: int) -> tuple[float, float]:
    """CPU seconds of a step and of a reset, the least of `RUNS` runs of random play."""
    step_s = reset_s = float("inf")
    for _ in range(RUNS):
        rng, over, resets, resets_s = Random(0), True, 0, 0.0
        info: dict[str, Any] = {}
        begun = time.process_time()
        for _ in range(num):
            if over:
                before = time.process_time()
                _, info = env.reset(seed=resets % 64)
                resets_s += time.process_time() - before
                resets += 1
            actions = info["admissible_actions"]
            _, _, terminated, truncated, info = env.step(actions[int(rng.random() * len(actions))])
            over = terminated or truncated
        step_s = min(step_s, (time.process_time() - begun - resets_s) / num)
        reset_s = min(reset_s, resets_s / resets)
    return step_s, reset_s


def print_wrappers(num: int) -> None:
    """A line a wrapper."""
    bare, bare_reset = seconds(make_env(SOKOBAN), num)
    print(f"{'microseconds of CPU':40} step   reset")
    print(f"{'bare Sokoban (41 characters)':40} {bare * 1e6:5.1f}  {bare_reset * 1e6:5.1f}")
    for name, wrappers in WRAPPERS:
        step, reset = seconds(make_env(SOKOBAN, wrappers=wrappers), num)
        print(f"{'  + ' + name:40} {(step - bare) * 1e6:+5.1f}  {(reset - bare_reset) * 1e6:+5.1f}")


def print_games(num: int) -> None:
    """A line a game."""
    print(f"\n{'steps per CPU second':40}  steps/s  reset us  random play solves (held out)")
    for params in GAMES:
        step, reset = seconds(make_env(DISCRETE, **params), num // 4)
        tasks = make_tasks(DISCRETE, "held_out", 128, params=params)
        wins = round(sum(random_success(tasks, attempts=1)))
        share = wilson(wins, 128)
        name = " ".join(str(value) for value in params.values())
        print(f"{name:40} {1 / step:8,.0f}  {reset * 1e6:8.0f}  {wins} of 128 ({share.low:.1%} to {share.high:.1%})")
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=20_000, help="steps of a run")
    arguments = parser.parse_args()
    print_wrappers(arguments.steps)
    print_games(arguments.steps)
