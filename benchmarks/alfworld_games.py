"""Speed and memory of ALFWorld, as TextWorld plays it and as agentkit does, in CPU seconds of one process.

Run: python benchmarks/alfworld_games.py [--data FOLDER]. Both play the same random commands in the same run, with the
admissible commands after every step; texts and commands are compared on the way. (A script called alfworld.py would
hide the package of that name.)
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import psutil

from agentkit.envs.alfworld.engine import Engine
from agentkit.envs.alfworld.env import ALFWorld
from agentkit.envs.alfworld.games import Game


def stock_env() -> Any:
    """A game as ALFWorld's own code sets it up, one at a time."""
    import textworld
    from textworld.envs import PddlEnv

    from agentkit.envs.alfworld.package import alfworld

    wrappers = alfworld("agents.environment.alfred_tw_env")
    infos = textworld.EnvInfos(admissible_commands=True, won=True)
    return wrappers.AlfredInfos(wrappers.AlfredDemangler(PddlEnv(infos)))


def child_seconds() -> float:
    """CPU seconds of the processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def spent(work: Any) -> tuple[Any, float]:
    """Result and CPU seconds, those of children included."""
    begun = time.process_time() + child_seconds()
    result = work()
    return result, time.process_time() + child_seconds() - begun


def print_steps(games: list[Game], num_steps: int) -> None:
    """Steps per CPU second and seconds to load a game, stock and ours."""
    stock, seconds = stock_env(), {"stock": 0.0, "ours": 0.0}
    loads: dict[str, list[float]] = {"stock": [], "first": [], "again": []}
    for game in games:
        _, load = spent(lambda: stock.load(str(game.path)))  # noqa: B023 - called at once
        state, start = spent(stock.reset)
        loads["stock"].append(load + start)
        engine, load = spent(lambda: Engine(game.path))  # noqa: B023
        loads["first"].append(load)
        same, load = spent(lambda: Engine(game.path))  # noqa: B023
        loads["again"].append(load)
        same.close()
        assert engine.reset() == state.feedback
        rng = Random(game.id)
        for _ in range(num_steps):
            commands = state["admissible_commands"]
            command = commands[int(rng.random() * len(commands))]
            (state, _, _), used = spent(lambda: stock.step(command))  # noqa: B023
            seconds["stock"] += used
            (text, _, admissible), used = spent(lambda: (*engine.step(command), engine.admissible))  # noqa: B023
            seconds["ours"] += used
            assert (text, admissible) == (state.feedback, state["admissible_commands"])
        engine.close()
    total = num_steps * len(games)
    for name, used in seconds.items():
        print(f"{name:<6} {total / used:8.0f} steps/s over {total} random steps in {len(games)} games, texts identical")
    for name, values in loads.items():
        print(f"load {name:<6} mean {sum(values) / len(values):.3f} s, most {max(values):.3f} s")


def print_new_process(game: Game) -> None:
    """Seconds to load a game in a new process, whose planning task is in the cache folder."""
    code = (
        "import sys, time\nfrom agentkit.envs.alfworld.engine import Engine\n"
        "begun = time.process_time()\nEngine(sys.argv[1])\nprint(time.process_time() - begun)"
    )
    command = [sys.executable, "-c", code, str(game.path)]
    told = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3)]
    print(f"load in a new process, from the cache folder: {min(told):.3f} to {max(told):.3f} s")


def print_episodes(env: ALFWorld, num_resets: int) -> None:
    """Steps per CPU second of whole episodes, and what many resets leave behind."""
    process, temporary = psutil.Process(), Path(tempfile.gettempdir())
    steps = 0
    begun = time.process_time()
    for number in range(num_resets + 1):
        if number in (1, num_resets // 2, num_resets):
            left = len(os.listdir(temporary))
            print(
                f"after {number:>4} resets: {process.memory_info().rss / 2**20:.0f} MiB resident, {left} in {temporary}"
            )
        _, info = env.reset(seed=number)
        rng, over = Random(number), False
        while not over and env.turns_left > 40:
            actions = info["admissible_actions"]
            _, _, terminated, truncated, info = env.step(actions[int(rng.random() * len(actions))])
            steps, over = steps + 1, terminated or truncated
    used = time.process_time() - begun
    print(f"episodes cut at 10 turns, resets included: {steps / used:.0f} steps/s, {used / num_resets:.3f} s each")


def main() -> None:
    """Print it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="generated", help="folder of games, or generated")
    parser.add_argument("--games", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="random steps in each game")
    parser.add_argument("--resets", type=int, default=200)
    given = parser.parse_args()
    env = ALFWorld(data=given.data)
    games = list(env.games["train"][: given.games])
    print_steps(games, given.steps)
    print_new_process(games[0])
    print_episodes(env, given.resets)


if __name__ == "__main__":
    main()
