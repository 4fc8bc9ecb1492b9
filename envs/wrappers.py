"""The wrappers with a name, which a task may list under `wrappers`, and the small ones themselves.

`{"wrappers": [{"name": "history", "turns": 3}, {"name": "step_penalty", "cost": 0.01}]}` puts the history next to the
environment and the penalty around both: the later a wrapper stands, the closer it is to the player.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from math import isfinite
from typing import Any

from agentkit.envs.contract import TextEnv, whole_number
from agentkit.envs.retry import Retry
from agentkit.envs.wrapper import TextWrapper
from agentkit.errors import ConfigError, unknown_name

Step = tuple[str, float, bool, bool, dict[str, Any]]
KEPT = ("head", "tail", "both")
SHORTEST_CAP = 40
"""Characters that the note on what was cut always fits into."""


class History(TextWrapper):
    """Shows the last turns before the present observation, for players that keep no conversation.

    The observation of the first turn is left as it is. Texts are shown as they were, so a `LengthCap` belongs
    inside to shorten each of them, outside to shorten the whole.
    """

    def __init__(self, env: TextEnv, *, turns: int = 3) -> None:
        """Wrap `env`.

        Args:
            env: what to wrap.
            turns: turns that are shown besides the present one; 0 shows none.

        Raises:
            ConfigError: `env` is no `TextEnv`, or `turns` is no whole number of at least 0.
        """
        super().__init__(env)
        self.turns = whole_number("turns", turns, least=0)
        self._past: tuple[tuple[str, str], ...] = ()
        self._now = ""
        self._number = 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """See `TextEnv.reset`."""
        self._now, info = super().reset(seed=seed, options=options)
        self._past, self._number = (), 1
        return self._now, info

    def step(self, action: str) -> Step:
        """See `TextEnv.step`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._past = (*self._past, (self._now, action))[-self.turns :] if self.turns else ()
        self._now = observation
        self._number += 1
        return self._told(), reward, terminated, truncated, info

    def _told(self) -> str:
        if not self._past:
            return self._now
        first = self._number - len(self._past)
        parts = [
            f"=== Turn {number} ===\n{seen}\n=== Your answer in turn {number} ===\n{done}"
            for number, (seen, done) in enumerate(self._past, first)
        ]
        return "\n".join([*parts, f"=== Turn {self._number}, now ===\n{self._now}"])

    def _memory(self) -> Any:
        return self._past, self._now, self._number

    def _recollect(self, memory: Any) -> None:
        self._past, self._now, self._number = memory


class StepPenalty(TextWrapper):
    """Charges every turn, so that of two solutions the shorter one is worth more."""

    def __init__(self, env: TextEnv, *, cost: float = 0.01, invalid: float = 0.0) -> None:
        """Wrap `env`.

        Args:
            env: what to wrap.
            cost: what is taken from the reward of every turn, at least 0.
            invalid: what is taken on top when the turn's text was not understood whole (`valid` is False).

        Raises:
            ConfigError: `env` is no `TextEnv`, or a number is negative or not finite.
        """
        super().__init__(env)
        self.cost = _amount("cost", cost)
        self.invalid = _amount("invalid", invalid)

    def step(self, action: str) -> Step:
        """See `TextEnv.step`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        price = self.cost if info["valid"] else self.cost + self.invalid
        return observation, reward - price, terminated, truncated, info


class LengthCap(TextWrapper):
    """Cuts observations that are too long and says how much was cut; `info` keeps everything."""

    def __init__(self, env: TextEnv, *, max_chars: int = 4000, keep: str = "head") -> None:
        """Wrap `env`.

        Args:
            env: what to wrap.
            max_chars: characters (code points) that an observation may have, the note on the cut included,
                at least 40.
            keep: "head" keeps the beginning, "tail" the end, "both" half of each.

        Raises:
            ConfigError: `env` is no `TextEnv`, or an argument is out of range.
        """
        super().__init__(env)
        self.max_chars = whole_number("max_chars", max_chars, least=SHORTEST_CAP)
        if keep not in KEPT:
            raise ConfigError(str(unknown_name("keep", str(keep), KEPT)))
        self.keep = keep

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """See `TextEnv.reset`."""
        observation, info = super().reset(seed=seed, options=options)
        return cut(observation, self.max_chars, self.keep), info

    def step(self, action: str) -> Step:
        """See `TextEnv.step`."""
        observation, *rest = self.env.step(action)
        return cut(observation, self.max_chars, self.keep), *rest  # type: ignore[return-value]


def cut(text: str, max_chars: int, keep: str) -> str:
    """`text` in at most `max_chars` characters, with a note in place of what is missing.

    A pair of surrogates, which some sources leave in their texts, is kept or cut as a whole.

    >>> cut("a" * 50 + "z" * 50, 40, "both")
    'aaaaaaaaa\\n[82 characters cut]\\nzzzzzzzzz'
    """
    if len(text) <= max_chars:
        return text
    room = max_chars - len(f"\n[{len(text)} characters cut]\n")
    head = {"head": room, "tail": 0, "both": room - room // 2}[keep]
    start, end = head, len(text) - (room - head)
    if _splits_pair(text, start):
        start -= 1
    if _splits_pair(text, end):
        end += 1
    parts = (text[:start], f"[{end - start} characters cut]", text[end:])
    return "\n".join(part for part in parts if part)


def _splits_pair(text: str, at: int) -> bool:
    return 0 < at < len(text) and "\ud800" <= text[at - 1] <= "\udbff" and "\udc00" <= text[at] <= "\udfff"


def _amount(name: str, value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value) and value >= 0:
        return float(value)
    raise ConfigError(f"{name} must be a finite number of at least 0, got {value!r}")


WRAPPERS: dict[str, type[TextWrapper]] = {
    "history": History,
    "length_cap": LengthCap,
    "retry": Retry,
    "step_penalty": StepPenalty,
}
"""Name in a task's `wrappers` -> wrapper."""


def wrap(env: TextEnv, wrappers: Sequence[dict[str, Any]]) -> TextEnv:
    """`env` in the named wrappers, the first of them next to it.

    Args:
        env: what to wrap.
        wrappers: tables with the `name` of a wrapper (see `WRAPPERS`) and its arguments.

    Raises:
        UnknownNameError: no wrapper of that name; names the nearest.
        ConfigError: `wrappers` is no list of tables, or an argument is unknown or out of range.
    """
    if not isinstance(wrappers, (list, tuple)):
        raise ConfigError(f"wrappers must be a list of tables such as {{'name': 'history'}}, got {wrappers!r}")
    for table in wrappers:
        if not isinstance(table, dict) or not isinstance(table.get("name"), str):
            raise ConfigError(f"a wrapper is a table with a name, such as {{'name': 'history'}}, got {table!r}")
        arguments = {key: value for key, value in table.items() if key != "name"}
        if table["name"] not in WRAPPERS:
            raise unknown_name("wrapper", table["name"], WRAPPERS)
        wrapper = WRAPPERS[table["name"]]
        known = [name for name in inspect.signature(wrapper).parameters if name != "env"]
        for name in arguments:
            if name not in known:
                raise ConfigError(str(unknown_name(f"argument of wrapper {table['name']!r}", str(name), known)))
        env = wrapper(env, **arguments)
    return env
