"""The environment as an attempt sees it: every call awaited, timed, checked against the contract.

An environment whose `metadata["inline"]` is true takes microseconds a step and is called on the event loop,
which keeps runs reproducible to the bit. Any other gets a thread of its own: it may block, may insist on staying
in one thread (browsers do), and may hang, in which case the thread is abandoned and the episode fails.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from agentkit.envs import make_env
from agentkit.errors import AgentkitError, EnvironmentFault
from agentkit.task import Task

T = TypeVar("T")


class _Thread:
    """A daemon thread that runs calls in order; a hung call cannot keep the interpreter from exiting."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]] | None]
        self._calls = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True, name="agentkit-environment").start()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            work, report = call
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - handed to the awaiting attempt
                report(None, error)
            else:
                report(result, None)

    async def call(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        def report(result: Any, error: BaseException | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, result, error)

        self._calls.put((work, report))
        return await answer

    def end(self, last: Callable[[], object] | None) -> None:
        if last is not None:
            self._calls.put((last, lambda result, error: None))
        self._calls.put(None)


class LiveWorld:
    """One environment playing one task.

    Args:
        task: What to play.
        step_s: Seconds before a call counts as hung; not enforced on inline environments.
    """

    def __init__(self, task: Task, step_s: float) -> None:
        self.task = task
        self.step_s = step_s
        self.info: dict[str, Any] = {}
        self._env: Any = None
        self._thread: _Thread | None = None
        self._dead = False

    @property
    def admissible_actions(self) -> Sequence[str]:
        """The single actions possible now; empty if the environment does not say."""
        return self.info.get("admissible_actions", ())

    @property
    def instructions(self) -> str:
        """The environment's rules in words."""
        return getattr(self._env.unwrapped, "instructions", "")

    async def expert_action(self) -> str:
        """The environment's own solution for the turn; `EnvironmentFault` if it has no expert."""
        expert = getattr(self._env.unwrapped, "expert_action", None)
        if expert is None:
            raise EnvironmentFault(f"{self.task.env_id} has no expert; it lacks expert_action()")
        return await self._call("expert_action", expert)

    async def reset(self, attempt: int) -> str:
        """Start the task; returns the first observation."""
        self._env = make_env(self.task)
        if not self._env.metadata.get("inline", False):
            self._thread = _Thread()
        options = {"split": self.task.split, "attempt": attempt}
        result = await self._call("reset", lambda: self._env.reset(seed=self.task.seed, options=options))
        observation, info = self._unpack("reset", result, 2)
        self._check(observation, info)
        return observation

    async def step(self, action: str) -> tuple[str, float, bool, bool]:
        """(observation, reward, terminated, truncated)."""
        result = await self._call("step", lambda: self._env.step(action))
        observation, reward, terminated, truncated, info = self._unpack("step", result, 5)
        self._check(observation, info)
        try:
            return observation, float(reward), bool(terminated), bool(truncated)
        except (TypeError, ValueError) as error:
            raise EnvironmentFault(f"{self.task.env_id}: step() gave the reward {reward!r}, no number") from error

    def close(self) -> None:
        """Close the environment; one that hangs is left behind."""
        env, self._env = self._env, None
        if env is None or self._dead:
            if self._thread:
                self._thread.end(None)
        elif self._thread:
            self._thread.end(env.close)
        else:
            env.close()

    async def _call(self, name: str, work: Callable[[], T]) -> T:
        try:
            if self._thread is None:
                return work()
            async with asyncio.timeout(self.step_s):
                return await self._thread.call(work)
        except TimeoutError as error:
            self._dead = True
            raise EnvironmentFault(
                f"{self.task.env_id}: {name}() did not return within {self.step_s:g} s; raise the limit "
                "(env_step_s) if it is slow rather than stuck"
            ) from error
        except AgentkitError:
            raise
        except Exception as error:
            raise EnvironmentFault(f"{self.task.env_id}: {name}() raised {type(error).__name__}: {error}") from error

    def _unpack(self, name: str, result: Any, num: int) -> tuple[Any, ...]:
        if not isinstance(result, tuple) or len(result) != num:
            raise EnvironmentFault(
                f"{self.task.env_id}: {name}() returned {type(result).__name__} where a tuple of {num} is due"
            )
        return result

    def _check(self, observation: Any, info: Any) -> None:
        if not isinstance(observation, str):
            raise EnvironmentFault(
                f"{self.task.env_id}: the observation is {type(observation).__name__}, not str; "
                "wrap the environment so that it answers in text"
            )
        if not isinstance(info, dict):
            raise EnvironmentFault(f"{self.task.env_id}: info is {type(info).__name__}, not a dict")
        self.info = info
