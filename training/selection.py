"""Selection: which logged attempts are imitated, and how strongly. A class each, chosen by its `name`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentkit.errors import ConfigError
from agentkit.memory.records import Episode
from agentkit.training.settings import Settings

SPLICED = "+agent-r"
"""End of the policy's name in episodes that `AgentR` made."""


class Given(Settings):
    """Every attempt, as given."""

    name: Literal["given"] = "given"

    def choose(self, episodes: Sequence[Episode]) -> list[Episode]:
        """All of them."""
        return list(episodes)


class Successes(Settings):
    """The attempts that succeeded."""

    name: Literal["success"] = "success"

    def choose(self, episodes: Sequence[Episode]) -> list[Episode]:
        """The successes among them, in their order."""
        return [episode for episode in episodes if episode.success and episode.error is None]


class Top(Settings):
    """Of each task the attempts of highest return, succeeded or not; of equals the earlier."""

    name: Literal["top"] = "top"
    share: float = Field(default=0.5, gt=0, le=1)
    """Part of a task's attempts that is kept, at least one; the source of the idea names none, we chose a half."""

    def choose(self, episodes: Sequence[Episode]) -> list[Episode]:
        """The best of each task, in the order given."""
        kept: set[int] = set()
        for indices in _of_each_task(episodes):
            best = sorted(indices, key=lambda i: -episodes[i].episode_return)
            kept.update(best[: math.ceil(self.share * len(best) - 1e-9)])
        return [episode for index, episode in enumerate(episodes) if index in kept]


class Best(Settings):
    """Of each task at most `num` successes that differ: rejection sampling fine-tuning (Yuan et al. 2023, 2308.01825).

    The paper keeps answers whose list of equations is new. A list of actions is what that is for an agent: the same
    way in other words is kept once. Higher returns come first, then fewer turns, then the earlier.
    """

    name: Literal["best"] = "best"
    num: int = Field(default=4, ge=1)
    """n: most successes of a task."""
    distinct: Literal["actions", "responses"] = "actions"
    """What two successes must differ in."""

    def choose(self, episodes: Sequence[Episode]) -> list[Episode]:
        """The best distinct successes of each task, in the order given."""
        kept: set[int] = set()
        for indices in _of_each_task(episodes):
            ways: dict[tuple[str | None, ...], int] = {}
            won = [index for index in indices if episodes[index].success]
            for index in sorted(won, key=lambda i: (-episodes[i].episode_return, len(episodes[i].turns))):
                ways.setdefault(self._way(episodes[index]), index)
            kept.update(list(ways.values())[: self.num])
        return [episode for index, episode in enumerate(episodes) if index in kept]

    def _way(self, episode: Episode) -> tuple[str | None, ...]:
        if self.distinct == "responses":
            return tuple(turn.response for turn in episode.turns)
        return tuple(turn.action for turn in episode.turns if turn.action is not None)


Selection = Annotated[Given | Successes | Top | Best, Field(discriminator="name")]


def advantage_weights(episodes: Sequence[Episode], beta: float, most: float) -> dict[str, float]:
    """Weight of each attempt by id: min(exp(A/β), most), A its return less the mean of its task's attempts.

    Advantage-weighted regression (Peng et al. 2019, 1910.00177, algorithm 1), with the mean of a task's attempts where
    the paper learns a value.

    Raises:
        ConfigError: All weights are 1: no task has attempts of different returns.
    """
    weights: dict[str, float] = {}
    for indices in _of_each_task(episodes):
        mean = float(np.mean([episodes[index].episode_return for index in indices]))
        for index in indices:
            gain = (episodes[index].episode_return - mean) / beta
            weights[episodes[index].id] = math.exp(min(gain, math.log(most)))
    if all(weight == 1 for weight in weights.values()):
        raise ConfigError(
            f"none of {len(episodes)} episodes differs in return from the others at its task, so all weights are 1; "
            "leave out advantage_beta, or give failures too: they are what successes are compared with"
        )
    return weights


def corrected_turns(episodes: Iterable[Episode]) -> dict[str, frozenset[int]]:
    """Turns that another attempt did better, by episode id: what `fine_tune` takes as `judged`.

    * Where a success branched from a failure, the failure was wrong from there on. What came before is worth imitating.
    * A path that `AgentR` spliced was wrong from its first error until the splice, the error being the first turn in
      whose state a success of its group acted otherwise. It is shown, with the way out of it, and not imitated (STeP,
      2505.20023).

    Both need the other attempts among `episodes`.
    """
    episodes = list(episodes)
    lengths = {episode.id: len(episode.turns) for episode in episodes if not episode.success}
    first: dict[str, int] = {}
    wrong: dict[str, frozenset[int]] = {}
    for episode in episodes:
        parent, turn = episode.parent_id, episode.parent_turn
        if not episode.success or parent is None or turn is None:
            continue
        if episode.policy.endswith(SPLICED):
            error = _first_error(episode, turn, episodes)
            if error is not None:
                wrong[episode.id] = frozenset(range(error, turn))
        elif parent in lengths:
            first[parent] = max(turn, first.get(parent, 0))  # the latest branch that still led to success
    return wrong | {id: frozenset(range(turn, lengths[id])) for id, turn in first.items()}


def _first_error(path: Episode, cut: int, episodes: Sequence[Episode]) -> int | None:
    """The first turn before the cut in whose state a success of the group, when last there, acted otherwise."""
    ways = [
        {turn.state_key: turn.action for turn in other.turns if turn.state_key}
        for other in episodes
        if other.success and other.group_id == path.group_id and not other.policy.endswith(SPLICED)
    ]
    for number, turn in enumerate(path.turns[:cut]):
        if any(turn.state_key in way and way[turn.state_key] != turn.action for way in ways):
            return number
    return None


def check_judged(episodes: Iterable[Episode], judged: Mapping[str, Collection[int]]) -> None:
    """Check that every turn judged wrong is there.

    Raises:
        ConfigError: No such episode, or it has no such turn.
    """
    lengths = {episode.id: len(episode.turns) for episode in episodes}
    for id, turns in judged.items():
        if id not in lengths:
            raise ConfigError(f"judged names episode {id!r}, which is not among those given; leave it out or give it")
        beyond = [turn for turn in turns if not 0 <= turn < lengths[id]]
        if beyond:
            raise ConfigError(
                f"judged names turn {min(beyond)} of episode {id!r}, which has turns 0 to {lengths[id] - 1}"
            )


def _of_each_task(episodes: Sequence[Episode]) -> list[list[int]]:
    """Indices of the attempts at each task that were played to their end."""
    tasks: dict[str, list[int]] = defaultdict(list)
    for index, episode in enumerate(episodes):
        if episode.error is None:
            tasks[episode.task.key].append(index)
    return list(tasks.values())
