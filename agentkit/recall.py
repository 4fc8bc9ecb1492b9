"""MemoryRecall: episodic memory as attempts read it, pinned to one snapshot.

Attempts of a group are compared with each other, so all of them must read the same memory: what is written while
a collection runs is seen by the next `MemoryRecall` only.
"""

from __future__ import annotations

from agentkit.attempt import Recollection
from agentkit.memory.kinds import Memory
from agentkit.memory.store import MemoryStore
from agentkit.task import Task


class MemoryRecall:
    """Recalls what worked in similar situations of the same environment; implements `agentkit.attempt.Recall`.

    Args:
        memory: The store, open as long as this is used.
        k: Most memories for one situation.
        exclude_task: Hide the memories of the very task that is played, which would give its solution away.
        snapshot: Name of the state to read, from `MemoryStore.snapshot`; None pins the present one.

    Raises:
        RecordError: The snapshot is not one of this store.
    """

    def __init__(self, memory: MemoryStore, k: int = 3, exclude_task: bool = True, snapshot: str | None = None) -> None:
        self.memory = memory
        self.k = k
        self.exclude_task = exclude_task
        self.snapshot_id = memory.snapshot() if snapshot is None else snapshot
        memory.recall("", 0, snapshot=self.snapshot_id)  # a foreign snapshot is refused here, not in the first attempt

    def begin(self, task: Task, key: str = "", policy_version: int = 0) -> Recollection:
        """What an attempt at `task` reads: up to `k` memories for each situation, nearest first."""

        def recollect(observation: str, state_key: str = "") -> list[Memory]:
            return self.memory.recall(
                observation,
                self.k,
                env_id=task.env_id,
                exclude_tasks=[task] if self.exclude_task else (),
                snapshot=self.snapshot_id,
            )

        return recollect
