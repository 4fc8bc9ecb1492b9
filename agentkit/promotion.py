"""Playing a memory: an attempt that does what a skill or an insight says where it applies, and else what a policy does.

The glue between `agentkit.memory.promotion`, which decides about memories by their effect, and the environments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentkit.errors import ConfigError
from agentkit.memory.distillation import SEEN_LIMIT
from agentkit.memory.ingestion import goal_of
from agentkit.memory.kinds import InsightBody, Memory, SkillBody
from agentkit.memory.promotion import Play
from agentkit.memory.records import Episode, Role
from agentkit.memory.slots import bind, match, slots_of
from agentkit.policies.doubles import as_response
from agentkit.policies.policy import Completion, Policy, Request
from agentkit.rollout import collect
from agentkit.task import Task


class FollowPolicy:
    """Does what one memory says wherever it applies, and asks `otherwise` elsewhere; for one attempt.

    An insight applies where its condition is what is seen. A skill begins where its preconditions are seen and its
    first action is possible, but not twice in one state; it ends with its last action, or where the next one is not
    possible. Its slots stand for what makes its actions possible.

    Args:
        memory: A skill, or an insight with an action.
        otherwise: Who acts elsewhere.
        task: What is played, for its goal.

    Raises:
        ConfigError: The memory recommends no action.
    """

    def __init__(self, memory: Memory, otherwise: Policy, task: Task) -> None:
        body = memory.body
        if not isinstance(body, SkillBody) and not (isinstance(body, InsightBody) and body.action):
            raise ConfigError(f"memory {memory.id} ({memory.kind}) recommends no action; give a skill or an insight")
        self.name = f"{memory.id}+{otherwise.name}"
        self.version = otherwise.version
        self._body = body
        self._otherwise = otherwise
        self._task = task
        self._left: Sequence[str] = ()
        self._binding: dict[str, str] = {}
        self._begun: set[str] = set()

    async def complete(self, request: Request) -> Completion:
        """What the memory says, or what `otherwise` answers."""
        last = request.messages[-1].parts
        seen = "".join(part.text for part in last if part.role == Role.OBSERVATION)
        possible = request.world.admissible_actions
        if isinstance(self._body, InsightBody):
            action = self._advised(self._body, seen)
        else:
            action = self._next(self._body, seen, possible, request.world.state_key or seen)
        if action is None or (possible and not set(action.split(" || ")) <= {*possible}):
            return await self._otherwise.complete(request)
        return Completion(as_response(action))

    def _advised(self, insight: InsightBody, seen: str) -> str | None:
        seen = seen[:SEEN_LIMIT]
        goal = goal_of(Episode(id="", task=self._task))
        for stated in (f"Goal: {goal}\nSeen: {seen}", f"Seen: {seen}", seen):
            binding = match(insight.condition, stated)
            if binding is not None and binding.keys() >= set(slots_of(insight.action)):
                return bind(insight.action, binding)
        return None

    def _next(self, skill: SkillBody, seen: str, possible: Sequence[str], state: str) -> str | None:
        if self._left:
            first, *self._left = self._left
            if (done := next(_fitting(first, self._binding, possible), None)) is not None:
                self._binding = done[1]
                return done[0]
            self._left = ()
        if state in self._begun:
            return None
        for action, binding in _fitting(skill.actions[0], {}, possible):
            if all(_holds(condition, binding, seen) for condition in skill.preconditions):
                self._begun.add(state)
                self._left, self._binding = skill.actions[1:], binding
                return action
        return None


def player(tasks: Sequence[Task], otherwise: Policy) -> Play:
    """Plays memories in seeded environments: seed n is task n (from the first again after the last) with its own noise.

    Args:
        tasks: Of one environment; of the training split, for what is learnt from them is no secret.
        otherwise: Who acts where a memory says nothing, and plays without one.

    Raises:
        ConfigError: There are no tasks.
    """
    if not tasks:
        raise ConfigError("there is no task to play memories in; `make_tasks` names some")

    def play(memory: Memory | None, seed: int) -> bool:
        task = tasks[seed % len(tasks)]
        policy = otherwise if memory is None else FollowPolicy(memory, otherwise, task)
        return collect(policy, [task], seed=seed)[0].success

    return play


def _fitting(template: str, binding: dict[str, str], possible: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The possible actions that a template can stand for, each with what its slots are bound to then."""
    if set(slots_of(template)) <= binding.keys():
        yield bind(template, binding), binding
        return
    for action in possible:
        found = match(template, action)
        if found is not None and all(binding.get(slot, name) == name for slot, name in found.items()):
            yield action, {**binding, **found}


def _holds(condition: str, binding: dict[str, str], seen: str) -> bool:
    """Whether a condition is seen; its slots that no action has bound may stand for anything."""
    if set(slots_of(condition)) <= binding.keys():
        return bind(condition, binding) in seen
    return any(match(condition, line.strip()) is not None for line in seen.splitlines())
