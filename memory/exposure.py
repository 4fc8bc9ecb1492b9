"""What was shown and what might have been: the draw that makes the effect of a memory measurable, and its record.

A memory that is always shown cannot be told from the tasks it is shown in. So every memory that would be shown is
left to a coin of its own, and some episodes see no memory at all; who was shown by which chance is written down.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator

from agentkit.errors import ConfigError
from agentkit.memory.records import Episode, Record


class Candidate(Record):
    """A memory that was relevant enough to be shown, and what became of it."""

    memory_id: str
    score: float
    """Relevance, in the unit of the ranking; greater is better."""
    propensity: float = Field(ge=0.0, le=1.0)
    """Probability with which it was shown, given all that was known before its coin was tossed: that the episode was
    not held out and how many places were free. 0 if no coin was tossed."""
    shown: bool
    position: int | None = None
    """Place among the shown, from 0; None if it was not shown."""

    @model_validator(mode="after")
    def _agrees(self) -> Candidate:
        if self.shown != (self.position is not None):
            raise ValueError(f"memory {self.memory_id!r}: a position is given if and only if it was shown")
        if self.shown and self.propensity == 0.0:
            raise ValueError(f"memory {self.memory_id!r} was shown with propensity 0; log the chance it had")
        if not self.shown and self.propensity == 1.0:
            raise ValueError(f"memory {self.memory_id!r} was not shown with propensity 1; log the chance it had")
        return self


class Exposure(Record):
    """One recall: who might have been shown, with which probability, and who was."""

    id: str
    episode_key: str
    """The episode as it is named before it is played; see `episode_key`."""
    task_key: str = ""
    """`Task.key` of the task that was played."""
    context: str = ""
    """Name of the cluster of situations it belongs to; empty if there is none."""
    held_out: bool = False
    """The whole recall was withheld."""
    holdout: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability with which the episode was held out."""
    candidates: tuple[Candidate, ...] = ()
    """In the order in which their coins were tossed."""
    policy_version: int = 0
    time_s: float = 0.0
    """Unix time in seconds."""

    @model_validator(mode="after")
    def _agrees(self) -> Exposure:
        if len({candidate.memory_id for candidate in self.candidates}) != len(self.candidates):
            raise ValueError(f"exposure {self.id!r} names a memory twice; each may be a candidate once")
        if self.held_out and any(candidate.propensity for candidate in self.candidates):
            raise ValueError(f"exposure {self.id!r} is held out, so no coin was tossed: every propensity must be 0")
        return self

    @property
    def shown_ids(self) -> tuple[str, ...]:
        """Ids of the memories that were shown, by position."""
        shown = [(candidate.position, candidate.memory_id) for candidate in self.candidates if candidate.shown]
        return tuple(memory_id for _, memory_id in sorted(shown))


class Outcome(Record):
    """How an episode ended, and who says so."""

    value: float = Field(ge=0.0, le=1.0)
    """Success, 0 to 1."""
    judge: Literal["environment", "model"] = "environment"
    """`model` if a language model judged; such an outcome never enters the utility of a memory."""


def episode_key(group_id: str, attempt: int) -> str:
    """Name of an attempt that is known before it is played (an episode's id is known only afterwards).

    >>> episode_key("a3f", 2)
    'a3f/2'
    """
    return f"{group_id}/{attempt}"


def environment_outcomes(episodes: Iterable[Episode]) -> dict[str, Outcome]:
    """What the environment says of each episode: episode key -> 1 for success, 0 for failure.

    Episodes without a group go by their id. One that broke off counts as failed, as everywhere: left out, a memory
    that makes episodes break off would look harmless.
    """
    return {
        episode_key(episode.group_id, episode.attempt) if episode.group_id else episode.id: Outcome(
            value=float(episode.success)
        )
        for episode in episodes
    }


