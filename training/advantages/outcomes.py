"""Outcomes: what a batch of attempts earned, flat over turns, as advantages read it.

E episodes in G groups, U turns in all. A group is the attempts at one task under one policy.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from agentkit.errors import ConfigError, EnvironmentFault
from agentkit.memory.records import Episode
from agentkit.training.advantages.bonus import TurnBonus
from agentkit.training.overlong import OverlongPenalty

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Kind = TypeVar("Kind", bound=np.generic)

ROUNDING = 1e-9
"""Returns nearer to each other than this (relative to the greatest, if that exceeds 1) are equal."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a batch of attempts earned."""

    group_E: Ints
    """Number of each episode's group, 0 to G − 1."""
    return_E: Floats
    """Undiscounted sum of the episode's rewards, penalties and bonus included."""
    success_E: Bools
    cut_E: Bools
    """True where a limit ended the episode before the environment did."""
    starts: Ints
    """[E+1] place of each episode's first turn."""
    reward_U: Floats
    """Reward of each turn, its penalties and bonus included."""
    state_U: Ints
    """Turns of a group in which the policy was asked in the same state have the same number; −1 where it is unknown."""
    tokens_U: Ints
    """Sampled tokens of each turn."""
    logp_U: Floats
    """Sum of log μ over the turn's sampled tokens, as recorded."""
    reference_logp_U: Floats | None = None
    """The same sum under the frozen reference; None if nothing asks it."""
    entropy_U: Floats | None = None
    """Sum of the policy's entropies at the turn's sampled tokens; None if nothing asks it."""

    @classmethod
    def of(
        cls,
        episodes: Sequence[Episode],
        format_penalty: float = 0.0,
        *,
        overlong_penalty: OverlongPenalty | None = None,
        turn_bonus: TurnBonus | None = None,
        reward_range: tuple[float, float] | None = None,
    ) -> Outcomes:
        """Those of recorded episodes.

        Args:
            episodes: In the order of the batch.
            format_penalty: Taken from the reward of each turn that was malformed or not understood.
            overlong_penalty: What is taken from the reward of each turn for its length.
            turn_bonus: What turns earn for acting.
            reward_range: Least and greatest reward the environment may give for a turn, before penalties and bonus.

        Raises:
            ConfigError: There is no episode.
            EnvironmentFault: A reward is not finite, or lies outside the range.
        """
        if not episodes:
            raise ConfigError("an empty group has no advantages")
        groups: dict[str, int] = {}
        group_E = np.array([groups.setdefault(episode.group_id, len(groups)) for episode in episodes], np.int64)
        states: dict[tuple[int, str], int] = {}
        rewards, valid, known, tokens, logps = [], [], [], [], []
        for group, episode in zip(group_E.tolist(), episodes, strict=True):
            for turn in episode.turns:
                rewards.append(turn.reward)
                valid.append(turn.valid)
                key = turn.state_key
                known.append(states.setdefault((group, key), len(states)) if key else -1)
                tokens.append(len(turn.response_ids))
                logps.append(sum(turn.logprobs))
        starts = np.cumsum([0, *(len(episode.turns) for episode in episodes)]).astype(np.int64)
        reward_U = np.array(rewards, np.float64)
        _check_rewards(reward_U, starts, episodes, reward_range)
        reward_U = reward_U - format_penalty * ~np.array(valid, np.bool_)
        tokens_U = np.array(tokens, np.int64)
        if overlong_penalty is not None:
            reward_U = reward_U - overlong_penalty.of(tokens_U)
        if turn_bonus is not None:
            acted = [turn.valid and turn.action is not None for episode in episodes for turn in episode.turns]
            reward_U = reward_U + turn_bonus.of(np.array(acted, np.bool_), starts)
        return cls(
            group_E=group_E,
            return_E=segment_sums(reward_U, starts),
            success_E=np.array([episode.success for episode in episodes], np.bool_),
            cut_E=np.array([_is_cut(episode) for episode in episodes], np.bool_),
            starts=starts,
            reward_U=reward_U,
            state_U=np.array(known, np.int64),
            tokens_U=tokens_U,
            logp_U=np.array(logps, np.float64),
        )

    @property
    def num_groups(self) -> int:
        """G."""
        return int(self.group_E.max()) + 1

    @property
    def episode_U(self) -> Ints:
        """Episode of each turn."""
        return np.repeat(np.arange(len(self.group_E)), np.diff(self.starts))

    @property
    def number_U(self) -> Ints:
        """Number of each turn within its episode."""
        return np.arange(len(self.reward_U)) - self.starts[self.episode_U]

    def per_turn(self, value_E: NDArray[Kind]) -> NDArray[Kind]:
        """[U] each episode's value at each of its turns."""
        return np.repeat(value_E, np.diff(self.starts))

    def per_episode(self, value_U: Floats) -> Floats:
        """[E] sum of the values of each episode's turns."""
        return segment_sums(value_U, self.starts)

    def told(
        self, turn_N: Ints, *, reference_logp_N: Floats | None = None, entropy_N: Floats | None = None
    ) -> Outcomes:
        """Itself, with what the networks say of N sampled tokens summed over turns.

        Args:
            turn_N: Place of each token's turn among the U.
            reference_logp_N: Log-probabilities under the frozen reference.
            entropy_N: Entropies of the policy.
        """
        told = self
        if reference_logp_N is not None:
            told = dataclasses.replace(told, reference_logp_U=self._sums(turn_N, reference_logp_N))
        if entropy_N is not None:
            told = dataclasses.replace(told, entropy_U=self._sums(turn_N, entropy_N))
        return told

    def _sums(self, turn_N: Ints, value_N: Floats) -> Floats:
        return np.bincount(turn_N, value_N, len(self.reward_U)).astype(np.float64, copy=False)


