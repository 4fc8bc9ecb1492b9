"""Evaluation: success and return of a policy on a pinned panel of tasks, with intervals and the two baselines.

Evaluation writes neither memory nor weights. A panel is a list of tasks; its fingerprint covers what the agent
first saw of each, so that results on different panels are never compared unnoticed.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from agentkit.attempt import Limits, Recall
from agentkit.envs import optimal_success, random_success
from agentkit.errors import ConfigError, EnvironmentFault
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode
from agentkit.policies.policy import Policy, Sampling
from agentkit.rollout import collect_async, run_sync
from agentkit.seeding import derive_seed
from agentkit.task import Task

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""
RESAMPLES = 2000


class Interval(BaseModel):
    """A mean with its 95 % interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Report(BaseModel):
    """What `evaluate` found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str
    policy_version: int
    env_id: str
    panel: str
    """Fingerprint of the tasks and of what each first showed."""
    tasks: int
    episodes: int
    failed: int
    """Episodes that a fault of environment or policy ended; they count as unsuccessful."""
    success: Interval
    """Share of successful episodes."""
    episode_return: Interval
    """Mean undiscounted return."""
    valid_turns: float
    """Share of turns that were well-formed and understood."""
    turns: float
    """Mean turns of an episode."""
    random: float | None = None
    """Success of uniformly random play on the panel."""
    optimal: float | None = None
    """Expected success of the environment's expert on the panel, exact."""
    normalised: Interval | None = None
    """(success − random) / (optimal − random); the baselines count as exact."""


async def evaluate_async(
    policy: Policy,
    tasks: Sequence[Task],
    *,
    attempts: int = 1,
    baselines: bool = True,
    agent: Any = None,
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    recall: Recall | None = None,
    log: EpisodeLog | None = None,
    seed: int = 0,
    concurrency: int = 128,
    on_episode: Callable[[Episode], None] | None = None,
) -> Report:
    """Play every task of a panel `attempts` times and report with 95 % intervals.

    With one attempt a task the success interval is Wilson's; with more, attempts at a task are correlated, so
    tasks are resampled (percentile bootstrap, 2000 draws). The return's interval is always the bootstrap's.

    Args:
        policy: Who is evaluated.
        tasks: The panel, of one environment.
        attempts: Attempts at each task.
        baselines: Whether to compute random and optimal success where the environment can.
        agent, sampling, limits, recall, log, seed, concurrency, on_episode: As for `collect_async`.

    Raises:
        ConfigError: The panel is empty or mixes environments.
    """
    env_ids = {task.env_id for task in tasks}
    if len(env_ids) != 1:
        raise ConfigError(f"a panel is of one environment, this one of {sorted(env_ids) or 'none'}")
    episodes = await collect_async(
        policy,
        tasks,
        group_size=attempts,
        agent=agent,
        sampling=sampling,
        limits=limits,
        recall=recall,
        log=log,
        seed=derive_seed(seed, "evaluate"),
        concurrency=concurrency,
        on_episode=on_episode,
    )
    return summarise(policy, tasks, episodes, baselines=baselines, seed=seed)


def evaluate(policy: Policy, tasks: Sequence[Task], **options: Any) -> Report:
    """`evaluate_async` for scripts: runs its own event loop. Takes the same arguments."""
    return run_sync(lambda: evaluate_async(policy, tasks, **options))


def summarise(
    policy: Policy,
    tasks: Sequence[Task],
    episodes: Sequence[Episode],
    *,
    baselines: bool = True,
    seed: int = 0,
) -> Report:
    """The report on episodes already played: ordered by task, equally many for each."""
    success_TA = np.array([episode.success for episode in episodes], dtype=float).reshape(len(tasks), -1)
    return_TA = np.array([episode.episode_return for episode in episodes]).reshape(len(tasks), -1)
    rng = np.random.default_rng(derive_seed(seed, "bootstrap"))
    if success_TA.shape[1] == 1:
        success = wilson(int(success_TA.sum()), success_TA.size)
    else:
        success = bootstrap(success_TA.mean(axis=1), rng)
    random = optimal = normalised = None
    # The baselines play the environment without limits of time: one that has failed is not played again.
    if baselines and not any((episode.error or "").startswith(EnvironmentFault.__name__) for episode in episodes):
        random, optimal = _baselines(tasks, seed)
    if random is not None and optimal is not None and optimal > random:
        span = optimal - random
        normalised = Interval(**{k: (v - random) / span for k, v in success.model_dump().items()})
    turns = [turn for episode in episodes for turn in episode.turns]
    return Report(
        policy=policy.name,
        policy_version=policy.version,
        env_id=tasks[0].env_id,
        panel=panel_fingerprint(tasks, episodes),
        tasks=len(tasks),
        episodes=len(episodes),
        failed=sum(episode.error is not None for episode in episodes),
        success=success,
        episode_return=bootstrap(return_TA.mean(axis=1), rng),
        valid_turns=float(np.mean([turn.valid for turn in turns])) if turns else 0.0,
        turns=len(turns) / len(episodes),
        random=random,
        optimal=optimal,
        normalised=normalised,
    )


def wilson(successes: int, trials: int) -> Interval:
    """Wilson's score interval (1927) of a proportion.

    >>> str(wilson(5, 10))
    '0.500 [0.237, 0.763]'
    """
    share, z2 = successes / trials, Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    # Exact arithmetic gives 0 ≤ low ≤ share ≤ high ≤ 1; rounding must not undo it.
    return Interval(value=share, low=min(share, max(0.0, centre - half)), high=max(share, min(1.0, centre + half)))


def bootstrap(values_T: NDArray[np.float64], rng: np.random.Generator) -> Interval:
    """Percentile bootstrap interval of the mean of independent values."""
    picks = rng.integers(len(values_T), size=(RESAMPLES, len(values_T)))
    low, high = np.quantile(values_T[picks].mean(axis=1), [0.025, 0.975])
    return Interval(value=float(values_T.mean()), low=float(low), high=float(high))


def panel_fingerprint(tasks: Sequence[Task], episodes: Sequence[Episode]) -> str:
    """Hash of the tasks and of the first observation that each showed."""
    digest = hashlib.blake2b(digest_size=8)
    for task in tasks:
        digest.update(task.key.encode())
    for episode in episodes:
        if episode.attempt == 0 and episode.turns:
            digest.update(episode.turns[0].observation.encode())
    return digest.hexdigest()


def _baselines(tasks: Sequence[Task], seed: int) -> tuple[float | None, float | None]:
    """(random, optimal) success; None where the environment names no actions or has no expert."""
    found: list[float | None] = []
    for baseline in (lambda: random_success(tasks, seed=seed), lambda: optimal_success(tasks)):
        try:
            found.append(float(np.mean(baseline())))
        except ConfigError:
            found.append(None)
        except EnvironmentFault as fault:  # the report stands without its baseline
            warnings.warn(f"no baseline: {fault}", RuntimeWarning, stacklevel=2)
            found.append(None)
    return found[0], found[1]
