"""Retries: a failed task is tried again, with a reflection in the prompt, from the start or from the turn that failed.

Reflexion (Shinn et al. 2023, arXiv 2303.11366) starts anew each time. R³L (arXiv 2601.03715) leaves the failed attempt
at its pivotal turn: what came before is played again, what comes after is new. How such pairs are learnt from is the
trainer's to say (`agentkit.training.plans`).
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from agentkit.agents.reflection import Reflect, Reflection
from agentkit.attempt import Attempt, Branch, Limits, Recall, Recalled, Recollection
from agentkit.errors import ConfigError
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode, Record
from agentkit.policies.policy import Policy, Sampling
from agentkit.rollout import most_at_once, play, run_sync
from agentkit.task import Task

REMEMBERED = 3
"""Reflections that a prompt holds at most, the newest; the bound that Reflexion puts on its memory."""


class Told(Record):
    """A reflection as the prompt shows it, like a memory."""

    id: str
    text: str


async def retry(
    policy: Policy,
    task: Task,
    *,
    reflect: Reflect | None = None,
    attempts: int = 3,
    agent: Any = None,
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    recall: Recall | None = None,
    log: EpisodeLog | None = None,
    seed: int = 0,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Try a task until it succeeds or `attempts` are used up; returns the attempts, all but the last of them failed.

    Every attempt after the first names the one it follows (`parent_id`) and the turn at which it leaves it
    (`parent_turn`, 0 for a new start); the turns before that are the parent's, as recorded. Reflections are shown
    where memories are, marked as memory in the tokens, and their ids are among the `memory_ids` of a turn. An attempt
    that broke off by a fault is not reflected on: the next starts anew with what was said before.

    Args:
        policy: Who acts.
        task: What to try.
        reflect: Looks back on a failed attempt: `from_record()`, `by_model(...)`, or a function of your own, which may
            be asynchronous. None tries again without a word.
        attempts: Most attempts, the first included.
        agent, sampling, limits, recall, log, seed, on_episode: As for `collect_async`. The graph has to show what
            `Attempt.remember` gives, as `build_agent` does.

    Raises:
        ConfigError: Fewer than one attempt, or a reflection names a turn that the attempt does not have.
    """
    if attempts < 1:
        raise ConfigError(f"attempts {attempts} must be at least 1")
    if agent is None:
        from agentkit.agent import build_agent

        agent = build_agent()
    episodes: list[Episode] = []
    told: tuple[Told, ...] = ()
    branch: Branch | None = None
    for number in range(attempts):
        attempt = Attempt(
            task=task,
            policy=policy,
            number=number,
            seed=seed,
            sampling=sampling or Sampling(),
            limits=limits or Limits(),
            recall=Reminded(told, recall) if told else recall,
            branch=branch,
        )
        episode = await play(agent, attempt)
        episodes.append(episode)
        if log is not None:
            log.append(episode)
        if on_episode is not None:
            on_episode(episode)
        if episode.success:
            break
        branch = Branch(episode, noise=attempt.noise)
        if reflect is not None and episode.error is None and number + 1 < attempts:
            said = await look_back(reflect, episode)
            told = (*told, Told(id=f"reflection-{episode.id}", text=said.text))[-REMEMBERED:]
            branch = Branch(episode, said.turn, attempt.noise)
    return episodes


async def collect_retries_async(
    policy: Policy, tasks: Sequence[Task], *, concurrency: int = 128, **options: Any
) -> list[list[Episode]]:
    """`retry` for every task, so many at once; returns the attempts at each, in the order of the tasks.

    Args:
        policy: Who acts.
        tasks: What to try.
        concurrency: Most tasks in flight; an environment may allow fewer (`metadata["most_at_once"]`).
        options: As for `retry`.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency {concurrency} must be at least 1")
    all_gate = asyncio.Semaphore(concurrency)
    gates = {task.env_id: asyncio.Semaphore(most_at_once(task.env_id, concurrency)) for task in tasks}

    async def one(task: Task) -> list[Episode]:
        async with gates[task.env_id], all_gate:
            return await retry(policy, task, **options)

    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(task)) for task in tasks]
    except BaseExceptionGroup as errors:
        error = errors.exceptions[0]
        raise error from error.__cause__
    return [task.result() for task in running]


def collect_retries(policy: Policy, tasks: Sequence[Task], **options: Any) -> list[list[Episode]]:
    """`collect_retries_async` for scripts: runs its own event loop. Takes the same arguments."""
    return run_sync(lambda: collect_retries_async(policy, tasks, **options))


class Reminded:
    """A memory, or none, with reflections or other guidance in front of what it recalls."""

    def __init__(self, told: Sequence[Told], inner: Recall | None) -> None:
        said = "\0".join(f"{one.id}\0{one.text}" for one in told)
        digest = hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
        self.snapshot_id = f"{'' if inner is None else inner.snapshot_id}+reflections-{digest}"
        self._told = told
        self._inner = inner

    def begin(self, task: Task, key: str, policy_version: int) -> Recollection:
        """Reflections first, then what the memory recalls."""
        inner = None if self._inner is None else self._inner.begin(task, key, policy_version)

        def recollect(observation: str, state_key: str) -> list[Recalled]:
            return [*self._told, *(() if inner is None else inner(observation, state_key))]

        return recollect


async def look_back(reflect: Reflect, episode: Episode) -> Reflection:
    """What `reflect` says about the episode; a text alone means a new start."""
    said = reflect(episode)
    if inspect.isawaitable(said):
        said = await said
    return Reflection(text=said) if isinstance(said, str) else said
