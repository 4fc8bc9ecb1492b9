"""Rollouts over workers: every fault costs its own episode, and nobody waits for another's environment."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from agentkit.attempt import Limits
from agentkit.envs import Task, make_tasks
from agentkit.envs.workers.processes import descendants
from agentkit.errors import ConfigError
from agentkit.policies import RandomPolicy
from agentkit.rollout import collect
from agentkit.world import LiveWorld

NUM = 600
"""Episodes, of which every third goes wrong; of those, one in five hangs."""


def test_two_hundred_crashes_and_hangs_cost_two_hundred_episodes_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = make_tasks("worker_toys:toys/Sometimes-v0", num=NUM)
    undisturbed = collect(RandomPolicy(), tasks, limits=Limits(isolate=True), concurrency=16)
    assert all(episode.error is None and len(episode.turns) == 6 for episode in undisturbed)
    monkeypatch.setenv("TOYS_TROUBLE", "1")
    limits = Limits(isolate=True, env_step_s=1.0)
    disturbed = collect(RandomPolicy(), tasks, limits=limits, concurrency=32)
    failed = {episode.task.seed: episode.error or "" for episode in disturbed if episode.error is not None}
    assert sorted(failed) == list(range(1, NUM, 3))
    assert all(error.startswith("EnvironmentFault: worker_toys:toys/Sometimes-v0: ") for error in failed.values())
    kinds = ["signal 11 (SIGSEGV)", "code 1", "signal 6 (SIGABRT)", "signal 9 (SIGKILL)", "not return within 1 s"]
    assert [sum(kind in error for error in failed.values()) for kind in kinds] == [40] * 5
    for before, after in zip(undisturbed, disturbed, strict=True):
        if after.error is None:
            assert after.id == before.id  # a hash of everything that happened
        else:
            assert [turn.observation for turn in after.turns] == [turn.observation for turn in before.turns[:3]]
            assert not after.success
    names = [Path(f"/proc/{pid}/comm").read_text() for pid in descendants(os.getpid())]
    assert "sleep\n" not in names  # what the environments had started has gone with them


def test_an_episode_waits_for_its_own_environment_only() -> None:
    tasks = make_tasks("worker_toys:toys/Latent-v0", num=24)
    collect(RandomPolicy(), tasks[:1], limits=Limits(isolate=True))  # the nursery and the first imports
    begun = time.monotonic()
    episodes = collect(RandomPolicy(), tasks, limits=Limits(isolate=True))
    wall = time.monotonic() - begun
    slowest = max(sum(turn.env_s for turn in episode.turns) for episode in episodes)
    together = sum(turn.env_s for episode in episodes for turn in episode.turns)
    assert wall < slowest + 2.0  # in lock-step it would be the sum of each turn's slowest
    assert wall < together / 4


def world_of(env_id: str, play: Any, **options: Any) -> Any:
    async def main() -> Any:
        world = LiveWorld(Task(env_id=env_id, seed=0), 5.0, **options)
        try:
            return await play(world)
        finally:
            await world.close()

    return asyncio.run(main())


async def process_of(world: LiveWorld) -> int:
    await world.reset(0)
    observation = world._env.reset(seed=0)[0]  # type: ignore[union-attr]
    return int(observation.split(", ")[2])


def test_a_worker_is_used_where_the_class_or_the_limits_ask_for_it() -> None:
    surroundings = "worker_toys:toys/Surroundings-v0"
    assert world_of(surroundings, process_of) == os.getpid()
    assert world_of(surroundings, process_of, isolate=True) != os.getpid()
    assert world_of(surroundings, process_of, memory_mb=500) != os.getpid()

    async def play(world: LiveWorld) -> None:
        await world.reset(0)
        assert world.instructions == "Walk from 0."
        assert await world.expert_action() == "left"
        assert await world.screenshot() == bytes(range(256))
        assert type(world._env).__name__ == "WorkerEnv"

    world_of("worker_toys:toys/Told-v0", play)  # its class says so


def test_an_environment_without_a_screen_cannot_be_looked_at() -> None:
    async def look(world: LiveWorld) -> None:
        await world.reset(0)
        await world.screenshot()

    for isolate in (False, True):
        with pytest.raises(ConfigError, match=r"Walk-v0 cannot be looked at; it lacks screenshot\(\)"):
            world_of("worker_toys:toys/Walk-v0", look, isolate=isolate)


def test_limits_that_leave_no_memory_are_the_callers_error() -> None:
    with pytest.raises(ConfigError, match="memory_mb = 5 is less than the"):
        collect(RandomPolicy(), make_tasks("agentkit/Sudoku-v0"), limits=Limits(env_memory_mb=5))
