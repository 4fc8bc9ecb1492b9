"""The worker: owns one environment at a time and answers calls on it until the connection ends."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import sys
import traceback
from typing import Any

import gymnasium
from gymnasium.error import ResetNeeded

import agentkit.errors
from agentkit.envs.contract import CAPABILITIES, METHODS, TextEnv, offers
from agentkit.envs.registration import make_env
from agentkit.envs.workers import processes
from agentkit.envs.workers.channel import Channel
from agentkit.envs.workers.codec import NotPlain
from agentkit.errors import AgentkitError, ConfigError, EnvironmentFault

ERRORS: dict[str, type[Exception]] = {
    name: kind
    for name, kind in vars(agentkit.errors).items()
    if isinstance(kind, type) and issubclass(kind, AgentkitError)
} | {"ResetNeeded": ResetNeeded}
"""Errors that come out of a worker as they are; any other becomes an `EnvironmentFault`."""
_MOST_WORDS = 2000
_MOST_TRACE = 4000


class Stage:
    """The environment of a worker, and the calls on it."""

    def __init__(self) -> None:
        self.env_id = ""
        """What is played."""
        self._env: Any = None
        self._memory_mb: int | None = None
        self.sound = True
        """Whether another environment may be played here: none has raised anything but errors on purpose."""

    def answer(self, request: list[Any]) -> list[Any]:
        """The reply to `[method, ...]`: `["ok", value, what has changed]` or `["error", class, words, traceback]`."""
        method, *arguments = request
        try:
            if method in ("make", "reset", "step", "close"):
                value = getattr(self, f"_{method}")(*arguments)
            else:
                value = getattr(self._env, method)(*arguments)
            return ["ok", value, self._changes(method)]
        except BaseException as error:  # noqa: BLE001 - told to whoever asked
            return self.told(method, error)

    def told(self, method: str, error: BaseException) -> list[Any]:
        """The reply that says what a call raised."""
        trace = "".join(traceback.format_tb(error.__traceback__))[-_MOST_TRACE:]
        kind = next((one.__name__ for one in type(error).__mro__ if ERRORS.get(one.__name__) is one), None)
        if kind is not None:
            return ["error", kind, _words(error), trace]
        self.sound = False
        name = "__init__" if method == "make" else method
        words = f"{self.env_id}: {name}() raised {type(error).__name__}: {_words(error)}"
        if isinstance(error, MemoryError) and self._memory_mb is not None:
            words += f" (its process may hold {self._memory_mb} MB; raise the limit, env_memory_mb, if it needs more)"
        return ["error", "EnvironmentFault", words, trace]

    def _make(
        self, env_id: str, params: dict[str, Any], entry: list[Any] | None, surroundings: dict[str, Any]
    ) -> dict[str, Any]:
        self.env_id, self._memory_mb = env_id, surroundings["memory_mb"]
        sys.path[:] = surroundings["path"]
        if surroundings["folder"] is not None:
            os.chdir(surroundings["folder"])
        os.environ.clear()
        os.environ.update(surroundings["environ"])
        if "numpy" in sys.modules:  # forks of one process would all draw the same; `random` sees to itself
            sys.modules["numpy"].random.seed()
        if self._memory_mb is not None and self._memory_mb <= processes.private_mb():
            raise ConfigError(
                f"memory_mb = {self._memory_mb} is less than the {processes.private_mb():.0f} MB of a worker "
                "without an environment; raise it (env_memory_mb)"
            )
        processes.limit_memory(self._memory_mb)
        if entry is not None:
            gymnasium.registry.pop(env_id, None)
            gymnasium.register(env_id, entry_point=entry[0], kwargs=entry[1], disable_env_checker=True)
        self._env = env = make_env(env_id, **params)
        return {
            "name": type(env).__name__,
            "offered": [method for kind in CAPABILITIES.values() if offers(env, kind) for method in METHODS[kind]],
            "example": env.example,
            "metadata": env.metadata,
            "budgets": [env.max_turns, env.max_actions, env.max_actions_per_turn],
        }

    def _reset(self, seed: int | None, options: dict[str, Any] | None) -> Any:
        return self._env.reset(seed=seed, options=options)

    def _step(self, action: str) -> Any:
        return self._env.step(action)

    def _close(self) -> list[Any]:
        """Whether another environment may be played here, and how many mebibytes stay in use."""
        env, self._env = self._env, None
        if env is not None:
            env.close()
        del env
        gc.collect()
        with contextlib.suppress(ChildProcessError):  # orphans that ended while the environment was open
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        return [self.sound, processes.resident_mb(os.getpid())]

    def _changes(self, method: str) -> list[Any] | None:
        """Turns and actions left, and where they may be others, the instructions."""
        env: TextEnv | None = self._env
        if env is None:
            return None
        return [env.turns_left, env.actions_left, None if method == "step" else env.instructions]


def _words(error: BaseException) -> str:
    try:
        words = str(error)
    except Exception:  # noqa: BLE001 - whatever it is, it has a class at least
        return "(it cannot say what)"
    return words if len(words) <= _MOST_WORDS else words[: _MOST_WORDS - 3] + "..."


def serve(connection: socket.socket) -> None:
    """Answer calls until the other side has gone; then close the environment."""
    channel, stage = Channel(connection, rebuild=True), Stage()
    with contextlib.suppress(EOFError):
        while True:
            request = channel.receive()
            reply = stage.answer(request)
            try:
                channel.send(reply)
            except NotPlain as error:
                fault = f"{stage.env_id}: {request[0]}() returned what cannot leave its process: {error}"
                channel.send(stage.told(request[0], EnvironmentFault(fault)))
    stage.answer(["close"])