def _is_cut(episode: Episode) -> bool:
    return bool(episode.turns) and episode.turns[-1].truncated and not episode.turns[-1].terminated


def _check_rewards(
    reward_U: Floats, starts: Ints, episodes: Sequence[Episode], reward_range: tuple[float, float] | None
) -> None:
    least, greatest = reward_range or (-np.inf, np.inf)
    wrong = np.flatnonzero(~(np.isfinite(reward_U) & (least <= reward_U) & (reward_U <= greatest)))
    if not len(wrong):
        return
    place = int(wrong[0])
    number = int(np.searchsorted(starts, place, side="right")) - 1
    where = f"turn {place - int(starts[number])} of episode {episodes[number].id!r} ({episodes[number].task.env_id})"
    if not np.isfinite(reward_U[place]):
        raise EnvironmentFault(f"the reward of {where} is {reward_U[place]}, not a number to learn from; mend it there")
    raise EnvironmentFault(
        f"the reward of {where} is {reward_U[place]}, outside the declared reward_range [{least}, {greatest}]; "
        "mend the environment, or widen the range if the reward is right"
    )


def group_indices(episodes: Sequence[Episode]) -> list[list[int]]:
    """Indices of the episodes of each group, groups in order of first appearance."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, episode in enumerate(episodes):
        groups[episode.group_id].append(index)
    return list(groups.values())


def segment_sums(value_N: Floats, starts: Ints) -> Floats:
    """[S] sum of each segment of values; 0 of an empty one.

    >>> segment_sums(np.array([1.0, 2.0, 3.0]), np.array([0, 2, 2, 3])).tolist()
    [3.0, 0.0, 3.0]
    """
    segment_N = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return np.bincount(segment_N, value_N, len(starts) - 1).astype(np.float64, copy=False)


def discounted_sums(value_N: Floats, starts: Ints, discount: float) -> Floats:
    """[N] Σ_k discount^k · value from each place to the end of its segment.

    All segments go back from their ends together, one step of the loop for each place of the longest.

    >>> discounted_sums(np.array([1.0, 2.0, 4.0, 8.0]), np.array([0, 3, 4]), 0.5).tolist()
    [3.0, 4.0, 4.0, 8.0]
    """
    length_S = np.diff(starts)
    order = np.argsort(-length_S, kind="stable")
    last_S, length_S = starts[1:][order] - 1, length_S[order]
    sums_N = np.array(value_N, np.float64)
    active = len(order)
    for back in range(1, int(length_S[0]) if len(length_S) else 0):
        while length_S[active - 1] <= back:
            active -= 1
        place = last_S[:active] - back
        sums_N[place] += discount * sums_N[place + 1]
    return sums_N


def within_groups(value_N: Floats, group_N: Ints, num_groups: int) -> tuple[Floats, Floats]:
    """([N] values less their group's mean, [G] population standard deviations); both zero where values are equal.

    Equal values may differ in their last bits (a sum of rewards depends on its order, a mean on the number of
    attempts), and such a group must not count as one that has something to teach.

    >>> centred, deviation = within_groups(np.array([0.1 + 0.2, 0.3, 1.0, 0.0]), np.array([0, 0, 1, 1]), 2)
    >>> centred.tolist(), deviation.tolist()
    ([0.0, 0.0, 0.5, -0.5], [0.0, 0.5])
    """
    count_G = np.bincount(group_N, minlength=num_groups)
    mean_G = np.bincount(group_N, value_N, num_groups) / np.maximum(count_G, 1)
    greatest_G, least_G, largest_G = np.full(num_groups, -np.inf), np.full(num_groups, np.inf), np.ones(num_groups)
    np.maximum.at(greatest_G, group_N, value_N)
    np.minimum.at(least_G, group_N, value_N)
    np.maximum.at(largest_G, group_N, np.abs(value_N))
    spread_G = np.where(count_G > 0, greatest_G - least_G, 0.0) > ROUNDING * largest_G
    centred_N = np.where(spread_G[group_N], value_N - mean_G[group_N], 0.0)
    variance_G = np.bincount(group_N, centred_N**2, num_groups) / np.maximum(count_G, 1)
    return centred_N, np.sqrt(variance_G)


def medians(value_N: Floats, group_N: Ints, num_groups: int) -> Floats:
    """[G] median of each group, the mean of the middle two where their number is even; every group has a member.

    >>> medians(np.array([3.0, 1.0, 2.0, 5.0, 4.0]), np.array([0, 0, 0, 1, 1]), 2).tolist()
    [2.0, 4.5]
    """
    sorted_N = value_N[np.lexsort((value_N, group_N))]
    count_G = np.bincount(group_N, minlength=num_groups)
    first_G = np.cumsum(count_G) - count_G
    return (sorted_N[first_G + (count_G - 1) // 2] + sorted_N[first_G + count_G // 2]) / 2
