"""TextWrapper: a TextEnv around a TextEnv, so that it works wherever a text environment does.

It offers what the inner environment offers and nothing else: a method of a capability is looked up there when it
is asked for, so `offers` sees through any number of wrappers, on every version of Python.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from agentkit.envs.contract import CAPABILITIES, AnyText, TextEnv
from agentkit.errors import ConfigError

CAPABILITY_METHODS = frozenset(
    name for protocol in CAPABILITIES.values() for name in vars(protocol) if not name.startswith("_")
)


class TextWrapper(TextEnv):
    """Hands everything on to `env`; a wrapper overrides `reset` and `step`.

    Attributes that are not found here are the inner environment's: budgets, levels, whatever a family has. A
    wrapper that answers for a capability defines its method with an underscore (`_expert_success`): it is then
    there exactly where the inner environment has `expert_success`. One that remembers something between turns
    implements `_memory` and `_recollect`, so that snapshots hold it.

    Not `gymnasium.Wrapper`, whose `unwrapped` skips all wrappers: for a text environment the wrapped one is the
    one that is played.
    """

    def __init__(self, env: TextEnv) -> None:
        """Wrap `env`, which belongs to the wrapper from then on: it closes it.

        Raises:
            ConfigError: `env` is no `TextEnv`.
        """
        if not isinstance(env, TextEnv):
            raise ConfigError(f"{type(self).__name__} wraps a TextEnv, got {env!r}; make it with make_env")
        self.env = env
        self.observation_space = AnyText()
        self.action_space = AnyText()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "env":  # `env` is missing while a copy is being unpickled
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        found = getattr(self.env, name)
        if name in CAPABILITY_METHODS:
            return getattr(self, f"_{name}", found)
        return found

    # Class attributes of TextEnv and Gymnasium, which `__getattr__` is never asked for.
    @property
    def metadata(self) -> dict[str, Any]:  # type: ignore[override]  # read, never set
        """The inner environment's."""
        return self.env.metadata

    @property
    def instructions(self) -> str:  # type: ignore[override]
        """The inner environment's."""
        return self.env.instructions

    @property
    def example(self) -> str:  # type: ignore[override]
        """The inner environment's."""
        return self.env.example

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """The inner environment's."""
        return self.env.spec

    @property
    def render_mode(self) -> str | None:  # type: ignore[override]
        """The inner environment's."""
        return self.env.render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """See `TextEnv.reset`."""
        gymnasium.Env.reset(self, seed=seed)  # a wrapper has a generator of its own, as every Gymnasium environment
        return self.env.reset(seed=seed, options=options)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """See `TextEnv.step`."""
        return self.env.step(action)

    def render(self) -> Any:
        """What the inner environment renders."""
        return self.env.render()

    def close(self) -> None:
        """Close the inner environment."""
        self.env.close()

    def _snapshot(self) -> object:
        return type(self).__name__, self.env.snapshot(), self._memory()  # type: ignore[attr-defined]

    def _restore(self, state: object) -> None:
        name = type(self).__name__
        if not isinstance(state, tuple) or len(state) != 3 or state[0] != name:
            raise ConfigError(f"{name}.restore() needs what its snapshot() returned, got {type(state).__name__}")
        self.env.restore(state[1])  # type: ignore[attr-defined]
        self._recollect(state[2])

    def _memory(self) -> Any:
        """What the wrapper itself knows of the episode, as immutable plain data."""
        return None

    def _recollect(self, memory: Any) -> None:
        """Go back to what `_memory` returned."""
