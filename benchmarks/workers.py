"""What a worker process costs, what slow environments cost each other, and what crashes cost.

Run: python benchmarks/workers.py [--parts overhead start parallel faults]. Wall time, since that is what processes
cost; run it on an idle machine. The environments are a no-op, a walk whose every call sleeps for a time drawn from the
seed (median 100 ms, 2 s at most), and the walk of the tests that crashes or hangs in every third episode.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import gymnasium

from agentkit.envs import Task, TextEnv, make_env, make_tasks
from agentkit.envs.workers import WorkerEnv
from agentkit.envs.workers.pool import Pool

# Workers import this file for its environments, so what only the measuring needs is imported there.

TOYS = Path(__file__).parents[1] / "tests" / "envs" / "workers"
NUM_STEPS = 20_000
OVERHEAD_BAR_US = 150
PARALLEL = 64
PARALLEL_BAR = 1.3
TAIL_S = 2.0


class Idle(TextEnv):
    """Does nothing, in an observation of usual length."""

    instructions = "Wait."
    answer = ("You wait. " * 20, 0.0, False, False)

    def __init__(self) -> None:
        super().__init__(max_turns=1, max_actions=1, max_actions_per_turn=1)
        self.about = {"success": False, "valid": True, "state_key": "s", "admissible_actions": ["wait"] * 10}

    def reset(self, **_: Any) -> Any:
        """The one state."""
        return "You wait.", self.about

    def step(self, action: str) -> Any:
        """The same again."""
        return (*self.answer, self.about)


class Latent(Idle):
    """Eight turns that each take as long as a remote service: lognormal, median 0.1 s, cut at 2 s."""

    def __init__(self) -> None:
        super().__init__()
        self.draws = Random(0)

    def reset(self, *, seed: int | None = None, **_: Any) -> Any:
        """Seeds the times."""
        self.draws, self.turns_left = Random(f"{seed}"), 8
        return "You wait.", self.about

    def step(self, action: str) -> Any:
        """Sleeps."""
        time.sleep(min(TAIL_S, 0.1 * self.draws.lognormvariate(0.0, 1.3)))
        self.turns_left -= 1
        return *self.answer[:2], False, self.turns_left == 0, self.about


def median_us(call: Callable[[], object], num: int = NUM_STEPS) -> float:
    """Median microseconds of a call."""
    times = []
    for _ in range(num):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return 1e6 * median(times)


def print_overhead() -> None:
    """A step of the no-op, here and there."""
    from agentkit.world import LiveWorld

    here, there = make_env("workers:bench/Idle-v0"), WorkerEnv("workers:bench/Idle-v0")
    for env in (here, there):
        env.reset(seed=0)
    direct = median_us(lambda: here.step("wait"))
    worker = median_us(lambda: there.step("wait"))
    there.close()

    async def through_world(isolate: bool) -> float:
        world = LiveWorld(Task(env_id="workers:bench/Idle-v0", seed=0), 60.0, isolate=isolate)
        await world.reset(0)
        times = []
        for _ in range(NUM_STEPS // 4):
            begun = time.perf_counter()
            await world.step("wait")
            times.append(time.perf_counter() - begun)
        await world.close()
        return 1e6 * median(times)

    thread, isolated = (asyncio.run(through_world(isolate)) for isolate in (False, True))
    print(f"a step of a no-op, median of {NUM_STEPS} (bar: {OVERHEAD_BAR_US} µs more in a worker)")
    print(f"  direct {direct:.1f} µs, WorkerEnv {worker:.1f} µs: {worker - direct:.1f} µs more")
    print(f"  LiveWorld: own thread {thread:.1f} µs, worker {isolated:.1f} µs: {isolated - thread:.1f} µs more")


def print_start() -> None:
    """How long the first and later environments take to start, and what they hold."""
    pool = Pool()
    times, envs = [], []
    for _ in range(33):
        begun = time.perf_counter()
        envs.append(WorkerEnv("agentkit/FrozenLake-v0", pool=pool))
        times.append(1e3 * (time.perf_counter() - begun))
    for env in envs:
        env.close()
    begun = time.perf_counter()
    again = WorkerEnv("agentkit/FrozenLake-v0", pool=pool)
    reused = 1e3 * (time.perf_counter() - begun)
    again.close()
    own = [memory_kb(worker.pid, "Private_Dirty") for worker in pool._idle]
    whole = [memory_kb(worker.pid, "Rss") for worker in pool._idle]
    print("start of a FrozenLake in a worker")
    print(
        f"  first (with the nursery) {times[0]:.0f} ms, later {median(times[1:]):.1f} ms, "
        f"in an idle worker {reused:.2f} ms"
    )
    print(f"  an idle worker holds {median(own) / 1024:.1f} MB of its own; resident {median(whole) / 1024:.1f} MB")
    begun = time.perf_counter()
    pool.close()
    print(f"  closing 33 workers takes {1e3 * (time.perf_counter() - begun):.0f} ms")


def memory_kb(pid: int, name: str) -> int:
    """A line of /proc/PID/smaps_rollup."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def print_parallel() -> None:
    """Many slow environments at once, against the slowest of their episodes."""
    from agentkit.attempt import Limits
    from agentkit.policies import RandomPolicy
    from agentkit.rollout import collect

    collect(RandomPolicy(), make_tasks("agentkit/FrozenLake-v0", num=4))  # imports
    tasks = make_tasks("workers:bench/Latent-v0", num=PARALLEL)
    print(f"{PARALLEL} environments in parallel, 8 steps of median 100 ms, at most 2 s (bar: {PARALLEL_BAR} x)")
    for name in ("cold", "warm"):
        begun = time.perf_counter()
        episodes = collect(RandomPolicy(), tasks, limits=Limits(isolate=True), concurrency=PARALLEL)
        wall = time.perf_counter() - begun
        sleeping = [slept(episode.task.seed) for episode in episodes]
        print(
            f"  {name}: wall {wall:.2f} s, slowest episode {max(sleeping):.2f} s: {wall / max(sleeping):.2f} x; "
            f"one after the other {sum(sleeping):.0f} s; failed {sum(bool(one.error) for one in episodes)}"
        )


