"""Help, environments, and how commands end: in the real process a user starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agentkit.cli.main import app
from agentkit.memory import EpisodeLog

AGENTKIT = [sys.executable, "-c", "from agentkit.cli.main import main; main()"]
COMMANDS = [
    ["quickstart"],
    ["collect"],
    ["sft"],
    ["train"],
    ["resume"],
    ["eval"],
    ["envs", "list"],
    ["envs", "check"],
    ["memory", "build"],
    ["memory", "search"],
]


def test_help_imports_nothing_heavy_and_comes_at_once() -> None:
    code = """
import sys
from typer.testing import CliRunner, Result
from agentkit.cli.main import app
assert CliRunner().invoke(app, ["--help"]).exit_code == 0
heavy = {"torch", "transformers", "langgraph", "chromadb", "gymnasium", "sqlalchemy", "openai", "numpy", "pydantic"}
print(sorted(heavy & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    seconds = []
    for _ in range(5):  # the best of five: other processes may be at work
        begun = time.perf_counter()
        subprocess.run([*AGENTKIT, "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"Example: agentkit {' '.join(command)}" in result.stdout


def test_wrong_usage_is_exit_code_2(agentkit: Callable[..., Result]) -> None:
    assert agentkit("colect").exit_code == 2
    assert agentkit("collect", "--env").exit_code == 2


def test_an_error_is_one_line_on_stderr_without_a_traceback() -> None:
    done = subprocess.run([*AGENTKIT, "envs", "check", "agentkit/FrozenLak-v0"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "error: no environment 'agentkit/FrozenLak-v0'; did you mean 'agentkit/FrozenLake-v0'?\n"


def test_debugging_shows_the_traceback() -> None:
    command = [*AGENTKIT, "envs", "check", "agentkit/FrozenLak-v0"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "AGENTKIT_DEBUG": "1"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "UnknownNameError" in done.stderr


def test_ctrl_c_keeps_what_was_recorded(tmp_path: Path) -> None:
    log = tmp_path / "log.sqlite"
    arguments = ["collect", "--env", "bad_envs:bad/Slow-v0", "--policy", "random", "--tasks", "1000", "--out", str(log)]
    process = subprocess.Popen(
        [*AGENTKIT, *arguments, "--concurrency", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,  # modules in the working directory are found
    )
    try:
        deadline = time.monotonic() + 60
        while (not log.exists() or not played(log)) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert stderr == "stopped; what was recorded is kept\n"
    assert stdout == ""
    assert 1 <= played(log) < 1000


def played(log: Path) -> int:
    with EpisodeLog.open(log) as episodes:
        return len(episodes)


def test_environments_are_listed_with_what_they_can_do(agentkit: Callable[..., Result]) -> None:
    result = agentkit("envs", "list")
    assert result.exit_code == 0
    line = next(line for line in result.stdout.splitlines() if line.startswith("agentkit/Sudoku-v0"))
    assert line.split()[1:4] == ["yes", "Snapshot,", "Expert"]


def test_a_sound_environment_passes_the_check(agentkit: Callable[..., Result]) -> None:
    result = agentkit("envs", "check", "agentkit/FrozenLake-v0", "--param", "size=2")
    assert result.exit_code == 0, result.output
    assert "FAIL" not in result.stdout


def test_an_environment_that_breaks_a_rule_fails_the_check(agentkit: Callable[..., Result]) -> None:
    result = agentkit("envs", "check", "bad_envs:bad/Raises-v0")
    assert result.exit_code == 1
    assert "raised ZeroDivisionError: the world divided by zero" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["agentkit/FrozenLake-v0", "--param", "sise=3"],
            "no parameter of agentkit/FrozenLake-v0 'sise'; did you mean",
        ),
        (["agentkit/FrozenLake-v0", "--param", "size=99"], "size must be a whole number from 2 to 16, got 99"),
        (["agentkit/FrozenLake-v0", "--param", "size"], "'size' is no setting; write KEY=VALUE"),
        (["nowhere:some/Env-v0"], "cannot import 'nowhere'; install it"),
        (["bad_envs:bad/Unmakeable-v0"], "cannot be made: ZeroDivisionError: no world today"),
    ],
)
def test_an_environment_that_cannot_be_made_is_explained(
    agentkit: Callable[..., Result], arguments: list[str], message: str
) -> None:
    result = agentkit("envs", "check", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
