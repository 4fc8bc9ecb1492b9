"""Task: the name of one problem instance. Attempts at the same task form a group."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

SPLITS = ("train", "held_out")
HELD_OUT_OFFSET = 1 << 30
"""Held-out seeds start here, so that the splits are disjoint even in environments that know no splits."""


class Task(BaseModel):
    """One problem instance: which environment, with which parameters, from which seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    env_id: str
    """Gymnasium id, e.g. `agentkit/FrozenLake-v0`."""
    seed: int
    """Seed of the instance (map, level, puzzle); noise in the dynamics is drawn per attempt."""
    split: str = "train"
    """`train` or `held_out`."""
    params: dict[str, Any] = {}
    """Keyword arguments of the environment's constructor (JSON values)."""
    goal: str = ""
    """What is to be reached, in words; empty where the environment states it in its observations."""

    @property
    def key(self) -> str:
        """Canonical text of the task: equal for equal tasks, usable as a dictionary key."""
        return json.dumps([self.env_id, self.split, self.seed, self.params], sort_keys=True, separators=(",", ":"))

    def __hash__(self) -> int:
        return hash(self.key)


def make_tasks(
    env_id: str, split: str = "train", num: int = 1, *, first: int = 0, params: dict[str, Any] | None = None
) -> list[Task]:
    """The tasks numbered `first` to `first + num - 1` of a split; the same call always names the same tasks.

    >>> [task.seed for task in make_tasks("agentkit/FrozenLake-v0", "train", 3)]
    [0, 1, 2]
    """
    if split not in SPLITS:
        from agentkit.errors import unknown_name

        raise unknown_name("split", split, SPLITS)
    offset = HELD_OUT_OFFSET if split == "held_out" else 0
    return [
        Task(env_id=env_id, seed=offset + number, split=split, params=params or {})
        for number in range(first, first + num)
    ]
