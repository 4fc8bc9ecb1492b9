"""Imitation: the run's own episodes learnt from again, as a stream beside the policy's."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection as Names
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agentkit.training.advantages import within_groups
from agentkit.training.batch import Batch
from agentkit.training.collector import Collection
from agentkit.training.config import TrainConfig
from agentkit.training.gradients import imitation_gradient
from agentkit.training.losses import SPEAR
from agentkit.training.masks import masked, valid_turns
from agentkit.training.mismatch import Mismatch
from agentkit.training.models import Models
from agentkit.training.replay.buffer import ReplayBuffer
from agentkit.training.replay.entry import Entry
from agentkit.training.replay.selection import Priority
from agentkit.training.stream import Stream

Floats = NDArray[np.float64]
HISTORY = 10_240
"""Group means kept for the median under other losses than SPEAR's, whose `history` says it: SPEAR's number."""


class Imitation:
    """Replays episodes of the buffer, and takes new ones in.

    Args:
        buffer: The past episodes.
        models: Who learns.
        temperature: The sampling temperature.
        rng: For all that is random; the trainer's.
    """

    def __init__(self, buffer: ReplayBuffer, models: Models, temperature: float, rng: np.random.Generator) -> None:
        self.buffer = buffer
        self._models, self._temperature, self._rng = models, temperature, rng
        self.means: list[float] = []
        """Mean returns of the groups so far, the newest last."""
        self._awake = False  # whether an iteration has gone well enough for replay to begin

    def gradient(self, config: TrainConfig, tasks: Sequence[str] = ()) -> dict[str, float]:
        """Backward of the imitation loss over some episodes; returns metrics, none if there is nothing to replay.

        Args:
            config: The numbers as the schedules have them.
            tasks: Keys of the tasks whose earlier attempts may be replayed, if those matter.
        """
        settings = config.imitation
        entries = self._chosen(config, tasks) if len(self.buffer) else []
        if not entries:
            return {}
        advantage_E = self._advantages(config, entries)
        stream = replayed_stream(self._models, config, self.buffer, entries, advantage_E, settings.mismatch)
        if isinstance(settings.select, Priority):
            weight_E = torch.from_numpy(self.buffer.importance(entries)).float()
            stream = dataclasses.replace(stream, weight_N=stream.weight_N * weight_E[stream.episode_N])
            self.buffer.refresh(entries, np.abs(advantage_E))
        if settings.loss.skips_errors:
            stream = masked(stream, valid_turns([self.buffer.episode(entry) for entry in entries]))
        model = self._models.policy.model
        return imitation_gradient(model, stream, settings.weight, config, self._temperature, self._rng)

    def _chosen(self, config: TrainConfig, tasks: Sequence[str]) -> list[Entry]:
        """What is replayed at this step; nothing before there is enough."""
        settings, buffer = config.imitation, self.buffer
        if settings.wait_for_success > 0 and not self._awake:
            return []
        ask: dict[str, Any] = {"entropy_of": self._entropy_of} if settings.select.needs_entropy else {}
        if settings.judged_by == "split":
            if len(buffer) < settings.wait_for_entries:
                return []
            ready = [task for task in tasks if buffer.num_of_task(task) >= settings.per_group_wait]
            return [e for task in ready for e in buffer.sample(settings.per_group, self._rng, task=task, **ask)]
        num = len(buffer)
        if settings.judged_by == "p50":
            ask["above"] = float(np.median(self.means)) if self.means else np.inf
            num = sum(entry.episode_return > ask["above"] for entry in buffer.entries)
        return buffer.sample(settings.episodes_per_step, self._rng, **ask) if num >= settings.wait_for_entries else []

    def _advantages(self, config: TrainConfig, entries: Sequence[Entry]) -> Floats:
        """[E] how much better the entries went than what they are judged by."""
        judged_by = config.imitation.judged_by
        if judged_by == "group":
            return np.array([entry.advantage for entry in entries])
        return_E = config.outcomes([self.buffer.episode(entry) for entry in entries]).return_E
        if judged_by == "p50":
            return np.maximum(return_E - np.median(self.means), 0.0)
        task_E = np.unique([entry.task for entry in entries], return_inverse=True)[1]
        centred_E, deviation_G = within_groups(return_E, task_E, int(task_E.max()) + 1)
        return np.asarray(centred_E / (deviation_G[task_E] + 1e-4))  # as RePO's code has it

    def _entropy_of(self, entries: Sequence[Entry]) -> Floats:
        """[M] mean token entropy of entries under the policy as it is."""
        found = [(place, row) for place, entry in enumerate(entries) for row in self.buffer.rows(entry)]
        stats = self._models.measure([row for _, row in found])
        entry_N = np.repeat([place for place, _ in found], [row.num_sampled for _, row in found])
        total_M = np.bincount(entry_N, stats.entropy_N.double().numpy(), len(entries))
        return np.asarray(total_M / np.maximum(np.bincount(entry_N, minlength=len(entries)), 1))

    def take_in(
        self,
        config: TrainConfig,
        collection: Collection,
        batch: Batch,
        *,
        used: bool,
        iteration: int,
        quarantined: Names[str] = (),
    ) -> dict[str, float]:
        """Admit what an iteration has collected, after its steps: what is replayed is past experience; returns metrics.

        Args:
            config: The numbers.
            collection: What was collected.
            batch: All of it that is learnt from, before any filter.
            used: Whether the iteration has replayed something.
            iteration: Iterations done, this one included.
            quarantined: Ids of the memories in quarantine.
        """
        settings, patched = config.imitation, collection.patched
        if settings.empty_after_use and used:
            self.buffer.empty()
        own = [i for i in range(len(batch.episodes)) if i not in patched.injected]
        gain_E = batch.gain_E.tolist()
        admitted = self.buffer.update(
            [*(batch.episodes[i] for i in own), *patched.extra],
            [*(gain_E[i] for i in own), *([patched.gain] * len(patched.extra))],
            iteration=iteration,
            version=self._models.policy.version,
            quarantined=quarantined,
        )
        self._awake |= collection.values["success"] > settings.wait_for_success
        if settings.judged_by == "p50":
            outcomes = batch.outcomes
            self.means += (np.bincount(outcomes.group_E, outcomes.return_E) / np.bincount(outcomes.group_E)).tolist()
            del self.means[: -(settings.loss.history if isinstance(settings.loss, SPEAR) else HISTORY)]
        return {"imitation/admitted": admitted, "imitation/entries": len(self.buffer)}

    def state(self) -> dict[str, Any]:
        """What the next iterations depend on besides the buffer, as JSON values."""
        return {"means": self.means, "awake": self._awake}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state()` was taken."""
        self.means, self._awake = list(state["means"]), state["awake"]


def replayed_stream(
    models: Models,
    config: TrainConfig,
    buffer: ReplayBuffer,
    entries: Sequence[Entry],
    advantage_E: Floats,
    mismatch: Mismatch | None = None,
) -> Stream:
    """The stream of replayed entries, with an advantage each and the weights of `mismatch`."""
    rows = [dataclasses.replace(row, episode=i) for i, entry in enumerate(entries) for row in buffer.rows(entry)]
    counts = [row.num_sampled for row in rows]
    advantage_N = torch.from_numpy(np.repeat(advantage_E[[row.episode for row in rows]], counts))
    reference = models.measure_reference(rows) if config.credit.needs_reference else None
    stream = models.stream(config, rows, advantage_N, reference, measured=mismatch is not None)
    if mismatch is not None:
        stream, _ = mismatch.corrected(stream)
    return dataclasses.replace(stream, episode_ids=[entry.episode_id for entry in entries])
