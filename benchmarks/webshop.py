"""WebShop: speed in CPU seconds of one process, memory, and how hard it is.

Run: python benchmarks/webshop.py [--catalogue FOLDER]. Steps per CPU second include resets and searches. The rule
agent is the yardstick of difficulty: it searches for the goal's query, opens the goal's product if the first page
shows it and the first product otherwise, chooses the options that the product has, and buys.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from random import Random

import numpy as np

from agentkit.envs import make_tasks
from agentkit.envs.webshop.env import OBSERVATIONS, WebShop
from agentkit.envs.webshop.search import Search
from agentkit.evaluation import bootstrap, wilson
from agentkit.task import Task

Player = Callable[[WebShop, list[str], Random], str]


def play_randomly(env: WebShop, admissible: list[str], rng: Random) -> str:
    """A uniform admissible action."""
    return admissible[int(rng.random() * len(admissible))]


def play_expertly(env: WebShop, admissible: list[str], rng: Random) -> str:
    """The expert's action."""
    return env.expert_action()


def play_by_rule(env: WebShop, admissible: list[str], rng: Random) -> str:
    """The rule agent's action."""
    session, goal, shop = env.state, env.level, env.shop
    if session.page == "search":
        return f"search[{shop.catalogue.by_asin[goal.asin].query}]"
    if session.page == "results":
        shown = shop.shown(session)
        return f"click[{goal.asin if goal.asin in shown else shown[0]}]" if shown else "click[back to search]"
    chosen = dict(session.options).values()
    wanted = [value for _, value in goal.options if f"click[{value}]" in admissible and value not in chosen]
    return f"click[{wanted[0]}]" if wanted else "click[buy now]"


def play(env: WebShop, player: Player, tasks: list[Task]) -> tuple[list[float], int]:
    """[tasks] returns of a player, and the steps it took."""
    returns: list[float] = []
    num_steps = 0
    for task in tasks:
        rng = Random(task.key)
        _, info = env.reset(seed=task.seed, options={"split": task.split})
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, info = env.step(player(env, info["admissible_actions"], rng))
            total, over, num_steps = total + reward, terminated or truncated, num_steps + 1
        returns.append(total)
    return returns, num_steps


def print_loading(catalogue: str | None) -> None:
    """CPU time and memory of the catalogue and its index."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    env = WebShop(catalogue=catalogue)
    spent = time.process_time() - begun
    begun = time.process_time()
    Search(env.shop.catalogue.products)
    indexing = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    goals = {split: len(goals) for split, goals in env.shop.catalogue.goals.items()}
    print(f"{catalogue or 'built-in shop'}: {len(env.shop.catalogue.products)} products, goals {goals}")
    print(f"first load {spent:.2f} CPU s, of which the index takes {indexing:.2f}")
    used = (peak - before) / 1024
    print(f"resident memory {peak / 1024:.0f} MiB at most, {used:.0f} MiB of it for the shop and its libraries")
    queries = [goal.instruction for goal in env.shop.catalogue.goals["train"][:1000]]
    begun = time.process_time()
    for query in queries:
        env.shop.search._find(query)
    print(f"search without its cache {(time.process_time() - begun) / len(queries) * 1e6:.0f} CPU µs")


def print_players(catalogue: str | None) -> None:
    """Speed in every mode, success and mean reward of each player on all held-out goals."""
    num = len(WebShop(catalogue=catalogue).shop.catalogue.goals["held_out"])
    tasks = make_tasks("agentkit/WebShop-v0", "held_out", num)
    modes = "".join(f"{mode:>11}" for mode in OBSERVATIONS)
    print(f"\n{num} held-out goals, once each; steps per CPU second by mode; 95 % intervals")
    print(f"{'':8}{modes}   success (Wilson)       mean reward (bootstrap)")
    for name, player in (("random", play_randomly), ("rule", play_by_rule), ("expert", play_expertly)):
        speeds = []
        for observation in OBSERVATIONS:
            env = WebShop(catalogue=catalogue, observation=observation)
            begun = time.process_time()
            returns, num_steps = play(env, player, tasks)
            speeds.append(num_steps / (time.process_time() - begun))
        success = wilson(sum(one == 1.0 for one in returns), num)
        mean = bootstrap(np.array(returns), np.random.default_rng(0))
        print(f"{name:8}{''.join(f'{speed:11,.0f}' for speed in speeds)}   {success!s:22} {mean}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalogue", help="folder with WebShop's files; without it, the built-in shop")
    arguments = parser.parse_args()
    print_loading(arguments.catalogue)
    print_players(arguments.catalogue)
