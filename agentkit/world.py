"""The environment as an attempt sees it: every call awaited, timed, checked against the contract.

An environment whose class says `metadata["inline"]` takes microseconds a step and is called on the event loop,
which keeps runs reproducible to the bit. Any other gets a thread of its own, from its constructor to its close: it
may block, may insist on staying in one thread (browsers do), and may hang, in which case the thread is abandoned
and the episode fails. One whose class says `metadata["isolated"]` lives in a worker process besides, as does any
other that is asked to: it may crash and eat memory as well, and its process is killed when it hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from agentkit.envs import TextEnv, make_env
from agentkit.envs.workers import WorkerEnv, class_metadata
from agentkit.errors import AgentkitError, ConfigError, EnvironmentFault
from agentkit.task import Task

T = TypeVar("T")
_Outcome = tuple[Any, BaseException | None]


class _Thread:
    """A daemon thread that runs calls in order; a hung call cannot keep the interpreter from exiting."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[_Outcome], None]] | None]
        self._calls = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True, name="agentkit-environment").start()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            work, report = call
            outcome: _Outcome
            try:
                outcome = work(), None
            except BaseException as error:  # noqa: BLE001 - handed to the awaiting attempt
                outcome = None, error
            report(outcome)

    async def call(self, work: Callable[[], Any]) -> _Outcome:
        """What `work` returned or raised, as a value: futures refuse StopIteration, and CancelledError ends tasks."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_Outcome] = loop.create_future()

        def settle(outcome: _Outcome) -> None:
            if not answer.done():
                answer.set_result(outcome)

        def report(outcome: _Outcome) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, outcome)

        self._calls.put((work, report))
        return await answer

    def end(self, last: Callable[[], object]) -> None:
        """Run `last` after the calls under way, then end the thread."""
        self._calls.put((last, lambda outcome: None))
        self._calls.put(None)


class LiveWorld:
    """One environment playing one task.

    Args:
        task: What to play.
        step_s: Seconds before a call counts as hung; not enforced on inline environments.
        isolate: Whether to play in a worker process even where the environment's class does not ask for one.
        memory_mb: Mebibytes of memory that a worker process may have; asks for one.
    """

    def __init__(self, task: Task, step_s: float, *, isolate: bool = False, memory_mb: int | None = None) -> None:
        self.task = task
        self.step_s = step_s
        self.isolate = isolate
        self.memory_mb = memory_mb
        self.info: dict[str, Any] = {}
        self._env: TextEnv | None = None
        self._thread: _Thread | None = None
        self._limit_s: float | None = step_s
        self._dead = False

    @property
    def admissible_actions(self) -> Sequence[str]:
        """The single actions possible now; empty if the environment does not say."""
        return self.info.get("admissible_actions") or ()

    @property
    def state_key(self) -> str:
        """Equal for equal states; empty if the environment names none."""
        return str(self.info.get("state_key", ""))

    @property
    def instructions(self) -> str:
        """The environment's rules in words."""
        return self._begun.instructions

    async def expert_action(self) -> str:
        """The environment's own solution for the turn; `EnvironmentFault` if it has no expert."""
        expert = getattr(self._begun, "expert_action", None)
        if expert is None:
            raise EnvironmentFault(f"{self.task.env_id} has no expert; it lacks expert_action()")
        return await self._call("expert_action", expert)

    async def screenshot(self) -> bytes:
        """What the environment shows now, as a PNG image; `ConfigError` if it cannot be looked at."""
        screenshot = getattr(self._begun, "screenshot", None)
        if screenshot is None:
            raise ConfigError(f"{self.task.env_id} cannot be looked at; it lacks screenshot()")
        return await self._call("screenshot", screenshot)

    async def reset(self, attempt: int) -> str:
        """Start the task; returns the first observation."""
        about = class_metadata(self.task.env_id)
        in_worker = self.isolate or self.memory_mb is not None or about.get("isolated", False)
        if in_worker or not about.get("inline", False):
            self._thread = _Thread()
        if in_worker:
            self._limit_s = None  # it keeps to the limit itself, and knows more of what has happened
        await self._call("__init__", lambda: self._make(in_worker))
        options = {"split": self.task.split, "attempt": attempt}
        env = self._begun
        result = await self._call("reset", lambda: env.reset(seed=self.task.seed, options=options))
        observation, info = self._unpack("reset", result, 2)
        self._check(observation, info)
        return observation

    async def step(self, action: str) -> tuple[str, float, bool, bool]:
        """(observation, reward, terminated, truncated)."""
        env = self._begun
        result = await self._call("step", lambda: env.step(action))
        observation, reward, terminated, truncated, info = self._unpack("step", result, 5)
        self._check(observation, info)
        try:
            number = float(reward)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise EnvironmentFault(f"{self.task.env_id}: step() gave the reward {reward!r}, no finite number")
        return observation, number, bool(terminated), bool(truncated)

    async def close(self) -> None:
        """Close the environment and wait for it; what goes wrong is a warning, for the attempt has been played."""
        try:
            if self._env is not None and not self._dead:
                await self._call("close", self._close)
        except AgentkitError as error:
            warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go without waiting: the thread closes the environment when it next can, and ends."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.end(self._close)
        elif not self._dead:
            self._close()

    @property
    def _begun(self) -> TextEnv:
        if self._env is None:
            raise ConfigError("the attempt has no environment yet; the graph must await start() first")
        return self._env

    def _make(self, in_worker: bool) -> None:
        if in_worker:
            self._env = WorkerEnv(self.task, step_s=self.step_s, memory_mb=self.memory_mb)
        else:
            self._env = make_env(self.task)

    def _close(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            env.close()

    async def _call(self, name: str, work: Callable[[], T]) -> T:
        raised: BaseException | None
        if self._thread is None:
            try:
                return work()
            except Exception as error:  # noqa: BLE001 - becomes an EnvironmentFault below
                raised = error
        else:
            returned: list[_Outcome] = []

            def timed() -> None:
                try:
                    returned.append((work(), None))
                except BaseException as error:  # noqa: BLE001 - becomes an EnvironmentFault below
                    returned.append((None, error))

            try:
                async with asyncio.timeout(self._limit_s):
                    await self._thread.call(timed)
            except TimeoutError as error:
                if not returned:  # else the event loop was late, a model computing on it, and not the environment
                    self._dead = True
                    raise EnvironmentFault(
                        f"{self.task.env_id}: {name}() did not return within {self.step_s:g} s; raise the limit "
                        "(env_step_s) if it is slow rather than stuck"
                    ) from error
            result, raised = returned[0]
            if raised is None:
                return result
        if isinstance(raised, AgentkitError):
            raise raised
        raise EnvironmentFault(f"{self.task.env_id}: {name}() raised {type(raised).__name__}: {raised}") from raised

    def _unpack(self, name: str, result: Any, num: int) -> tuple[Any, ...]:
        if not isinstance(result, tuple) or len(result) != num:
            given = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
            raise EnvironmentFault(f"{self.task.env_id}: {name}() returned {given} where a tuple of {num} is due")
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
