"""Plan: what is collected for an iteration, and what is made of it before advantages are computed.

A plan is settings and no more: what it remembers from one iteration to the next is a dictionary of plain data that the
trainer keeps and writes into its checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode
from agentkit.rollout import collect
from agentkit.seeding import derive_seed
from agentkit.task import Task
from agentkit.training.rows import Row, build_rows
from agentkit.training.settings import Part

if TYPE_CHECKING:
    from agentkit.policies.local import LocalPolicy
    from agentkit.training.config import TrainConfig
    from agentkit.training.losses import ImitationLoss

OldLogprobs = Literal["recomputed", "stored"]
"""Log-probabilities taken for the old policy's where the policy that learns has not sampled the tokens itself, or not
in the context they are learnt in: `recomputed` under the policy before it learns, so that its ratio begins at 1, or
`stored`, those of the policy and the context that sampled them."""
State = dict[str, Any]
"""What a plan remembers: numbers, texts, lists and dictionaries, as JSON holds them."""


@dataclass(frozen=True)
class Ground:
    """What a plan has to work with in one iteration."""

    policy: LocalPolicy
    log: EpisodeLog
    """Where every attempt that is played is recorded."""
    config: TrainConfig
    options: dict[str, Any]
    """How attempts are played: keyword arguments of `collect` besides policy, tasks and `group_size`."""
    measure: Callable[[Sequence[Row]], tuple[NDArray[np.float64], NDArray[np.float64]]]
    """([N] log-probabilities, [N] entropies in nats) of the rows' sampled tokens under the policy as it is."""
    seed: int
    """Seed of all that the plan draws in this iteration."""
    quarantined: frozenset[str] = frozenset()
    """Ids of the memories in quarantine."""

    def rng(self, name: str) -> np.random.Generator:
        """A generator of the plan's own, the same whenever the iteration is done again."""
        return np.random.default_rng(derive_seed(self.seed, "plan", name))

    def rescored(self, episodes: Sequence[Episode]) -> list[Episode]:
        """The episodes with log-probabilities of the policy as it is, one pass of the network over their rows."""
        rows, _ = build_rows(episodes)
        if not rows:
            return list(episodes)
        logp_N, _ = self.measure(rows)
        found: dict[tuple[int, int], tuple[float, ...]] = {}
        place = 0
        for row in rows:
            turn_T = row.turns[row.sampled]
            for number in dict.fromkeys(turn_T.tolist()):
                size = int((turn_T == number).sum())
                found[row.episode, number] = tuple(logp_N[place : place + size].tolist())
                place += size
        return [
            episode.model_copy(
                update={
                    "turns": tuple(
                        turn.model_copy(update={"logprobs": found.get((index, number), turn.logprobs)})
                        for number, turn in enumerate(episode.turns)
                    )
                }
            )
            for index, episode in enumerate(episodes)
        ]

    def finished(self, made: Sequence[Episode], old_logprobs: OldLogprobs) -> list[Episode]:
        """Episodes that were made rather than played, with their last log-probabilities and so their last ids.

        They are recorded if replay may want to read them again.
        """
        scored = self.rescored(made) if old_logprobs == "recomputed" else made
        finished = [named(episode) for episode in scored]
        if self.config.imitation.weight > 0:
            self.log.append_many(finished)
        return finished


@dataclass(frozen=True)
class Collected:
    """The attempts of an iteration, failed ones included, ordered by group."""

    episodes: list[Episode]
    values: dict[str, float] = field(default_factory=dict)
    """Metrics."""


@dataclass(frozen=True)
class Patched:
    """What is learnt from, made of the attempts of an iteration."""

    episodes: list[Episode]
    injected: frozenset[int] = frozenset()
    """Places of the episodes that are of earlier iterations: they are not taken into replay again."""
    extra: list[Episode] = field(default_factory=list)
    """Episodes for replay only: they are in no group."""
    gain: float = 0.0
    """What each of the `extra` ones is taken to be better than its group."""
    values: dict[str, float] = field(default_factory=dict)
    """Metrics."""


class RolloutPlan(Part):
    """Collects `group_size` attempts at each task and leaves them as they are; plans change one or the other."""

    def check(self, config: TrainConfig, env_id: str) -> None:
        """Raise `ConfigError` where the plan does not fit the run."""

    @property
    def injected_loss(self) -> ImitationLoss | None:
        """Loss of the tokens of injected episodes, whose ratio is to the log-probabilities recorded with them.

        None: what was injected has the loss of the attempts it joins.
        """
        return None

    def collect(self, ground: Ground, tasks: Sequence[Task], state: State) -> Collected:
        """Play the iteration's attempts."""
        return Collected(collect(ground.policy, tasks, group_size=ground.config.group_size, **ground.options))

    def patch(self, ground: Ground, played: Sequence[Episode], state: State) -> Patched:
        """Change the groups, and remember what later iterations need; `played` is without attempts that failed."""
        return Patched(list(played))


def as_made(episode: Episode, how: str, **changes: Any) -> Episode:
    """An episode made of another: its policy's name tells how, and its id is that of its new content."""
    return named(episode.model_copy(update={"policy": f"{episode.policy}+{how}", **changes}))


def named(episode: Episode) -> Episode:
    """The episode under the id of its content."""
    return episode.model_copy(update={"id": episode.model_copy(update={"id": ""}).fingerprint()})


def by_group(episodes: Iterable[Episode]) -> dict[str, list[Episode]]:
    """The episodes of each group, groups in order of first appearance."""
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(episode.group_id, []).append(episode)
    return groups
