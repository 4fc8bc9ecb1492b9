"""WorkerEnv: an environment that lives in another process and behaves as if it lived here."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from agentkit.envs.contract import TextEnv
from agentkit.envs.registration import ENVIRONMENTS, make_env
from agentkit.envs.workers.codec import NotPlain
from agentkit.envs.workers.pool import Pool, Worker, shared_pool
from agentkit.envs.workers.worker import ERRORS
from agentkit.errors import ConfigError, EnvironmentFault
from agentkit.task import Task


class WorkerEnv(TextEnv):
    """An environment in a worker process, with a limit on the time of each call and on memory.

    It has the instructions, budgets and exactly the capabilities of the environment it stands for; other
    attributes stay in the worker. What `AgentkitError`s the environment raises are raised here; anything else that
    goes wrong (an exception, a crash, a hang, a value that is no plain data) is an `EnvironmentFault`. After a crash
    or a hang the next `reset` or `restore` begins with a new worker.

    Not for several threads at once, as any environment.
    """

    def __init__(
        self,
        task: Task | str,
        *,
        step_s: float = 60.0,
        memory_mb: int | None = None,
        pool: Pool | None = None,
        **params: Any,
    ) -> None:
        """Make the environment in a worker.

        Args:
            task: as for `make_env`.
            step_s: seconds one call may take, making the environment included; then its process is killed.
            memory_mb: mebibytes of private memory that the worker may have, and each process that it starts.
            pool: where the worker comes from; the process's own by default.
            **params: as for `make_env`.

        Raises:
            ConfigError: an argument is out of range, or no other process can import the environment.
            UnknownNameError: no environment of that id.
            EnvironmentFault: it cannot be made.
        """
        if not step_s > 0:
            raise ConfigError(f"step_s must be more than 0 seconds, got {step_s!r}")
        env_id, params = (task, params) if isinstance(task, str) else (task.env_id, {**task.params, **params})
        self.env_id = env_id
        self.step_s = step_s
        self._order = [env_id, params, _entry(env_id)]
        self._memory_mb = memory_mb
        self._pool = pool or shared_pool()
        self._worker: Worker | None = None
        self._ended = ""
        self._offered: frozenset[str] = frozenset()
        about = self._enter()
        max_turns, max_actions, max_actions_per_turn = about["budgets"]
        super().__init__(max_turns=max_turns, max_actions=max_actions, max_actions_per_turn=max_actions_per_turn)
        self._offered = frozenset(about["offered"])
        self.example = about["example"]
        self.metadata = {**about["metadata"], "inline": False}
        self.name = about["name"]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self._offered:
            return lambda *arguments: self._call(name, *arguments)
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}: either {self.__dict__.get('env_id')} does not "
            "offer it, or it stays in the worker"
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """See `TextEnv.reset`; begins with a new worker if the last one ended."""
        return self._call("reset", seed, options)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """See `TextEnv.step`."""
        if not isinstance(action, str):
            raise TypeError(f"an action is a text such as {self.example!r}, got {action!r}")
        return self._call("step", action)

    def close(self) -> None:
        """Close the environment; its worker is kept for the next one if all went well."""
        if self._worker is None:
            return
        sound, resident_mb = self._call("close")
        worker, self._worker, self._ended = self._worker, None, "was closed"
        if sound:
            self._pool.release(worker, resident_mb)
        else:
            self._pool.end(worker)

    def _enter(self) -> dict[str, Any]:
        """Hire a worker and make the environment in it; returns what is to be known about it."""
        try:
            folder = os.getcwd()
        except OSError:  # it has been deleted
            folder = None
        path = list(sys.path)
        self._worker = self._pool.hire((self.env_id, *path))
        surroundings = {"path": path, "folder": folder, "environ": dict(os.environ), "memory_mb": self._memory_mb}
        try:
            return self._call("make", *self._order, surroundings)
        except BaseException:
            self._end()
            raise

    def _call(self, method: str, *arguments: Any) -> Any:
        if self._worker is None:
            if method not in ("reset", "restore"):
                raise EnvironmentFault(f"{self.env_id}: its process {self._ended}; reset() begins with another")
            self._enter()
        name = f"{self.env_id}: {'__init__' if method == 'make' else method}()"
        try:
            kind, *told = self._exchange(name, [method, *arguments])
        except TimeoutError:
            output = self._end().partition(";")[2]
            raise EnvironmentFault(
                f"{name} did not return within {self.step_s:g} s, so its process was killed; raise the limit "
                f"(env_step_s) if it is slow rather than stuck{';' * bool(output)}{output}"
            ) from None
        except EOFError:
            raise EnvironmentFault(f"{name} did not return: its process {self._end(hung_up=True)}") from None
        except NotPlain as error:
            self._end()
            raise EnvironmentFault(f"{name} gave an answer that cannot be read: {error}") from None
        except ConfigError:  # nothing has been sent
            raise
        except BaseException:  # interrupted: the answer to this call would be taken for the next one's
            self._end()
            raise
        if kind == "error":
            self._raise(*told)
        value, changes = told
        if changes is not None:
            self.turns_left, self.actions_left, instructions = changes
            if instructions is not None:
                self.instructions = instructions
        return value

    def _exchange(self, name: str, request: list[Any]) -> Any:
        assert self._worker is not None
        try:
            self._worker.channel.send(request, self.step_s)
        except NotPlain as error:
            raise ConfigError(f"{name} is given what cannot leave this process: {error}") from None
        return self._worker.channel.receive(self.step_s)

    def _raise(self, kind: str, words: str, trace: str) -> None:
        error = ERRORS[kind](words)
        error.add_note(f"In the worker process:\n{trace}")
        raise error

    def _end(self, *, hung_up: bool = False) -> str:
        """Kill the worker; tells how it ended."""
        worker, self._worker = self._worker, None
        if worker is not None:
            self._ended = self._pool.end(worker, hung_up=hung_up)
        return self._ended


def open_env(
    task: Task | str, *, isolate: bool = False, step_s: float = 60.0, memory_mb: int | None = None, **params: Any
) -> TextEnv:
    """`make_env`, but in a worker where that is asked for, by `isolate`, `memory_mb` or the environment's class.

    Args:
        task, **params: as for `make_env`.
        isolate: play in a worker whatever the environment is.
        step_s, memory_mb: as for `WorkerEnv`; without a worker there is no limit of time.
    """
    env_id = task if isinstance(task, str) else task.env_id
    if isolate or memory_mb is not None or class_metadata(env_id).get("isolated", False):
        return WorkerEnv(task, step_s=step_s, memory_mb=memory_mb, **params)
    return make_env(task, **params)


def env_class(env_id: str) -> Any:
    """What makes an environment, as a rule its class, told without making one; None if there is no such environment."""
    module, _, env_id = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    spec = gymnasium.registry.get(env_id)
    if spec is None:
        return None  # `make_env` says what is wrong
    return spec.entry_point if callable(spec.entry_point) else load_env_creator(str(spec.entry_point))


def class_metadata(env_id: str) -> dict[str, Any]:
    """The metadata of an environment's class, told without making one; empty if there is no such environment."""
    return dict(getattr(env_class(env_id), "metadata", {}))


def _entry(env_id: str) -> list[Any] | None:
    """`[module:class, arguments]` of an id that was registered in this process only; None if its name says enough."""
    spec = gymnasium.registry.get(env_id)
    if spec is None or env_id in ENVIRONMENTS:
        return None
    entry = spec.entry_point
    if callable(entry):
        module, name = entry.__module__, getattr(entry, "__qualname__", type(entry).__qualname__)
        if getattr(sys.modules.get(module), name, None) is not entry:
            raise ConfigError(f"{env_id!r} is the class {name!r} inside a function: {_WAY_OUT}")
        entry = f"{module}:{name}"
    if str(entry).startswith("__main__:"):
        raise ConfigError(f"{env_id!r} is a class of the main script: {_WAY_OUT}")
    return [entry, dict(spec.kwargs)]


_WAY_OUT = "no other process can import it; put it into a module of its own (and name it `module:id`)"
