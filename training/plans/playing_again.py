"""Playing again: recorded actions in a fresh environment, and what is seen, earned and reached on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from agentkit.envs import make_env
from agentkit.envs.contract import Goals, offers
from agentkit.memory.records import Episode, Turn
from agentkit.task import Task


@dataclass(frozen=True, slots=True)
class Seen:
    """What one turn saw and did in the environment."""

    observation: str
    """What was shown when the turn began."""
    state_key: str
    reward: float
    terminated: bool
    truncated: bool
    valid: bool
    achieved: str = ""
    """The goal reached by what the turn did; empty if the environment states none, or the turn did nothing."""


@dataclass(frozen=True, slots=True)
class Replay:
    """How recorded turns went when they were played again."""

    turns: tuple[Seen, ...]
    """As many as came before the end."""
    success: bool
    achieved: str
    """The goal reached at the end; empty if the environment states none."""
    instructions: str
    """The environment's rules in words."""

    def is_of(self, episode: Episode) -> bool:
        """Whether all went as it did in the episode."""
        return len(self.turns) == len(episode.turns) and all(
            (seen.observation, seen.state_key) == (turn.observation, turn.state_key)
            for seen, turn in zip(self.turns, episode.turns, strict=True)
        )


def was_acted_on(turn: Turn) -> bool:
    """Whether the environment was given an action; a turn may have been asked for only."""
    return turn.action is not None or not turn.valid


def play_again(task: Task, attempt: int, turns: Sequence[Turn]) -> Replay:
    """Play the actions of some turns until the environment ends.

    Args:
        task: What to play; it may have other parameters than the turns were recorded with.
        attempt: Number that names the noise of the dynamics.
        turns: Whose actions to play.

    Raises:
        ConfigError: The environment refuses its parameters.
    """
    env = make_env(task)
    states_goals = offers(env, Goals)
    try:
        observation, info = env.reset(seed=task.seed, options={"split": task.split, "attempt": attempt})
        seen: list[Seen] = []
        ended = False
        for turn in turns:
            if ended:
                break
            before, key = observation, str(info.get("state_key", ""))
            if not was_acted_on(turn):
                seen.append(Seen(before, key, 0.0, False, False, True))
                continue
            observation, reward, terminated, truncated, info = env.step(turn.action or "")
            valid = turn.action is not None and bool(info.get("valid", True))
            achieved = cast(Goals, env).achieved_goal() if states_goals else ""
            seen.append(Seen(before, key, float(reward), bool(terminated), bool(truncated), valid, achieved))
            ended = bool(terminated or truncated)
        achieved = cast(Goals, env).achieved_goal() if states_goals else ""
        return Replay(tuple(seen), bool(info.get("success", False)), achieved, env.instructions)
    finally:
        env.close()