def slept(seed: int) -> float:
    """Seconds that an episode of `Latent` sleeps."""
    draws = Random(f"{seed}")
    return sum(min(TAIL_S, 0.1 * draws.lognormvariate(0.0, 1.3)) for _ in range(8))


def print_faults() -> None:
    """Two hundred crashes and hangs among six hundred episodes."""
    from agentkit.attempt import Limits
    from agentkit.policies import RandomPolicy
    from agentkit.rollout import collect

    sys.path.insert(0, str(TOYS))
    tasks = make_tasks("worker_toys:toys/Sometimes-v0", num=600)
    limits = Limits(isolate=True, env_step_s=2.0)
    walls, runs = [], []
    for trouble in (False, True):
        if trouble:
            os.environ["TOYS_TROUBLE"] = "1"
        begun = time.perf_counter()
        runs.append(collect(RandomPolicy(), tasks, limits=limits, concurrency=32))
        walls.append(time.perf_counter() - begun)
    failed = [episode.task.seed for episode in runs[1] if (episode.error or "").startswith("EnvironmentFault")]
    equal = sum(one.id == two.id for one, two in zip(*runs, strict=True) if not two.error)
    print("600 episodes, every third crashes (4 ways) or hangs (until the limit of 2 s)")
    print(f"  {len(failed)} failed as EnvironmentFault, those meant: {failed == list(range(1, 600, 3))}")
    print(
        f"  {equal} of the other 400 equal to the undisturbed run; {walls[0]:.1f} s without faults, "
        f"{walls[1]:.1f} s with them"
    )


for env in (Idle, Latent):
    if f"bench/{env.__name__}-v0" not in gymnasium.registry:  # a worker imports this file, too
        entry = f"workers:{env.__name__}"
        gymnasium.register(f"bench/{env.__name__}-v0", entry_point=entry, disable_env_checker=True)

PARTS = {"overhead": print_overhead, "start": print_start, "parallel": print_parallel, "faults": print_faults}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    sys.path.insert(0, str(Path(__file__).parent))
    for part in parser.parse_args().parts:
        PARTS[part]()
