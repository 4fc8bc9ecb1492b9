"""Advantages: how much better an attempt went than its group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agentkit.errors import ConfigError
from agentkit.memory.records import Episode

EPSILON = 1e-6


def grpo_advantages(returns_G: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """(R − mean) / (std + 1e-6) within one group (GRPO; ActFocus eq. 13); [G].

    The papers leave the kind of standard deviation open; this is the population's, so that one success among
    two attempts gives ±1. A group without variance, and a group of one, gives zeros.

    >>> grpo_advantages([1.0, 0.0]).round(3).tolist()
    [1.0, -1.0]
    >>> grpo_advantages([1.0, 1.0]).tolist()
    [0.0, 0.0]
    """
    returns = np.asarray(returns_G, dtype=np.float64)
    if returns.size == 0:
        raise ConfigError("an empty group has no advantages")
    centred = returns - returns.mean()
    return centred / (returns.std() + EPSILON)


def group_indices(episodes: Sequence[Episode]) -> list[list[int]]:
    """Indices of the episodes of each group, groups in order of first appearance."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, episode in enumerate(episodes):
        groups[episode.group_id].append(index)
    return list(groups.values())


def shaped_return(episode: Episode, format_penalty: float) -> float:
    """The episode's return less `format_penalty` for each turn that was malformed or not understood."""
    return episode.episode_return - format_penalty * sum(not turn.valid for turn in episode.turns)
