"""Rollouts: many attempts at once, each recorded the moment it ends, failed ones as failed episodes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from agentkit.attempt import Attempt, Branch, Limits, OutOfTurns, Recall
from agentkit.envs.workers import class_metadata
from agentkit.errors import AgentkitError, ConfigError, EnvironmentFault, PolicyFault
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode
from agentkit.policies.policy import Policy, Sampling
from agentkit.task import Task

MAX_CONSECUTIVE_FAULTS = 32
"""So many failed episodes in a row end a collection: the environment or the policy is broken, not unlucky."""


@dataclass(frozen=True)
class Order:
    """One attempt to be played, with what sets it apart from the others of its collection."""

    task: Task
    number: int = 0
    """The attempt's number within its group."""
    recall: Recall | None = None
    """Memory to read in place of the collection's; None reads that."""
    branch: Branch | None = None
    """The attempt that this one leaves, or None."""
    policy: Policy | None = None
    """Who acts in place of the collection's policy; None is that one."""


async def play(agent: Any, attempt: Attempt) -> Episode:
    """Play one attempt to its end and return its record; a fault of environment or policy goes into `error`.

    Args:
        agent: A compiled LangGraph graph whose context is an `Attempt`.
        attempt: The attempt to play.
    """
    error: str | None = None
    # A turn takes a handful of graph steps; the attempt's own limits end it long before this does.
    config: dict[str, Any] = {"recursion_limit": 10 * attempt.limits.max_turns + 10}
    if getattr(agent, "checkpointer", None):  # it wants a thread; an attempt is never taken up again, so any will do
        config["configurable"] = {"thread_id": uuid4().hex}
    limit = asyncio.timeout(attempt.limits.episode_s)
    try:
        async with limit:
            await agent.ainvoke({"messages": [], "memory": ""}, config, context=attempt)
    except OutOfTurns:
        attempt.truncate()
    except (EnvironmentFault, PolicyFault) as fault:
        error = f"{type(fault).__name__}: {fault}"
    except BaseException as raised:
        if not (isinstance(raised, TimeoutError) and limit.expired()):
            attempt.abandon()  # cancelled, or a bug of the graph: it must surface, and at once
            raise
        error = f"the episode took longer than episode_s = {attempt.limits.episode_s:g} s"
    await attempt.close()
    return attempt.episode(error)


async def collect_async(
    policy: Policy,
    tasks: Sequence[Task],
    *,
    agent: Any = None,
    group_size: int = 1,
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    recall: Recall | None = None,
    log: EpisodeLog | None = None,
    seed: int = 0,
    concurrency: int = 128,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Play every task `group_size` times; returns the episodes ordered by task, then attempt.

    Args:
        policy: Who acts.
        tasks: What to play.
        agent: A compiled graph; default `build_agent()`.
        group_size: Attempts at each task.
        sampling: How to sample.
        limits: When to stop an attempt.
        recall: Memory to read; its snapshot stays the same throughout.
        log: Where each episode is appended as it ends.
        seed: Seed of all sampling and of the order-independent noise.
        concurrency: Most attempts in flight; an environment may allow fewer (`metadata["most_at_once"]`).
        on_episode: Called with each episode as it ends, e.g. to move a progress bar.

    Raises:
        EnvironmentFault, PolicyFault: `MAX_CONSECUTIVE_FAULTS` attempts in a row failed; what was played
            is in the log.
    """
    if group_size < 1 or concurrency < 1:
        raise ConfigError(f"group_size {group_size} and concurrency {concurrency} must be at least 1")
    orders = [Order(task, number) for task in tasks for number in range(group_size)]
    return await play_all_async(
        policy,
        orders,
        agent=agent,
        sampling=sampling,
        limits=limits,
        recall=recall,
        log=log,
        seed=seed,
        concurrency=concurrency,
        on_episode=on_episode,
    )


async def play_all_async(
    policy: Policy,
    orders: Sequence[Order],
    *,
    agent: Any = None,
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    recall: Recall | None = None,
    log: EpisodeLog | None = None,
    seed: int = 0,
    concurrency: int = 128,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Play attempts that are ordered one by one; returns the episodes in the same order.

    Args:
        policy: Who acts.
        orders: What to play.
        agent, sampling, limits, recall, log, seed, concurrency, on_episode: As for `collect_async`.

    Raises:
        EnvironmentFault, PolicyFault: As for `collect_async`.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency {concurrency} must be at least 1")
    if agent is None:
        from agentkit.agent import build_agent

        agent = build_agent()
    sampling, limits = sampling or Sampling(), limits or Limits()
    env_ids = dict.fromkeys(order.task.env_id for order in orders)
    gates = {env_id: asyncio.Semaphore(most_at_once(env_id, concurrency)) for env_id in env_ids}
    queue = iter(enumerate(orders))
    episodes: dict[int, Episode] = {}
    faults = 0

    async def work() -> None:
        nonlocal faults
        for place, order in queue:
            attempt = Attempt(
                task=order.task,
                policy=order.policy or policy,
                number=order.number,
                seed=seed,
                sampling=sampling,
                limits=limits,
                recall=order.recall or recall,
                branch=order.branch,
            )
            async with gates[order.task.env_id]:
                episode = await play(agent, attempt)
            if log is not None:
                log.append(episode)
            episodes[place] = episode
            if on_episode is not None:
                on_episode(episode)
            faults = faults + 1 if episode.error else 0
            if faults >= MAX_CONSECUTIVE_FAULTS:
                kind = PolicyFault if (episode.error or "").startswith("PolicyFault") else EnvironmentFault
                raise kind(f"{faults} attempts in a row failed, the last with: {episode.error}")

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(orders))):
                group.create_task(work())
    except BaseExceptionGroup as errors:  # one clear error; the others are of the same minute and mostly the same
        ours = [error for error in errors.exceptions if isinstance(error, AgentkitError)]
        error = (ours or errors.exceptions)[0]
        raise error from error.__cause__
    return [episodes[place] for place in range(len(orders))]


def most_at_once(env_id: str, concurrency: int) -> int:
    """Attempts at tasks of an environment that may be in flight: a desktop is not started 128 times over."""
    return min(concurrency, class_metadata(env_id).get("most_at_once") or concurrency)


def collect(policy: Policy, tasks: Sequence[Task], **options: Any) -> list[Episode]:
    """`collect_async` for scripts: runs its own event loop. Takes the same arguments."""
    return run_sync(lambda: collect_async(policy, tasks, **options))


def play_all(policy: Policy, orders: Sequence[Order], **options: Any) -> list[Episode]:
    """`play_all_async` for scripts: runs its own event loop. Takes the same arguments."""
    return run_sync(lambda: play_all_async(policy, orders, **options))


def run_sync(make: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine to its end from synchronous code; inside a running event loop (a notebook), on a thread."""
    results: list[Any] = []

    async def main() -> None:  # returns nothing: in Python 3.11, `asyncio.run` formats what its coroutine returns
        results.append(await make())

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(main())
    else:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, main()).result()
    return results[0]
