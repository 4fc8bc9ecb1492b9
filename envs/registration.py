"""Names of the bundled environments, for Gymnasium and `make_env`. Importing this module registers them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.wrappers import OrderEnforcing

from agentkit.envs.contract import CAPABILITIES, TextEnv, offers
from agentkit.envs.wrappers import wrap
from agentkit.errors import AgentkitError, ConfigError, unknown_name
from agentkit.task import Task


@dataclass(frozen=True)
class Bundled:
    """An environment that comes with agentkit."""

    entry_point: str
    """`module:class`; importing the module is cheap also where the family cannot be played."""
    description: str
    """One line."""
    sample: dict[str, Any] | None = field(default_factory=dict)
    """Constructor arguments with which listings, checks and tables of all families play it; None if it needs
    something that only the user can name."""
    nondeterministic: bool = False
    """Whether seed and actions fix only how an episode begins, as Gymnasium's specification then says."""


ENVIRONMENTS = {
    "agentkit/FrozenLake-v0": Bundled(
        "agentkit.envs.frozen_lake:FrozenLake", "Cross a random 4x4 lake between holes; optionally slippery."
    ),
    "agentkit/Sokoban-v0": Bundled("agentkit.envs.sokoban:Sokoban", "Push a box onto its target in a 6x6 room."),
    "agentkit/Sudoku-v0": Bundled("agentkit.envs.sudoku:Sudoku", "Fill a 4x4 Sudoku with one solution."),
    "agentkit/Household-v0": Bundled(
        "agentkit.envs.household.env:Household", "ALFWorld's household chores in procedural houses, in pure Python."
    ),
    "agentkit/ALFWorld-v0": Bundled(
        "agentkit.envs.alfworld.env:ALFWorld", "The real ALFWorld: its games, its engine.", {"data": "generated"}
    ),
    "agentkit/WebShop-v0": Bundled(
        "agentkit.envs.webshop.env:WebShop", "Buy what the instruction asks for in a shop of 1,000 products."
    ),
    "agentkit/MiniWoB-v0": Bundled("agentkit.envs.web.env:MiniWoB", "MiniWoB++'s small web pages in a real Chromium."),
    "agentkit/Desktop-v0": Bundled(
        "agentkit.envs.desktop.env:Desktop",
        "Chores in real applications on a desktop of its own.",
        nondeterministic=True,
    ),
    "agentkit/Discrete-v0": Bundled(
        "agentkit.envs.discrete:Discrete",
        "Any Gymnasium environment with discrete actions, in words.",
        {"env_id": "CliffWalking-v1"},
    ),
    "agentkit/OpenEnv-v0": Bundled("agentkit.envs.openenv:OpenEnv", "A session on an OpenEnv server.", None),
}


@dataclass(frozen=True)
class EnvRow:
    """A bundled environment, for listings."""

    id: str
    """Gymnasium id."""
    description: str
    """One line."""
    capabilities: tuple[str, ...]
    """Names of the protocols it implements: Snapshot, Expert, Goals, Screen."""
    missing: AgentkitError | None
    """What is not installed that it needs; None if it can be played here."""


def register_envs() -> None:
    """Make the bundled ids known to `gymnasium.make`; calling it again changes nothing."""
    for env_id, bundled in ENVIRONMENTS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point=bundled.entry_point,
                nondeterministic=bundled.nondeterministic,
                disable_env_checker=True,
            )


def make_env(task: Task | str, **params: Any) -> TextEnv:
    """A new environment for a task or an id, without Gymnasium's wrappers, so that its capabilities show.

    Args:
        task: a `Task` (its `params` are used) or the Gymnasium id of a `TextEnv`; `module:id` imports the
            module that registers it first.
        **params: constructor arguments; they win over the task's. The reserved `wrappers` is a list of tables, each
            with the `name` of a wrapper and its arguments; the first is put on first, next to the environment.

    Raises:
        UnknownNameError: no environment or no wrapper of that name; names the nearest.
        ConfigError: an unknown argument, an argument out of range, or no `TextEnv`.
    """
    env_id, params = (task, params) if isinstance(task, str) else (task.env_id, {**task.params, **params})
    wrappers = params.pop("wrappers", ())
    module, _, env_id = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    if env_id not in gymnasium.registry:
        text_ids = [known for known in gymnasium.registry if known.startswith(env_id.partition("/")[0] + "/")]
        raise unknown_name("environment", env_id, text_ids or ENVIRONMENTS)
    spec = gymnasium.spec(env_id)
    creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(str(spec.entry_point))
    _check_params(env_id, creator, {**spec.kwargs, **params})
    env: Any = gymnasium.make(env_id, disable_env_checker=True, **params)
    while type(env) is OrderEnforcing:  # TextEnv orders its calls itself
        env = env.env
    if not isinstance(env, TextEnv):
        raise ConfigError(
            f"{env_id!r} made a {type(env).__name__}, which is no agentkit.envs.TextEnv; "
            "derive it from TextEnv and register it without wrappers or max_episode_steps"
        )
    try:
        return wrap(env, wrappers)
    except AgentkitError:
        env.close()
        raise


def bundled_family(env_id: str) -> type[TextEnv]:
    """The class of a bundled environment; `KeyError` for any other id."""
    return cast(type[TextEnv], load_env_creator(ENVIRONMENTS[env_id].entry_point))


def list_envs() -> tuple[EnvRow, ...]:
    """The bundled environments with their capabilities."""
    rows = []
    for env_id, bundled in ENVIRONMENTS.items():
        family = bundled_family(env_id)
        able = tuple(name for name, capability in CAPABILITIES.items() if offers(family, capability))
        rows.append(EnvRow(env_id, bundled.description, able, family.unavailable()))
    return tuple(rows)


def _check_params(env_id: str, creator: Callable[..., Any], params: dict[str, Any]) -> None:
    known = inspect.signature(creator).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for name in params:
        if name not in known:
            raise ConfigError(str(unknown_name(f"parameter of {env_id}", name, known)))
    for name, parameter in known.items():
        needed = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
        if needed and name not in params:
            raise ConfigError(f"{env_id} needs the parameter {name!r}")


register_envs()
