"""The conformance suite: bundled environments pass, each kind of fault is found by its rule and said in one line."""

from __future__ import annotations

import importlib
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from agentkit.envs import Task, check_text_env
from agentkit.envs.frozen_lake import FrozenLake
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
    report = check_text_env("agentkit/Sudoku-v0", seeds=[0, 1], resets=12)
    lines = str(report).splitlines()
    assert lines[0] == "agentkit/Sudoku-v0"
    assert lines[1].startswith("ok   is a text environment")
    assert "12 resets, each with a step, of 12 levels" in lines[7]
    assert lines[-2].split() == ["-", "the", "screen", "can", "be", "seen", "not", "offered"]


class Mute(FrozenLake):
    """Explains nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.instructions = " "


class Forgetful(FrozenLake):
    """Drops a key of info."""

    def _info(self, valid: bool) -> dict[str, Any]:
        return {key: value for key, value in super()._info(valid).items() if key != "state_key"}


class Narrow(FrozenLake):
    """Names the characters of its actions, and forgets one."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.Text(10, charset="LeftDownRight")


class Curt(FrozenLake):
    """Promises short observations."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gymnasium.spaces.Text(4)


class Drunk(FrozenLake):
    """Noise that no seed controls."""

    plays = 0

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        Drunk.plays += 1
        super()._begin(split, seed + Drunk.plays, attempt)


class Local(FrozenLake):
    """Knows its process."""

    def _observe(self) -> str:
        return f"{super()._observe()} {os.environ.get('LOCAL_ENV', os.getpid())}"


class Moody(FrozenLake):
    """Another level for every attempt."""

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        super()._begin(split, seed + attempt, attempt)


class Worn(FrozenLake):
    """Does not last."""

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        if seed % (1 << 20) > 50:
            raise RuntimeError("worn out")
        super()._begin(split, seed, attempt)


class Unsplit(FrozenLake):
    """Knows no splits."""

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        super()._begin("train", seed, attempt)


class Hoarding(FrozenLake):
    """Keeps something of every episode."""

    def __init__(self) -> None:
        super().__init__()
        self.hoard: list[Any] = []

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        self.hoard.append(self.keepsake())
        super()._begin(split, seed, attempt)

    def keepsake(self) -> Any:
        return bytearray(os.urandom(1 << 19))

    def close(self) -> None:
        self.hoard.clear()


class HoardsThreads(Hoarding):
    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def keepsake(self) -> Any:
        thread = threading.Thread(target=self.go.wait, daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        self.go.set()


class HoardsFiles(Hoarding):
    def keepsake(self) -> Any:
        return tempfile.TemporaryFile()

    def close(self) -> None:
        for file in self.hoard:
            file.close()


class StartsLate(HoardsFiles):
    """Opens many files once, after half of the resets before the second look, and keeps them."""

    def keepsake(self) -> Any:
        return super().keepsake() if 80 <= len(self.hoard) < 120 else None

    def close(self) -> None:
        for file in filter(None, self.hoard):
            file.close()


class HoardsProcesses(Hoarding):
    def keepsake(self) -> Any:
        return subprocess.Popen(["sleep", "60"]) if len(self.hoard) % 3 == 0 else None

    def close(self) -> None:
        for process in filter(None, self.hoard):
            process.kill()
            process.wait()


class Lax(FrozenLake):
    """Takes any option."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        known = {"split": ("train", "held_out"), "attempt": range(100)}
        kept = {key: value for key, value in (options or {}).items() if value in known.get(key, ())}
        return super().reset(seed=seed, options=kept)


class Credulous(FrozenLake):
    """Understands everything as Left."""

    def _parse(self, text: str) -> int | None:
        return super()._parse(text) or 0


class Broken(FrozenLake):
    """Fails on odd texts."""

    def _parse(self, text: str) -> int | None:
        return {"left": 0, "down": 1, "right": 2, "up": 3}[text.lower()]


class Endless(FrozenLake):
    """Turns that cost nothing."""

    def step(self, action: str) -> Any:
        self.turns_left += 1
        return super().step(action)


class Nostalgic(FrozenLake):
    """Remembers an episode that was broken off."""

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        self.memory = " again" if self.turns_left == self.max_turns - 1 and self.instance[2] == 1 else ""
        super()._begin(split, seed, attempt)

    def _observe(self) -> str:
        return super()._observe() + self.memory

    def snapshot(self) -> object:
        return super().snapshot(), self.memory

    def restore(self, state: Any) -> None:
        super().restore(state[0])
        self.memory = state[1]


class Amnesiac(FrozenLake):
    """A snapshot without the player."""

    def restore(self, state: Any) -> None:
        super().restore(state)
        self.state = self._start()