class Exploration(Record):
    """How much is left to chance when memories are shown; the same seed and names give the same draw everywhere.

    With probability `holdout` an episode sees no memory, in none of its recalls. Else the memories that would be shown
    are left to coins:

    * Without `chances`, each of the first `places` is shown with probability 1 − dropout; the place of one that is
      dropped stays empty, so that its effect is measured against nothing in its place. With `num_coins`, those with
      fewer than `young` coins so far get a fair coin: half and half tells most about a memory, and soonest.
    * With `chances` (Thompson sampling), a draw from the posterior of its uplift decides about each: it is shown if the
      draw is above zero. That is a coin with probability P(uplift > 0), so its propensity is exact in closed form; it
      is kept within dropout and 1 − dropout, so that no memory ever goes unmeasured. Those most likely to help come
      first, equals in the order given, until `places` are shown; where places are short, the effect of a memory is
      measured against those it keeps out.

    Each coin depends on (seed, episode, memory) alone and is independent of all others: a dropped memory stays dropped
    for the whole episode, and the propensity is the very number the coin is compared with. Whether there is still a
    place is settled by earlier coins, hence known. Unconditionally, a memory among the first `places` is shown with
    (1 − holdout) times its propensity.
    """

    holdout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Probability that an episode sees no memory."""
    dropout: float = Field(default=0.1, ge=0.0, le=0.5)
    """Probability that a memory which would be shown is not."""
    young: int = Field(default=50, ge=0)
    """Coins up to which a memory is shown half the time, if `draw` is told how many there were."""
    seed: int = 0

    def draw(
        self,
        episode: str,
        ranked: Sequence[tuple[str, float]],
        places: int,
        *,
        recall: int = 0,
        chances: Mapping[str, float] | None = None,
        num_coins: Mapping[str, int] | None = None,
        task_key: str = "",
        context: str = "",
        policy_version: int = 0,
        time_s: float = 0.0,
    ) -> Exposure:
        """What an episode is shown in one recall.

        Args:
            episode: Key of the episode, from `episode_key`.
            ranked: (memory id, relevance) of the candidates, best first; all of them relevant enough to be shown.
            places: Most memories to show.
            recall: Number of the recall within its episode, e.g. of the turn.
            chances: Memory id -> probability that it helps, from `Utility.chance`; one half where it is unknown. None
                for no Thompson sampling. Keep them for a whole episode, or a dropped memory may come back.
            num_coins: Memory id -> coins tossed so far, from `Ledger.num_coins`; 0 where it is unknown. Only without
                `chances`, which know by themselves what is young. To be kept like them.
            task_key, context, policy_version, time_s: Recorded as given.

        Raises:
            ConfigError: A chance is no probability, a memory is ranked twice, `places` is negative, or both `chances`
                and `num_coins` are given.
        """
        if places < 0:
            raise ConfigError(f"there are {places} places; give 0 or more")
        if len({memory_id for memory_id, _ in ranked}) != len(ranked):
            raise ConfigError(f"a memory is ranked twice for episode {episode!r}; rank each once")
        if chances is not None and num_coins is not None:
            raise ConfigError("chances and num_coins both say how likely a memory is shown; give one of them")
        held_out = uniform(self.seed, "holdout", episode) < self.holdout
        coins = [(memory_id, score, self._chance(memory_id, chances, num_coins)) for memory_id, score in ranked]
        if chances is not None:
            coins.sort(key=lambda coin: -coin[2])
        candidates: list[Candidate] = []
        taken = 0
        for memory_id, score, chance in coins:
            tossed = not held_out and (len(candidates) if chances is None else taken) < places
            shown = tossed and uniform(self.seed, "memory", episode, memory_id) < chance
            candidates.append(
                Candidate(
                    memory_id=memory_id,
                    score=score,
                    propensity=chance if tossed else 0.0,
                    shown=shown,
                    position=taken if shown else None,
                )
            )
            taken += shown
        return Exposure(
            id=_digest(self.seed, "exposure", episode, recall).hex(),
            episode_key=episode,
            task_key=task_key,
            context=context,
            held_out=held_out,
            holdout=self.holdout,
            candidates=tuple(candidates),
            policy_version=policy_version,
            time_s=time_s,
        )

    def _chance(
        self, memory_id: str, chances: Mapping[str, float] | None, num_coins: Mapping[str, int] | None
    ) -> float:
        if chances is None:
            young = num_coins is not None and num_coins.get(memory_id, 0) < self.young
            return 0.5 if young else 1.0 - self.dropout
        chance = chances.get(memory_id, 0.5)
        if not 0.0 <= chance <= 1.0:
            raise ConfigError(f"the chance of memory {memory_id!r} is {chance}; give a probability, 0 to 1")
        return min(max(chance, self.dropout), 1.0 - self.dropout)


def uniform(*parts: object) -> float:
    """A number in [0, 1), the same for the same parts in every process, as if drawn anew for others.

    >>> uniform(0, "a") == uniform(0, "a"), uniform(0, "a") == uniform(0, "b")
    (True, False)
    """
    return (int.from_bytes(_digest(*parts), "big") >> 11) / (1 << 53)


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
