"""The trainer: collect groups of attempts, turn them into weighted rows, step. The loop is `Trainer.iterate`.

What is left out on purpose: no asynchronous collection, no second copy of the weights to sample from.
The policy that acts is the network that learns, so stored log-probabilities are the old policy's.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from agentkit.attempt import Limits, Recall
from agentkit.errors import CheckpointError, ConfigError, PolicyFault
from agentkit.memory.lock import FolderLock
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode
from agentkit.memory.watch import quarantined
from agentkit.policies.local import LocalPolicy
from agentkit.policies.policy import Sampling
from agentkit.seeding import derive_seed
from agentkit.task import Task, make_tasks
from agentkit.training.advantages import GAE, Outcomes, group_indices, within_groups
from agentkit.training.advantages.values import ValueHead
from agentkit.training.binding import scheduled
from agentkit.training.bottleneck import MIN_GROUPS, GroupEnergy, bottleneck, group_energies
from agentkit.training.checkpoint import (
    discard_checkpoints,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    weights_digest,
)
from agentkit.training.clocks import Clocks, distance
from agentkit.training.config import TrainConfig
from agentkit.training.filters import group_variances
from agentkit.training.forward import TokenStats, check_model, measure
from agentkit.training.gradients import imitation_gradient, policy_gradient
from agentkit.training.losses import SPEAR, EntropyHistory
from agentkit.training.metrics import TIMINGS, Metrics
from agentkit.training.mismatch import Mismatch
from agentkit.training.network import learning_parameters, without_adapters
from agentkit.training.plans import Collected, Ground, RolloutPlan, State
from agentkit.training.replay import Entry, ReplayBuffer, retained
from agentkit.training.replay.selection import Priority
from agentkit.training.rows import Row, build_rows
from agentkit.training.stream import Stream, flatten, per_token
from agentkit.training.tasks import Beliefs


class _Estimate(NamedTuple):
    """Advantages of all sampled tokens of a batch, and what a value head needs to learn."""

    advantage_N: torch.Tensor
    target_N: torch.Tensor | None = None
    policy: TokenStats | None = None
    """What the policy said of the tokens, their old values with it."""


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
        self.env_id, self.params = env_id, params or {}
        self.agent, self.sampling, self.limits, self.recall = agent, sampling or Sampling(), limits, recall
        if self.sampling.temperature == 0:
            raise ConfigError("temperature = 0 gives every attempt of a group the same tokens; raise it to train")
        check_model(policy.model)
        self._plan = config.plan or RolloutPlan()
        self._plan.check(config, env_id)
        self.folder = Path(folder)
        self._lock = FolderLock(self.folder)  # a second trainer would mix its files with ours
        self.rng = np.random.default_rng(derive_seed(seed, "trainer"))
        self.iteration = 0
        self._groups: list[GroupEnergy] = []
        self._entropies = EntropyHistory()
        self._means: list[float] = []
        self.clocks = Clocks(config.model_time)
        self._since = time.perf_counter()
        self.beliefs = Beliefs.about(config.task_pool or 0, config.tasks.num_categories)
        self._barren = 0  # iterations in a row without anything to learn from
        self._awake = False  # whether an iteration has gone well enough for replay to begin
        self._replays = 0  # of what is retained
        self._restored = False
        self._planned: State = {}
        try:
            self._open(policy, config, reference)
        except BaseException:
            self._lock.close()
            raise

    def _open(self, policy: LocalPolicy, config: TrainConfig, reference: Any) -> None:
        self.reference = None
        config.network.prepare(policy.model)
        asked = config.needs_reference or any(modifier.needs_reference for modifier in config.modifiers)
        if asked or config.bottleneck_every > 0:
            own = reference is None or reference is policy.model
            if own and config.network.lora is not None:
                self.reference = policy.model  # with its adapters switched off
            else:  # a reference that is the learning model itself would freeze it
                self.reference = copy.deepcopy(policy.model) if own else reference
                self.reference.requires_grad_(False).eval()
        self.log = EpisodeLog.open(self.folder / "episodes.sqlite")
        self.replay: ReplayBuffer | None = None
        self.retained: ReplayBuffer | None = None
        self._anchor: list[torch.Tensor] = []
        if config.imitation.weight > 0:
            self.replay = ReplayBuffer(self.folder / "replay.sqlite", self.log, config.imitation)
        self.learns = list(learning_parameters(policy.model).values())
        if config.retention is not None:
            self.retained = retained(config.retention, self.folder, self.seed)
            if config.retention.anchor > 0:
                self._anchor = [parameter.detach().clone() for parameter in self.learns]
        self.values: ValueHead | None = None
        groups: list[dict[str, Any]] = [{"params": self.learns, "factor": 1.0}]
        if isinstance(config.advantage, GAE):
            self.values = ValueHead(policy.model.get_output_embeddings().weight.shape[1]).to(policy.model.device)
            groups.append({"params": list(self.values.parameters()), "factor": config.advantage.value_rate})
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)

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
                if self.replay is not None:
                    self.replay.restore(0)
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
        self._since = begun = time.perf_counter()
        config = self._now()
        self._plan = config.plan or RolloutPlan()
        ground = self._ground(on_episode)
        collection = self._collect(ground)
        episodes = collection.episodes
        collected = time.perf_counter()
        self.iteration += 1
        # A failed attempt says nothing about the policy: it leaves its group.
        played = [episode for episode in episodes if episode.error is None]
        if not played:
            raise PolicyFault(f"all {len(episodes)} attempts failed, e.g.: {episodes[0].error}")
        attempts, patched = played, self._plan.patch(ground, played, self._planned)
        played = patched.episodes
        outcomes = Outcomes.of(played, config.format_penalty, reward_range=config.reward_range)
        gain = within_groups(outcomes.return_E, outcomes.group_E, outcomes.num_groups)[0].tolist()
        means_G = np.bincount(outcomes.group_E, outcomes.return_E) / np.bincount(outcomes.group_E)
        self._believe(attempts)
        rows, joins = build_rows(played)
        self._check(rows, played)
        reference = self._diagnose(played, rows)
        kept_G, scale, filtered = self._filter(outcomes)
        batch = list(itertools.compress(played, kept_G[outcomes.group_E].tolist()))
        if 0 < len(batch) < len(played):  # what was measured is of other rows
            outcomes = Outcomes.of(batch, config.format_penalty, reward_range=config.reward_range)
            rows, reference = build_rows(batch)[0], None
        estimate, reference = self._advantages(outcomes, rows, reference)
        # A row of a group without variance has no gradient: it is not computed at all.
        counts = [row.num_sampled for row in rows]
        pieces = estimate.advantage_N.split(counts)
        teaches = [len(batch) > 0 and bool(advantage_N.any()) for advantage_N in pieces]
        learn = list(itertools.compress(rows, teaches))
        self._barren = 0 if learn else self._barren + 1
        values = self._summary(episodes, attempts) | collection.values | patched.values | filtered
        values |= {
            "groups/with_variance": float(np.mean([any(gain[i] for i in group) for group in group_indices(played)])),
            "rows/learned": len(learn),
            "rows/joined": joins.joined,
            "rows/forked": joins.forked,
        }
        if learn:
            taught_N = torch.from_numpy(np.repeat(teaches, counts))
            if reference is not None:
                reference = reference.of(taught_N)
            elif config.needs_reference:
                reference = self._measure_reference(learn)
            policy = None if estimate.policy is None else estimate.policy.of(taught_N)
            measured = policy if policy is not None else config.mismatch is not None
            stream = self._stream(learn, scale * estimate.advantage_N[taught_N], reference, measured=measured)
            if estimate.target_N is not None:
                stream = dataclasses.replace(stream, target_N=estimate.target_N[taught_N])
            group_N = torch.from_numpy(outcomes.group_E)[stream.episode_N]
            stream = dataclasses.replace(stream, group_N=group_N, episode_ids=[episode.id for episode in batch])
            if config.mismatch is not None:
                factor_N, found = config.mismatch.factors(stream.old_logp_N, stream.behaviour_logp_N, stream.episode_N)
                stream = dataclasses.replace(stream, weight_N=stream.weight_N * factor_N)
                values |= found
            steps: list[dict[str, float]] = []
            for _ in range(config.epochs):
                order = self.rng.permutation(len(learn))
                parts = np.array_split(order, min(config.minibatches, len(learn)))
                tasks = np.array_split(list(dict.fromkeys(episode.task.key for episode in attempts)), len(parts))
                for chosen, keys in zip(parts, tasks, strict=True):
                    steps.append(self._step(stream, sorted(chosen.tolist()), keys.tolist()))
            for name in dict.fromkeys(name for step in steps for name in step):
                total = sum(step.get(name, 0.0) for step in steps)
                values[name] = total if name.startswith("tokens/") else total / len(steps)
        if self.replay is not None:
            if config.imitation.empty_after_use and "tokens/imitation" in values:
                self.replay.empty()
            # After the step: what is replayed is past experience, never the batch at hand a second time.
            own = [i for i in range(len(played)) if i not in patched.injected]
            values["imitation/admitted"] = self.replay.update(
                [*(played[i] for i in own), *patched.extra],
                [*(gain[i] for i in own), *([patched.gain] * len(patched.extra))],
                iteration=self.iteration,
                version=self.policy.version,
                quarantined=self._quarantined(),
            )
            values["imitation/entries"] = len(self.replay)
        self._awake |= float(np.mean([episode.success for episode in attempts])) > config.imitation.wait_for_success
        if config.imitation.judged_by == "p50":
            self._means += means_G.tolist()
            del self._means[: -(config.imitation.loss.history if isinstance(config.imitation.loss, SPEAR) else 10_240)]
        if config.bottleneck_every and self.iteration % config.bottleneck_every == 0:
            values |= bottleneck(self._groups)
            if len(self._groups) >= MIN_GROUPS:  # else go on gathering
                self._groups = []
        ended = time.perf_counter()
        return values | {TIMINGS + "collect": collected - begun, TIMINGS + "learn": ended - collected}

    def _step(self, stream: Stream, chosen: list[int], tasks: Sequence[str] = ()) -> dict[str, float]:
        """One optimizer step on some rows of the policy stream and on replayed episodes, of `tasks` if those matter."""
        config, model = self._now(), self.policy.model
        self.optimizer.zero_grad(set_to_none=True)
        with config.network.learning(model):
            try:
                settings = config, self.sampling.temperature, self._entropies, self.iteration, self.values
                values = policy_gradient(model, stream, chosen, *settings)
                values |= self._imitate(tasks) | self._recollect()
            except PolicyFault as fault:
                raise PolicyFault(f"iteration {self.iteration}: {fault}") from fault
        everything = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(everything, config.max_grad_norm)
        if not torch.isfinite(norm):
            raise PolicyFault(
                f"the gradient of iteration {self.iteration} is not finite, no step was taken; resume from the "
                f"last checkpoint with a lower learning_rate. It was of {stream.names(stream.places(chosen))}"
            )
        for group in self.optimizer.param_groups:
            group["lr"], group["weight_decay"] = config.learning_rate * group["factor"], config.weight_decay
        before = [parameter.detach().clone() for parameter in self.learns] if config.needs_model_time else []
        self.optimizer.step()
        self.policy.version += 1
        moved, now = distance(before, self.learns) if before else 0.0, time.perf_counter()
        tokens = sum(value for name, value in values.items() if name.startswith("tokens/"))
        self.clocks.tick(int(tokens), moved, now - self._since)
        self._since = now
        values |= {"model_time": self.clocks.model} if before else {}
        return values | {"grad_norm": float(norm), "learning_rate": config.learning_rate}

    def _now(self) -> TrainConfig:
        """The settings as the schedules have them at this moment; the buffer goes by them too."""
        schedules = self.config.schedules
        factors = {name: schedule.factor(self.clocks.read(schedule)) for name, schedule in schedules.items()}
        config = scheduled(self.config, factors) if factors else self.config
        if self.replay is not None:
            self.replay.config = config.imitation
        return config

    def _imitate(self, tasks: Sequence[str] = ()) -> dict[str, float]:
        """Replay some episodes: a stream of its own, beside the policy's."""
        config, replay = self._now(), self.replay
        settings = config.imitation
        if replay is None or not len(replay):
            return {}
        entries = self._replayed(replay, tasks)
        if not entries:
            return {}
        advantage_E = np.array([entry.advantage for entry in entries])
        if settings.judged_by != "group":
            episodes = [self._logged(entry) for entry in entries]
            return_E = Outcomes.of(episodes, config.format_penalty, reward_range=config.reward_range).return_E
            if settings.judged_by == "p50":
                advantage_E = np.maximum(return_E - np.median(self._means), 0.0)
            else:
                task_E = np.unique([entry.task for entry in entries], return_inverse=True)[1]
                centred_E, deviation_G = within_groups(return_E, task_E, int(task_E.max()) + 1)
                advantage_E = centred_E / (deviation_G[task_E] + 1e-4)  # as RePO's code has it
        rows = [dataclasses.replace(row, episode=i) for i, entry in enumerate(entries) for row in replay.rows(entry)]
        stream = self._replay_stream(rows, advantage_E, [entry.episode_id for entry in entries], settings.mismatch)
        if isinstance(settings.select, Priority):
            weight_E = torch.from_numpy(replay.importance(entries)).float()
            stream = dataclasses.replace(stream, weight_N=stream.weight_N * weight_E[stream.episode_N])
            replay.refresh(entries, np.abs(advantage_E))
        if settings.loss.skips_errors:
            stream = _without_errors(stream, [self._logged(entry) for entry in entries])
        model, temperature = self.policy.model, self.sampling.temperature
        return imitation_gradient(model, stream, settings.weight, config, temperature, self.rng)

    def _replayed(self, replay: ReplayBuffer, tasks: Sequence[str]) -> list[Entry]:
        """What is replayed at this step; nothing before there is enough."""
        settings = self._now().imitation
        if settings.wait_for_success > 0 and not self._awake:
            return []
        ask: dict[str, Any] = {"entropy_of": self._entropy_of} if settings.select.needs_entropy else {}
        if settings.judged_by == "split":
            if len(replay) < settings.wait_for_entries:
                return []
            ready = [task for task in tasks if replay.num_of_task(task) >= settings.per_group_wait]
            return [e for task in ready for e in replay.sample(settings.per_group, self.rng, task=task, **ask)]
        num = len(replay)
        if settings.judged_by == "p50":
            ask["above"] = float(np.median(self._means)) if self._means else np.inf
            num = sum(entry.episode_return > ask["above"] for entry in replay.entries)
        return replay.sample(settings.episodes_per_step, self.rng, **ask) if num >= settings.wait_for_entries else []

    def _recollect(self) -> dict[str, float]:
        """Replay of what is retained of an earlier run, when model time says that it is due."""
        config, buffer = self._now(), self.retained
        settings = config.retention
        if settings is None or buffer is None or not settings.is_due(self.clocks.days, self._replays):
            return {}
        self._replays += 1
        entries = buffer.sample(settings.episodes, self.rng)
        rows = [dataclasses.replace(row, episode=i) for i, entry in enumerate(entries) for row in buffer.rows(entry)]
        stream = self._replay_stream(rows, np.ones(len(entries)), [entry.episode_id for entry in entries])
        if settings.loss.skips_errors:
            stream = _without_errors(stream, [buffer.episode(entry) for entry in entries])
        model, temperature = self.policy.model, self.sampling.temperature
        values = imitation_gradient(model, stream, settings.weight, config, temperature, self.rng, settings.loss)
        for parameter, first in zip(self.learns, self._anchor, strict=False):
            if parameter.grad is not None:
                parameter.grad += 2 * settings.anchor * (parameter.detach() - first)  # of β‖θ − θ*‖²
        return {name.replace("imitation", "retention"): value for name, value in values.items()}

    def _replay_stream(
        self, rows: Sequence[Row], advantage_E: np.ndarray, episode_ids: Sequence[str], mismatch: Mismatch | None = None
    ) -> Stream:
        """The stream of replayed rows, with an advantage an episode."""
        counts = [row.num_sampled for row in rows]
        advantage_N = torch.from_numpy(np.repeat(advantage_E[[row.episode for row in rows]], counts))
        reference = self._measure_reference(rows) if self.config.credit.needs_reference else None
        stream = self._stream(rows, advantage_N, reference, measured=mismatch is not None)
        if mismatch is not None:
            factor_N, _ = mismatch.factors(stream.old_logp_N, stream.behaviour_logp_N, stream.episode_N)
            stream = dataclasses.replace(stream, weight_N=stream.weight_N * factor_N)
        return dataclasses.replace(stream, episode_ids=episode_ids)

    def _entropy_of(self, entries: Sequence[Entry]) -> np.ndarray:
        """[M] mean token entropy of entries under the policy as it is."""
        assert self.replay is not None
        found = [(place, row) for place, entry in enumerate(entries) for row in self.replay.rows(entry)]
        rows = [row for _, row in found]
        stats = measure(self.policy.model, rows, self.config.micro_batch_tokens, self.sampling.temperature)
        entry_N = np.repeat([place for place, _ in found], [row.num_sampled for row in rows])
        total_M = np.bincount(entry_N, stats.entropy_N.double().numpy(), len(entries))
        return total_M / np.maximum(np.bincount(entry_N, minlength=len(entries)), 1)

    def _filter(self, outcomes: Outcomes) -> tuple[np.ndarray, float, dict[str, float]]:
        """([G] groups that are learnt from, factor of their advantages, metrics)."""
        rule = self._now().filter
        if rule is None:
            return np.ones(outcomes.num_groups, np.bool_), 1.0, {}
        variance_G = group_variances(outcomes.return_E, outcomes.group_E)
        kept_G, total = rule.kept(variance_G), float(variance_G.sum())
        scale = rule.scale(int(kept_G.sum()), len(kept_G))
        share = float(variance_G[kept_G].sum()) / total if total else 0.0
        values = {"groups": float(len(kept_G)), "kept": float(kept_G.sum()), "variance": share, "scale": scale}
        return kept_G, scale, {f"filter/{name}": value for name, value in values.items()}

    def _quarantined(self) -> set[str]:
        """Ids of the memories in quarantine, if any may have been recalled."""
        memory = getattr(self.recall, "memory", None)
        return set() if memory is None else quarantined(memory)

    def _logged(self, entry: Entry) -> Episode:
        """The episode of an entry of the replay buffer, whose rows were read before."""
        episode = self.log.get(entry.episode_id)
        assert episode is not None
        return episode

    def _advantages(
        self, outcomes: Outcomes, rows: Sequence[Row], reference: TokenStats | None
    ) -> tuple[_Estimate, TokenStats | None]:
        """(advantages of all sampled tokens, after all modifiers; what the reference says of them if it was asked)."""
        config = self._now()
        modifiers = config.modifiers
        turn_N = np.concatenate([outcomes.starts[row.episode] + row.turns[row.sampled] for row in rows])
        if isinstance(config.advantage, GAE):
            with config.network.computing(self.policy.model):
                limits = config.micro_batch_tokens, self.sampling.temperature
                policy = measure(self.policy.model, rows, *limits, values=self.values)
            assert policy.value_N is not None
            found = config.advantage.estimate(outcomes, turn_N, policy.value_N.double().numpy())
            target_N = torch.from_numpy(found.target_N).float()
            return _Estimate(torch.from_numpy(found.advantage_N).float(), target_N, policy), reference
        if any(modifier.needs_reference for modifier in modifiers):
            reference = reference or self._measure_reference(rows)
            outcomes = outcomes.told(turn_N, reference_logp_N=reference.logp_N.double().numpy())
        if any(modifier.needs_entropy for modifier in modifiers):
            with config.network.computing(self.policy.model):
                policy = measure(self.policy.model, rows, config.micro_batch_tokens, self.sampling.temperature)
            outcomes = outcomes.told(turn_N, entropy_N=policy.entropy_N.double().numpy())
        advantage_U = config.advantage.turns(outcomes)
        for modifier in modifiers:
            advantage_U = modifier.turns(advantage_U, outcomes)
        return _Estimate(per_token(rows, outcomes.starts, advantage_U)), reference

    def _stream(
        self,
        rows: Sequence[Row],
        advantage_N: torch.Tensor,
        reference: TokenStats | None,
        *,
        measured: bool | TokenStats = False,
    ) -> Stream:
        """The rows' tokens with their credit, whose statistics are over all of them.

        π_old is μ unless it is to be `measured`, or what the policy says of the tokens is given.
        """
        policy = measured if isinstance(measured, TokenStats) else None
        if measured is True or (policy is None and self.config.credit.needs_policy):
            with self.config.network.computing(self.policy.model):  # in the precision in which it learns
                policy = measure(self.policy.model, rows, self.config.micro_batch_tokens, self.sampling.temperature)
        stream = flatten(rows, advantage_N, reference=reference, policy=policy)
        return dataclasses.replace(stream, weight_N=self._now().credit.weights(stream))

    def _check(self, rows: Sequence[Row], played: Sequence[Episode]) -> None:
        if not rows:
            raise PolicyFault(
                f"none of the {len(played)} attempts asked the policy; the graph's nodes must call attempt.ask"
            )
        wrong = dict.fromkeys(played[row.episode].id for row in rows if not np.isfinite(row.logprobs).all())
        if wrong:
            raise PolicyFault(
                f"log-probabilities of iteration {self.iteration} are not finite, so the weights are broken; resume "
                f"from the last checkpoint with a lower learning_rate. They are of episode {', '.join([*wrong][:5])}"
            )

    def _measure_reference(self, rows: Sequence[Row]) -> TokenStats:
        own = self.reference is self.policy.model
        with self.config.network.computing(self.reference), without_adapters(self.reference) if own else nullcontext():
            return measure(self.reference, rows, self.config.micro_batch_tokens, self.sampling.temperature)

    def _diagnose(self, episodes: Sequence[Episode], rows: Sequence[Row]) -> TokenStats | None:
        """In the iterations before a bottleneck report, keep what each group says about it.

        Returns what the reference says of all tokens, so that it is not asked twice; None in other iterations.
        """
        every = self.config.bottleneck_every
        due = every and self.iteration % every in {0, *range(max(1, every - 4), every)}
        if not due:
            return None
        stats = self._measure_reference(rows)
        self._groups += group_energies(episodes, rows, stats.energy_N.numpy())
        return stats

    def _ground(self, on_episode: Callable[[Episode], None] | None) -> Ground:
        def measured(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
            stats = measure(self.policy.model, rows, self.config.micro_batch_tokens, self.sampling.temperature)
            return stats.logp_N.double().numpy(), stats.entropy_N.double().numpy()

        seed = derive_seed(self.seed, "collect", self.iteration)
        options = {
            "agent": self.agent,
            "sampling": self.sampling,
            "limits": self.limits,
            "recall": self.recall,
            "log": self.log,
            "seed": seed,
            "on_episode": on_episode,
        }
        return Ground(self.policy, self.log, self._now(), options, measured, seed)

    def _collect(self, ground: Ground) -> Collected:
        """The iteration's attempts, in as many rounds as the filter wants: each plays tasks for those left out."""
        config, taken = self._now(), set[int]()
        collected = self._plan.collect(ground, self._next_tasks(config.tasks_per_iteration, taken), self._planned)
        episodes, values = list(collected.episodes), dict(collected.values)
        for number in range(1, 1 if config.filter is None else config.filter.rounds):
            played = [episode for episode in episodes if episode.error is None]
            varied = 0
            if played:
                outcomes = Outcomes.of(played, config.format_penalty, reward_range=config.reward_range)
                varied = int((group_variances(outcomes.return_E, outcomes.group_E) > 0).sum())
            tasks = self._next_tasks(config.tasks_per_iteration - varied, taken, number)
            if not tasks:
                break  # the batch is full, or the pool has no more
            seed = derive_seed(ground.seed, "round", number)
            round_of = dataclasses.replace(ground, seed=seed, options=ground.options | {"seed": seed})
            more = self._plan.collect(round_of, tasks, self._planned)
            episodes += more.episodes
            values |= {name: values.get(name, 0.0) + value for name, value in more.values.items()}
            values["filter/rounds"] = number + 1.0
        return Collected(episodes, values)

    def _next_tasks(self, num: int, taken: set[int], number_of_round: int = 0) -> list[Task]:
        """Up to `num` tasks as the sampler chooses them; their numbers are added to `taken`."""
        sampler = self._now().tasks
        rng = np.random.default_rng(derive_seed(self.seed, "tasks", self.iteration, number_of_round))
        numbers = sampler.pick(self.beliefs, num, taken, rng) if num > 0 else []
        taken.update(numbers)
        return [
            make_tasks(self.env_id, "train", 1, first=number, params=self.params | sampler.params(number))[0]
            for number in numbers
        ]

    def _believe(self, attempts: Sequence[Episode]) -> None:
        """Let the sampler learn how the tasks went; a task's number is its seed."""
        groups = group_indices(attempts)
        returns = [np.array([attempts[i].episode_return for i in group]) for group in groups]
        won = np.array([sum(attempts[i].success for i in group) for group in groups])
        signal = np.array([float(np.abs(each - each.mean()).mean()) for each in returns])
        numbers = [attempts[group[0]].task.seed for group in groups]
        lost = np.array([len(group) for group in groups]) - won
        self._now().tasks.learn(self.beliefs, numbers, won, lost, signal)

    def _summary(self, episodes: Sequence[Episode], played: Sequence[Episode]) -> dict[str, float | None]:
        turns = [turn for episode in played for turn in episode.turns]
        return {
            "success": float(np.mean([episode.success for episode in played])),
            "return": float(np.mean([episode.episode_return for episode in played])),
            "valid_turns": float(np.mean([turn.valid for turn in turns])),
            "response_tokens": float(np.mean([len(turn.response_ids) for turn in turns])),
            "turns": len(turns) / len(played),
            "failed_episodes": len(episodes) - len(played),
        }

    def save(self) -> Path:
        """Write a checkpoint of everything that the next iterations depend on."""
        state = {
            "seed": self.seed,
            "policy_version": self.policy.version,
            "reference": self._reference_digest,
            "rng": self.rng.bit_generator.state,
            "torch_rng": torch.get_rng_state().tolist(),
            "entropies": self._entropies.state(),
            "means": self._means,
            "clocks": self.clocks.state(),
            "beliefs": self.beliefs.state(),
            "barren": self._barren,
            "awake": self._awake,
            "replays": self._replays,
            "planned": self._planned,
            "values": None if self.values is None else [p.flatten().tolist() for p in self.values.parameters()],
            "groups": [[g.return_variance, g.energy_all, g.energy_thought, g.energy_action] for g in self._groups],
        }
        return save_checkpoint(
            self.folder / "checkpoints",
            self.iteration,
            self.policy.model,
            self.optimizer,
            state,
            self.config.keep_checkpoints,
        )

    def restore(self, checkpoint: Path | None = None) -> None:
        """Continue from a checkpoint, by default the newest of the run folder.

        The reference stays as it was given: a resumed run must be built with the same initial policy.

        Raises:
            CheckpointError: The checkpoint cannot be read, or is of another model, reference or seed.
        """
        path = checkpoint or latest_checkpoint(self.folder / "checkpoints")
        state = load_checkpoint(path, self.policy.model, self.optimizer)
        if state["seed"] != self.seed:
            raise CheckpointError(f"checkpoint {str(path)!r} is of seed {state['seed']}, this run of {self.seed}")
        if state["reference"] != self._reference_digest:
            raise CheckpointError(
                f"checkpoint {str(path)!r} was trained beside another reference; build the policy from the weights "
                "the run began with, or give the same `reference`"
            )
        self._restored = True
        self.iteration = state["iteration"]
        self.policy.version = state["policy_version"]
        self.rng.bit_generator.state = state["rng"]
        torch.set_rng_state(torch.tensor(state["torch_rng"], dtype=torch.uint8))
        self._groups = [GroupEnergy(*values) for values in state["groups"]]
        self._entropies = EntropyHistory.of(state["entropies"])
        self._means = list(state["means"])
        self.clocks.restore(state["clocks"])
        self.beliefs.restore(state["beliefs"])
        self._barren, self._awake, self._replays = state["barren"], state["awake"], state["replays"]
        self._planned = state["planned"]
        if self.values is not None:
            with torch.no_grad():
                for parameter, numbers in zip(self.values.parameters(), state["values"], strict=True):
                    parameter.copy_(torch.tensor(numbers).view_as(parameter))
        if self.replay is not None:
            self.replay.restore(self.iteration)

    @functools.cached_property
    def _reference_digest(self) -> str | None:
        if self.reference is None:
            return None
        return weights_digest(self.reference, frozen=self.reference is self.policy.model)

    def close(self) -> None:
        """Close the log and the replay buffer, and give the folder back."""
        if self.replay is not None:
            self.replay.close()
        if self.retained is not None:
            self.retained.close()
            self.retained.log.close()
        self.log.close()
        self._lock.close()


def _without_errors(stream: Stream, episodes: Sequence[Episode]) -> Stream:
    """The stream, whose malformed or misunderstood turns weigh nothing."""
    valid = [np.array([turn.valid for turn in episode.turns]) for episode in episodes]
    valid_N = np.concatenate([valid[row.episode][row.turns[row.sampled]] for row in stream.rows])
    return dataclasses.replace(stream, weight_N=stream.weight_N * torch.from_numpy(valid_N))
