"""Critic: values of turns, learnt off-policy from the run's episodes (ArCHer). Its features never change.

A turn is what the frozen reference makes of its prompt and of its response: the last hidden state of each, and the mean
of all, for the last one alone hardly tells what a small network has read. They are computed once, when an episode comes
in, so a step of the critic costs a few small matrices however large the policy is.

E episodes, U turns of them, H size of a hidden state, F = 2H features of a prompt or a response.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agentkit.errors import CheckpointError, PolicyFault
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode
from agentkit.seeding import derive_seed
from agentkit.training.advantages import ArCHer, Outcomes
from agentkit.training.advantages.values import TurnCritic, TurnValues
from agentkit.training.checkpoint import flat_optimizer, restore_optimizer
from agentkit.training.config import TrainConfig
from agentkit.training.models import Models
from agentkit.training.rows import Row, build_rows, named

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Experience:
    """Episodes as the critic sees them."""

    ids: list[str]
    """[E] of the episodes."""
    version_E: Ints
    """Optimizer steps behind the policy that played each."""
    starts: Ints
    """[E+1] place of each episode's first turn."""
    reward_U: Floats
    """Rewards as they were when the episode came in, its penalties included."""
    state_UF: torch.Tensor
    """Of the turn's prompt, as far as it is new in its row; zeros where a turn sampled nothing."""
    action_UF: torch.Tensor
    """Of its response."""

    def of(self, chosen_E: Ints) -> Experience:
        """Those of some episodes, in this order."""
        length_E = np.diff(self.starts)[chosen_E]
        starts = np.concatenate([[0], np.cumsum(length_E)])
        places = np.arange(starts[-1]) + np.repeat(self.starts[chosen_E] - starts[:-1], length_E)
        ids = [self.ids[i] for i in chosen_E]
        at = torch.from_numpy(places)
        return Experience(
            ids, self.version_E[chosen_E], starts, self.reward_U[places], self.state_UF[at], self.action_UF[at]
        )

    @classmethod
    def joined(cls, parts: Sequence[Experience]) -> Experience:
        """All episodes of some."""
        length_E = np.concatenate([np.diff(part.starts) for part in parts])
        return cls(
            [id for part in parts for id in part.ids],
            np.concatenate([part.version_E for part in parts]),
            np.concatenate([[0], np.cumsum(length_E)]),
            np.concatenate([part.reward_U for part in parts]),
            torch.cat([part.state_UF for part in parts]),
            torch.cat([part.action_UF for part in parts]),
        )


