"""Allocation: attempts go to the tasks about which they say most, and hints to those that never succeed (XRPO)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from pydantic import Field, model_validator

from agentkit.agents.retries import Reminded, Told
from agentkit.envs import make_env
from agentkit.envs.contract import Expert, offers
from agentkit.envs.workers import env_class
from agentkit.errors import ConfigError
from agentkit.memory.records import Episode
from agentkit.rollout import Order, play_all
from agentkit.task import Task
from agentkit.training.plans.plan import Collected, Ground, OldLogprobs, RolloutPlan, State
from agentkit.training.plans.unaided import unaided
from agentkit.training.settings import Settings

if TYPE_CHECKING:
    from agentkit.training.config import TrainConfig

Belief = tuple[float, float]
"""(α, β) of the Beta distribution of a task's success probability."""


class Hints(Settings):
    """What is shown in some attempts at a task that has never succeeded. The numbers are our choice."""

    source: Literal["expert", "text"] = "expert"
    """The environment's own first turns (it has to offer `Expert`), or `text`."""
    turns: int = Field(default=1, ge=1)
    """Turns of the expert that are told."""
    text: str = ""
    """What is told with `source = "text"`."""
    after: int = Field(default=4, ge=1)
    """Attempts without any success that a task needs."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the task's further attempts that get the hint, the first time."""
    decay: float = Field(default=0.5, gt=0, le=1)
    """Factor of the share for each iteration in which the task had the hint before; below half an attempt, none has."""
    keep: bool = False
    """Whether what is learnt has the hint in its prompts; else it is as if it had been asked for without."""
    old_logprobs: OldLogprobs = "recomputed"
    """Log-probabilities of attempts whose hint was taken out."""

    @model_validator(mode="after")
    def _consistent(self) -> Hints:
        if (self.source == "text") != bool(self.text):
            raise ValueError(f"hints.source = {self.source!r} and hints.text = {self.text!r}: only 'text' needs a text")
        if self.source == "text" and "turns" in self.changed:
            raise ValueError(f"hints.source = 'text' and hints.turns = {self.turns}: only the expert's turns are told")
        if self.keep and "old_logprobs" in self.changed:
            raise ValueError(
                f"hints.keep = true and hints.old_logprobs = {self.old_logprobs!r}: what keeps its hint has the "
                "log-probabilities it was sampled with; leave one of them out"
            )
        return self


