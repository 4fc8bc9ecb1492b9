"""Speed of the household family and its random and expert scores, in CPU seconds of one process.

Run: python benchmarks/household.py [--games FOLDER] [--num 512]. "fresh" draws a new house at every reset, "grouped"
plays 16 attempts at each house, as training does. Resets, admissible commands and state keys are included.
"""

from __future__ import annotations

import argparse
import resource
import time
from random import Random

from agentkit.envs.household.env import Household
from agentkit.envs.household.house import TASK_TYPES
from agentkit.evaluation import wilson
from agentkit.task import HELD_OUT_OFFSET

GROUP = 16


def play(env: Household, seed: int, split: str, rng: Random | None) -> tuple[int, bool]:
    """Steps of an episode and whether it was won; the expert plays where there is no `rng`."""
    _, info = env.reset(seed=seed, options={"split": split})
    for step in range(1, env.max_turns + 1):
        actions = info["admissible_actions"]
        action = env.expert_action() if rng is None else actions[int(rng.random() * len(actions))]
        _, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            return step, info["success"]
    raise AssertionError("an episode ends when its turns do")


def print_speed(env: Household, num_steps: int) -> None:
    """Steps per CPU second of every kind of play."""
    for split, first in (("train", 1 << 20), ("held_out", HELD_OUT_OFFSET + (1 << 20))):
        for name, rng in (("expert", None), ("random", Random(0))):
            for way, attempts in (("fresh", 1), ("grouped", GROUP)):
                first += 1 << 16
                steps = episodes = 0
                begun = time.process_time()
                while steps < num_steps:
                    steps += play(env, first + episodes // attempts, split, rng)[0]
                    episodes += 1
                seconds = time.process_time() - begun
                print(f"{split:9} {name:7} {way:8} {steps / seconds:9,.0f} steps/s {episodes:6,} episodes")


def print_resets(env: Household, num: int) -> None:
    """Milliseconds of a reset, the house drawn anew."""
    for split, first in (("train", 1 << 24), ("held_out", HELD_OUT_OFFSET + (1 << 24))):
        begun = time.process_time()
        for seed in range(first, first + num):
            env.reset(seed=seed, options={"split": split})
        print(f"{split:9} reset to a new house {1000 * (time.process_time() - begun) / num:.2f} ms")


def print_scores(games: str | None, num: int) -> None:
    """Success of random play and of the expert on held-out tasks, with 95 % Wilson intervals, type by type."""
    print(f"\n{f'held out, {num} tasks a row':34}{'random':24}{'expert':24}expert's turns")
    for types in (TASK_TYPES, *((one,) for one in TASK_TYPES)):
        env, rng = Household(task_types=types, games=games), Random(0)
        seeds = range(HELD_OUT_OFFSET, HELD_OUT_OFFSET + num)
        by_chance = sum(play(env, seed, "held_out", rng)[1] for seed in seeds)
        by_plan = [play(env, seed, "held_out", None) for seed in seeds]
        scores = (wilson(wins, num) for wins in (by_chance, sum(won for _, won in by_plan)))
        cells = "".join(f"{f'{one.value:.1%} [{one.low:.1%}, {one.high:.1%}]':24}" for one in scores)
        turns = sum(steps for steps, _ in by_plan) / num
        print(f"{types[0] if len(types) == 1 else 'all six types':34}{cells}{turns:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", help="folder of real games to play in place of drawn houses")
    parser.add_argument("--num", type=int, default=512, help="held-out tasks a row of the table of scores")
    parser.add_argument("--steps", type=int, default=20_000, help="steps a line of the table of speeds")
    arguments = parser.parse_args()
    household = Household(games=arguments.games)
    print_speed(household, arguments.steps)
    print_resets(household, 500)
    print_scores(arguments.games, arguments.num)
    print(f"resident memory at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
