"""Advantages: how much better an attempt went than its group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agentkit.errors import ConfigError
from agentkit.memory.records import Episode

EPSILON = 1e-6
ROUNDING = 1e-9
"""Returns nearer to each other than this (relative to the greatest, if that exceeds 1) are equal."""


def grpo_advantages(returns_G: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """(R − mean) / (std + 1e-6) within one group (GRPO; ActFocus eq. 13); [G].

    The papers leave the kind of standard deviation open; this is the population's, so that one success among
    two attempts gives ±1. A group without variance, and a group of one, gives zeros.

    >>> grpo_advantages([1.0, 0.0]).round(3).tolist()
    [1.0, -1.0]
    >>> grpo_advantages([1.0, 1.0]).tolist()
    [0.0, 0.0]
    """
    centred = centred_returns(returns_G)
    return centred / (centred.std() + EPSILON)


def centred_returns(returns_G: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """R − mean within one group; [G]. Exactly zero throughout if the returns differ by rounding only.

    Equal returns may differ in their last bits (a sum of rewards depends on its order, a mean on the number of
    attempts), and such a group must not count as one that has something to teach.

    >>> centred_returns([0.1 + 0.2, 0.3, 0.3]).tolist()
    [0.0, 0.0, 0.0]
    """
    returns = np.asarray(returns_G, dtype=np.float64)
    if returns.size == 0:
        raise ConfigError("an empty group has no advantages")
    if np.ptp(returns) <= ROUNDING * max(1.0, float(np.abs(returns).max())):
        return np.zeros_like(returns)
    return returns - returns.mean()


def group_indices(episodes: Sequence[Episode]) -> list[list[int]]:
    """Indices of the episodes of each group, groups in order of first appearance."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, episode in enumerate(episodes):
        groups[episode.group_id].append(index)
    return list(groups.values())


def shaped_return(episode: Episode, format_penalty: float) -> float:
    """The episode's return less `format_penalty` for each turn that was malformed or not understood."""
    return episode.episode_return - format_penalty * sum(not turn.valid for turn in episode.turns)
