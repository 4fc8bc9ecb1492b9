"""Replay: what past episodes are kept, which of them are learnt from again, and against what they are judged."""

from __future__ import annotations

from agentkit.training.replay.buffer import ReplayBuffer
from agentkit.training.replay.entry import Entry
from agentkit.training.replay.retention import Retention, retained, retained_episodes
from agentkit.training.replay.selection import Selection
from agentkit.training.replay.settings import BufferConfig, ImitationConfig
from agentkit.training.replay.sum_tree import SumTree

__all__ = [
    "BufferConfig",
    "Entry",
    "ImitationConfig",
    "ReplayBuffer",
    "Retention",
    "Selection",
    "SumTree",
    "retained",
    "retained_episodes",
]
