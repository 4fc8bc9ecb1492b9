"""Attempt: one try at one task. A graph plays through it, and all that it does is recorded once.

Any LangGraph graph whose nodes call `ask` and `act` of the attempt in their runtime context can be evaluated and
trained; the environment stays out of the graph's state, where a checkpointer could not restore it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from agentkit.errors import ConfigError, EnvironmentFault, PolicyFault
from agentkit.memory.exposure import episode_key
from agentkit.memory.records import Episode, Message, Part, Role, Turn
from agentkit.policies.policy import Policy, Request, Sampling
from agentkit.seeding import derive_seed
from agentkit.spans import parse_response, response_roles
from agentkit.task import Task
from agentkit.world import LiveWorld


class OutOfTurns(Exception):
    """A graph asks once more than `max_turns` allows; `play` records the episode as truncated."""


class Limits(BaseModel):
    """When an attempt is stopped. The environment's own limits hold besides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_turns: int = Field(default=50, ge=1)
    """Most requests to the policy in one episode; one more truncates it."""
    policy_s: float = Field(default=120.0, gt=0)
    """Seconds one request to the policy may take."""
    env_step_s: float = Field(default=60.0, gt=0)
    """Seconds one call of the environment may take."""
    episode_s: float = Field(default=900.0, gt=0)
    """Seconds one episode may take."""
    isolate: bool = False
    """Whether to play every environment in a worker process, also those that do not ask for one: one that crashes or
    hangs then costs its own episode only."""
    env_memory_mb: int | None = Field(default=None, ge=1)
    """Mebibytes of private memory that a worker process may have; with a limit, every environment gets a worker."""


class Recalled(Protocol):
    """What an attempt reads of a memory."""

    @property
    def id(self) -> str: ...

    @property
    def text(self) -> str: ...


class Recollection(Protocol):
    """A memory as one attempt reads it: what it finds for an observation and the hash of the state behind it."""

    def __call__(self, observation: str, state_key: str) -> Sequence[Recalled]: ...


class Recall(Protocol):
    """A memory to read; `snapshot_id` names the state of it that is read.

    `begin` is told which task is attempted, the attempt's `episode_key` and the version of the policy that acts.
    """

    @property
    def snapshot_id(self) -> str: ...

    def begin(self, task: Task, key: str, policy_version: int) -> Recollection: ...


@dataclass(frozen=True)
class Branch:
    """Another attempt at the same task that an attempt leaves; its turns before `turn` are played again unchanged."""

    parent: Episode
    turn: int = 0
    """Turn of the parent at which it is left; 0 starts anew, with noise of its own."""
    noise: int | None = None
    """Number of the attempt whose noise the parent was played with; None for the parent's own."""