class Critic:
    """The double critic of a run, its target, and the episodes that it learns from.

    Args:
        models: The reference gives the features; the policy says which episodes are its own.
        log: Where the episodes are recorded: a checkpoint holds their ids alone.
        settings: The critic's.
        seed: Seed of the run.
    """

    def __init__(self, models: Models, log: EpisodeLog, settings: ArCHer, seed: int) -> None:
        self._models, self._log = models, log
        size = 2 * models.reference.get_output_embeddings().weight.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "critic"))
            self.heads = TurnCritic(size, size, settings.critic_width).to(models.reference.device)
        self.target = self.heads.follower()
        self.optimizer = torch.optim.AdamW(self.heads.parameters(), lr=settings.critic_learning_rate, weight_decay=0.0)
        self.kept: list[Experience] = []
        """What is learnt from, one of each iteration, the oldest first."""
        self._at_hand: Experience | None = None  # the iteration's own, whatever a plan has made of it
        self.spread = torch.zeros(0)
        """[4, F] means and standard deviations of the features of state and action in the first iteration."""
        self.warming = False
        """Whether the critic still learns alone."""

    def learn(
        self,
        config: TrainConfig,
        episodes: Sequence[Episode],
        outcomes: Outcomes,
        iteration: int,
        rng: np.random.Generator,
    ) -> dict[str, float]:
        """Take in what an iteration has collected and learn from all that is kept; returns metrics.

        Args:
            config: The numbers as the schedules have them.
            episodes: All that was collected, as a plan has changed it, before any filter.
            outcomes: What they earned.
            iteration: Iterations done, this one included.
            rng: Draws episodes.

        Raises:
            PolicyFault: The critic's loss or its gradient is not finite; that step was not taken.
        """
        settings = config.advantage
        assert isinstance(settings, ArCHer)
        self.warming = iteration <= settings.warmup_iterations
        self._take_in(episodes, outcomes, settings.capacity)
        every = Experience.joined(self.kept)
        fresh_F = np.flatnonzero(every.version_E == self._models.policy.version)
        losses = []
        for group in self.optimizer.param_groups:
            group["lr"] = settings.critic_learning_rate
        for _ in range(settings.critic_steps):
            drawn = [_drawn(pool, settings.critic_episodes, rng) for pool in (np.arange(len(every.ids)), fresh_F)]
            try:
                losses.append(self._step(settings, every.of(np.concatenate(drawn)), config.max_grad_norm))
            except PolicyFault as fault:
                raise PolicyFault(f"iteration {iteration}, step {len(losses) + 1} of the critic: {fault}") from fault
        assert self._at_hand is not None
        values = self._values(self._at_hand)
        return {
            "loss/critic": float(np.mean(losses)),
            "critic/q": float(values.q_2U.amin(dim=0).mean()),
            "critic/v": float(values.v_2U.amin(dim=0).mean()),
            "critic/episodes": float(len(every.ids)),
            "critic/fresh": float(len(fresh_F)),
        }

    def turns(self, episodes: Sequence[Episode], settings: ArCHer) -> Floats:
        """[U] advantage of each turn of these episodes, which `learn` has taken in."""
        assert self._at_hand is not None
        place = {id: number for number, id in enumerate(self._at_hand.ids)}
        seen = self._at_hand.of(np.array([place[episode.id] for episode in episodes], np.int64))
        return settings.estimate(self._values(seen))

    def _take_in(self, episodes: Sequence[Episode], outcomes: Outcomes, capacity: int) -> None:
        """Keep the played episodes among them that are new, and let go of the oldest iterations."""
        reward_E = np.split(outcomes.reward_U, outcomes.starts[1:-1])
        known = {id for part in self.kept for id in part.ids}
        played = [episode.id not in known and episode.id in self._log for episode in episodes]
        both = []
        for wanted in (played, [not each for each in played]):  # apart, for a resumed run computes the former again
            some = list(itertools.compress(episodes, wanted))
            both.append(self._seen(some, list(itertools.compress(reward_E, wanted))))
        order = np.argsort(np.argsort(~np.array(played), kind="stable"), kind="stable")
        self._at_hand = Experience.joined(both).of(order)
        self.kept.append(both[0])
        sizes = np.cumsum([len(part.ids) for part in self.kept[::-1]])
        del self.kept[: len(self.kept) - max(1, int((sizes <= capacity).sum()))]

    def _seen(self, episodes: Sequence[Episode], rewards: Sequence[Floats]) -> Experience:
        rows = build_rows(episodes)[0]
        starts = np.cumsum([0, *(len(episode.turns) for episode in episodes)]).astype(np.int64)
        state_UF, action_UF = turn_features(self._models, rows, starts)
        if not len(self.spread) and len(state_UF):
            self.spread = torch.stack([*_moments(state_UF), *_moments(action_UF)])
        if len(state_UF):
            state_UF = (state_UF - self.spread[0]) / self.spread[1]
            action_UF = (action_UF - self.spread[2]) / self.spread[3]
        versions = np.array([episode.policy_version for episode in episodes], np.int64)
        reward_U = np.concatenate([*rewards, np.zeros(0)])
        return Experience([episode.id for episode in episodes], versions, starts, reward_U, state_UF, action_UF)

    def _step(self, settings: ArCHer, chosen: Experience, max_grad_norm: float) -> float:
        fresh_E = chosen.version_E == self._models.policy.version
        fresh_U = torch.from_numpy(np.repeat(fresh_E, np.diff(chosen.starts)))
        reward_U = torch.from_numpy(chosen.reward_U).float()
        device = next(self.heads.parameters()).device
        starts = torch.from_numpy(chosen.starts)
        state_UF, action_UF = chosen.state_UF.to(device), chosen.action_UF.to(device)
        loss = settings.loss(
            self.heads, self.target, state_UF, action_UF, reward_U.to(device), starts, fresh_U.to(device)
        )
        if not torch.isfinite(loss):
            raise PolicyFault(_not_finite("loss", self._broken(chosen)))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.heads.parameters(), max_grad_norm)
        if not torch.isfinite(norm):
            raise PolicyFault(_not_finite("gradient", chosen.ids))
        self.optimizer.step()
        self.target.follow(self.heads, settings.tau)
        return float(loss.detach())

    def _broken(self, chosen: Experience) -> list[str]:
        """The episodes among them with a reward or a value that is not finite; all where only the sum overflows."""
        values = self._values(chosen)
        finite_U = torch.cat([values.q_2U, values.v_2U]).isfinite().all(dim=0).cpu().numpy()
        finite_U &= np.isfinite(chosen.reward_U)
        sound_E = [bool(finite_T.all()) for finite_T in np.split(finite_U, chosen.starts[1:-1])]
        return [id for id, sound in zip(chosen.ids, sound_E, strict=True) if not sound] or chosen.ids

    @torch.no_grad()
    def _values(self, seen: Experience) -> TurnValues:
        device = next(self.heads.parameters()).device
        return self.heads(seen.state_UF.to(device), seen.action_UF.to(device))

    def state(self) -> dict[str, Any]:
        """What the next iterations depend on besides `tensors`, as JSON values."""
        kept = [
            {"ids": part.ids, "rewards": [reward_T.tolist() for reward_T in np.split(part.reward_U, part.starts[1:-1])]}
            for part in self.kept
        ]
        return {"kept": kept, "optimizer": flat_optimizer(self.optimizer)[1]}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights of heads and target, and what the optimizer remembers of them."""
        parts = {"heads": self.heads.state_dict(), "target": self.target.state_dict()}
        named = {f"{part}.{name}": value for part, found in parts.items() for name, value in found.items()}
        own = flat_optimizer(self.optimizer)[0]
        named["spread.all"] = self.spread
        return named | {f"optimizer.{name}": value for name, value in own.items()}

    def restore(self, state: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from where `state` and `tensors` were taken; the features are computed again.

        Raises:
            CheckpointError: The critic was of another size, or an episode is no longer in the log.
        """
        parts: dict[str, dict[str, torch.Tensor]] = {"heads": {}, "target": {}, "optimizer": {}, "spread": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        try:
            self.heads.load_state_dict(parts["heads"])
            self.target.load_state_dict(parts["target"])
        except RuntimeError as error:
            raise CheckpointError(
                f"the checkpoint's critic is of another size: {error}; resume with the same critic_width"
            ) from error
        restore_optimizer(self.optimizer, parts["optimizer"], state["optimizer"])
        self.spread = parts["spread"]["all"]
        self.kept = []
        for part in state["kept"]:
            found = [self._log.get(id) for id in part["ids"]]
            episodes = [episode for episode in found if episode is not None]
            if len(episodes) < len(found):
                lost = part["ids"][found.index(None)]
                raise CheckpointError(
                    f"episode {lost!r}, which the critic learns from, is not in the log; resume in the run's own folder"
                )
            self.kept.append(self._seen(episodes, [np.array(rewards) for rewards in part["rewards"]]))


def turn_features(models: Models, rows: Sequence[Row], starts: Ints) -> tuple[torch.Tensor, torch.Tensor]:
    """([U, F] features of the states, [U, F] of the actions): the reference's last hidden state, then their mean.

    Args:
        models: The reference is asked.
        rows: The rows of E episodes.
        starts: [E+1] place of each episode's first turn.
    """
    width = models.reference.get_output_embeddings().weight.shape[1]
    state_UF, action_UF = (torch.zeros(int(starts[-1]), 2 * width) for _ in range(2))
    spans = []
    for row in rows:
        sampled = np.flatnonzero(row.sampled)
        ends = np.flatnonzero(np.diff(row.turns[sampled], append=-1))  # the last of each turn among the sampled
        first, after = sampled[[0, *(ends[:-1] + 1)]], sampled[ends] + 1
        spans.append(np.stack([first, after], axis=1).ravel())
    found = models.spans(rows, spans)
    for row, read in zip(rows, found, strict=True):
        turns = torch.from_numpy(starts[row.episode] + np.unique(row.turns[row.sampled]))
        state_UF[turns], action_UF[turns] = read[0::2], read[1::2]
    return state_UF, action_UF


def _not_finite(what: str, ids: Sequence[str]) -> str:
    return (
        f"the {what} of {named(ids)} is not finite, this step was not taken; resume from the last checkpoint with a "
        "lower advantage.critic_learning_rate, and look at these episodes' rewards and at the reference's weights"
    )


def _moments(value_UF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means, and standard deviations that are at least a twentieth of a hidden state's."""
    return value_UF.mean(dim=0), value_UF.std(dim=0, correction=0).clamp(min=0.05)


def _drawn(pool: Ints, num: int, rng: np.random.Generator) -> Ints:
    return rng.choice(pool, size=min(num, len(pool)), replace=False)