class XRPO(RolloutPlan):
    """The first attempts are spread evenly, the rest go where they are expected to tell most (after XRPO).

    tasks_per_iteration × group_size attempts in all. What is known of a task is a Beta distribution: the prior, what
    earlier iterations saw, discounted by `carry` for each (they need a `task_pool`), and the first attempts of this
    one. With mean m, n = α + β and variance V = m(1 − m)/(n + 1), the k-th further attempt is expected to lower the
    variance by V·n / ((n + k − 1)(n + k)), exactly; each next one goes to the task where that is most. XRPO measures
    uncertainty otherwise (by confidence intervals of the return); of its three parts the reward sharpening is
    `novelty` of `modifiers`.
    """

    name: Literal["xrpo"] = "xrpo"
    first: float = Field(default=0.5, gt=0, le=1)
    """Share of `group_size` that every task gets, at least two attempts; 1 leaves nothing to allocate."""
    most: int | None = Field(default=None, ge=2)
    """Most attempts at one task; None for no bound."""
    prior: float = Field(default=1.0, gt=0)
    """α = β of what is known of a new task; 1 is uniform."""
    carry: float = Field(default=0.5, ge=0, le=1)
    """Factor of what earlier attempts told, for each iteration that plays the task anew: the policy has changed."""
    hints: Hints | None = None
    """Hints for tasks that never succeed; None for none."""

    def check(self, config: TrainConfig, env_id: str) -> None:
        """Refuse bounds that do not leave room for the budget, and hints that the environment cannot give."""
        if self.most is not None and self.most < config.group_size:
            raise ConfigError(
                f"plan.most = {self.most} is below group_size = {config.group_size}: the iteration's "
                "attempts would find no task"
            )
        family = env_class(env_id)
        tells = isinstance(family, type) and not hasattr(family, "__getattr__")  # others are asked once they are made
        if self._tells_expert_starts and tells and not offers(family, Expert):
            raise _without_expert(env_id)

    def collect(self, ground: Ground, tasks: Sequence[Task], state: State) -> Collected:
        """Play the first attempts of all tasks, then those that are allocated, some of them with a hint.

        Raises:
            ConfigError: Hints are to be the expert's, and the environment has none; nothing has been played.
        """
        if self._tells_expert_starts and not offers(env_class(tasks[0].env_id), Expert):
            expert_start(tasks[0], 1)  # its class does not tell whether it has one
        size, num = ground.config.group_size, self.num_first(ground.config.group_size)
        firsts = [Order(task, number) for task in tasks for number in range(num)]
        played = play_all(ground.policy, firsts, **ground.options)
        groups = [played[place * num : (place + 1) * num] for place in range(len(tasks))]
        seen = state.setdefault("seen", {})
        counts = [_counts(seen.get(task.key, (0.0, 0.0)), group) for task, group in zip(tasks, groups, strict=True)]
        most = len(tasks) * size if self.most is None else self.most
        beliefs = [(self.prior + won, self.prior + lost) for won, lost in counts]
        more = allocate(beliefs, (size - num) * len(tasks), most - num)
        told = [self._told(task, count, extra, state) for task, count, extra in zip(tasks, counts, more, strict=True)]
        orders = []
        for task, extra, (hinted, hint) in zip(tasks, more, told, strict=True):
            for place in range(extra):
                recall = Reminded([hint], ground.options.get("recall")) if hint is not None and place < hinted else None
                orders.append(Order(task, num + place, recall))
        rest = play_all(ground.policy, orders, **ground.options) if orders else []
        aided: list[Episode] = []
        starts = np.cumsum([0, *more])
        for place, (task, group, (hinted, hint)) in enumerate(zip(tasks, groups, told, strict=True)):
            further = rest[starts[place] : starts[place + 1]]
            aided += further[:hinted]
            alone = [*group, *further[hinted:]]
            if ground.config.task_pool is not None:
                won, lost = _counts((0.0, 0.0), alone)
                before = seen.get(task.key, (0.0, 0.0))
                seen[task.key] = [self.carry * before[0] + won, self.carry * before[1] + lost]
            if hint is not None:
                assert self.hints is not None
                further[:hinted] = self._learnt(ground, group[0], further[:hinted], hint)
            groups[place] = [*group, *further]
        values = {"plan/most_attempts": float(num + max(more, default=0)), "plan/hinted": float(len(aided))}
        if aided:
            values["plan/success_hinted"] = sum(episode.success for episode in aided) / len(aided)
        return Collected([episode for group in groups for episode in group], values)

    def num_first(self, group_size: int) -> int:
        """First attempts at each task.

        >>> XRPO().num_first(8), XRPO(first=0.1).num_first(8), XRPO(first=0.9).num_first(4)
        (4, 2, 4)
        """
        return min(group_size, max(2, round(self.first * group_size)))

    @property
    def _tells_expert_starts(self) -> bool:
        return self.hints is not None and self.hints.source == "expert"

    def _told(self, task: Task, count: Belief, extra: int, state: State) -> tuple[int, Told | None]:
        """(how many of the further attempts get a hint, the hint)."""
        hints = self.hints
        if hints is None or count[0] > 0 or count[1] < hints.after:
            return 0, None
        times = state.setdefault("hinted", {})
        hinted = math.floor(hints.share * hints.decay ** times.get(task.key, 0) * extra + 0.5)
        if not hinted:
            return 0, None
        times[task.key] = times.get(task.key, 0) + 1
        text = hints.text if hints.source == "text" else expert_start(task, hints.turns)
        return hinted, Told(id="hint", text=text)

    def _learnt(self, ground: Ground, base: Episode, aided: Sequence[Episode], hint: Told) -> list[Episode]:
        """The hinted attempts as members of the group, without the hint unless it is to be kept."""
        assert self.hints is not None
        kept = {"group_id": base.group_id, "memory_snapshot": base.memory_snapshot}
        if self.hints.keep:
            return [episode.model_copy(update=kept) for episode in aided]
        whole = [place for place, episode in enumerate(aided) if episode.error is None]
        made = [unaided(ground.policy, aided[place], hint, self.name, **kept) for place in whole]
        made = ground.finished(made, self.hints.old_logprobs)
        learnt = list(aided)
        for place, episode in zip(whole, made, strict=True):
            learnt[place] = episode
        return learnt


def allocate(beliefs: Sequence[Belief], budget: int, most: int) -> list[int]:
    """How many of `budget` further attempts each task gets so that its variances are expected to fall the most.

    Args:
        beliefs: (α, β) of each task.
        budget: Attempts to give away; what exceeds `most` for every task is left.
        most: Most further attempts at one task.

    >>> allocate([(1, 1), (1, 1), (9, 1)], 5, 9), allocate([(5, 5), (1, 9)], 4, 9)
    ([3, 2, 0], [4, 0])
    """
    gains = []
    for place, (alpha, beta) in enumerate(beliefs):
        n = alpha + beta
        variance = alpha * beta / (n * n * (n + 1))
        gains.append((-variance / (n + 1), 0, place, n, variance))
    heapq.heapify(gains)
    given = [0] * len(beliefs)
    for _ in range(min(budget, most * len(beliefs))):
        _, _, place, n, variance = heapq.heappop(gains)
        given[place] += 1
        k = given[place] + 1
        if k <= most:
            heapq.heappush(gains, (-variance * n / ((n + k - 1) * (n + k)), k, place, n, variance))
    return given


def expert_start(task: Task, turns: int) -> str:
    """The first turns of the environment's own solution, in words.

    Raises:
        ConfigError: The environment has no expert.
    """
    env = make_env(task)
    try:
        if not offers(env, Expert):
            raise _without_expert(task.env_id)
        env.reset(seed=task.seed, options={"split": task.split, "attempt": 0})
        expert, over = cast(Expert, env), False
        actions: list[str] = []
        while len(actions) < turns and not over:
            actions.append(expert.expert_action())
            _, _, terminated, truncated, _ = env.step(actions[-1])
            over = terminated or truncated
    finally:
        env.close()
    return "A good start here: " + ", then ".join(f"`{action}`" for action in actions)


def _without_expert(env_id: str) -> ConfigError:
    return ConfigError(
        f"plan.hints.source = 'expert': {env_id} has no expert; set hints.source = 'text' and hints.text"
    )


def _counts(seen: Sequence[float], episodes: Sequence[Episode]) -> Belief:
    """(successes, failures), attempts that broke off left out."""
    won = sum(episode.success for episode in episodes if episode.error is None)
    lost = sum(not episode.success for episode in episodes if episode.error is None)
    return seen[0] + won, seen[1] + lost
