"""The trainer: collect groups of attempts, turn them into weighted rows, step. The loop is `Trainer.iterate`.

What is left out on purpose: no critic, no asynchronous collection, no second copy of the weights to sample from.
The policy that acts is the network that learns, so stored log-probabilities are the old policy's.
"""

from __future__ import annotations

import copy
import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentkit.attempt import Limits, Recall
from agentkit.errors import CheckpointError, ConfigError, PolicyFault
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode, Role
from agentkit.policies.local import LocalPolicy
from agentkit.policies.policy import Sampling
from agentkit.rollout import collect
from agentkit.seeding import derive_seed
from agentkit.task import Task, make_tasks
from agentkit.training.advantage import centred_returns, group_indices, grpo_advantages, shaped_return
from agentkit.training.bottleneck import GroupEnergy, bottleneck, group_energy
from agentkit.training.checkpoint import (
    discard_checkpoints,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    weights_digest,
)
from agentkit.training.config import TrainConfig
from agentkit.training.forward import TokenStats, check_model, forward, measure, micro_batches
from agentkit.training.losses import (
    clipped_fraction,
    effective_sample_size,
    imitation_loss,
    kl_loss,
    policy_loss,
)
from agentkit.training.metrics import TIMINGS, Metrics
from agentkit.training.replay import Entry, ReplayBuffer
from agentkit.training.rows import Row, build_rows
from agentkit.training.schedule import cosine_ramp, warmup

SPANS = {"thought": Role.THOUGHT, "action": Role.ACTION, "format": Role.FORMAT, "other": Role.OTHER}


