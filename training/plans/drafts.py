"""Drafts: the responses of a task's last visit are kept as far as the policy agrees with them (SPEC-RL, 2509.23232)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from agentkit.errors import ConfigError
from agentkit.memory.records import Episode
from agentkit.policies.policy import Completion, Draft, Policy, Request
from agentkit.rollout import Order, play_all
from agentkit.task import Task
from agentkit.training.plans.plan import Collected, Ground, RolloutPlan, State
from agentkit.training.plans.successes import read

if TYPE_CHECKING:
    from agentkit.training.config import TrainConfig


class SpecRL(RolloutPlan):
    """An attempt begins with the responses of the same attempt at its task's last visit, as far as they are kept.

    A response is drafted where its prompt is what it was then: the first turn's, and each further one's while all
    before was kept. How ids are kept, and what that does to their distribution, is said in
    `agentkit.policies.drafts`: it is biased towards the policy of the last visit, the less the smaller ℓ.
    """

    name: Literal["spec-rl"] = "spec-rl"
    lenience: float = Field(default=1.0, gt=0)
    """ℓ: a drafted id is kept with probability min(1, ℓ·π/μ). The source's value was not to be had; 1 is our choice."""

    def check(self, config: TrainConfig, env_id: str) -> None:
        """Refuse runs that never come back to a task."""
        if config.task_pool is None:
            raise ConfigError(
                f"plan = {self.name!r} and task_pool = None: no task is played twice, so there is never a draft; set a "
                "task_pool"
            )

    def collect(self, ground: Ground, tasks: Sequence[Task], state: State) -> Collected:
        """Play every attempt with its drafts."""
        last = state.setdefault("last", {})
        orders, drafted = [], []
        for task in tasks:
            ids = last.get(task.key, [])
            for number in range(ground.config.group_size):
                former = read(ground.log, ids[number]) if number < len(ids) and ids[number] else None
                policy = None if former is None else Drafted(ground.policy, former, self.lenience)
                drafted += [] if policy is None else [policy]
                orders.append(Order(task, number, policy=policy))
        episodes = play_all(ground.policy, orders, **ground.options)
        for place, task in enumerate(tasks):
            group = episodes[place * ground.config.group_size : (place + 1) * ground.config.group_size]
            last[task.key] = [episode.id if episode.error is None else "" for episode in group]
        kept = sum(policy.kept for policy in drafted)
        total = sum(len(turn.response_ids) for episode in episodes for turn in episode.turns)
        return Collected(episodes, {"plan/tokens_kept": float(kept), "plan/tokens_sampled": float(total - kept)})


class Drafted:
    """A policy that is given the responses of an earlier attempt as drafts, turn by turn.

    Args:
        policy: Who answers.
        former: The earlier attempt.
        lenience: ℓ of the drafts.
    """

    def __init__(self, policy: Policy, former: Episode, lenience: float) -> None:
        self._policy = policy
        self._turns = iter(former.turns)
        self._lenience = lenience
        self.kept = 0
        """Ids kept from drafts so far."""

    @property
    def name(self) -> str:
        """That of the policy who answers."""
        return self._policy.name

    @property
    def version(self) -> int:
        """That of the policy who answers."""
        return self._policy.version

    async def complete(self, request: Request) -> Completion:
        """Ask the policy, with the former response as a draft if it was one to the same prompt."""
        turn = next(self._turns, None)
        if turn is not None and turn.messages == request.messages:
            draft = Draft(turn.response_ids, turn.logprobs, self._lenience)
            request = dataclasses.replace(request, draft=draft)
        completion = await self._policy.complete(request)
        self.kept += completion.drafted
        return completion
