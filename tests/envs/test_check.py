"""The conformance suite: bundled environments pass, each kind of fault is found and said in one line."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest

from agentkit.envs import Task, check_text_env
from agentkit.envs.frozen_lake import FrozenLake
from agentkit.envs.sokoban import Sokoban
from agentkit.errors import ConfigError, UnknownNameError


@pytest.mark.parametrize(
    ("env_id", "params"),
    [
        ("agentkit/FrozenLake-v0", {}),
        ("agentkit/FrozenLake-v0", {"slip": 0.4, "text": "coords"}),
        ("agentkit/Sokoban-v0", {}),
        ("agentkit/Sokoban-v0", {"size": 7, "num_boxes": 2, "max_actions_per_turn": 1, "max_turns": 9}),
        ("agentkit/Sudoku-v0", {"num_empty": 8}),
    ],
)
def test_bundled_environments_pass(env_id: str, params: dict[str, Any]) -> None:
    report = check_text_env(Task(env_id=env_id, seed=0, params=params))
    assert report.ok, str(report)


def test_a_report_reads_as_a_table() -> None:
    report = check_text_env("agentkit/Sudoku-v0", seeds=[0, 1])
    lines = str(report).splitlines()
    assert lines[0] == "agentkit/Sudoku-v0"
    assert lines[1].startswith("ok   is a text environment")
    assert lines[-1].split() == ["-", "goals", "agree", "with", "success", "not", "offered"]


class Forgetful(FrozenLake):
    """Drops a key of info."""

    def _info(self, valid: bool) -> dict[str, Any]:
        return {key: value for key, value in super()._info(valid).items() if key != "state_key"}


class Drunk(FrozenLake):
    """Noise that no seed controls."""

    plays = 0

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        Drunk.plays += 1
        super()._begin(split, seed + Drunk.plays, attempt)


class Moody(FrozenLake):
    """Another level for every attempt."""

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        super()._begin(split, seed + attempt, attempt)


class Leaky(FrozenLake):
    """Knows no splits."""

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        super()._begin("train", seed, attempt)


class Credulous(FrozenLake):
    """Understands everything as Left."""

    def _parse(self, text: str) -> int | None:
        return super()._parse(text) or 0


class Endless(FrozenLake):
    """Turns that cost nothing."""

    def step(self, action: str) -> Any:
        self.turns_left += 1
        return super().step(action)


class Sticky(Sokoban):
    """Keeps the boxes of the episode before."""

    def _start(self) -> Any:
        return self.state if self.state and self.state[1] != self.level.targets else super()._start()


class Amnesiac(FrozenLake):
    """A snapshot without the player."""

    def restore(self, state: Any) -> None:
        super().restore(state)
        self.state = self._start()


class Boastful(FrozenLake):
    """Claims certainty and walks in circles."""

    def expert_action(self) -> str:
        return "Left || Right"


class Aimless(FrozenLake):
    """A goal that is never met."""

    def desired_goal(self) -> str:
        return "elsewhere"


class Broken(FrozenLake):
    """Fails on odd texts."""

    def _parse(self, text: str) -> int | None:
        return {"left": 0, "down": 1, "right": 2, "up": 3}[text.lower()]


class Mute(FrozenLake):
    """Explains nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.instructions = " "


class Lax(FrozenLake):
    """Takes any option."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        known = {"split": ("train", "held_out"), "attempt": range(100)}
        kept = {key: value for key, value in (options or {}).items() if value in known.get(key, ())}
        return super().reset(seed=seed, options=kept)


@pytest.mark.parametrize(
    ("family", "rule", "words"),
    [
        (Mute, "is a text environment", "`instructions` is empty: players would not know the rules"),
        (Forgetful, "answers have the right types", "info lacks 'state_key'"),
        (Drunk, "a seed and actions fix the episode", "seed 0: the same actions gave two different episodes"),
        (Moody, "attempts share the level", "seed 0: attempts 0, 1 and 7 begin differently"),
        (
            Leaky,
            "splits share no level",
            "seed 0 of held_out begins in a state that train also begins in",
        ),
        (Lax, "wrong options are refused", "reset ignored the wrong options {'splt': 'train'}"),
        (Credulous, "nonsense is survived", "'?!' counted as understood (valid=True)"),
        (Broken, "nonsense is survived", "raised KeyError: '?!'"),
        (Endless, "turns run out", "turn 5 of 5: truncated=False"),
        (Sticky, "reset forgets", "seed 0: earlier play changed the episode"),
        (Amnesiac, "snapshot and restore", "play after restore differs"),
        (Boastful, "expert keeps its promise", "the expert failed against its claim"),
        (Aimless, "goals agree with success", "goal met is False, success is True"),
    ],
)
def test_faults_are_found_and_named(family: Any, rule: str, words: str) -> None:
    report = check_text_env(family)
    row = {row.name: row for row in report.rows}[rule]
    assert row.passed is False
    assert words in row.detail
    assert "\n" not in row.detail
    assert not report.ok


def test_an_environment_of_another_kind_fails_without_a_traceback() -> None:
    report = check_text_env(lambda: gymnasium.make("FrozenLake-v1"))
    assert not report.ok
    assert "is no agentkit.envs.TextEnv" in report.rows[0].detail


def test_something_that_is_no_environment_fails_without_a_traceback() -> None:
    report = check_text_env(lambda: "env")  # type: ignore[arg-type,return-value]
    assert report.rows[0].detail == "needed a gymnasium.Env, got a str"


def test_a_wrong_call_is_the_callers_error() -> None:
    with pytest.raises(ConfigError, match="pass an id, a class or a function"):
        check_text_env(FrozenLake())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="seeds must name at least one instance"):
        check_text_env(FrozenLake, seeds=[])
    with pytest.raises(UnknownNameError, match="did you mean 'agentkit/Sokoban-v0'"):
        check_text_env("agentkit/Sokobn-v0")
