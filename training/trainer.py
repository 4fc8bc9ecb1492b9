"""The trainer: collect groups of attempts, turn them into weighted rows, step. The loop is `Trainer.iterate`.

What is left out on purpose: no asynchronous collection, no second copy of the weights to sample from.
The policy that acts is the network that learns, so stored log-probabilities are the old policy's.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agentkit.attempt import Limits, Recall
from agentkit.errors import CheckpointError
from agentkit.memory.lock import FolderLock
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode
from agentkit.policies.local import LocalPolicy
from agentkit.policies.policy import Sampling
from agentkit.seeding import derive_seed
from agentkit.training.advantages import ArCHer
from agentkit.training.batch import Batch, Estimate, policy_stream, shares
from agentkit.training.binding import scheduled
from agentkit.training.bottleneck import Diagnosis, group_energies
from agentkit.training.checkpoint import (
    discard_checkpoints,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_critic,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from agentkit.training.collector import Collector
from agentkit.training.config import TrainConfig
from agentkit.training.critic import Critic
from agentkit.training.forward import check_model
from agentkit.training.learner import Learner
from agentkit.training.metrics import TIMINGS, Metrics
from agentkit.training.models import Models
from agentkit.training.plans import RolloutPlan
from agentkit.training.replay import ReplayBuffer, retained
from agentkit.training.replay.imitation import Imitation
from agentkit.training.replay.rehearsal import Rehearsal
from agentkit.training.stream import Stream


class Trainer:
    """Trains a `LocalPolicy` on an environment.

    Args:
        policy: Acts and learns; its model is changed in place.
        env_id: Gymnasium id of the training environment.
        folder: Run folder: episode log, replay, checkpoints, metrics.
        config: The numbers.
        params: Parameters of the environment.
        agent: A compiled graph; default `build_agent()`.
        sampling: How to sample while collecting.
        limits: When to stop an attempt.
        recall: Memory to read while collecting, or None.
        seed: Seed of everything random.
        reference: Frozen model for energy and KL; default: the policy's weights at the start.

    Raises:
        ConfigError: The settings and the model do not fit together.
        OwnedElsewhereError: Another trainer works in the folder.
    """

    def __init__(
        self,
        policy: LocalPolicy,
        env_id: str,
        folder: str | Path,
        config: TrainConfig,
        *,
        params: dict[str, Any] | None = None,
        agent: Any = None,
        sampling: Sampling | None = None,
        limits: Limits | None = None,
        recall: Recall | None = None,
        seed: int = 0,
        reference: Any = None,
    ) -> None:
        self.policy, self.config, self.seed = policy, config, seed
        self.folder, self.iteration = Path(folder), 0
        sampling = sampling or Sampling()
        config.check_sampling(sampling)
        check_model(policy.model)
        (config.plan or RolloutPlan()).check(config, env_id)
        self._lock = FolderLock(self.folder)  # a second trainer would mix its files with ours
        try:
            self.rng = np.random.default_rng(derive_seed(seed, "trainer"))
            self.models = Models(policy, config, sampling.temperature, reference)
            self.log = EpisodeLog.open(self.folder / "episodes.sqlite")
            options = {"agent": agent, "sampling": sampling, "limits": limits, "recall": recall}
            self.collector = Collector(self.models, self.log, config, env_id, params or {}, options, seed)
            self.learner = Learner(self.models, config, sampling.temperature, self.rng)
            self.diagnosis = Diagnosis(config.bottleneck_every)
            self.critic: Critic | None = None
            if isinstance(config.advantage, ArCHer):
                self.critic = Critic(self.models, self.log, config.advantage, seed)
            self.imitation: Imitation | None = None
            if config.imitation.weight > 0:
                buffer = ReplayBuffer(self.folder / "replay.sqlite", self.log, config.imitation)
                self.imitation = Imitation(buffer, self.models, sampling.temperature, self.rng)
            self.rehearsal: Rehearsal | None = None
            if config.retention is not None:
                kept = retained(config.retention, self.folder, seed)
                self.rehearsal = Rehearsal(kept, config.retention, self.models, sampling.temperature, self.rng)
        except BaseException:
            self._lock.close()
            raise
        self._barren = 0  # iterations in a row without anything to learn from
        self._restored = False

    def train(
        self,
        on_iteration: Callable[[int, Mapping[str, float | None]], None] | None = None,
        on_episode: Callable[[Episode], None] | None = None,
    ) -> None:
        """Iterate from where the run stands to the end, saving checkpoints and metrics on the way.

        Raises:
            CheckpointError: The folder holds a run that has come further, and `restore` was not called.
        """
        later = [path for path in list_checkpoints(self.folder / "checkpoints") if int(path.name) > self.iteration]
        if later and not self._restored:
            raise CheckpointError(
                f"{str(self.folder)!r} holds a run that has come to iteration {int(later[-1].name)}; "
                "call restore() to go on with it, or give another folder"
            )
        discard_checkpoints(self.folder / "checkpoints", after=self.iteration)
        metrics = Metrics(self.folder, after=self.iteration)
        try:
            if self.iteration == 0:
                if self.imitation is not None:
                    self.imitation.buffer.restore(0)
                self.save()
            while self.iteration < self.config.iterations:
                values = self.iterate(on_episode)
                metrics.write(self.iteration, values)
                barren = self._is_barren()
                done = barren or self.iteration == self.config.iterations
                if done or self.iteration % self.config.checkpoint_every == 0:
                    self.save()
                if on_iteration is not None:
                    on_iteration(self.iteration, values)
                if barren:
                    break
        finally:
            metrics.close()

    def _is_barren(self) -> bool:
        """Whether so many iterations had nothing to teach that training ends, as the filter says."""
        limit = None if self.config.filter is None else self.config.filter.stop_after
        if limit is None or self._barren < limit:
            return False
        found = f"no group had anything to teach in {self._barren} iterations in a row, so training ends early"
        warnings.warn(f"{found}; play other tasks, or raise filter.stop_after", RuntimeWarning, stacklevel=3)
        return True

    def iterate(self, on_episode: Callable[[Episode], None] | None = None) -> dict[str, float | None]:
        """Collect one batch and learn from it; returns its metrics."""
        begun, config = time.perf_counter(), self._now()
        self.learner.begin()
        collection = self.collector.collect(config, self.iteration, on_episode)
        collected = time.perf_counter()
        self.iteration += 1
        collected_batch = Batch.of(config, collection.patched.episodes, collection.patched.injected)
        collected_batch.check(self.iteration, self.policy.model)
        valued = {}
        if self.critic is not None:
            made = collected_batch.episodes, collected_batch.outcomes
            valued = self.critic.learn(config, *made, self.iteration, self.rng)
        batch = self._diagnosed(collected_batch).filtered(config)
        stream, found = None, {"rows/learned": 0.0}
        waits = self.critic is not None and self.critic.warming
        # A filter may keep nothing, or only attempts that never asked the policy.
        if batch.episodes and batch.rows and not waits:
            estimate = Estimate.of(batch, self.models, config, self.critic)
            stream, found = policy_stream(batch, estimate, self.models, config)
        values: dict[str, float | None] = {**collection.values, **valued, **batch.values, **found}
        self._barren = 0 if stream is not None or waits else self._barren + 1
        if stream is not None:
            values |= self._learn(config, stream, collection.tasks)
        if self.imitation is not None:
            # After the steps: what is replayed is past experience, never the batch at hand a second time.
            values |= self.imitation.take_in(
                config,
                collection,
                collected_batch,
                used="tokens/imitation" in values,
                iteration=self.iteration,
                quarantined=self.collector.quarantined(),
            )
        values |= self.diagnosis.report(self.iteration)
        ended = time.perf_counter()
        return values | {TIMINGS + "collect": collected - begun, TIMINGS + "learn": ended - collected}

    def _learn(self, config: TrainConfig, stream: Stream, tasks: Sequence[str]) -> dict[str, float]:
        """All optimizer steps on the stream; returns sums of token counts, and means of all other metrics.

        Args:
            config: The numbers as the iteration began.
            stream: The policy stream.
            tasks: Keys of the iteration's tasks, which are shared out among the steps of an epoch.
        """
        steps: list[dict[str, float]] = []
        for _ in range(config.epochs):
            parts = shares(stream, config.minibatches, self.rng)
            for chosen, keys in zip(parts, np.array_split(tasks, len(parts)), strict=True):
                steps.append(self._step(stream, chosen, keys.tolist()))
        values = {}
        for name in dict.fromkeys(name for step in steps for name in step):
            found = [step[name] for step in steps if name in step]  # not every step replays
            values[name] = sum(found) if name.startswith("tokens/") else sum(found) / len(found)
        alone = self._step(stream, [], tasks) if config.imitation.own_step else {}
        return values | {name: value for name, value in alone.items() if "imitation" in name}

    def _step(self, stream: Stream, chosen: list[int], tasks: Sequence[str] = ()) -> dict[str, float]:
        """One optimizer step on some rows of the policy stream and on replayed episodes, of `tasks` if those matter.

        Without any row it is imitation's own step, none if nothing is replayed.
        """
        config = self._now()
        replayed: list[str] = []

        def replay() -> dict[str, float]:
            values: dict[str, float] = {}
            if self.imitation is not None and config.imitation.own_step == (not chosen):
                values |= self.imitation.gradient(config, tasks)
                replayed.extend(self.imitation.replayed)
            if self.rehearsal is not None and chosen:
                values |= self.rehearsal.gradient(config, self.learner.clocks.days)
                replayed.extend(self.rehearsal.replayed)
            return values

        return self.learner.step(config, stream, chosen, self.iteration, replay, replayed)

    def _now(self) -> TrainConfig:
        """The settings as the schedules have them at this moment; the buffer goes by them too."""
        schedules, clocks = self.config.schedules, self.learner.clocks
        factors = {name: schedule.factor(clocks.read(schedule)) for name, schedule in schedules.items()}
        config = scheduled(self.config, factors) if factors else self.config
        if self.imitation is not None:
            self.imitation.buffer.config = config.imitation
        return config

    def _diagnosed(self, batch: Batch) -> Batch:
        """The batch, with what the reference says of it in iterations that the diagnostic asks for."""
        if not self.diagnosis.is_due(self.iteration):
            return batch
        reference = self.models.measure_reference(batch.rows)
        self.diagnosis.groups += group_energies(batch.episodes, batch.rows, reference.energy_N.numpy())
        return dataclasses.replace(batch, reference=reference)

    def save(self) -> Path:
        """Write a checkpoint of everything that the next iterations depend on."""
        state = {
            "seed": self.seed,
            **self._given(),
            "rng": self.rng.bit_generator.state,
            **random_state(),
            "barren": self._barren,
        }
        state |= {name: None if part is None else part.state() for name, part in self._parts().items()}
        return save_checkpoint(
            self.folder / "checkpoints",
            self.iteration,
            self.policy.model,
            self.learner.optimizer,
            state,
            self.config.keep_checkpoints,
            None if self.critic is None else self.critic.tensors(),
        )

    def restore(self, checkpoint: Path | None = None) -> None:
        """Continue from a checkpoint, by default the newest of the run folder.

        The reference stays as it was given: a resumed run must be built with the same initial policy.

        Raises:
            CheckpointError: The checkpoint cannot be read, or is of another model, reference or seed.
        """
        path = checkpoint or latest_checkpoint(self.folder / "checkpoints")
        parts = {name: part for name, part in self._parts().items() if part is not None}

        def check(state: Mapping[str, Any]) -> None:
            if state["seed"] != self.seed:
                raise CheckpointError(f"checkpoint {str(path)!r} is of seed {state['seed']}, this run of {self.seed}")
            other = next((name for name in parts if state.get(name) is None), None)
            if other is not None:
                raise CheckpointError(
                    f"checkpoint {str(path)!r} is of a run without {other}; resume with the same settings"
                )
            for name, digest in self._given().items():
                if state.get(name, digest) != digest:  # older checkpoints tell only of the reference
                    raise CheckpointError(
                        f"checkpoint {str(path)!r} was trained beside another {name.replace('_', ' ')}; build the "
                        "policy from the weights the run began with, and give the same `reference`, if any"
                    )

        state = load_checkpoint(path, self.policy.model, self.learner.optimizer, check)
        self._restored = True
        self.iteration, self._barren = state["iteration"], state["barren"]
        self.rng.bit_generator.state = state["rng"]
        restore_random_state(state)
        for name, part in parts.items():
            part.restore(state[name], *([load_critic(path)] if name == "critic" else []))
        if self.imitation is not None:
            self.imitation.buffer.restore(self.iteration)

    def _given(self) -> dict[str, str | None]:
        """Hashes of the weights that the run depends on and checkpoints do not hold; None where it has none of them."""
        anchor = None if self.rehearsal is None else self.rehearsal.anchor_digest
        return {
            "reference": self.models.reference_digest,
            "frozen_base": self.models.frozen_digest,
            "anchor": anchor,
        }

    def _parts(self) -> dict[str, Any]:
        """What has a state of its own, by its name in checkpoints; None where the run has no such part."""
        names = ("collector", "learner", "diagnosis", "critic", "imitation", "rehearsal")
        return {name: getattr(self, name) for name in names}

    def close(self) -> None:
        """Close the log and the replay buffers, and give the folder back."""
        if self.imitation is not None:
            self.imitation.buffer.close()
        if self.rehearsal is not None:
            self.rehearsal.close()
        self.log.close()
        self._lock.close()
