"""Batch: an iteration's attempts on their way to weighted tokens: outcomes, rows, advantages, stream."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agentkit.errors import PolicyFault
from agentkit.memory.records import Episode
from agentkit.training.advantages import GAE, ArCHer, Outcomes, group_indices, within_groups
from agentkit.training.config import TrainConfig
from agentkit.training.critic import Critic
from agentkit.training.filters import group_variances, kept_groups
from agentkit.training.forward import TokenStats, check_vocabulary
from agentkit.training.masks import masked
from agentkit.training.models import Models
from agentkit.training.overlong import uncut_turns
from agentkit.training.rows import Row, build_rows, probe
from agentkit.training.stream import Stream, per_token


@dataclass(frozen=True)
class Batch:
    """Attempts that are learnt from, with what they earned and their rows."""

    episodes: list[Episode]
    outcomes: Outcomes
    """Of the episodes; of all that were collected where the filter has left none."""
    rows: list[Row]
    gain_E: NDArray[np.float64]
    """R − mean of the group, of all that were collected."""
    values: dict[str, float]
    """Metrics."""
    injected_E: NDArray[np.bool_]
    """Episodes of earlier iterations that a plan has put into the groups."""
    reference: TokenStats | None = None
    """What the reference says of the rows' tokens; None if it has not been asked."""
    scale: float = 1.0
    """Factor of the advantages."""

    @classmethod
    def of(cls, config: TrainConfig, episodes: list[Episode], injected: Collection[int] = ()) -> Batch:
        """The batch of these attempts, none of which failed.

        Args:
            config: The numbers.
            episodes: The attempts.
            injected: Places of those that are of earlier iterations.
        """
        outcomes = config.outcomes(episodes)
        rows, joins = build_rows(episodes)
        gain_E = within_groups(outcomes.return_E, outcomes.group_E, outcomes.num_groups)[0]
        varied = [bool(gain_E[group].any()) for group in group_indices(episodes)]
        values = {
            "groups/with_variance": float(np.mean(varied)),
            "rows/joined": joins.joined,
            "rows/forked": joins.forked,
            "rows/skipped": joins.skipped,
        }
        injected_E = np.isin(np.arange(len(episodes)), [*injected])
        return cls(episodes, outcomes, rows, gain_E, values, injected_E)

    def check(self, iteration: int, model: Any) -> None:
        """Raise unless there is something that the model can learn from.

        Raises:
            ConfigError: It does not know some token.
            PolicyFault: No attempt asked the policy, or its log-probabilities are not finite.
        """
        if not self.rows:
            raise PolicyFault(
                f"none of the {len(self.episodes)} attempts asked the policy; the graph's nodes must call attempt.ask"
            )
        check_vocabulary(model, self.rows, [episode.id for episode in self.episodes])
        broken = (self.episodes[row.episode].id for row in self.rows if not np.isfinite(row.logprobs).all())
        wrong = list(dict.fromkeys(broken))
        if wrong:
            raise PolicyFault(
                f"log-probabilities of iteration {iteration} are not finite, so the weights are broken; resume "
                f"from the last checkpoint with a lower learning_rate. They are of episode {', '.join(wrong[:5])}"
            )

    def filtered(self, config: TrainConfig) -> Batch:
        """The groups that the filter keeps."""
        rule, outcomes = config.filter, self.outcomes
        if rule is None:
            return self
        variance_G = group_variances(outcomes.return_E, outcomes.group_E)
        kept_G, total = kept_groups(rule, outcomes), float(variance_G.sum())
        scale = rule.scale(int(kept_G.sum()), len(kept_G))
        share = float(variance_G[kept_G].sum()) / total if total else 0.0
        found = {"groups": float(len(kept_G)), "kept": float(kept_G.sum()), "variance": share, "scale": scale}
        values = self.values | {f"filter/{name}": value for name, value in found.items()}
        episodes = list(itertools.compress(self.episodes, kept_G[outcomes.group_E].tolist()))
        injected_E = self.injected_E[kept_G[outcomes.group_E]]
        kept = dataclasses.replace(self, episodes=episodes, values=values, injected_E=injected_E, scale=scale)
        if 0 < len(episodes) < len(self.episodes):  # what was measured is of other rows
            return dataclasses.replace(
                kept, outcomes=config.outcomes(episodes), rows=build_rows(episodes)[0], reference=None
            )
        return kept


@dataclass(frozen=True)
class Estimate:
    """Advantages of all sampled tokens of a batch, and what was measured on the way."""

    advantage_N: torch.Tensor
    target_N: torch.Tensor | None = None
    """What a value head should have said before each token; None without one."""
    policy: TokenStats | None = None
    """What the policy says of the tokens, their old values with it, if it was asked and is π_old."""
    reference: TokenStats | None = None
    """What the reference says of them, if it was asked."""

    @classmethod
    def of(cls, batch: Batch, models: Models, config: TrainConfig, critic: Critic | None = None) -> Estimate:
        """The advantages after all modifiers; `critic` values turns where the advantages ask for one."""
        outcomes, rows, reference, modifiers = batch.outcomes, batch.rows, batch.reference, config.modifiers
        turn_N = np.concatenate([outcomes.starts[row.episode] + row.turns[row.sampled] for row in rows])
        if isinstance(config.advantage, GAE):
            valued, after_E = _valued(batch, models, bootstrap=config.advantage.bootstrap)
            assert valued.value_N is not None
            found = config.advantage.estimate(outcomes, turn_N, valued.value_N.double().numpy(), after_E=after_E)
            advantage_N, target_N = (torch.from_numpy(each).float() for each in found)
            return cls(advantage_N, target_N, valued, reference)
        if any(modifier.needs_reference for modifier in modifiers):
            reference = reference or models.measure_reference(rows)
            outcomes = outcomes.told(turn_N, reference_logp_N=reference.logp_N.double().numpy())
        policy: TokenStats | None = None
        if any(modifier.needs_entropy for modifier in modifiers):
            told = models.measure(rows)
            outcomes = outcomes.told(turn_N, entropy_N=told.entropy_N.double().numpy())
            if config.measures_policy or config.credit.needs_policy:  # else π_old is what was recorded
                policy = told
        if isinstance(config.advantage, ArCHer):
            assert critic is not None
            advantage_U = critic.turns(batch.episodes, config.advantage)
        else:
            advantage_U = config.advantage.turns(outcomes)
        for modifier in modifiers:
            advantage_U = modifier.turns(advantage_U, outcomes)
        return cls(per_token(rows, outcomes.starts, advantage_U), policy=policy, reference=reference)


