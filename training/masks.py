"""Masks: turns whose tokens weigh nothing, though they were sampled; what they weighed leaves the normaliser too."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from agentkit.memory.records import Episode
from agentkit.training.stream import Stream


def valid_turns(episodes: Sequence[Episode]) -> list[NDArray[np.bool_]]:
    """For each episode, [T] True at the turns that held an action which the environment understood."""
    return [np.array([turn.valid for turn in episode.turns]) for episode in episodes]


def masked(stream: Stream, kept: Sequence[NDArray[np.bool_]]) -> Stream:
    """The stream, whose tokens of other turns than those kept weigh nothing.

    Args:
        stream: Of some or all rows of a batch of episodes.
        kept: For each episode of the batch, [T] True at the turns that are kept.
    """
    kept_N = np.concatenate([kept[row.episode][row.turns[row.sampled]] for row in stream.rows])
    return dataclasses.replace(stream, weight_N=stream.weight_N * torch.from_numpy(kept_N))
