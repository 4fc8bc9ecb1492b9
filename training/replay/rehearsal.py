"""Rehearsal: replay of what is retained of an earlier run, when model time says that it is due."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from agentkit.errors import ConfigError
from agentkit.memory.records import Episode
from agentkit.training.checkpoint import weights_digest
from agentkit.training.config import TrainConfig
from agentkit.training.forward import check_vocabulary
from agentkit.training.gradients import imitation_gradient
from agentkit.training.masks import masked, valid_turns
from agentkit.training.models import Models
from agentkit.training.replay.buffer import ReplayBuffer
from agentkit.training.replay.imitation import replayed_stream
from agentkit.training.replay.retention import Retention
from agentkit.training.rows import build_rows
from agentkit.training.sft import written_tokens


class Rehearsal:
    """Replays retained episodes, and pulls the weights back to those the run began with.

    Args:
        buffer: What is retained, with the log it is of; both are closed with it.
        settings: How.
        models: Who learns.
        temperature: The sampling temperature.
        rng: For all that is random; the trainer's.
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        settings: Retention,
        models: Models,
        temperature: float,
        rng: np.random.Generator,
    ) -> None:
        self.replays = 0
        """Replays done."""
        self.replayed: list[str] = []
        """Ids of the episodes of the last replay, none where none was due."""
        self._buffer, self._models, self._temperature, self._rng = buffer, models, temperature, rng
        self.anchor_digest: str | None = None
        """Hash of the weights that steps are pulled back to; None without a pull."""
        self._anchor: list[torch.Tensor] = []
        if settings.anchor > 0:
            self.anchor_digest = weights_digest(models.policy.model)
            self._anchor = [parameter.detach().clone() for parameter in models.learns]
        _check_tokens(models, [buffer.episode(entry) for entry in buffer.entries], settings.log)

    def gradient(self, config: TrainConfig, days: float) -> dict[str, float]:
        """Backward of the loss of a replay and of the anchor's pull; returns metrics, none if no replay is due.

        Args:
            config: The numbers as the schedules have them.
            days: Model time of the run.
        """
        settings, self.replayed = config.retention, []
        if settings is None or not settings.is_due(days, self.replays):
            return {}
        self.replays += 1
        entries = self._buffer.sample(settings.episodes, self._rng)
        self.replayed = [entry.episode_id for entry in entries]
        stream, _ = replayed_stream(self._models, config, self._buffer, entries, [np.ones(1)] * len(entries))
        if settings.loss.skips_errors:
            stream = masked(stream, valid_turns([self._buffer.episode(entry) for entry in entries]))
        model = self._models.policy.model
        values = imitation_gradient(model, stream, settings.weight, config, self._temperature, self._rng, settings.loss)
        for parameter, first in zip(self._models.learns, self._anchor, strict=False):
            if parameter.grad is not None:
                parameter.grad += 2 * settings.anchor * (parameter.detach() - first)  # of β‖θ − θ*‖²
        return {name.replace("imitation", "retention"): value for name, value in values.items()}

    def state(self) -> dict[str, Any]:
        """What the next steps depend on, as JSON values."""
        return {"replays": self.replays}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state()` was taken."""
        self.replays = state["replays"]

    def close(self) -> None:
        """Close the buffer and its log."""
        self._buffer.close()
        self._buffer.log.close()


def _check_tokens(models: Models, episodes: Sequence[Episode], log: str) -> None:
    """Raise `ConfigError` unless the episodes were recorded with the tokenizer of the policy."""
    try:
        rows, _ = build_rows(episodes, written_tokens(models.policy))
        check_vocabulary(models.policy.model, rows, [episode.id for episode in episodes])
    except ConfigError as error:
        raise ConfigError(f"retention.log = {log!r}: {error}") from error
