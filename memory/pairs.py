"""Paired rollouts: the same task played with a memory and without it, all else equal.

Where the world can be played again from the same seed, a pair differs in the memory alone: how hard the task is and how
the dice fall cancels in the difference, as far as policy and world repeat themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from agentkit.memory.harm import wager
from agentkit.memory.records import Record
from agentkit.memory.trials import Floats
from agentkit.memory.utility import VARIANCE_COUNT, t_quantile


class Pair(NamedTuple):
    """Two attempts at one task with the same seed."""

    memory_id: str
    shown: float
    """Outcome with the memory, 0 to 1."""
    hidden: float
    """Outcome without it."""


class PairedUplift(Record):
    """What a memory does to success, from pairs."""

    uplift: float
    """Mean difference, −1 to 1."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    harm: float
    """Evidence of harm, as `Utility.harm`: 20 or more counts as harmful."""
    num_pairs: int
    factor: float
    """By how many times fewer episodes tell as much as unpaired ones would; 1 if pairs have nothing in common."""


def estimate_pairs(pairs: Iterable[Pair]) -> dict[str, PairedUplift]:
    """The uplift of each memory from its pairs, by id.

    The interval is Student's, with the imagined pairs of `VARIANCE_COUNT`. The factor is
    (var shown + var hidden) / var (shown − hidden), each with the spread of half an imagined pair, so that equal
    differences are not taken for certainty.

    >>> found = estimate_pairs([Pair("m", 0.0, 1.0)] * 3 + [Pair("m", 1.0, 1.0)] * 3 + [Pair("m", 0.0, 0.0)] * 4)["m"]
    >>> print(f"{found.uplift:.2f} [{found.low:.2f}, {found.high:.2f}]")
    -0.30 [-0.68, 0.08]
    """
    listed = list(pairs)
    places: dict[str, int] = {}
    memory_U = np.array([places.setdefault(pair.memory_id, len(places)) for pair in listed], np.int64)
    shown_U = np.array([pair.shown for pair in listed], np.float64)
    hidden_U = np.array([pair.hidden for pair in listed], np.float64)
    harm_M = wager(memory_U, len(places), shown_U - hidden_U, np.ones(len(listed)))
    found = {}
    for memory_id, place in places.items():
        mine = memory_U == place
        found[memory_id] = _estimate(shown_U[mine], hidden_U[mine], float(harm_M[place]))
    return found


def _estimate(shown: Floats, hidden: Floats, harm: float) -> PairedUplift:
    difference, num = shown - hidden, len(shown)
    uplift = float(difference.mean())
    spread = float(((difference - uplift) ** 2).sum()) + VARIANCE_COUNT / 2
    freedom = num - 1 + VARIANCE_COUNT
    width = float(t_quantile(np.array([freedom]))[0]) * (spread / freedom / num) ** 0.5
    apart = num * float(shown.var() + hidden.var()) + 0.5
    return PairedUplift(
        uplift=uplift,
        low=max(uplift - width, -1.0),
        high=min(uplift + width, 1.0),
        harm=harm,
        num_pairs=num,
        factor=apart / (num * float(difference.var()) + 0.5),
    )
