"""Retries: half of a group's attempts are tries again of those that failed, told what went wrong (R³L)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from agentkit.agents.reflection import Reflect, Reflection, by_model, chat_with, from_record
from agentkit.agents.retries import Reminded, Told, look_back
from agentkit.attempt import Branch
from agentkit.errors import ConfigError
from agentkit.memory.distiller import Distiller
from agentkit.memory.records import Episode
from agentkit.policies.policy import Sampling
from agentkit.rollout import Order, play_all_async, run_sync
from agentkit.task import Task
from agentkit.training.plans.plan import Collected, Ground, OldLogprobs, RolloutPlan, State
from agentkit.training.plans.unaided import unaided


class R3L(RolloutPlan):
    """Reflect, then retry (2601.03715): the second half of each group leaves the failures of the first half.

    Of G attempts, G/2 (rounded up) are played as always. Attempt G/2 + i leaves attempt i, if that failed, at its
    pivotal turn with a reflection in the prompt; else it is one more attempt as always. Retries are learnt from as if
    there had been no reflection: see `unaided`. They keep `parent_id` and `parent_turn`, so `credit.name = "pivot"`
    masks the turns that both share, as the paper does. Left out: its auxiliary samples of the reflection's own text.
    """

    name: Literal["r3l"] = "r3l"
    reflect: Literal["record", "policy"] = "record"
    """Who looks back: the record alone, or the policy that learns, greedily, as in the paper; where its answer cannot
    be used, the record."""
    pivot: Literal["turn", "start"] = "turn"
    """Whether a retry leaves the failed attempt at a turn of it, or starts anew."""
    reflection_tokens: int = Field(default=256, ge=1)
    """Most tokens of a reflection by the policy."""
    old_logprobs: OldLogprobs = "recomputed"
    """Log-probabilities of retries: recomputed in the prompt without reflection, or stored, with it (then the ratio
    corrects for the reflection, and is far from 1)."""

    def collect(self, ground: Ground, tasks: Sequence[Task], state: State) -> Collected:
        """Play the first halves, reflect on what failed, play the second halves.

        Raises:
            ConfigError: No retry came to the turn at which it was to leave its parent.
        """
        size = ground.config.group_size
        num = (size + 1) // 2
        bases, retries, reflections = run_sync(lambda: self._play(ground, tasks, num, size))
        learnt = self._unaided(ground, bases, retries, reflections)
        groups = [
            [*bases[place * num : (place + 1) * num], *learnt[place * (size - num) : (place + 1) * (size - num)]]
            for place in range(len(tasks))
        ]
        told = [episode for place, episode in enumerate(retries) if reflections[place] is not None]
        alone = [*bases, *(episode for place, episode in enumerate(retries) if reflections[place] is None)]
        values = {"plan/retries": float(len(told)), "plan/success_alone": _rate(alone)}
        if told:
            values["plan/success_retried"] = _rate(told)
        return Collected([episode for group in groups for episode in group], values)

    @model_validator(mode="after")
    def _consistent(self) -> R3L:
        if self.reflect == "record" and "reflection_tokens" in self.changed:
            raise ValueError(
                f"plan.reflection_tokens = {self.reflection_tokens} and plan.reflect = 'record': the record alone "
                "samples nothing; leave it out, or set reflect = 'policy'"
            )
        return self

    async def _play(
        self, ground: Ground, tasks: Sequence[Task], num: int, size: int
    ) -> tuple[list[Episode], list[Episode], list[Reflection | None]]:
        first = [Order(task, number) for task in tasks for number in range(num)]
        bases = await play_all_async(ground.policy, first, **ground.options)
        reflect, orders = self._reflect(ground), []
        reflections: list[Reflection | None] = []
        for place, task in enumerate(tasks):
            for base, number in zip(bases[place * num :], range(num, size), strict=False):
                if base.success or base.error is not None or not base.turns:
                    reflections.append(None)
                    orders.append(Order(task, number))
                    continue
                said = await look_back(reflect, base)
                reflections.append(said)
                recall = Reminded([_told(base, said)], ground.options.get("recall"))
                orders.append(Order(task, number, recall, Branch(base, said.turn)))
        return bases, await play_all_async(ground.policy, orders, **ground.options), reflections

    def _reflect(self, ground: Ground) -> Reflect:
        branch = self.pivot == "turn"
        if self.reflect == "record":
            return from_record(branch=branch)
        sampling = Sampling(temperature=0.0, max_new_tokens=self.reflection_tokens)
        return by_model(Distiller(chat_with(ground.policy, sampling), ground.policy.name), branch=branch)

    def _unaided(
        self,
        ground: Ground,
        bases: Sequence[Episode],
        retries: Sequence[Episode],
        reflections: Sequence[Reflection | None],
    ) -> list[Episode]:
        known = {base.id: base for base in bases}
        learnt, places = list(retries), []
        left = lost = 0
        for place, (retry, said) in enumerate(zip(retries, reflections, strict=True)):
            if said is None:
                continue
            left += said.turn > 0
            if retry.error is not None:
                lost += 0 < said.turn >= len(retry.turns) and retry.error.startswith("EnvironmentFault")
                continue
            assert retry.parent_id is not None
            base = known[retry.parent_id]
            kept = {"group_id": base.group_id, "memory_snapshot": base.memory_snapshot}
            learnt[place] = unaided(ground.policy, retry, _told(base, said), self.name, **kept)
            places.append(place)
        if lost and lost == left:
            error = next(retry.error for retry in retries if retry.error is not None)
            raise ConfigError(
                f"plan = {self.name!r}: none of {left} retries came to its turn, so {bases[0].task.env_id} does not "
                f"play the same actions the same way ({error}); set plan.pivot = 'start'"
            )
        made = ground.finished([learnt[place] for place in places], self.old_logprobs)
        for place, episode in zip(places, made, strict=True):
            learnt[place] = episode
        return learnt


def _told(base: Episode, said: Reflection) -> Told:
    return Told(id=f"reflection-{base.id}", text=said.text)


def _rate(episodes: Sequence[Episode]) -> float:
    return sum(episode.success for episode in episodes) / max(1, len(episodes))
