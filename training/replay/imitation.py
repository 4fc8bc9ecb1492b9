"""Imitation: the run's own episodes learnt from again, as a stream beside the policy's."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection as Names
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agentkit.training.advantages import Outcomes, within_groups
from agentkit.training.batch import Batch
from agentkit.training.collector import Collection
from agentkit.training.config import TrainConfig
from agentkit.training.gradients import imitation_gradient
from agentkit.training.masks import masked, valid_turns
from agentkit.training.mismatch import Mismatch
from agentkit.training.models import Models
from agentkit.training.replay.buffer import ReplayBuffer
from agentkit.training.replay.entry import Entry
from agentkit.training.replay.selection import Priority
from agentkit.training.replay.settings import ImitationConfig
from agentkit.training.stream import Stream

Floats = NDArray[np.float64]


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
        """Mean R of the groups so far, the newest last."""
        self.replayed: list[str] = []
        """Ids of the episodes of the last replay."""
        self._awake = False  # whether an iteration has gone well enough for replay to begin

    def gradient(self, config: TrainConfig, tasks: Sequence[str] = ()) -> dict[str, float]:
        """Backward of the imitation loss over some episodes; returns metrics, none if there is nothing to replay.

        Args:
            config: The numbers as the schedules have them.
            tasks: Keys of the tasks whose earlier attempts may be replayed, if those matter.
        """
        settings = config.imitation
        entries = self._chosen(config, tasks) if len(self.buffer) and settings.weight > 0 else []
        self.replayed = [entry.episode_id for entry in entries]
        if not entries:
            return {}
        gain_E = self._gains(settings, entries)
        advantages = _advantages(settings, entries, gain_E)
        stream, found = replayed_stream(self._models, config, self.buffer, entries, advantages, settings.mismatch)
        if isinstance(settings.select, Priority):
            weight_E = torch.from_numpy(self.buffer.importance(entries)).float()
            stream = dataclasses.replace(stream, factor_N=stream.factor_N * weight_E[stream.episode_N])
            self.buffer.refresh(entries, np.abs(gain_E).tolist())
        if settings.loss.skips_errors:
            stream = masked(stream, valid_turns([self.buffer.episode(entry) for entry in entries]))
        model = self._models.policy.model
        return found | imitation_gradient(
            model, stream, settings.weight, config, self._temperature, self._rng, reduction=settings.reduction
        )

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

    def _gains(self, settings: ImitationConfig, entries: Sequence[Entry]) -> Floats:
        """[E] how much better the entries went than what they are judged by."""
        if settings.judged_by == "group":
            return np.array([entry.advantage for entry in entries])
        return_E = np.array([entry.episode_return for entry in entries])
        if settings.judged_by == "p50":
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
        settings, patched, outcomes = config.imitation, collection.patched, batch.outcomes
        if settings.empty_after_use and used:
            self.buffer.empty()
        own = [i for i in range(len(batch.episodes)) if i not in patched.injected]
        extra, of_turns = patched.extra, _estimated(config, outcomes)
        extra_returns = config.outcomes(extra).return_E.tolist() if extra else []
        admitted = self.buffer.update(
            [*(batch.episodes[i] for i in own), *extra],
            [*(float(batch.gain_E[i]) for i in own), *([patched.gain] * len(extra))],
            iteration=iteration,
            version=self._models.policy.version,
            returns=[*(float(outcomes.return_E[i]) for i in own), *extra_returns],
            turn_advantages=[*(of_turns[i] for i in own), *([()] * len(extra))],
            quarantined=quarantined,
        )
        self._awake |= collection.values["success"] > settings.wait_for_success
        if settings.judged_by == "p50":
            self.means += (np.bincount(outcomes.group_E, outcomes.return_E) / np.bincount(outcomes.group_E)).tolist()
            del self.means[: -settings.p50_groups]
        return {"imitation/admitted": admitted, "imitation/entries": len(self.buffer)}

    def state(self) -> dict[str, Any]:
        """What the next iterations depend on besides the buffer, as JSON values."""
        return {"means": self.means, "awake": self._awake}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state()` was taken."""
        self.means, self._awake = list(state["means"]), state["awake"]


def _estimated(config: TrainConfig, outcomes: Outcomes) -> list[tuple[float, ...]]:
    """[E] what the run's estimator gives each turn of an episode, where replay will ask; else nothing.

    It is of all that was collected, before any filter and without the modifiers. An estimator that needs a critic is
    not asked: it would have to value every entry anew, as the policy has moved on.
    """
    settings = config.imitation
    asked = settings.loss.needs_estimate and settings.judged_by == "group" and config.advantage.needs_values is None
    if not asked:
        return [()] * len(outcomes.return_E)
    advantage_U = config.advantage.turns(outcomes)
    return [tuple(advantage_U[first:end].tolist()) for first, end in itertools.pairwise(outcomes.starts)]


def _advantages(settings: ImitationConfig, entries: Sequence[Entry], gain_E: Floats) -> list[Floats]:
    """Of each entry the advantages of its turns, or one for all."""
    if settings.judged_by != "group" or not settings.loss.needs_estimate:
        return [np.array([gain]) for gain in gain_E]
    return [np.array(entry.turn_advantages or (entry.advantage,)) for entry in entries]


def replayed_stream(
    models: Models,
    config: TrainConfig,
    buffer: ReplayBuffer,
    entries: Sequence[Entry],
    advantages: Sequence[Floats],
    mismatch: Mismatch | None = None,
) -> tuple[Stream, dict[str, float]]:
    """(the stream of replayed entries, with the weights of `mismatch`; metrics of those).

    Of each entry there are the advantages of its turns, or one for all.
    """
    rows = [dataclasses.replace(row, episode=i) for i, entry in enumerate(entries) for row in buffer.rows(entry)]
    each_R = [advantages[row.episode] for row in rows]
    advantage_N = np.concatenate(
        [
            each[row.turns[row.sampled]] if len(each) > 1 else np.repeat(each, row.num_sampled)
            for row, each in zip(rows, each_R, strict=True)
        ]
    )
    reference = models.measure_reference(rows) if config.credit.needs_reference else None
    stream = models.stream(config, rows, torch.from_numpy(advantage_N), reference, measured=mismatch is not None)
    found: dict[str, float] = {}
    if mismatch is not None:
        stream, found = mismatch.corrected(stream)
    named = dataclasses.replace(stream, episode_ids=[entry.episode_id for entry in entries])
    return named, {f"imitation/{name}": value for name, value in found.items()}