@dataclass
class Attempt:
    """One try at one task, with the record of it.

    Args:
        task: What to play.
        policy: Who acts.
        number: The attempt's number within its group; it seeds the noise of dynamics and sampling.
        seed: Seed of the run.
        sampling: How to sample.
        limits: When to stop.
        recall: Memory to read, or None.
        branch: The attempt that this one leaves, or None. The turns before it are the parent's, as recorded.

    Raises:
        ConfigError: The branch is of another task, or at a turn that its parent does not have.
    """

    task: Task
    policy: Policy
    number: int = 0
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=Limits)
    recall: Recall | None = None
    branch: Branch | None = None
    observation: str = field(default="", init=False)
    done: bool = field(default=False, init=False)
    memories: tuple[Recalled, ...] = field(default=(), init=False)
    """The memories last recalled; their ids go into the turns whose prompt shows memory."""

    def __post_init__(self) -> None:
        self._task_key = self.task.key
        self.noise = _noise(self.branch, self.task, self.number)
        limits = self.limits
        self._world = LiveWorld(self.task, limits.env_step_s, isolate=limits.isolate, memory_mb=limits.env_memory_mb)
        self._turns: list[Turn] = []
        self._open = False
        self._success = False
        self._version = self.policy.version
        self._snapshot = self.recall.snapshot_id if self.recall is not None else None
        group = derive_seed(self.seed, self.policy.name, self._version, self._task_key, self._snapshot)
        self._group_id = f"{group:016x}"
        self._recollect: Recollection | None = None
        if self.recall is not None:
            self._recollect = self.recall.begin(self.task, episode_key(self._group_id, self.number), self._version)
        self._started_at = time.time()

    @property
    def turns(self) -> Sequence[Turn]:
        """The turns so far; `act` completes the last one."""
        return self._turns

    @property
    def instructions(self) -> str:
        """The environment's rules in words."""
        return self._world.instructions

    @property
    def state_key(self) -> str:
        """Equal for equal states of the environment as it is now; empty if it names none."""
        return self._world.state_key

    async def start(self) -> str:
        """Reset the environment and play what comes before the branch; returns what is shown then.

        Raises:
            EnvironmentFault: The parent's actions did not lead where they led before, so that it cannot be left there.
        """
        self.observation = await self._world.reset(self.noise)
        if self.branch is not None and self.branch.turn:
            for number, turn in enumerate(self.branch.parent.turns[: self.branch.turn]):
                self._check_place(self.branch.parent, number)
                self._turns.append(turn)
                if turn.action is not None or not turn.valid:  # any other was asked for only
                    self.observation, *_ = await self._world.step(turn.action or "")
            self._check_place(self.branch.parent, self.branch.turn)
        return self.observation

    async def look(self) -> bytes:
        """A PNG image of what the environment shows now; `ConfigError` if it cannot be looked at."""
        return await self._world.screenshot()

    def remember(self) -> tuple[Recalled, ...]:
        """Memories for the present observation; empty without a memory."""
        if self._recollect is not None:
            self.memories = tuple(self._recollect(self.observation, self._world.state_key))
        return self.memories

    async def ask(self, messages: Sequence[Message], *, node: str) -> Message:
        """Ask the policy; returns its answer as the message to go on with.

        Args:
            messages: The conversation; ends with a user message.
            node: Name of the asking graph node, recorded.

        Raises:
            PolicyFault: The policy failed or took longer than `limits.policy_s`.
            OutOfTurns: The policy was asked `limits.max_turns` times before.
        """
        if len(self._turns) >= self.limits.max_turns:
            raise OutOfTurns
        self._leave()
        request = Request(
            messages=tuple(messages),
            sampling=self.sampling,
            seed=derive_seed(self.seed, self._version, self._task_key, self.number, len(self._turns)),
            world=self._world,
        )
        begun = time.perf_counter()
        limit = asyncio.timeout(self.limits.policy_s)
        try:
            async with limit:
                completion = await self.policy.complete(request)
        except TimeoutError as error:
            if not limit.expired():
                raise PolicyFault(f"{self.policy.name} raised a TimeoutError of its own: {error}") from error
            raise PolicyFault(
                f"{self.policy.name} did not answer within policy_s = {self.limits.policy_s:g} s"
            ) from error
        parsed = parse_response(completion.text)
        roles = response_roles(parsed, completion.offsets)
        self._turns.append(
            Turn(
                node=node,
                observation=self.observation,
                messages=request.messages,
                prompt_ids=completion.prompt_ids,
                prompt_roles=completion.prompt_roles,
                response=completion.text,
                response_ids=completion.response_ids,
                response_roles=roles,
                logprobs=completion.logprobs,
                finish=completion.finish,
                action=parsed.text if parsed else None,
                state_key=self._world.state_key,
                memory_ids=tuple(memory.id for memory in self.memories) if self._shows_memory(messages) else (),
                policy_s=time.perf_counter() - begun,
            )
        )
        self._open = True
        return answer_message(self._turns[-1])

    async def act(self, action: str | None) -> str:
        """Give an action to the environment; returns what it shows. Completes the last turn.

        A response without a well-formed answer (None) reaches the environment as an empty text, so that it
        costs a turn and earns the environment's own feedback.
        """
        if not self._open:
            raise ConfigError("act() without an ask() before it: there is no turn to act in")
        self._open = False
        begun = time.perf_counter()
        observation, reward, terminated, truncated = await self._world.step(action or "")
        turn = self._turns[-1]
        ended = terminated or truncated
        truncated = truncated or (not ended and len(self._turns) >= self.limits.max_turns)
        self._turns[-1] = turn.model_copy(
            update={
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
                "action": action,
                "valid": action is not None and bool(self._world.info.get("valid", True)),
                "env_s": time.perf_counter() - begun,
            }
        )
        self.observation = observation
        self.done = terminated or truncated
        self._success = bool(self._world.info.get("success", False))
        return observation

    def truncate(self) -> None:
        """Mark the last turn as the last one allowed."""
        self._turns[-1] = self._turns[-1].model_copy(update={"truncated": not self._turns[-1].terminated})
        self.done = True

    async def close(self) -> None:
        """Close the environment and wait until it is."""
        await self._world.close()

    def abandon(self) -> None:
        """Close the environment without waiting, when the attempt is not played to its end."""
        self._world.abandon()

    def episode(self, error: str | None = None) -> Episode:
        """The record of the attempt; its id is a hash of its content, so the same play has the same id."""
        self._leave()
        pictures = any(message.pictures for turn in self._turns for message in turn.messages)
        record = Episode(
            id="",
            format=2 if pictures else 1,
            task=self.task,
            attempt=self.number,
            group_id=self._group_id,
            policy=self.policy.name,
            policy_version=self._version,
            memory_snapshot=self._snapshot,
            parent_id=self.branch.parent.id if self.branch is not None else None,
            parent_turn=self.branch.turn if self.branch is not None else None,
            turns=tuple(self._turns),
            success=self._success and error is None,
            error=error,
            started_at=self._started_at,
            seconds=time.time() - self._started_at,
        )
        return record.model_copy(update={"id": record.fingerprint()})

    def _check_place(self, parent: Episode, number: int) -> None:
        turn = parent.turns[number]
        if (self.observation, self._world.state_key) != (turn.observation, turn.state_key):
            raise EnvironmentFault(
                f"{self.task.env_id}: the actions of episode {parent.id} led elsewhere before turn {number} than they "
                "did then, so it cannot be left at a turn; retry from the start (turn 0)"
            )

    def _leave(self) -> None:
        """An answer that was not acted on gave the environment no action, whatever it says."""
        if self._open:
            self._open = False
            self._turns[-1] = self._turns[-1].model_copy(update={"action": None})

    def _shows_memory(self, messages: Sequence[Message]) -> bool:
        return bool(self.memories) and any(part.role is Role.MEMORY for message in messages for part in message.parts)


def answer_message(turn: Turn) -> Message:
    """A turn's response as the message to go on with."""
    part = Part(role=Role.OTHER, text=turn.response)
    if not turn.response_ids:
        return Message(speaker="assistant", parts=(part,))
    return Message(speaker="assistant", parts=(part,), ids=turn.response_ids, roles=turn.response_roles)


def _noise(branch: Branch | None, task: Task, number: int) -> int:
    """The attempt number that the environment is reset with: up to its turn, a branch has its parent's noise."""
    if branch is None:
        return number
    if branch.parent.task.key != task.key:
        raise ConfigError(f"an attempt at {task.key} cannot leave one at {branch.parent.task.key}")
    if not 0 <= branch.turn <= max(0, len(branch.parent.turns) - 1):
        raise ConfigError(f"a branch at turn {branch.turn} of an episode of {len(branch.parent.turns)} turns")
    if branch.turn == 0:
        return number
    return branch.parent.attempt if branch.noise is None else branch.noise
