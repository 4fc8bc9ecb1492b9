"""Collector: which tasks an iteration plays, the attempts at them, and what the plan makes of those."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkit.errors import ConfigError, PolicyFault
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode
from agentkit.memory.watch import quarantined
from agentkit.seeding import derive_seed
from agentkit.task import Task, make_tasks
from agentkit.training.advantages import group_indices, within_groups
from agentkit.training.config import TrainConfig
from agentkit.training.filters import kept_groups
from agentkit.training.models import Models
from agentkit.training.plans import Collected, Ground, Patched, RolloutPlan, State
from agentkit.training.rows import Row
from agentkit.training.tasks import Beliefs


@dataclass(frozen=True)
class Collection:
    """What an iteration has collected."""

    attempts: list[Episode]
    """Its own attempts but the failed ones, which say nothing about the policy: they leave their groups."""
    patched: Patched
    """What is learnt from: the attempts as the plan has changed them."""
    values: dict[str, float] = field(default_factory=dict)
    """Metrics."""

    @property
    def tasks(self) -> list[str]:
        """Keys of the tasks that were attempted."""
        return list(dict.fromkeys(episode.task.key for episode in self.attempts))


class Collector:
    """Collects groups of attempts, and remembers what tasks and plan need from one iteration to the next.

    Args:
        models: Who acts.
        log: Where every attempt is recorded.
        config: The numbers.
        env_id: Gymnasium id of the training environment.
        params: Parameters of the environment.
        options: How attempts are played: `agent`, `sampling`, `limits` and `recall` of `collect`.
        seed: Seed of the run.

    Raises:
        ConfigError: The task sampler and `params` set the same parameter.
    """

    def __init__(
        self,
        models: Models,
        log: EpisodeLog,
        config: TrainConfig,
        env_id: str,
        params: Mapping[str, Any],
        options: Mapping[str, Any],
        seed: int,
    ) -> None:
        twice = sorted(config.tasks.params(0).keys() & params.keys())
        if twice:
            raise ConfigError(
                f"tasks.parameter = {twice[0]!r} and the environment's params set {twice[0]!r} = "
                f"{params[twice[0]]!r} too: each task has its own of tasks.values; leave it out of params"
            )
        self.beliefs = Beliefs.about(config.task_pool or 0, config.tasks.num_categories)
        self._models, self._log, self._seed = models, log, seed
        self._env_id, self._params, self._options = env_id, dict(params), dict(options)
        self._planned: State = {}

    def collect(
        self, config: TrainConfig, iteration: int, on_episode: Callable[[Episode], None] | None = None
    ) -> Collection:
        """Play an iteration's attempts, learn from them about tasks, and let the plan change the groups.

        Args:
            config: The numbers as the schedules have them.
            iteration: Iterations done before; all that is random follows from it and the seed.
            on_episode: Told of each attempt.

        Raises:
            PolicyFault: All attempts failed.
        """
        plan, ground = config.plan or RolloutPlan(), self.ground(config, iteration, on_episode)
        collected = self._rounds(plan, ground, iteration)
        attempts = [episode for episode in collected.episodes if episode.error is None]
        if not attempts:
            raise PolicyFault(f"all {len(collected.episodes)} attempts failed, e.g.: {collected.episodes[0].error}")
        patched = plan.patch(ground, attempts, self._planned)
        self._believe(config, attempts)
        failed = len(collected.episodes) - len(attempts)
        return Collection(attempts, patched, _summary(attempts, failed) | collected.values | patched.values)

    def ground(
        self, config: TrainConfig, iteration: int, on_episode: Callable[[Episode], None] | None = None
    ) -> Ground:
        """What the plan has to work with in an iteration."""

        def measured(rows: Sequence[Row]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            stats = self._models.measure(rows)
            return stats.logp_N.double().numpy(), stats.entropy_N.double().numpy()

        seed = derive_seed(self._seed, "collect", iteration)
        options = self._options | {"log": self._log, "seed": seed, "on_episode": on_episode}
        return Ground(self._models.policy, self._log, config, options, measured, seed, self.quarantined())

    def quarantined(self) -> frozenset[str]:
        """Ids of the memories in quarantine, if any may have been recalled."""
        memory = getattr(self._options.get("recall"), "memory", None)
        return frozenset() if memory is None else frozenset(quarantined(memory))

    def _rounds(self, plan: RolloutPlan, ground: Ground, iteration: int) -> Collected:
        """The iteration's attempts, in as many rounds as the filter wants: each plays tasks for those left out."""
        config, taken = ground.config, set[int]()
        tasks = self.next_tasks(config, iteration, config.tasks_per_iteration, taken)
        collected = plan.collect(ground, tasks, self._planned)
        episodes, values = list(collected.episodes), dict(collected.values)
        for number in range(1, 1 if config.filter is None else config.filter.rounds):
            played = [episode for episode in episodes if episode.error is None]
            kept = 0
            if played:
                assert config.filter is not None
                kept = int(kept_groups(config.filter, config.outcomes(played)).sum())
            tasks = self.next_tasks(config, iteration, config.tasks_per_iteration - kept, taken, number)
            if not tasks:
                break  # the batch is full, or the pool has no more
            seed = derive_seed(ground.seed, "round", number)
            round_of = dataclasses.replace(ground, seed=seed, options=ground.options | {"seed": seed})
            more = plan.collect(round_of, tasks, self._planned)
            episodes += more.episodes
            values |= {name: values.get(name, 0.0) + value for name, value in more.values.items()}
            values["filter/rounds"] = number + 1.0
        return Collected(episodes, values)

    def next_tasks(
        self, config: TrainConfig, iteration: int, num: int, taken: set[int], number_of_round: int = 0
    ) -> list[Task]:
        """Up to `num` tasks as the sampler chooses them; their numbers are added to `taken`."""
        rng = np.random.default_rng(derive_seed(self._seed, "tasks", iteration, number_of_round))
        numbers = config.tasks.pick(self.beliefs, num, taken, rng) if num > 0 else []
        taken.update(numbers)
        return [
            make_tasks(self._env_id, "train", 1, first=number, params=self._params | config.tasks.params(number))[0]
            for number in numbers
        ]

    def _believe(self, config: TrainConfig, attempts: Sequence[Episode]) -> None:
        """Let the sampler learn how the tasks went; a task's number is its seed."""
        groups = group_indices(attempts)
        won = np.array([sum(attempts[i].success for i in group) for group in groups])
        size_E = _mean_advantages(config, attempts)
        signal = np.array([float(size_E[group].mean()) for group in groups])
        numbers = [attempts[group[0]].task.seed for group in groups]
        lost = np.array([len(group) for group in groups]) - won
        config.tasks.learn(self.beliefs, numbers, won, lost, signal)

    def state(self) -> dict[str, Any]:
        """What the next iterations depend on, as JSON values."""
        return {"beliefs": self.beliefs.state(), "planned": self._planned}

    def restore(self, state: dict[str, Any]) -> None:
        """Know what was known when `state()` was taken.

        Raises:
            CheckpointError: It is about other tasks.
        """
        self.beliefs.restore(state["beliefs"])
        self._planned = state["planned"]


def _mean_advantages(config: TrainConfig, attempts: Sequence[Episode]) -> NDArray[np.float64]:
    """[E] mean |advantage| of each attempt's turns, without modifiers; |R − mean| where advantages ask for values."""
    outcomes = config.outcomes(attempts)
    if config.advantage.needs_values is not None:
        return np.abs(within_groups(outcomes.return_E, outcomes.group_E, outcomes.num_groups)[0])
    size_E = outcomes.per_episode(np.abs(config.advantage.turns(outcomes)))
    return size_E / np.maximum(np.diff(outcomes.starts), 1)


def _summary(attempts: Sequence[Episode], failed: int) -> dict[str, float]:
    turns = [turn for episode in attempts for turn in episode.turns]
    return {
        "success": float(np.mean([episode.success for episode in attempts])),
        "return": float(np.mean([episode.episode_return for episode in attempts])),
        "valid_turns": float(np.mean([turn.valid for turn in turns])),
        "response_tokens": float(np.mean([len(turn.response_ids) for turn in turns])),
        "turns": len(turns) / len(attempts),
        "failed_episodes": failed,
    }
