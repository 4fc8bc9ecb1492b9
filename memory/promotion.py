"""Promotion: a memory on probation is played, with and without it, and its effect decides what becomes of it.

Both arms play the same seeds, so they differ in nothing but the memory. That a memory is true, well meant or well
worded counts for nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from agentkit.errors import ConfigError
from agentkit.memory.kinds import InsightBody, Memory, SkillBody, Trust
from agentkit.memory.records import Record
from agentkit.memory.store import MemoryStore

Play = Callable[[Memory | None, int], bool]
"""Whether an attempt that follows a memory, or none, succeeds with a seed; the same for the same seed."""


class PromotionSettings(Record):
    """How sure a promotion has to be."""

    num_seeds: int = Field(default=40, ge=1)
    """Attempts with a memory, and as many without."""
    delta: float = Field(default=0.1, ge=0, lt=1)
    """Success rate by which a memory must beat having none."""
    z: float = Field(default=1.96, gt=0)
    """Standard errors of the bounds; 1.96 for 95 %."""
    most_plays: int = Field(default=10_000, ge=1)
    """Attempts in all; memories for which they do not suffice are left as they are."""


@dataclass(frozen=True)
class Trial:
    """How a memory did."""

    memory_id: str
    outcome: Literal["promoted", "harmful", "open"]
    num_with: int
    """Successes of the attempts that followed it."""
    num_without: int
    """Successes of those that did not."""
    num_seeds: int

    @property
    def sentence(self) -> str:
        """The result in words."""
        of = self.num_seeds
        return f"played again: {self.num_with} of {of} succeeded with it, {self.num_without} of {of} without"


def promote(
    memory: MemoryStore,
    play: Play,
    *,
    env_id: str,
    ids: Collection[str] | None = None,
    settings: PromotionSettings | None = None,
) -> list[Trial]:
    """Play the skills and insights of an environment that wait on probation, and decide about each that is clear.

    One that helps becomes active and `VERIFIED`; one that harms goes to quarantine; else it stays. Repeated, nothing
    changes, for the same seeds are played: more chances must not add up to a promotion.

    Args:
        memory: The store.
        play: Plays one attempt.
        env_id: The environment that `play` plays.
        ids: These memories, whatever their status; None for all on probation, by id.
        settings: How sure to be.

    Returns:
        The trials, in the order of the ids.

    Raises:
        ConfigError: A memory of `ids` cannot be played: it is of another environment or recommends no action.
    """
    settings = settings or PromotionSettings()
    known = {one.id: one for one in memory.held(env_id=env_id) if _recommends(one)}
    if ids is not None and (wrong := sorted(set(ids) - known.keys())):
        raise ConfigError(f"{wrong[0]!r} is no skill or insight with an action of {env_id}; `held` lists memories")
    waiting = [one for id, one in known.items() if (one.status == "probation" if ids is None else id in ids)]
    without: list[bool] = []
    trials = []
    for place, one in enumerate(waiting):
        if settings.num_seeds * (place + 2) > settings.most_plays:
            break
        without = without or [play(None, seed) for seed in range(settings.num_seeds)]
        trial = judge(one.id, [play(one, seed) for seed in range(settings.num_seeds)], without, settings)
        trials.append(trial)
        if trial.outcome == "promoted":
            memory.decide(one.id, "active", trust=max(one.trust, Trust.VERIFIED), why=trial.sentence)
        elif trial.outcome == "harmful":
            memory.decide(one.id, "quarantine", why=trial.sentence)
    return trials


def judge(
    memory_id: str, with_it: Sequence[bool], without: Sequence[bool], settings: PromotionSettings | None = None
) -> Trial:
    """What paired attempts say of a memory.

    Promoted if the Wilson lower bound of success with it exceeds the success rate without by `delta`, harmful if its
    upper bound is below that rate. The rate without is itself an estimate, which the bounds do not count; so the
    attempts must also differ in one direction by more than chance, `z` standard errors (McNemar 1947).

    >>> judge("m", [True] * 20, [True, False] * 10).outcome
    'promoted'
    >>> judge("m", [True, False] * 10, [True, False] * 10).outcome
    'open'

    Raises:
        ConfigError: There are no attempts, or not as many with it as without.
    """
    settings = settings or PromotionSettings()
    if not with_it or len(with_it) != len(without):
        raise ConfigError(f"{len(with_it)} attempts with the memory and {len(without)} without; needed are pairs")
    number, base = len(with_it), sum(without) / len(without)
    low, high = wilson(sum(with_it), number, settings.z)
    gained = sum(one and not other for one, other in zip(with_it, without, strict=True))
    lost = sum(other and not one for one, other in zip(with_it, without, strict=True))
    clear = abs(gained - lost) > settings.z * (gained + lost) ** 0.5
    outcome: Literal["promoted", "harmful", "open"] = "open"
    if clear and low > base + settings.delta:
        outcome = "promoted"
    elif clear and high < base:
        outcome = "harmful"
    return Trial(memory_id, outcome, sum(with_it), sum(without), number)


def wilson(successes: int, number: int, z: float) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927), `z` standard errors wide to each side.

    >>> [round(bound, 3) for bound in wilson(8, 10, 1.96)]
    [0.49, 0.943]
    """
    share, spread = successes / number, z * z / number
    centre = share + spread / 2
    reach = (spread * share * (1 - share) + spread * spread / 4) ** 0.5
    return max(0.0, (centre - reach) / (1 + spread)), min(1.0, (centre + reach) / (1 + spread))


def _recommends(memory: Memory) -> bool:
    body = memory.body
    return isinstance(body, SkillBody) or (isinstance(body, InsightBody) and bool(body.action))
