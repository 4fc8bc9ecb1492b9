"""The conformance suite of the text-environment contract: one row a rule, in plain words.

A rule that is broken, and anything an environment raises, becomes a failed row with one sentence: a wrong
environment is described, never a traceback. It is played on a thread of its own, which is left behind if a call
hangs.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium

from agentkit.envs.check_rules import RULES, Rule
from agentkit.envs.check_trial import Finding, NotChecked, Trial, Watch
from agentkit.envs.contract import whole_number
from agentkit.envs.workers import WorkerEnv, open_env
from agentkit.envs.workers.pool import Pool
from agentkit.errors import AgentkitError, ConfigError, EnvironmentFault
from agentkit.task import Task

NOT_CHECKED = "not checked: "
"""Begins the detail of a rule that an earlier failure leaves nothing to say about."""
_LOOK_S = 0.1
"""Seconds between two looks at whether a call hangs."""


@dataclass(frozen=True)
class Check:
    """One rule of the contract and whether it holds."""

    name: str
    """The rule, in words."""
    passed: bool | None
    """None if nothing can be said: the capability is not offered, or a rule that this one rests on is broken."""
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
    env: str | Task | Callable[[], gymnasium.Env[str, str]],
    *,
    seeds: Sequence[int] = tuple(range(8)),
    resets: int = 200,
    call_s: float = 60.0,
) -> Report:
    """Check an environment against the contract of `TextEnv` and of the capabilities it offers.

    Two environments are made, and for an id or a task a third one in another process.

    Args:
        env: an id, a task (for its parameters), or a class or function that makes a new environment.
        seeds: instances to play, at least one.
        resets: resets that leaks and levels in both splits have to show themselves, at least 4; fewer where a reset
            takes long.
        call_s: seconds that one call of the environment may take. One that takes longer ends the check.

    Raises:
        ConfigError: `env` is an environment itself (the checks need fresh ones), or an argument is out of range.
        UnknownNameError: no environment of that id.
        MissingExtraError, MissingPartError: what it needs is not installed.
    """
    if not seeds:
        raise ConfigError("seeds must name at least one instance, got none")
    whole_number("resets", resets, least=4)
    if not call_s > 0:
        raise ConfigError(f"call_s must be more than 0 seconds, got {call_s!r}")
    make_elsewhere: Callable[[], Any] | None = None
    pool = Pool(hash_seed=_other_hash_seed())
    if isinstance(env, (str, Task)):
        make: Callable[[], Any] = partial(open_env, env, step_s=call_s)
        make_elsewhere = partial(WorkerEnv, env, step_s=call_s, pool=pool)
        name = env if isinstance(env, str) else env.env_id
    elif callable(env):
        make, name = env, getattr(env, "__name__", repr(env))
    else:
        raise ConfigError(f"checks need fresh environments: pass an id, a class or a function, not {env!r}")
    watch = Watch()
    trial = Trial(make, make_elsewhere, tuple(seeds), resets, watch)
    try:
        return Report(name, _watched(trial, watch, call_s, named=isinstance(env, (str, Task))))
    finally:
        pool.close()


def _watched(trial: Trial, watch: Watch, call_s: float, *, named: bool) -> tuple[Check, ...]:
    """The rows of a trial, up to a call that hangs.

    Args:
        trial: what is checked.
        watch: its watch.
        call_s: seconds one call may take.
        named: the environment was given by name, so that what it refuses is the caller's mistake and raised.
    """
    rows: list[Check] = []
    refused: list[AgentkitError] = []
    ended = threading.Event()

    def work() -> None:
        try:
            if named:
                refused.extend(_refusal(trial))
            if not refused:
                for rule in RULES:
                    rows.append(_run(rule, trial, rows))
            with contextlib.suppress(Exception):  # the last rule has told
                trial.close()
        finally:
            ended.set()

    threading.Thread(target=work, daemon=True, name="agentkit-check").start()
    late = None
    while late is None and not ended.wait(_LOOK_S):
        late = watch.late(call_s)
    if refused:
        raise refused[0]
    done = tuple(rows)
    if late is None:
        return done
    stuck, *left = RULES[len(done) :]
    return (*done, Check(stuck.name, False, late), *(Check(rule.name, None, NOT_CHECKED + late) for rule in left))


def _refusal(trial: Trial) -> list[AgentkitError]:
    """The error on purpose with which the environment cannot be made, if that is so."""
    try:
        _ = trial.env
    except AgentkitError as error:
        return [] if isinstance(error, EnvironmentFault) else [error]
    except Exception:  # noqa: BLE001 - the first rule finds it
        return []
    return []


def _run(rule: Rule, trial: Trial, rows: Sequence[Check]) -> Check:
    unsound = {row.name for row in rows if row.passed is False or row.detail.startswith(NOT_CHECKED)}
    for other in rule.rests_on:
        if other in unsound:
            return Check(rule.name, None, f"{NOT_CHECKED}it rests on {other!r}")
    try:
        return Check(rule.name, True, rule.check(trial))
    except Finding as finding:
        return Check(rule.name, False, str(finding))
    except NotChecked as reason:
        return Check(rule.name, None, str(reason))
    except BaseException as error:  # noqa: BLE001 - whatever a foreign environment raises is the finding
        words = str(error) if isinstance(error, EnvironmentFault) else f"raised {type(error).__name__}: {error}"
        return Check(rule.name, False, (words.splitlines() or [""])[0])


def _other_hash_seed() -> int:
    """A hash seed for the other process that is not the one of this one."""
    own = os.environ.get("PYTHONHASHSEED", "")
    return int(own) % 1000 + 1 if own.isdigit() else 1
