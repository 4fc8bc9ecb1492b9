"""The trainer: collect groups of attempts, turn them into weighted rows, step. The loop is `Trainer.iterate`.

What is left out on purpose: no critic, no asynchronous collection, no second copy of the weights to sample from.
The policy that acts is the network that learns, so stored log-probabilities are the old policy's.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentkit.attempt import Limits, Recall
from agentkit.errors import CheckpointError, ConfigError, PolicyFault
from agentkit.memory.lock import FolderLock
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode
from agentkit.policies.local import LocalPolicy
from agentkit.policies.policy import Sampling
from agentkit.rollout import collect
from agentkit.seeding import derive_seed
from agentkit.task import Task, make_tasks
from agentkit.training.advantages import Outcomes, group_indices, within_groups
from agentkit.training.bottleneck import MIN_GROUPS, GroupEnergy, bottleneck, group_energies
from agentkit.training.checkpoint import (
    discard_checkpoints,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    weights_digest,
)
from agentkit.training.config import TrainConfig
from agentkit.training.forward import TokenStats, check_model, measure
from agentkit.training.gradients import imitation_gradient, policy_gradient
from agentkit.training.losses import SPEAR, EntropyHistory
from agentkit.training.metrics import TIMINGS, Metrics
from agentkit.training.network import learning_parameters, without_adapters
from agentkit.training.replay import Entry, ReplayBuffer
from agentkit.training.rows import Row, build_rows
from agentkit.training.schedule import warmup
from agentkit.training.stream import Stream, flatten, per_token


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
        self.folder = Path(folder)
        self._lock = FolderLock(self.folder)  # a second trainer would mix its files with ours
        self.rng = np.random.default_rng(derive_seed(seed, "trainer"))
        self.iteration = 0
        self._groups: list[GroupEnergy] = []
        self._entropies = EntropyHistory()
        self._means: list[float] = []
        self._restored = False
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
        if config.imitation.weight > 0:
            self.replay = ReplayBuffer(self.folder / "replay.sqlite", self.log, config.imitation)
        self.learns = list(learning_parameters(policy.model).values())
        self.optimizer = torch.optim.AdamW(self.learns, lr=config.learning_rate, weight_decay=config.weight_decay)

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
                done = self.iteration == self.config.iterations
                if done or self.iteration % self.config.checkpoint_every == 0:
                    self.save()
                if on_iteration is not None:
                    on_iteration(self.iteration, values)
        finally:
            metrics.close()

    def iterate(self, on_episode: Callable[[Episode], None] | None = None) -> dict[str, float | None]:
        """Collect one batch and learn from it; returns its metrics."""
        config, begun = self.config, time.perf_counter()
        episodes = collect(
            self.policy,
            self._next_tasks(),
            agent=self.agent,
            group_size=config.group_size,
            sampling=self.sampling,
            limits=self.limits,
            recall=self.recall,
            log=self.log,
            seed=derive_seed(self.seed, "collect", self.iteration),
            on_episode=on_episode,
        )
        collected = time.perf_counter()
        self.iteration += 1
        # A failed attempt says nothing about the policy: it leaves its group.
        played = [episode for episode in episodes if episode.error is None]
        if not played:
            raise PolicyFault(f"all {len(episodes)} attempts failed, e.g.: {episodes[0].error}")
        outcomes = Outcomes.of(played, config.format_penalty, reward_range=config.reward_range)
        gain = within_groups(outcomes.return_E, outcomes.group_E, outcomes.num_groups)[0].tolist()
        rows, joins = build_rows(played)
        self._check(rows, played)
        reference = self._diagnose(played, rows)
        advantage_U, reference = self._advantages(outcomes, rows, reference)
        # A row of a group without variance has no gradient: it is not computed at all.
        teaches = [bool(advantage_U[outcomes.starts[row.episode] + row.turns[row.sampled]].any()) for row in rows]
        learn = list(itertools.compress(rows, teaches))
        values = self._summary(episodes, played, gain) | {
            "rows/learned": len(learn),
            "rows/joined": joins.joined,
            "rows/forked": joins.forked,
        }
        if learn:
            if reference is not None:
                counts = [row.num_sampled for row in rows]
                reference = reference.of(torch.from_numpy(np.repeat(teaches, counts)))
            elif config.needs_reference:
                reference = self._measure_reference(learn)
            advantage_N = per_token(learn, outcomes.starts, advantage_U)
            stream = self._stream(learn, advantage_N, reference, measured=config.mismatch is not None)
            group_N = torch.from_numpy(outcomes.group_E)[stream.episode_N]
            stream = dataclasses.replace(stream, group_N=group_N, episode_ids=[episode.id for episode in played])
            if config.mismatch is not None:
                factor_N, found = config.mismatch.factors(stream.old_logp_N, stream.behaviour_logp_N, stream.episode_N)
                stream = dataclasses.replace(stream, weight_N=stream.weight_N * factor_N)
                values |= found
            steps: list[dict[str, float]] = []
            for _ in range(config.epochs):
                order = self.rng.permutation(len(learn))
                for chosen in np.array_split(order, min(config.minibatches, len(learn))):
                    steps.append(self._step(stream, sorted(chosen.tolist())))
            for name in steps[0]:
                total = sum(step[name] for step in steps)
                values[name] = total if name.startswith("tokens/") else total / len(steps)
        if self.replay is not None:
            # After the step: what is replayed is past experience, never the batch at hand a second time.
            values["imitation/admitted"] = self.replay.update(
                played, gain, iteration=self.iteration, version=self.policy.version
            )
            values["imitation/entries"] = len(self.replay)
        if isinstance(config.imitation.loss, SPEAR):
            sizes = np.bincount(outcomes.group_E)
            self._means += (np.bincount(outcomes.group_E, outcomes.return_E) / sizes).tolist()
            del self._means[: -config.imitation.loss.history]
        if config.bottleneck_every and self.iteration % config.bottleneck_every == 0:
            values |= bottleneck(self._groups)
            if len(self._groups) >= MIN_GROUPS:  # else go on gathering
                self._groups = []
        ended = time.perf_counter()
        return values | {TIMINGS + "collect": collected - begun, TIMINGS + "learn": ended - collected}

    def _step(self, stream: Stream, chosen: list[int]) -> dict[str, float]:
        """One optimizer step on some rows of the policy stream and on replayed episodes."""
        config, model = self.config, self.policy.model
        self.optimizer.zero_grad(set_to_none=True)
        with config.network.learning(model):
            try:
                values = policy_gradient(
                    model, stream, chosen, config, self.sampling.temperature, self._entropies, self.iteration
                )
                values |= self._imitate()
            except PolicyFault as fault:
                raise PolicyFault(f"iteration {self.iteration}: {fault}") from fault
        norm = torch.nn.utils.clip_grad_norm_(self.learns, config.max_grad_norm)
        if not torch.isfinite(norm):
            raise PolicyFault(
                f"the gradient of iteration {self.iteration} is not finite, no step was taken; resume from the "
                f"last checkpoint with a lower learning_rate. It was of {stream.names(stream.places(chosen))}"
            )
        rate = config.learning_rate * warmup(self.policy.version, config.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.policy.version += 1
        return values | {"grad_norm": float(norm), "learning_rate": rate}

    def _imitate(self) -> dict[str, float]:
        """Replay some episodes: a stream of its own, beside the policy's."""
        settings = self.config.imitation
        if self.replay is None or not len(self.replay):
            return {}
        factor = settings.weight
        if settings.ramp_iterations:
            factor *= cosine_ramp(self.iteration, settings.ramp_iterations)
        replay = self.replay
        entries = replay.sample(settings.episodes_per_step, self.rng)
        rows = [dataclasses.replace(row, episode=i) for i, entry in enumerate(entries) for row in replay.rows(entry)]
        advantage_E = np.array([entry.advantage for entry in entries])
        if isinstance(settings.loss, SPEAR):
            penalty, spread = self.config.format_penalty, self.config.reward_range
            outcomes = Outcomes.of([self._logged(entry) for entry in entries], penalty, reward_range=spread)
            advantage_E = settings.loss.recalibrated(outcomes.return_E, self._means)
        counts = [row.num_sampled for row in rows]
        advantage_N = torch.from_numpy(np.repeat(advantage_E[[row.episode for row in rows]], counts))
        reference = self._measure_reference(rows) if self.config.credit.needs_reference else None
        stream = self._stream(rows, advantage_N, reference)
        stream = dataclasses.replace(stream, episode_ids=[entry.episode_id for entry in entries])
        if settings.loss.skips_errors:
            valid = [np.array([turn.valid for turn in self._logged(entry).turns]) for entry in entries]
            valid_N = torch.from_numpy(np.concatenate([valid[row.episode][row.turns[row.sampled]] for row in rows]))
            stream = dataclasses.replace(stream, weight_N=stream.weight_N * valid_N)
        return imitation_gradient(self.policy.model, stream, factor, self.config, self.sampling.temperature, self.rng)

    def _logged(self, entry: Entry) -> Episode:
        """The episode of an entry of the replay buffer, whose rows were read before."""
        episode = self.log.get(entry.episode_id)
        assert episode is not None
        return episode

    def _advantages(
        self, outcomes: Outcomes, rows: Sequence[Row], reference: TokenStats | None
    ) -> tuple[np.ndarray, TokenStats | None]:
        """([U] advantages after all modifiers, what the reference says of all rows if it was asked)."""
        modifiers = self.config.modifiers
        turn_N = np.concatenate([outcomes.starts[row.episode] + row.turns[row.sampled] for row in rows])
        if any(modifier.needs_reference for modifier in modifiers):
            reference = reference or self._measure_reference(rows)
            outcomes = outcomes.told(turn_N, reference_logp_N=reference.logp_N.double().numpy())
        if any(modifier.needs_entropy for modifier in modifiers):
            policy = measure(self.policy.model, rows, self.config.micro_batch_tokens, self.sampling.temperature)
            outcomes = outcomes.told(turn_N, entropy_N=policy.entropy_N.double().numpy())
        advantage_U = self.config.advantage.turns(outcomes)
        for modifier in modifiers:
            advantage_U = modifier.turns(advantage_U, outcomes)
        return advantage_U, reference

    def _stream(
        self, rows: Sequence[Row], advantage_N: torch.Tensor, reference: TokenStats | None, *, measured: bool = False
    ) -> Stream:
        """The rows' tokens with their credit, whose statistics are over all of them; π_old is μ unless `measured`."""
        policy = None
        if measured or self.config.credit.needs_policy:
            with self.config.network.computing(self.policy.model):  # in the precision in which it learns
                policy = measure(self.policy.model, rows, self.config.micro_batch_tokens, self.sampling.temperature)
        stream = flatten(rows, advantage_N, reference=reference, policy=policy)
        return dataclasses.replace(stream, weight_N=self.config.credit.weights(stream))

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

    def _next_tasks(self) -> list[Task]:
        """The iteration's tasks: the next ones of the pool, in order; the cursor is the iteration."""
        num, pool = self.config.tasks_per_iteration, self.config.task_pool
        first = self.iteration * num
        if pool is None:
            return make_tasks(self.env_id, "train", num, first=first, params=self.params)
        numbers = [(first + place) % pool for place in range(num)]
        return [make_tasks(self.env_id, "train", 1, first=n, params=self.params)[0] for n in numbers]

    def _summary(
        self, episodes: Sequence[Episode], played: Sequence[Episode], gain: Sequence[float]
    ) -> dict[str, float | None]:
        turns = [turn for episode in played for turn in episode.turns]
        spread = [any(gain[i] != 0 for i in indices) for indices in group_indices(played)]
        return {
            "success": float(np.mean([episode.success for episode in played])),
            "return": float(np.mean([episode.episode_return for episode in played])),
            "valid_turns": float(np.mean([turn.valid for turn in turns])),
            "response_tokens": float(np.mean([len(turn.response_ids) for turn in turns])),
            "turns": len(turns) / len(played),
            "failed_episodes": len(episodes) - len(played),
            "groups/with_variance": float(np.mean(spread)),
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
        self.log.close()
        self._lock.close()
