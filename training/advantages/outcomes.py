"""Outcomes: what a batch of attempts earned, flat over turns, as advantages read it.

E episodes in G groups, U turns in all. A group is the attempts at one task under one policy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from agentkit.errors import ConfigError
from agentkit.memory.records import Episode

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROUNDING = 1e-9
"""Returns nearer to each other than this (relative to the greatest, if that exceeds 1) are equal."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a batch of attempts earned."""

    group_E: Ints
    """Number of each episode's group, 0 to G − 1."""
    return_E: Floats
    """Undiscounted sum of the episode's rewards, penalties included."""
    success_E: NDArray[np.bool_]
    starts: Ints
    """[E+1] place of each episode's first turn."""
    reward_U: Floats
    """Reward of each turn, its penalty included."""
    state_U: Ints
    """Turns of a group in which the policy was asked in the same state have the same number; −1 where it is unknown."""
    tokens_U: Ints
    """Sampled tokens of each turn."""

    @classmethod
    def of(cls, episodes: Sequence[Episode], format_penalty: float = 0.0) -> Outcomes:
        """Those of recorded episodes.

        Args:
            episodes: In the order of the batch.
            format_penalty: Taken from the reward of each turn that was malformed or not understood.

        Raises:
            ConfigError: There is no episode.
        """
        if not episodes:
            raise ConfigError("an empty group has no advantages")
        groups: dict[str, int] = {}
        group_E = np.array([groups.setdefault(episode.group_id, len(groups)) for episode in episodes], np.int64)
        states: dict[tuple[int, str], int] = {}
        rewards, known, tokens = [], [], []
        for group, episode in zip(group_E.tolist(), episodes, strict=True):
            for turn in episode.turns:
                rewards.append(turn.reward - format_penalty * (not turn.valid))
                key = (group, turn.state_key)
                known.append(states.setdefault(key, len(states)) if turn.state_key else -1)
                tokens.append(len(turn.response_ids))
        starts = np.cumsum([0, *(len(episode.turns) for episode in episodes)])
        reward_U = np.array(rewards, np.float64)
        return cls(
            group_E=group_E,
            return_E=np.array([reward_U[a:b].sum() for a, b in pairwise(starts)], np.float64),
            success_E=np.array([episode.success for episode in episodes], np.bool_),
            starts=starts.astype(np.int64),
            reward_U=reward_U,
            state_U=np.array(known, np.int64),
            tokens_U=np.array(tokens, np.int64),
        )

    @property
    def num_groups(self) -> int:
        """G."""
        return int(self.group_E.max()) + 1

    @property
    def episode_U(self) -> Ints:
        """Episode of each turn."""
        return np.repeat(np.arange(len(self.group_E)), np.diff(self.starts))

    def per_turn(self, value_E: Floats) -> Floats:
        """[U] each episode's value at each of its turns."""
        return np.repeat(value_E, np.diff(self.starts))


def group_indices(episodes: Sequence[Episode]) -> list[list[int]]:
    """Indices of the episodes of each group, groups in order of first appearance."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, episode in enumerate(episodes):
        groups[episode.group_id].append(index)
    return list(groups.values())


def within_groups(value_N: Floats, group_N: Ints, num_groups: int) -> tuple[Floats, Floats]:
    """([N] values less their group's mean, [G] population standard deviations); both zero where values are equal.

    Equal values may differ in their last bits (a sum of rewards depends on its order, a mean on the number of
    attempts), and such a group must not count as one that has something to teach.

    >>> centred, deviation = within_groups(np.array([0.1 + 0.2, 0.3, 1.0, 0.0]), np.array([0, 0, 1, 1]), 2)
    >>> centred.tolist(), deviation.tolist()
    ([0.0, 0.0, 0.5, -0.5], [0.0, 0.5])
    """
    count_G = np.bincount(group_N, minlength=num_groups)
    mean_G = np.bincount(group_N, value_N, num_groups) / np.maximum(count_G, 1)
    greatest_G, least_G, largest_G = np.full(num_groups, -np.inf), np.full(num_groups, np.inf), np.ones(num_groups)
    np.maximum.at(greatest_G, group_N, value_N)
    np.minimum.at(least_G, group_N, value_N)
    np.maximum.at(largest_G, group_N, np.abs(value_N))
    spread_G = np.where(count_G > 0, greatest_G - least_G, 0.0) > ROUNDING * largest_G
    centred_N = np.where(spread_G[group_N], value_N - mean_G[group_N], 0.0)
    variance_G = np.bincount(group_N, centred_N**2, num_groups) / np.maximum(count_G, 1)
    return centred_N, np.sqrt(variance_G)
