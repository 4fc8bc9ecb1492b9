"""Speed of the desktop, how its expert and random play do, and what many resets leave behind.

Run: python benchmarks/desktop.py [--seeds 5] [--random 64] [--resets 200]. Wall times count: a step waits for real
applications to come to rest, so a busy machine is slower. Tells seconds of this process and, once reaped, of the
applications and the X server.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from agentkit.envs.desktop.chores import all_chores
from agentkit.envs.desktop.env import Desktop
from agentkit.evaluation import wilson


def play(env: Desktop, seed: int, act: Callable[[], str], resets: list[float], steps: list[float]) -> bool:
    """One episode; appends the seconds of its reset and of its steps."""
    begun = time.perf_counter()
    env.reset(seed=seed)
    resets.append(time.perf_counter() - begun)
    over, info = False, {"success": False}
    while not over:
        action = act()
        begun = time.perf_counter()
        _, _, terminated, truncated, info = env.step(action)
        steps.append(time.perf_counter() - begun)
        over = terminated or truncated
    return bool(info["success"])


def seconds() -> tuple[float, float]:
    """CPU seconds of this process, and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time(), children.ru_utime + children.ru_stime


def print_experts(seeds: int) -> None:
    """A line a chore: success of the expert, steps a second, seconds a reset."""
    print(f"{'expert':15} success    steps/s  median step  reset median  worst")
    all_steps: list[float] = []
    all_resets: list[float] = []
    wins = 0
    begun = seconds()
    for name in all_chores():
        env = Desktop(tasks=name)
        steps: list[float] = []
        resets: list[float] = []
        won = sum(play(env, seed, env.expert_action, resets, steps) for seed in range(seeds))
        env.close()
        speed, median, worst = len(steps) / sum(steps), statistics.median(steps), max(resets)
        reset = statistics.median(resets)
        print(f"{name:15} {won:3}/{seeds:<3} {speed:10.1f} {median:10.3f} s {reset:11.2f} s {worst:6.2f} s", flush=True)
        all_steps += steps
        all_resets += resets
        wins += won
    ended = seconds()
    num = seeds * len(all_chores())
    print(f"all: {wins}/{num} {wilson(wins, num)}; {len(all_steps) / sum(all_steps):.1f} steps/s, median step")
    print(f"     {statistics.median(all_steps):.3f} s; reset {statistics.median(all_resets):.2f} s, worst", end=" ")
    print(f"{max(all_resets):.2f} s; a step takes {(ended[0] - begun[0]) / len(all_steps):.4f} CPU s here and")
    print(f"     {(ended[1] - begun[1]) / len(all_steps):.3f} in the applications, resets and their start included")


def print_random(episodes: int) -> None:
    """How often a gesture a turn, drawn uniformly, does a chore of the held-out split."""
    env = Desktop()
    rng, wins = Random(0), 0
    steps: list[float] = []
    for seed in range(episodes):
        _, info = env.reset(seed=seed, options={"split": "held_out"})
        over = False
        while not over:
            actions = info["admissible_actions"]
            begun = time.perf_counter()
            _, _, terminated, truncated, info = env.step(actions[int(rng.random() * len(actions))])
            steps.append(time.perf_counter() - begun)
            over = terminated or truncated
        wins += bool(info["success"])
    env.close()
    print(f"random: {wins}/{episodes} {wilson(wins, episodes)}; {len(steps) / sum(steps):.1f} steps/s")


def print_resets(resets: int) -> None:
    """Memory, open files and processes while one environment is reset over and over."""
    env = Desktop()
    for number in range(resets + 1):
        env.reset(seed=number)
        if number % max(1, resets // 4) == 0:
            status = Path("/proc/self/status").read_text()
            resident = int(status.partition("VmRSS:")[2].split()[0]) // 1024
            files = len(list(Path("/proc/self/fd").iterdir()))
            children, memory = descendants()
            print(f"after {number:4} resets: {resident} MB here, {files} open files; {children} processes, {memory} MB")
    env.close()
    print(f"closed: {descendants()[0]} processes")


def descendants() -> tuple[int, int]:
    """Number of processes below this one, and their proportional memory in MB."""
    todo, memory, num = [Path("/proc/self")], 0, -1
    while todo:
        process = todo.pop()
        try:
            for children in process.glob("task/*/children"):
                todo += [Path("/proc") / pid for pid in children.read_text().split()]
            if num >= 0:
                memory += int((process / "smaps_rollup").read_text().partition("Pss:")[2].split()[0])
            num += 1
        except OSError:  # it has just ended
            continue
    return num, memory // 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="levels of each chore for the expert")
    parser.add_argument("--random", type=int, default=64, help="episodes of random play")
    parser.add_argument("--resets", type=int, default=200, help="resets of the leak measurement")
    options = parser.parse_args()
    print_experts(options.seeds)
    print_random(options.random)
    print_resets(options.resets)
