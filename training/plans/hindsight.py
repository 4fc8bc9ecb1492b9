"""Hindsight: a failed attempt is a success at the goal that it reached (HER, CodeIt).

Nothing is relabelled by hand: the same actions are played in an environment that has the other goal, and what it shows,
pays and says about success is what the new episode holds. Where that is no success there is no episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from agentkit.envs.workers import class_metadata
from agentkit.errors import ConfigError
from agentkit.memory.records import Episode, Message, Part, Role
from agentkit.seeding import derive_seed
from agentkit.training.plans.plan import Ground, OldLogprobs, Patched, RolloutPlan, State, as_made
from agentkit.training.plans.playing_again import Replay, play_again

if TYPE_CHECKING:
    from agentkit.policies.local import LocalPolicy
    from agentkit.training.config import TrainConfig


class Hindsight(RolloutPlan):
    """Failures become successes at another goal, for imitation (1707.01495; 2402.04858).

    A relabelled episode is of another task than its attempt's group, so it takes no part in advantages: it goes to
    replay, as if it were `gain` better than its group. Its prompts are rendered anew with what the environment shows
    under the new goal; what was sampled stays. Goals that were reached at the start, that the environment refuses or
    that make a level of the other split are left out.
    """

    name: Literal["hindsight"] = "hindsight"
    strategy: Literal["final", "future"] = "final"
    """The goal an attempt reached at its end, or ones it reached on the way, after turns drawn at random; the
    relabelled episode ends there. The source relabels transitions, here it is whole episodes."""
    goals: int = Field(default=4, ge=1)
    """k: most goals drawn of one attempt by `future`; 4 in the source, for each transition."""
    per_goal: int = Field(default=1, ge=1)
    """Episodes kept of one task and goal in an iteration, the shortest first (our choice)."""
    gain: float = Field(default=1.0, gt=0)
    """What a relabelled episode is taken to be better than its group, when replay admits and draws it (our choice)."""
    old_logprobs: OldLogprobs = "recomputed"
    """Log-probabilities of relabelled tokens: recomputed in the new prompts, or stored, of the old ones."""

    def check(self, config: TrainConfig, env_id: str) -> None:
        """Refuse environments that cannot be given a goal, and runs without replay."""
        if not class_metadata(env_id).get("sets_goals"):
            raise ConfigError(
                f"plan = {self.name!r}: {env_id} cannot be given the goal that an attempt reached; it needs `Goals`, "
                "an argument `goal` and metadata['sets_goals'] (agentkit.envs.contract.Goals)"
            )
        if config.imitation.weight == 0:
            raise ConfigError(f"plan = {self.name!r} and imitation.weight = 0: relabelled episodes are only imitated")

    def patch(self, ground: Ground, played: Sequence[Episode], state: State) -> Patched:
        """The groups as they are, and the relabelled episodes for replay.

        Raises:
            ConfigError: The environment does not play the same actions the same way.
        """
        made = ground.finished(self.episodes(ground.policy, played, ground.rng(self.name)), self.old_logprobs)
        return Patched(list(played), extra=made, gain=self.gain, values={"plan/relabelled": float(len(made))})

    def episodes(
        self, policy: LocalPolicy, episodes: Sequence[Episode], rng: np.random.Generator | None = None
    ) -> list[Episode]:
        """The relabelled ones of some episodes; their log-probabilities are as recorded, under the old goal.

        Args:
            policy: Whose prompts are rendered.
            episodes: Attempts, of which the failed ones are relabelled.
            rng: Draws the goals of `future`; None for one of seed 0.

        Raises:
            ConfigError: The environment does not play the same actions the same way, or the agent shows observations
                in words of its own.
        """
        failed = [e for e in episodes if not e.success and e.error is None and not e.parent_turn and e.turns]
        failed = [e for e in failed if all(turn.response_ids for turn in e.turns)]
        found: dict[tuple[str, str], list[Episode]] = {}
        rng = rng or np.random.default_rng(0)
        differing = 0
        for episode in failed:
            first = play_again(episode.task, episode.attempt, episode.turns)
            if not first.is_of(episode):
                differing += 1
                continue
            for goal in self._goals(first, rng):
                if (made := _relabelled(policy, episode, first, goal)) is not None:
                    found.setdefault((episode.task.key, goal), []).append(made)
        if failed and differing == len(failed):
            raise ConfigError(
                f"plan = {self.name!r}: none of {differing} failed attempts went the same way when its actions were "
                f"played again, so {failed[0].task.env_id} is not deterministic given task and attempt; "
                "choose another plan"
            )
        shortest = (sorted(made, key=lambda episode: len(episode.turns)) for made in found.values())
        return [episode for made in shortest for episode in made[: self.per_goal]]

    def _goals(self, first: Replay, rng: np.random.Generator) -> list[str]:
        if self.strategy == "final":
            return [first.achieved]
        reached = list(dict.fromkeys(seen.achieved for seen in first.turns if seen.achieved))
        picks = rng.choice(len(reached), size=min(self.goals, len(reached)), replace=False)
        return [reached[pick] for pick in sorted(picks.tolist())]

    @model_validator(mode="after")
    def _consistent(self) -> Hindsight:
        if self.strategy == "final" and "goals" in self.changed:
            raise ValueError(
                f"plan.goals = {self.goals} and plan.strategy = 'final': an attempt has one end; set 'future'"
            )
        return self


def _relabelled(policy: LocalPolicy, episode: Episode, first: Replay, goal: str) -> Episode | None:
    """The episode under a goal it reached; None where it cannot be had."""
    task = episode.task.model_copy(update={"params": {**episode.task.params, "goal": goal}})
    try:
        again = play_again(task, episode.attempt, episode.turns)
    except ConfigError:  # the environment has no such goal
        return None
    if not again.success or not again.turns:
        return None
    shown: dict[str, str] = {}
    for turn, seen in zip(episode.turns, again.turns, strict=False):
        if shown.setdefault(turn.observation, seen.observation) != seen.observation:
            return None
    turns = []
    for turn, seen in zip(episode.turns, again.turns, strict=False):
        messages = tuple(_reshown(message, shown, first, again) for message in turn.messages)
        prompt_ids, prompt_roles = policy.renderer.render(messages)
        changes = {
            "observation": seen.observation,
            "messages": messages,
            "prompt_ids": prompt_ids,
            "prompt_roles": prompt_roles,
            "reward": seen.reward,
            "terminated": seen.terminated,
            "truncated": seen.truncated,
            "valid": seen.valid,
            "state_key": seen.state_key,
        }
        turns.append(turn.model_copy(update=changes))
    group = f"{derive_seed(episode.group_id, 'hindsight', goal):016x}"
    return as_made(
        episode, "hindsight", task=task, group_id=group, parent_id=episode.id, turns=tuple(turns), success=True
    )


def _reshown(message: Message, shown: dict[str, str], first: Replay, again: Replay) -> Message:
    """A message with the observations, and the rules, of the other goal."""
    parts = []
    for part in message.parts:
        text = part.text
        if isinstance(part, Part) and part.role is Role.OBSERVATION:
            if text not in shown:
                raise ConfigError(
                    "the agent shows observations in words of its own, so they cannot be shown with another goal; show "
                    "`attempt.observation` as it is, in a part of role OBSERVATION"
                )
            text = shown[text]
        elif isinstance(part, Part) and part.role is Role.SYSTEM and first.instructions:
            text = text.replace(first.instructions, again.instructions)
        parts.append(part if text == part.text else part.model_copy(update={"text": text}))
    return message.model_copy(update={"parts": tuple(parts)})
