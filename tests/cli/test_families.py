"""`agentkit eval --all`: one table of the families that can be played here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from agentkit.envs import TextEnv, registration
from agentkit.envs.registration import ENVIRONMENTS, Bundled
from agentkit.errors import AgentkitError, MissingPartError

Command = Callable[..., Result]
PUZZLES = ("agentkit/Sokoban-v0", "agentkit/Sudoku-v0")


class Absent(TextEnv):
    """Needs what nobody has."""

    @classmethod
    def unavailable(cls) -> AgentkitError | None:
        return MissingPartError("the moon is missing; run: apt-get install moon")


@pytest.fixture
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two puzzles, one family that is not here, one without an expert, one that needs parameters."""
    names = (*PUZZLES, "agentkit/Discrete-v0", "agentkit/OpenEnv-v0")
    table = {name: ENVIRONMENTS[name] for name in names}
    table["test/Absent-v0"] = Bundled(f"{__name__}:Absent", "Not here.")
    monkeypatch.setattr(registration, "ENVIRONMENTS", table)


@pytest.mark.usefixtures("bundled")
def test_the_expert_plays_every_family_that_has_one(agentkit: Command, tmp_path: Path) -> None:
    result = agentkit("eval", "--all", "--policy", "expert", "--tasks", "3", "--out", "all.json")
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.startswith("agentkit/")}
    assert list(rows) == list(PUZZLES)
    assert all(row[1:4] == ["1.000", "[0.439,", "1.000]"] for row in rows.values())  # Wilson: 3 of 3
    assert "test/Absent-v0 is left out: the moon is missing; run: apt-get install moon" in result.stderr
    assert "agentkit/Discrete-v0 is left out: it has no expert" in result.stderr
    assert "agentkit/OpenEnv-v0 is left out: it needs parameters of yours" in result.stderr
    reports = json.loads((tmp_path / "all.json").read_text())
    assert {name: report["episodes"] for name, report in reports.items()} == dict.fromkeys(PUZZLES, 3)


@pytest.mark.usefixtures("bundled")
def test_random_play_needs_no_expert(agentkit: Command) -> None:
    result = agentkit("eval", "--all", "--policy", "random", "--tasks", "2")
    assert result.exit_code == 0, result.output
    assert "agentkit/Discrete-v0" in result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--all"], "--all needs --policy"),
        (["run.toml", "--all", "--policy", "random"], "--all needs --policy, and no configuration"),
        (["--all", "--policy", "random", "--dry-run"], "--all needs --policy, and no configuration"),
        (["--policy", "random"], "name a configuration (CONFIG.toml), or --all"),
        (["run.toml", "--tasks", "3"], "--tasks and --seed are for --all"),
    ],
)
def test_options_that_contradict_each_other_are_named(agentkit: Command, options: list[str], words: str) -> None:
    result = agentkit("eval", *options)
    assert result.exit_code != 0
    assert words in result.stderr
