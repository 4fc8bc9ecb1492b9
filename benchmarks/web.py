"""MiniWoB in a real Chromium: speed, memory and difficulty.

Run: python benchmarks/web.py [resets|steps|together|memory|scores] [--episodes N]. Times are seconds of wall time, for
most of the work is done by the browser's processes; the CPU seconds of this process and the load of the computer stand
beside them. Memory is the resident memory of this process and, of the browser's processes, what each has for itself
(USS): shared pages would be counted twice. Both are medians over ten episodes, for garbage comes and goes.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random
from statistics import median

import psutil

from agentkit.envs.web.browser import browser_host
from agentkit.envs.web.env import MiniWoB
from agentkit.evaluation import wilson

GROUP = 20
"""Episodes of each page in the table of scores."""


def play(
    env: MiniWoB, seed: int, *, expert: bool = False, look: bool = False, split: str = "train"
) -> tuple[bool, int]:
    """Whether an episode succeeds, and its steps; random play unless `expert`, with screenshots if `look`."""
    rng = Random(seed)
    _, info = env.reset(seed=seed, options={"split": split})
    over, num_steps = False, 0
    while not over:
        actions = info["admissible_actions"]
        action = env.expert_action() if expert else actions[int(rng.random() * len(actions))]
        _, _, terminated, truncated, info = env.step(action)
        over, num_steps = terminated or truncated, num_steps + 1
        if look:
            env.screenshot()
    return info["success"], num_steps


def browser_memory_mb() -> float:
    """Mebibytes of the browser with all its children."""
    pid = browser_host().pid
    assert pid is not None
    browser = psutil.Process(pid)
    return sum(process.memory_full_info().uss for process in (browser, *browser.children(recursive=True))) / 2**20


def print_resets() -> None:
    """Every page of the package once, in one browser."""
    env = MiniWoB(tasks="all")
    env.reset(seed=0)
    begun, cpu = time.monotonic(), time.process_time()
    for seed in range(len(env.tasks)):
        env.reset(seed=seed)
    spent = time.monotonic() - begun
    print(f"resets: {len(env.tasks)} pages in {spent:.1f} s ({time.process_time() - cpu:.1f} CPU s of this process)")
    env.close()


def print_steps() -> None:
    """Clicks a second of one environment, resets not counted."""
    env = MiniWoB(
        tasks=["login-user", "click-checkboxes-large", "email-inbox", "use-spinner"], max_turns=30, max_actions=30
    )
    for look in (False, True):
        num, spent, cpu = 0, 0.0, 0.0
        for seed in range(12):
            _, info = env.reset(seed=seed)
            clicks = [action for action in info["admissible_actions"] if action.startswith("click")]
            over, begun, begun_cpu = False, time.monotonic(), time.process_time()
            while not over:
                _, _, terminated, truncated, _ = env.step(clicks[num % len(clicks)])
                over, num = terminated or truncated, num + 1
                if look:
                    env.screenshot()
            spent, cpu = spent + time.monotonic() - begun, cpu + time.process_time() - begun_cpu
        seen = "with a screenshot each" if look else "text"
        print(f"steps: {num / spent:.0f} a second, {seen}; {num / cpu:.0f} per CPU second of this process")
    env.close()


def print_together(num_envs: int = 4, num_episodes: int = 10) -> None:
    """Several environments at once in the one browser."""

    def play_some(number: int) -> int:
        env = MiniWoB()
        num = sum(play(env, 100 * number + episode)[1] for episode in range(num_episodes))
        env.close()
        return num

    for num in (1, num_envs):
        begun = time.monotonic()
        with ThreadPoolExecutor(num) as pool:
            steps = sum(pool.map(play_some, range(num)))
        spent = time.monotonic() - begun
        print(f"together: {num} environments, {steps / spent:.0f} steps a second, resets included")


def print_memory(num_episodes: int) -> None:
    """Memory after 50 episodes, every hundred, and at the end."""
    env, process = MiniWoB(), psutil.Process()
    begun, own, browsers = time.monotonic(), [0.0] * 10, [0.0] * 10
    for episode in range(1, num_episodes + 1):
        play(env, episode)
        own = [*own[1:], process.memory_info().rss / 2**20]
        browsers = [*browsers[1:], browser_memory_mb()]
        if episode == 50 or episode % 100 == 0 or episode == num_episodes:
            print(
                f"memory after {episode:4} episodes: {median(own):.0f} MiB here, {median(browsers):.0f} MiB browser, "
                f"{process.num_threads()} threads, {len(process.children(recursive=True))} processes "
                f"({time.monotonic() - begun:.0f} s)",
                flush=True,
            )
    env.close()


def print_scores(num_episodes: int) -> None:
    """Random and expert play of held-out instances, for all scripted pages and page by page."""
    totals = {"expert": [0, 0], "random": [0, 0]}
    for page in MiniWoB().tasks:
        env, line = MiniWoB(tasks=page), f"{page:28}"
        for player, total in totals.items():
            wins = sum(play(env, seed, expert=player == "expert", split="held_out")[0] for seed in range(num_episodes))
            total[0], total[1] = total[0] + wins, total[1] + num_episodes
            line += f"  {player} {wilson(wins, num_episodes)}"
        env.close()
        print(line, flush=True)
    for player, (wins, num) in totals.items():
        print(f"{player}: {wins} of {num}, {wilson(wins, num)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "part", nargs="?", choices=("resets", "steps", "together", "memory", "scores", "all"), default="all"
    )
    parser.add_argument("--episodes", type=int, help="for memory (500) and, of each page, for scores (20)")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if given.part in ("resets", "all"):
        print_resets()
    if given.part in ("steps", "all"):
        print_steps()
    if given.part in ("together", "all"):
        print_together()
    if given.part in ("memory", "all"):
        print_memory(given.episodes or 500)
    if given.part in ("scores", "all"):
        print_scores(given.episodes or GROUP)
    print(f"load {os.getloadavg()[0]:.1f}")
