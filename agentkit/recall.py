"""MemoryRecall: memories as attempts read them, pinned to one snapshot.

Attempts of a group are compared with each other, so all of them must read the same memory: what is written while
a collection runs is seen by the next `MemoryRecall` only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from agentkit.attempt import Recollection
from agentkit.errors import ConfigError
from agentkit.memory.arms import Situation
from agentkit.memory.exposure import Exploration, Exposure
from agentkit.memory.hysteresis import Hysteresis
from agentkit.memory.kinds import Memory
from agentkit.memory.log import EpisodeLog
from agentkit.memory.reader import Reader, ReadSettings
from agentkit.memory.selection import Candidate
from agentkit.memory.store import MemoryStore
from agentkit.memory.utility import Utility
from agentkit.task import Task


class MemoryRecall:
    """Recalls what worked in similar situations of the same environment; implements `agentkit.attempt.Recall`.

    What an attempt is shown stays until something scores better by a margin. With `exploration`, it is left to coins
    whether each memory is shown, so that its effect can be measured; with `utilities` too, to coins that favour what
    has helped (Thompson sampling).

    Args:
        memory: The store, open as long as this is used.
        k: Most memories for one situation.
        exclude_task: Hide the memories of the very task that is played, which would give its solution away.
        snapshot: Name of the state to read, from `MemoryStore.snapshot`; None pins the present one.
        settings: How memories are found, ranked and chosen.
        budget_tokens: Most tokens they may take together; None for what the settings say.
        log: The episodes they were made from; with it, long ones are shown by the passage that matters.
        utilities: Memory id -> how much it has helped, as `estimate_utility` says.
        exploration: How much is left to chance.
        on_exposure: Told what was shown and by which chance, at every recollection; needed to explore.

    Raises:
        RecordError: The snapshot is not one of this store.
        ConfigError: Only one of `exploration` and `on_exposure` is given.
    """

    def __init__(
        self,
        memory: MemoryStore,
        k: int = 3,
        exclude_task: bool = True,
        snapshot: str | None = None,
        *,
        settings: ReadSettings | None = None,
        budget_tokens: int | None = None,
        log: EpisodeLog | None = None,
        utilities: Mapping[str, Utility] | None = None,
        exploration: Exploration | None = None,
        on_exposure: Callable[[Exposure], object] | None = None,
    ) -> None:
        if (exploration is None) != (on_exposure is None):
            raise ConfigError(
                "exploration draws what is shown and on_exposure records it: give both, for what is drawn and not "
                "recorded teaches nothing, or none"
            )
        settings = settings or ReadSettings()
        if budget_tokens is not None:
            settings = ReadSettings(**{**dict(settings), "budget_tokens": budget_tokens})
        self.memory = memory
        self.k = k
        self.exclude_task = exclude_task
        self.snapshot_id = memory.snapshot() if snapshot is None else snapshot
        self.reader = Reader(memory, settings, log=log)
        self.utilities = utilities
        self.exploration = exploration
        self.on_exposure = on_exposure
        memory.recall("", 0, snapshot=self.snapshot_id)  # a foreign snapshot is refused here, not in the first attempt

    def begin(self, task: Task, key: str = "", policy_version: int = 0) -> Recollection:
        """What an attempt at `task` reads: up to `k` memories for each situation, best first."""
        return _Recollection(self, task, key, policy_version)


class _Recollection:
    """The memory as one attempt reads it."""

    def __init__(self, recall: MemoryRecall, task: Task, key: str, policy_version: int) -> None:
        self._recall = recall
        self._task = task
        self._key = key
        self._policy_version = policy_version
        self._calm = Hysteresis(recall.reader.settings.margin)
        self._number = 0
        utilities = recall.utilities
        self._chances = None if utilities is None else {id: utility.chance for id, utility in utilities.items()}

    def __call__(self, observation: str, state_key: str = "") -> list[Memory]:
        recall, task = self._recall, self._task
        reads = recall.reader.rank(
            Situation(goal=task.goal, observation=observation, state_key=state_key),
            utilities=recall.utilities,
            also=self._calm.shown,
            env_id=task.env_id,
            exclude_tasks=[task] if recall.exclude_task else (),
            snapshot=recall.snapshot_id,
        )
        # Coins that favour what has helped need more to choose from than there are places; all of it fits the budget.
        most = recall.k * (1 if recall.exploration is None or self._chances is None else 2)
        chosen = self._calm.step(
            [read.candidate for read in reads], lambda raised: recall.reader.select(raised, reads, most)
        ).candidates
        memory_of = {read.memory.id: read.memory for read in reads}
        return [memory_of[id] for id in self._draw(recall.exploration, chosen)]

    def _draw(self, exploration: Exploration | None, chosen: Sequence[Candidate]) -> Sequence[str]:
        """Ids of what is shown. The coins come after the choice, which therefore does not depend on them."""
        if exploration is None or self._recall.on_exposure is None:
            return [one.id for one in chosen]
        exposure = exploration.draw(
            self._key,
            [(one.id, one.score) for one in chosen],
            self._recall.k,
            recall=self._number,
            chances=self._chances,
            task_key=self._task.key,
            context=self._task.env_id,
            policy_version=self._policy_version,
            time_s=time.time(),
        )
        self._number += 1
        self._recall.on_exposure(exposure)
        return exposure.shown_ids