class Finished(FrozenLake):
    """Cannot go back once an episode is over."""

    def restore(self, state: Any) -> None:
        if not self._over:
            super().restore(state)


class Entangled(FrozenLake):
    """A snapshot that is the environment's own state, not a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.trace: list[str] = []

    def _act(self, action: Any) -> Any:
        self.trace.append(str(action))
        return super()._act(action)

    def snapshot(self) -> object:
        return super().snapshot(), self.trace

    def restore(self, state: Any) -> None:
        super().restore(state[0])
        self.trace = state[1]


class Opaque(FrozenLake):
    """A snapshot that is no data."""

    def snapshot(self) -> object:
        return lambda: super(Opaque, self).snapshot()

    def restore(self, state: Any) -> None:
        super().restore(state())


class Boastful(FrozenLake):
    """Claims certainty and walks in circles."""

    def expert_action(self) -> str:
        return "Left || Right"


class Aimless(FrozenLake):
    """A goal that is never met."""

    def desired_goal(self) -> str:
        return "elsewhere"


class Blind(FrozenLake):
    """A screenshot of another kind."""

    def screenshot(self) -> bytes:
        return b"\xff\xd8\xff\xe0 JFIF"


class Tiny(FrozenLake):
    """A screenshot of one pixel."""

    def screenshot(self) -> bytes:
        size = (1).to_bytes(4, "big") * 2
        return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size + b"\x08\0\0\0\0...." + b"\0\0\0\0IEND\xaeB`\x82"


class Clingy(FrozenLake):
    """Cannot be closed."""

    def close(self) -> None:
        raise OSError("busy")


@pytest.mark.parametrize(
    ("family", "rule", "words"),
    [
        (Mute, "is a text environment", "`instructions` is empty: players would not know the rules"),
        (Forgetful, "answers have the right types", "info lacks 'state_key'"),
        (Narrow, "spaces hold what is given", "lacks 'Up'; use AnyText"),
        (Curt, "spaces hold what is given", "Text(1, 4, charset="),
        (Drunk, "a seed and actions fix the episode", "seed 0: the same actions gave two different episodes"),
        (Moody, "attempts share the level", "seed 0: attempts 0, 1 and 7 begin differently"),
        (Worn, "many resets are survived", "raised RuntimeError: worn out"),
        (Unsplit, "splits share no level", "seed 0 of held_out begins in a state that train also begins in"),
        (Hoarding, "resets leave nothing behind", "MB of memory, "),
        (HoardsThreads, "resets leave nothing behind", "152 resets have left behind 152 threads, 15 are allowed"),
        (HoardsFiles, "resets leave nothing behind", "152 resets have left behind 152 open files, 15 are allowed"),
        (HoardsProcesses, "resets leave nothing behind", "152 resets have left behind 51 processes, 15 are allowed"),
        (Lax, "wrong options are refused", "reset ignored the wrong options {'splt': 'train'}"),
        (Credulous, "nonsense is survived", "'?!' counted as understood (valid=True)"),
        (Broken, "nonsense is survived", "raised KeyError: '?!'"),
        (Endless, "turns run out", "turn 5 of 5: truncated=False"),
        (
            Nostalgic,
            "reset forgets",
            "seed 0: earlier play changed the episode: after reset, observation is ",
        ),
        (Amnesiac, "snapshot and restore", "the snapshot after restore is another one"),
        (Finished, "snapshot and restore", "the snapshot after restore is another one"),
        (Entangled, "snapshot and restore", "playing on changed the snapshot"),
        (Opaque, "snapshot and restore", "a snapshot must be plain data: it is a builtins.function"),
        (Boastful, "expert keeps its promise", "the expert failed against its claim"),
        (Aimless, "goals agree with success", "goal met is False, success is True"),
        (Blind, "the screen can be seen", "9 bytes that are no whole PNG image"),
        (Tiny, "the screen can be seen", "a screenshot of 1x1 pixels"),
        (Clingy, "can be closed", "raised OSError: busy"),
    ],
)
def test_a_fault_is_found_by_one_rule_and_named(family: Any, rule: str, words: str) -> None:
    report = check_text_env(family)
    (row,) = [row for row in report.rows if row.passed is False]
    assert row.name == rule
    assert words in row.detail
    assert "\n" not in row.detail
    assert not report.ok


def test_what_is_started_once_on_the_way_is_no_leak() -> None:
    row = {row.name: row for row in check_text_env(StartsLate).rows}["resets leave nothing behind"]
    assert row.passed
    assert "+40 open files" in row.detail


def test_rules_that_rest_on_a_broken_one_say_so() -> None:
    report = check_text_env(Credulous)
    row = {row.name: row for row in report.rows}["turns run out"]
    assert (row.passed, row.detail) == (None, "not checked: it rests on 'nonsense is survived'")
    assert {row.detail for row in check_text_env(Mute).rows[2:-1]} >= {
        "not checked: it rests on 'answers have the right types'"
    }


def test_what_depends_on_the_process_is_found_in_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "workers"))
    report = check_text_env("worker_toys:toys/Hashed-v0", seeds=[0], resets=4)
    row = {row.name: row for row in report.rows}["another process plays the same"]
    assert row.passed is False
    assert row.detail.startswith("seed 0: another process differs: after reset, observation is 'word")
    told = {row.name: row for row in check_text_env(Local, seeds=[0], resets=4).rows}
    assert told["another process plays the same"].detail == "only an id or a task can be played in another process"


@pytest.mark.parametrize("declared", [True, False])
def test_of_a_nondeterministic_environment_only_the_beginnings_must_agree(
    monkeypatch: pytest.MonkeyPatch, declared: bool
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "workers"))
    importlib.import_module("worker_toys")
    monkeypatch.setattr(gymnasium.spec("toys/Whim-v0"), "nondeterministic", declared)
    rows = {row.name: row for row in check_text_env("worker_toys:toys/Whim-v0", seeds=[0, 1], resets=4).rows}
    assert rows["a seed and actions fix the episode"].passed is declared
    if declared:
        elsewhere = rows["another process plays the same"]
        assert elsewhere.detail.startswith("2 beginnings (registered as nondeterministic) played there too")
        assert rows["reset forgets"].detail == "a used environment begins like a new one"


class Stuck(FrozenLake):
    """Hangs in the third instance."""

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        if seed == 3:
            time.sleep(30)
        super()._begin(split, seed, attempt)


def test_a_call_that_hangs_ends_the_check_and_is_named() -> None:
    begun = time.monotonic()
    report = check_text_env(Stuck, call_s=0.3)
    assert time.monotonic() - begun < 10
    first, row, *others = report.rows
    assert first.passed is True
    assert (row.name, row.passed) == ("answers have the right types", False)
    assert row.detail == "seed 3: reset() did not return within 0.3 s"
    assert {(other.passed, other.detail) for other in others} == {(None, f"not checked: {row.detail}")}


def test_an_environment_in_a_worker_that_crashes_and_hangs_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "workers"))
    report = check_text_env("worker_toys:toys/Fragile-v0", seeds=[0, 1], resets=4)
    row = next(row for row in report.rows if row.passed is False)
    assert row.name == "answers have the right types"
    assert row.detail.endswith("reset() did not return: its process died by signal 11 (SIGSEGV)")
    report = check_text_env("worker_toys:toys/Fragile-v0", seeds=[2], resets=4, call_s=3)
    row = next(row for row in report.rows if row.passed is False)
    assert "reset() did not return within 3 s, so its process was killed" in row.detail


def test_an_environment_of_another_kind_fails_without_a_traceback() -> None:
    report = check_text_env(lambda: gymnasium.make("FrozenLake-v1"))
    assert not report.ok
    assert "is no agentkit.envs.TextEnv" in report.rows[0].detail


def test_something_that_is_no_environment_fails_without_a_traceback() -> None:
    report = check_text_env(lambda: "env")  # type: ignore[arg-type,return-value]
    assert report.rows[0].detail == "needed a gymnasium.Env, got a str"


def test_an_environment_that_cannot_be_made_fails_without_a_traceback() -> None:
    def make() -> Any:
        raise SystemExit(3)

    report = check_text_env(make)
    assert report.rows[0].detail == "raised SystemExit: 3"


def test_a_wrong_call_is_the_callers_error() -> None:
    with pytest.raises(ConfigError, match="pass an id, a class or a function"):
        check_text_env(FrozenLake())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="seeds must name at least one instance"):
        check_text_env(FrozenLake, seeds=[])
    with pytest.raises(ConfigError, match="resets must be a whole number of at least 4, got 3"):
        check_text_env(FrozenLake, resets=3)
    with pytest.raises(ConfigError, match="call_s must be more than 0 seconds, got 0"):
        check_text_env(FrozenLake, call_s=0)
    with pytest.raises(UnknownNameError, match="did you mean 'agentkit/Sokoban-v0'"):
        check_text_env("agentkit/Sokobn-v0")
    with pytest.raises(ConfigError, match="size must be a whole number"):
        check_text_env(Task(env_id="agentkit/FrozenLake-v0", seed=0, params={"size": 99}))
