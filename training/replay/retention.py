"""Retention: episodes of earlier runs, replayed at growing intervals so that what they taught is not forgotten.

FOREVER (2601.03938): time is how far the weights have moved, a day is how far they move in the first steps of the run,
and replay comes after 1, 2, 4, 7, 15, 30 ... such days, as in Ebbinghaus's curve.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydantic import Field, field_validator

from agentkit.errors import ConfigError
from agentkit.memory.gate import admit_episode
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode
from agentkit.seeding import derive_seed
from agentkit.training.losses import ReplayLoss, Supervised
from agentkit.training.replay.buffer import ReplayBuffer
from agentkit.training.replay.selection import Uniform
from agentkit.training.replay.settings import BufferConfig
from agentkit.training.settings import Settings


class Retention(Settings):
    """Replay of what earlier runs learnt from, apart from the run's own successes.

    `schedules."retention.anchor" = {name = "intensity"}` scales the pull of the anchor as FOREVER does.
    """

    log: str
    """Path of the earlier run's `episodes.sqlite`."""
    share: float = Field(default=0.02, gt=0, le=1)
    """Share of each environment's sound successes that is kept, rounded up; drawn by the run's seed."""
    days: tuple[float, ...] = (1, 2, 4, 7, 15, 30, 60, 120)
    """After how many days of model time a replay is due; those beyond 30 are ours. Then no more."""
    episodes: int = Field(default=16, ge=1)
    """Episodes of a replay, all alike."""
    weight: float = Field(default=1.0, gt=0)
    """Factor of the loss of a replay."""
    anchor: float = Field(default=1e-3, ge=0)
    """β: factor of ‖θ − θ*‖² in the step of a replay, θ* the weights the run began with; 0 for none."""
    loss: ReplayLoss = Field(default_factory=Supervised)

    @field_validator("days")
    @classmethod
    def _days_grow(cls, days: tuple[float, ...]) -> tuple[float, ...]:
        if not days or days[0] <= 0 or any(after <= before for before, after in pairwise(days)):
            raise ValueError(f"days = {days} must grow from above 0")
        return days

    def is_due(self, days: float, done: int) -> bool:
        """Whether a replay is due after so many days of model time, when so many have been done.

        >>> retention = Retention(log="episodes.sqlite")
        >>> [retention.is_due(2.5, done) for done in (0, 1, 2)]
        [True, True, False]
        """
        return done < len(self.days) and days >= self.days[done]


def retained_episodes(log: EpisodeLog, share: float, rng: np.random.Generator) -> Sequence[Episode]:
    """That share of each environment's sound successes in a log, rounded up.

    Raises:
        ConfigError: There is none.
    """
    ids: defaultdict[str, list[str]] = defaultdict(list)
    for episode in log.episodes():
        if episode.success and admit_episode(episode).status == "active":
            ids[episode.task.env_id].append(episode.id)
    if not ids:
        raise ConfigError(f"{log.location!r} holds no sound success to retain; give the log of a run that had some")
    chosen: list[str] = []
    for env_id in sorted(ids):
        num = int(np.ceil(share * len(ids[env_id]) - 1e-9))
        chosen += rng.choice(sorted(ids[env_id]), size=num, replace=False).tolist()
    found = [log.get(id) for id in sorted(chosen)]
    return [episode for episode in found if episode is not None]


def retained(settings: Retention, folder: Path, seed: int) -> ReplayBuffer:
    """The buffer of what is retained, `folder/retained.sqlite`, made anew: the same seed keeps the same episodes.

    Raises:
        ConfigError: The earlier run's log is not there, or holds nothing to retain.
    """
    if not Path(settings.log).is_file():  # opening it would make an empty one
        raise ConfigError(f"retention.log = {settings.log!r}: no such file; give the episodes.sqlite of an earlier run")
    log = EpisodeLog.open(settings.log)
    try:
        episodes = retained_episodes(log, settings.share, np.random.default_rng(derive_seed(seed, "retain")))
        path = folder / "retained.sqlite"
        path.unlink(missing_ok=True)
        kept = BufferConfig(capacity=len(episodes), admit="any", max_staleness=None, select=Uniform())
        buffer = ReplayBuffer(path, log, kept)
        buffer.update(episodes, [0.0] * len(episodes), iteration=0, version=0)
    except BaseException:
        log.close()
        raise
    return buffer