@dataclass(frozen=True, slots=True)
class Tokens:
    """A stream's sampled tokens, row after row; N in all."""

    rows: Sequence[Row]
    starts: np.ndarray
    """[rows + 1] place of each row's first token."""
    role_N: torch.Tensor
    behaviour_logp_N: torch.Tensor
    advantage_N: torch.Tensor
    weight_N: torch.Tensor
    reference_logp_N: torch.Tensor | None

    def of(self, indices: Sequence[int]) -> torch.Tensor:
        """Places of the tokens of these rows."""
        return torch.from_numpy(np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in indices]))


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
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        check_model(policy.model)
        self.reference = None
        if config.credit.needs_energy or config.kl_coef > 0 or config.bottleneck_every > 0:
            # A reference that is the learning model itself would freeze it.
            own = reference is None or reference is policy.model
            self.reference = copy.deepcopy(policy.model) if own else reference
            self.reference.requires_grad_(False).eval()
        self.log = EpisodeLog.open(self.folder / "episodes.sqlite")
        self.replay: ReplayBuffer | None = None
        if config.imitation.weight > 0:
            self.replay = ReplayBuffer(self.folder / "replay.sqlite", self.log, config.imitation)
        self.optimizer = torch.optim.AdamW(
            policy.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.rng = np.random.default_rng(derive_seed(seed, "trainer"))
        self.iteration = 0
        self._groups: list[GroupEnergy] = []
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
        advantage, gain = self._advantages(played)
        rows, joins = build_rows(played)
        self._check(rows, len(episodes))
        reference = self._diagnose(played, rows)
        # A group without variance has no gradient: its rows are not computed at all.
        teaches = [bool(advantage[row.episode] != 0) for row in rows]
        learn = list(itertools.compress(rows, teaches))
        values = self._summary(episodes, played, gain) | {
            "rows/learned": len(learn),
            "rows/joined": joins.joined,
            "rows/forked": joins.forked,
        }
        if learn:
            if reference is not None:
                counts = [int(row.sampled.sum()) for row in rows]
                reference = reference.of(torch.from_numpy(np.repeat(teaches, counts)))
            elif config.credit.needs_energy or config.kl_coef > 0:
                reference = self._measure_reference(learn)
            stream = self._stream(learn, [float(advantage[row.episode]) for row in learn], reference)
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
        if config.bottleneck_every and self.iteration % config.bottleneck_every == 0:
            values |= bottleneck(self._groups)
            self._groups = []
        ended = time.perf_counter()
        return values | {TIMINGS + "collect": collected - begun, TIMINGS + "learn": ended - collected}

    def _step(self, stream: Tokens, chosen: list[int]) -> dict[str, float]:
        """One optimizer step on some rows of the policy stream and on replayed episodes."""
        config, model = self.config, self.policy.model
        self.optimizer.zero_grad(set_to_none=True)
        values = self._policy_gradient(stream, chosen)
        if self.replay is not None and len(self.replay):
            entries = self.replay.sample(config.imitation.episodes_per_step, self.rng)
            values |= self._imitation_gradient(entries)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        if not torch.isfinite(norm):
            raise PolicyFault(
                f"the gradient of iteration {self.iteration} is not finite, no step was taken; resume from the "
                "last checkpoint with a lower learning_rate"
            )
        rate = config.learning_rate * warmup(self.policy.version, config.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.policy.version += 1
        return values | {"grad_norm": float(norm), "learning_rate": rate}

    def _policy_gradient(self, stream: Tokens, chosen: list[int]) -> dict[str, float]:
        """Backward of the clipped surrogate over Σw, entropy and KL over the token count, of the whole step."""
        config = self.config
        places = stream.of(chosen)
        total_weight, num_tokens = stream.weight_N[places].sum().clamp(min=1e-8), len(places)
        sums = {"loss/policy": 0.0, "entropy": 0.0, "kl": 0.0}
        clipped = torch.zeros(len(stream.role_N))
        for indices in micro_batches([stream.rows[i] for i in chosen], config.micro_batch_tokens):
            picked = [chosen[i] for i in indices]
            at = stream.of(picked)
            stats = forward(self.policy.model, [stream.rows[i] for i in picked], self.sampling.temperature)
            device = stats.logp_N.device
            old_N, advantage_N = stream.behaviour_logp_N[at].to(device), stream.advantage_N[at].to(device)
            surrogate = policy_loss(
                stats.logp_N,
                old_N,
                advantage_N,
                stream.weight_N[at].to(device),
                config.clip_low,
                config.clip_high,
            )
            loss = surrogate / total_weight - config.entropy_coef * stats.entropy_N.sum() / num_tokens
            if stream.reference_logp_N is not None and config.kl_coef > 0:
                kl = kl_loss(stats.logp_N, stream.reference_logp_N[at].to(device))
                loss = loss + config.kl_coef * kl / num_tokens
                sums["kl"] += float(kl.detach()) / num_tokens
            loss.backward()
            sums["loss/policy"] += float(surrogate.detach()) / float(total_weight)
            sums["entropy"] += float(stats.entropy_N.detach().sum()) / num_tokens
            clipped[at] = clipped_fraction(
                stats.logp_N.detach(), old_N, advantage_N, config.clip_low, config.clip_high
            ).cpu()
        role_N, weight_N = stream.role_N[places], stream.weight_N[places]
        sums["tokens/policy"] = float(num_tokens)
        for name, role in SPANS.items():
            inside = role_N == role
            sums[f"share/{name}"] = float(weight_N[inside].sum() / total_weight)
            sums[f"clipped/{name}"] = float(clipped[places][inside].mean()) if inside.any() else 0.0
        return sums

    def _imitation_gradient(self, entries: Sequence[Entry]) -> dict[str, float]:
        """Backward of the self-imitation loss: a stream of its own, over its own Σw."""
        settings = self.config.imitation
        factor = settings.weight
        if settings.ramp_iterations:
            factor *= cosine_ramp(self.iteration, settings.ramp_iterations)
        assert self.replay is not None
        rows = [(row, entry.advantage) for entry in entries for row in self.replay.rows(entry)]
        replayed = [row for row, _ in rows]
        reference = self._measure_reference(replayed) if self.config.credit.needs_energy else None
        stream = self._stream(replayed, [advantage for _, advantage in rows], reference)
        total_weight, num_tokens = stream.weight_N.sum().clamp(min=1e-8), len(stream.role_N)
        loss_sum, importance = 0.0, torch.zeros(num_tokens)
        for indices in micro_batches(stream.rows, self.config.micro_batch_tokens):
            at = stream.of(indices)
            stats = forward(self.policy.model, [stream.rows[i] for i in indices], self.sampling.temperature)
            device = stats.logp_N.device
            behaviour_N = stream.behaviour_logp_N[at].to(device)
            loss = imitation_loss(
                stats.logp_N,
                behaviour_N,
                stream.advantage_N[at].to(device),
                stream.weight_N[at].to(device),
                settings.truncation,
            )
            (factor * loss / total_weight).backward()
            loss_sum += float(loss.detach()) / float(total_weight)
            ratio_N = (stats.logp_N.detach() - behaviour_N).clamp(-20, 20).exp()
            importance[at] = ratio_N.clamp(max=settings.truncation).cpu()
        return {
            "loss/imitation": loss_sum,
            "imitation/factor": factor,
            "imitation/ess": effective_sample_size(importance),
            "tokens/imitation": float(num_tokens),
        }

    def _advantages(self, episodes: Sequence[Episode]) -> tuple[np.ndarray, list[float]]:
        """([episodes] advantages for the policy stream, R − group mean for replay)."""
        returns = np.array([shaped_return(episode, self.config.format_penalty) for episode in episodes])
        advantage, gain = np.zeros(len(episodes)), np.zeros(len(episodes))
        for indices in group_indices(episodes):
            advantage[indices] = grpo_advantages(returns[indices])
            gain[indices] = centred_returns(returns[indices])
        return advantage, gain.tolist()

    def _check(self, rows: Sequence[Row], num_attempts: int) -> None:
        if not rows:
            raise PolicyFault(
                f"none of the {num_attempts} attempts asked the policy; the graph's nodes must call attempt.ask"
            )
        if not all(np.isfinite(row.logprobs).all() for row in rows):
            raise PolicyFault(
                f"log-probabilities of iteration {self.iteration} are not finite, so the weights are broken; resume "
                "from the last checkpoint with a lower learning_rate"
            )

    def _measure_reference(self, rows: Sequence[Row]) -> TokenStats:
        return measure(self.reference, rows, self.config.micro_batch_tokens, self.sampling.temperature)

    def _stream(self, rows: Sequence[Row], advantages: Sequence[float], reference: TokenStats | None) -> Tokens:
        """Flatten rows into tokens with their advantage and credit; `reference` is of the same tokens."""
        counts = [int(row.sampled.sum()) for row in rows]
        role_N = torch.from_numpy(np.concatenate([row.roles[row.sampled] for row in rows]))
        energy_N, reference_logp_N = (reference.energy_N, reference.logp_N) if reference else (None, None)
        return Tokens(
            rows=rows,
            starts=np.concatenate([[0], np.cumsum(counts)]),
            role_N=role_N,
            behaviour_logp_N=torch.from_numpy(np.concatenate([row.logprobs[row.sampled] for row in rows])),
            advantage_N=torch.tensor(np.repeat(advantages, counts), dtype=torch.float32),
            weight_N=self.config.credit.weights(role_N, energy_N),
            reference_logp_N=reference_logp_N,
        )

    def _diagnose(self, episodes: Sequence[Episode], rows: Sequence[Row]) -> TokenStats | None:
        """In the iterations before a bottleneck report, keep what each group says about it.

        Returns what the reference says of all tokens, so that it is not asked twice; None in other iterations.
        """
        every = self.config.bottleneck_every
        due = every and self.iteration % every in {0, *range(max(1, every - 4), every)}
        if not due:
            return None
        stats = self._measure_reference(rows)
        energy_N = stats.energy_N.numpy()
        ends = np.cumsum([int(row.sampled.sum()) for row in rows])
        roles: dict[int, list[np.ndarray]] = {}
        energies: dict[int, list[np.ndarray]] = {}
        for row, end in zip(rows, ends, strict=True):
            role_N = row.roles[row.sampled]
            roles.setdefault(row.episode, []).append(role_N)
            energies.setdefault(row.episode, []).append(energy_N[end - len(role_N) : end])
        for indices in group_indices(episodes):
            known = [index for index in indices if index in roles]
            if len(known) > 1:
                self._groups.append(
                    group_energy(
                        [episodes[index].episode_return for index in known],
                        [np.concatenate(roles[index]) for index in known],
                        [np.concatenate(energies[index]) for index in known],
                    )
                )
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
        if self.replay is not None:
            self.replay.restore(self.iteration)

    @functools.cached_property
    def _reference_digest(self) -> str | None:
        return None if self.reference is None else weights_digest(self.reference)

    def close(self) -> None:
        """Close the log and the replay buffer."""
        if self.replay is not None:
            self.replay.close()
        self.log.close()
