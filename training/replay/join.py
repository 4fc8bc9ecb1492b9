"""Joining: replayed attempts at a task beside the new ones, judged together with them or among themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentkit.memory.records import Episode
from agentkit.training.advantages import group_indices
from agentkit.training.replay.buffer import EntropyOf, ReplayBuffer
from agentkit.training.replay.entry import Entry
from agentkit.training.replay.selection import Experience
from agentkit.training.replay.settings import ImitationConfig


@dataclass(frozen=True, slots=True)
class Joined:
    """What an iteration learns from."""

    new: Sequence[Episode]
    """Its own attempts, less those that replayed ones took the place of."""
    entries: Sequence[Entry] = ()
    """What is replayed beside them."""
    copies: Sequence[Episode] = ()
    """The episodes of the entries, under the group in which each is judged."""


def join(
    played: Sequence[Episode],
    buffer: ReplayBuffer,
    config: ImitationConfig,
    rng: np.random.Generator,
    entropy_of: EntropyOf,
) -> Joined:
    """New attempts with replayed ones of the same tasks, as `config` says.

    Of the groups that may be joined, `group_share` are: drawn alike, or under `experience` by their success rates.

    Args:
        played: The iteration's attempts.
        buffer: Where replayed ones come from; none of them is of this iteration.
        config: `baseline` and what goes with it.
        rng: For all that is random.
        entropy_of: As in `ReplayBuffer.sample`.
    """
    groups = group_indices(played)
    open_G = [members for members in groups if _is_open([played[i] for i in members], buffer, config)]
    most = math.ceil(config.group_share * len(groups) - 1e-9)
    gone: set[int] = set()
    entries: list[Entry] = []
    copies: list[Episode] = []
    for members in _some(open_G, most, [buffer.rate(played[m[0]].task.key) for m in open_G], config, rng):
        first = played[members[0]]
        num = min(config.per_group, len(members) - 1) if config.replaces else config.per_group
        picked = buffer.sample(num, rng, task=first.task.key, entropy_of=entropy_of)
        group = first.group_id if config.judged_by == "mixed" else first.group_id + "/replayed"
        entries += picked
        copies += [buffer.episode(entry).model_copy(update={"group_id": group}) for entry in picked]
        if config.replaces:
            gone.update(members[: len(picked)])
    return Joined([episode for i, episode in enumerate(played) if i not in gone], entries, copies)


def _is_open(group: Sequence[Episode], buffer: ReplayBuffer, config: ImitationConfig) -> bool:
    if config.only_failed and any(episode.success for episode in group):
        return False
    return buffer.num_of_task(group[0].task.key) >= config.per_group_wait


def _some(
    groups: list[list[int]], most: int, rates: list[float], config: ImitationConfig, rng: np.random.Generator
) -> list[list[int]]:
    rule = config.select
    mass_G = rule.task_masses(np.array(rates)) if isinstance(rule, Experience) else np.ones(len(groups))
    num = min(most, int((mass_G > 0).sum()))
    if not num or num == len(groups):
        return groups[:num]
    places = rng.choice(len(groups), size=num, replace=False, p=mass_G / mass_G.sum())
    return [groups[place] for place in sorted(places)]