def _valued(batch: Batch, models: Models, *, bootstrap: bool) -> tuple[TokenStats, NDArray[np.float64]]:
    """(what policy and value head say of the sampled tokens, [E] value of what follows each episode's last token).

    The latter is 0 of an episode that is over, and of one that a limit cut unless it is to `bootstrap`. No record says
    what would have been observed next, so the value is that of all up to the last token of the last response.
    """
    outcomes, rows = batch.outcomes, list(batch.rows)
    after_E = np.zeros(len(outcomes.cut_E))
    last = {row.episode: number for number, row in enumerate(rows)}
    asked = sorted(number for episode, number in last.items() if bootstrap and outcomes.cut_E[episode])
    for number in asked:
        rows[number] = probe(rows[number], np.append(np.flatnonzero(rows[number].sampled), len(rows[number])))
    stats = models.measure(rows, values=True)
    assert stats.value_N is not None
    ends = np.cumsum([row.num_sampled for row in rows])[asked] - 1
    after_E[[rows[number].episode for number in asked]] = stats.value_N[torch.from_numpy(ends)].double().numpy()
    kept_N = np.setdiff1d(np.arange(len(stats.value_N)), ends)
    return stats.of(torch.from_numpy(kept_N)) if asked else stats, after_E


def policy_stream(
    batch: Batch, estimate: Estimate, models: Models, config: TrainConfig
) -> tuple[Stream | None, dict[str, float]]:
    """(what is learnt from a batch, None if it has nothing to teach; metrics)."""
    learns_R = _learning_rows(batch, estimate, config)
    values: dict[str, float] = {"rows/learned": float(learns_R.sum())}
    if not learns_R.any():
        return None, values
    reference = estimate.reference
    if reference is None and config.needs_reference:
        reference = models.measure_reference(batch.rows)
    stream = models.stream(
        config,
        batch.rows,
        batch.scale * estimate.advantage_N,
        reference,
        policy=estimate.policy,
        measured=config.measures_policy,
    )
    stream = dataclasses.replace(
        stream,
        learns_R=learns_R,
        target_N=estimate.target_N,
        group_N=torch.from_numpy(batch.outcomes.group_E)[stream.episode_N],
        episode_ids=[episode.id for episode in batch.episodes],
    )
    if config.overlong_filter is not None:
        weight_N, stream = stream.weight_N, masked(stream, uncut_turns(batch.episodes, config.overlong_filter))
        values["overlong/masked"] = float((weight_N != stream.weight_N).float().mean())
    if config.plan is not None and config.plan.injected_loss is not None:
        stream = dataclasses.replace(stream, injected_N=torch.from_numpy(batch.injected_E)[stream.episode_N])
    if config.mismatch is not None:
        stream, found = config.mismatch.corrected(stream)
        values |= found
    return stream, values


def _learning_rows(batch: Batch, estimate: Estimate, config: TrainConfig) -> NDArray[np.bool_]:
    """[R] whether the loss of a row has a gradient: an episode without any advantage need not be computed at all.

    Unless something acts on all tokens: KL, entropy, a value head, a loss that pulls to another policy. Where no
    episode has an advantage, nothing is learnt at all: regularisers alone take no step.
    """
    rows = batch.rows
    if not bool(estimate.advantage_N.any()):
        return np.zeros(len(rows), np.bool_)
    if config.kl_coef > 0 or config.entropy_coef > 0 or config.loss.pulls or estimate.target_N is not None:
        return np.ones(len(rows), np.bool_)
    pieces = estimate.advantage_N.split([row.num_sampled for row in rows])
    teaching = {row.episode for row, advantage_N in zip(rows, pieces, strict=True) if bool(advantage_N.any())}
    return np.array([row.episode in teaching for row in rows])


def shares(stream: Stream, num: int, rng: np.random.Generator) -> list[list[int]]:
    """Indices of the rows of each optimizer step of an epoch: whole episodes at random, the learning ones dealt evenly.

    Args:
        stream: What is learnt from.
        num: At most so many steps; each has an episode that learns.
        rng: Draws the order.
    """
    rows_of: dict[int, list[int]] = {}
    for number, row in enumerate(stream.rows):
        rows_of.setdefault(row.episode, []).append(number)
    learning = sorted({row.episode for row in itertools.compress(stream.rows, stream.learns_R)})
    others = sorted(set(rows_of) - set(learning))
    num = min(num, len(learning))
    dealt = [np.array_split(rng.permutation(episodes), num) for episodes in (learning, others)]
    return [
        sorted(number for part in parts for episode in part.tolist() for number in rows_of[episode])
        for parts in zip(*dealt, strict=True)
    ]
