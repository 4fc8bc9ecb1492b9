"""Names of the bundled environments, for Gymnasium and `make_env`. Importing this module registers them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.wrappers import OrderEnforcing

from agentkit.envs.contract import Expert, Goals, Snapshot, TextEnv
from agentkit.errors import ConfigError, unknown_name
from agentkit.task import Task

ENVIRONMENTS = {
    "agentkit/FrozenLake-v0": (
        "agentkit.envs.frozen_lake:FrozenLake",
        "Cross a random 4x4 lake between holes; optionally slippery.",
    ),
    "agentkit/Sokoban-v0": ("agentkit.envs.sokoban:Sokoban", "Push a box onto its target in a 6x6 room."),
    "agentkit/Sudoku-v0": ("agentkit.envs.sudoku:Sudoku", "Fill a 4x4 Sudoku with one solution."),
}
"""Id -> (entry point, one-line description)."""
CAPABILITIES = {"Snapshot": Snapshot, "Expert": Expert, "Goals": Goals}


@dataclass(frozen=True)
class EnvRow:
    """A bundled environment, for listings."""

    id: str
    """Gymnasium id."""
    description: str
    """One line."""
    capabilities: tuple[str, ...]
    """Names of the protocols it implements: Snapshot, Expert, Goals."""


def register_envs() -> None:
    """Make the bundled ids known to `gymnasium.make`; calling it again changes nothing."""
    for env_id, (entry_point, _) in ENVIRONMENTS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=entry_point, disable_env_checker=True)


def make_env(task: Task | str, **params: Any) -> TextEnv:
    """A new environment for a task or an id, without Gymnasium's wrappers, so that its capabilities show.

    Args:
        task: a `Task` (its `params` are used) or the Gymnasium id of a `TextEnv`; `module:id` imports the
            module that registers it first.
        **params: constructor arguments; they win over the task's.

    Raises:
        UnknownNameError: no environment of that id; names the nearest.
        ConfigError: an unknown constructor argument, an argument out of range, or no `TextEnv`.
    """
    env_id, params = (task, params) if isinstance(task, str) else (task.env_id, {**task.params, **params})
    module, _, env_id = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    if env_id not in gymnasium.registry:
        text_ids = [known for known in gymnasium.registry if known.startswith(env_id.partition("/")[0] + "/")]
        raise unknown_name("environment", env_id, text_ids or ENVIRONMENTS)
    spec = gymnasium.spec(env_id)
    creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(str(spec.entry_point))
    _check_params(env_id, creator, params)
    env: Any = gymnasium.make(env_id, disable_env_checker=True, **params)
    while type(env) is OrderEnforcing:  # TextEnv orders its calls itself
        env = env.env
    if not isinstance(env, TextEnv):
        raise ConfigError(
            f"{env_id!r} made a {type(env).__name__}, which is no agentkit.envs.TextEnv; "
            "derive it from TextEnv and register it without wrappers or max_episode_steps"
        )
    return env


def list_envs() -> tuple[EnvRow, ...]:
    """The bundled environments with their capabilities."""
    rows = []
    for env_id, (entry_point, description) in ENVIRONMENTS.items():
        family = load_env_creator(entry_point)
        able = tuple(name for name, protocol in CAPABILITIES.items() if issubclass(family, protocol))  # type: ignore[arg-type]
        rows.append(EnvRow(env_id, description, able))
    return tuple(rows)


def _check_params(env_id: str, creator: Callable[..., Any], params: dict[str, Any]) -> None:
    known = inspect.signature(creator).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for name in params:
        if name not in known:
            raise ConfigError(str(unknown_name(f"parameter of {env_id}", name, known)))


register_envs()
