"""The conformance suite of the text-environment contract: one row a rule, in plain words.

A rule that is broken, and anything an environment raises, becomes a failed row with one sentence: a wrong
environment is described, never a traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium

from agentkit.envs.check_rules import RULES, Finding, Trial
from agentkit.envs.registration import make_env
from agentkit.errors import ConfigError
from agentkit.task import Task


@dataclass(frozen=True)
class Check:
    """One rule of the contract and whether it holds."""

    name: str
    """The rule, in words."""
    passed: bool | None
    """None if the environment does not offer the capability that the rule is about."""
    detail: str
    """What was seen, in one sentence."""


@dataclass(frozen=True)
class Report:
    """The result of `check_text_env`; its text is a table."""

    env: str
    """What was checked."""
    rows: tuple[Check, ...]
    """One row a rule."""

    @property
    def ok(self) -> bool:
        """Whether no rule is broken."""
        return all(row.passed is not False for row in self.rows)

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "FAIL", None: "-   "}
        width = max(len(row.name) for row in self.rows)
        lines = [f"{mark[row.passed]} {row.name:<{width}}  {row.detail}" for row in self.rows]
        return "\n".join([self.env, *lines])


def check_text_env(
    env: str | Task | Callable[[], gymnasium.Env[str, str]], *, seeds: Sequence[int] = tuple(range(8))
) -> Report:
    """Check an environment against the contract of `TextEnv` and of the capabilities it offers.

    Args:
        env: an id, a task (for its parameters), or a class or function that makes a new environment.
        seeds: instances to play, at least one; the held-out split is checked at `HELD_OUT_OFFSET` further.

    Raises:
        ConfigError: `env` is an environment itself (the checks need fresh ones), or `seeds` is empty.
        UnknownNameError: no environment of that id.
    """
    if not seeds:
        raise ConfigError("seeds must name at least one instance, got none")
    if isinstance(env, (str, Task)):
        given = env
        make: Callable[[], Any] = lambda: make_env(given)
        name = env if isinstance(env, str) else env.env_id
        make().close()  # an unknown id is the caller's mistake, not a finding
    elif callable(env):
        make, name = env, getattr(env, "__name__", repr(env))
    else:
        raise ConfigError(f"checks need fresh environments: pass an id, a class or a function, not {env!r}")
    trial = Trial(make, tuple(seeds))
    return Report(name, tuple(_run(rule, check, trial) for rule, check in RULES.items()))


def _run(rule: str, check: Callable[[Trial], str | None], trial: Trial) -> Check:
    try:
        detail = check(trial)
    except Finding as finding:
        return Check(rule, False, str(finding))
    except Exception as error:  # noqa: BLE001 - whatever a foreign environment raises is the finding
        return Check(rule, False, f"raised {type(error).__name__}: {error}".splitlines()[0])
    return Check(rule, None, "not offered") if detail is None else Check(rule, True, detail)
