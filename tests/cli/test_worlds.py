"""`agentkit envs`: what is there, what is missing, and the check of one environment and of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec
from typer.testing import Result

from agentkit.envs import TextEnv, registration
from agentkit.envs.registration import ENVIRONMENTS, Bundled
from agentkit.envs.sudoku import Sudoku
from agentkit.errors import AgentkitError, MissingPartError

Command = Callable[..., Result]


class Absent(TextEnv):
    """Needs what nobody has."""

    @classmethod
    def unavailable(cls) -> AgentkitError | None:
        return MissingPartError("the moon is missing; run: apt-get install moon")


class Wrong(Sudoku):
    """Breaks one rule."""

    def __init__(self, num_empty: int = 6) -> None:
        super().__init__(num_empty=num_empty)
        self.instructions = ""


@pytest.fixture
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three families: a sound one, one that is not here, one that needs parameters."""
    monkeypatch.delenv("CI", raising=False)
    table = {
        "agentkit/Sudoku-v0": ENVIRONMENTS["agentkit/Sudoku-v0"],
        "test/Absent-v0": Bundled(f"{__name__}:Absent", "Not here."),
        "agentkit/OpenEnv-v0": ENVIRONMENTS["agentkit/OpenEnv-v0"],
    }
    monkeypatch.setattr(registration, "ENVIRONMENTS", table)
    family: Any = Wrong
    monkeypatch.setitem(gymnasium.registry, "test/Wrong-v0", EnvSpec("test/Wrong-v0", family))


@pytest.mark.usefixtures("bundled")
def test_the_list_says_what_is_missing(agentkit: Command) -> None:
    lines = {line.split()[0]: line for line in agentkit("envs", "list").stdout.splitlines()}
    assert lines["agentkit/Sudoku-v0"].split()[1] == "yes"
    assert lines["test/Absent-v0"].split()[1] == "no"
    assert "Not here. Not here: the moon is missing; run: apt-get install moon" in lines["test/Absent-v0"]


@pytest.mark.usefixtures("bundled")
def test_all_are_checked_and_those_that_are_not_here_count_if_asked_to(
    agentkit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["envs", "check", "--all", "--seeds", "1", "--resets", "4"]
    result = agentkit(*arguments)
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line.split() for line in result.stdout.splitlines()}
    assert lines["agentkit/Sudoku-v0"][1:5] == ["ok", "16", "of", "16"]
    assert lines["test/Absent-v0"][1:7] == ["not", "here", "the", "moon", "is", "missing;"]
    assert lines["agentkit/OpenEnv-v0"][1:3] == ["left", "out"]
    assert "do not count (--strict)" in result.stdout
    assert agentkit(*arguments, "--strict").exit_code == 1
    monkeypatch.setenv("CI", "1")
    assert agentkit(*arguments).exit_code == 1
    assert agentkit(*arguments, "--no-strict").exit_code == 0


@pytest.mark.usefixtures("bundled")
def test_a_broken_family_is_shown_in_full_and_in_the_table(agentkit: Command) -> None:
    registration.ENVIRONMENTS["test/Wrong-v0"] = Bundled(f"{__name__}:Wrong", "Wrong.", {"num_empty": 3})
    result = agentkit("envs", "check", "--all", "--seeds", "1", "--resets", "4")
    assert result.exit_code == 1
    assert "FAIL  is a text environment" in result.stdout
    assert "test/Wrong-v0        FAIL      0 of 1" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name an environment (ID), or --all for every bundled one"),
        (["agentkit/Sudoku-v0", "--all"], "no ID, no --param"),
        (["--all", "--param", "size=3"], "no ID, no --param"),
        (["agentkit/Sudoku-v0", "--strict"], "--strict is for --all"),
        (["agentkit/Sudoku-v0", "--call-s", "0"], "call_s must be more than 0 seconds, got 0.0"),
    ],
)
def test_wrong_choices_are_explained(agentkit: Command, arguments: list[str], message: str) -> None:
    result = agentkit("envs", "check", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_hanging_environment_is_named(agentkit: Command) -> None:
    result = agentkit("envs", "check", "bad_envs:bad/Hangs-v0", "--call-s", "0.5", "--resets", "4")
    assert result.exit_code == 1
    assert "seed 2: step() did not return within 0.5 s" in result.stdout


def test_collecting_in_workers_gives_the_same_episodes(agentkit: Command) -> None:
    arguments = ["collect", "--env", "agentkit/Sokoban-v0", "--policy", "random", "--tasks", "6", "--out"]
    plain, isolated = agentkit(*arguments, "log"), agentkit(*arguments, "log", "--isolate")
    assert plain.exit_code == isolated.exit_code == 0, plain.output + isolated.output
    assert "6 new in log" in plain.stdout
    assert "episodes 6, 0 new in log" in isolated.stdout  # they have the same ids
    limited = agentkit(*arguments, "log", "--env-memory-mb", "20")
    assert limited.exit_code == 1
    assert "memory_mb = 20 is less than" in limited.stderr


def test_an_environment_that_crashes_costs_its_episodes_only(agentkit: Command) -> None:
    result = agentkit(
        "collect", "--env", "bad_envs:bad/Crashes-v0", "--policy", "random", "--tasks", "4", "--out", "log", "--isolate"
    )
    assert result.exit_code == 1
    assert result.stdout.endswith("episodes 4, 4 new in log  failed 2\n")
    assert "step() did not return: its process died by signal 6 (SIGABRT)" in result.stderr


def test_a_configuration_is_evaluated_in_workers(agentkit: Command, write_config: Callable[..., object]) -> None:
    path = write_config()
    plain, isolated = (agentkit("eval", path, "--policy", "random", *more) for more in ([], ["--isolate"]))
    assert plain.exit_code == isolated.exit_code == 0, plain.output + isolated.output
    assert plain.stdout == isolated.stdout
    path = write_config("[limits]\nisolate = true\nenv_memory_mb = 400")
    assert agentkit("eval", path, "--policy", "random").stdout == plain.stdout
