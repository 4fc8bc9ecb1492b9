"""`agentkit collect`: whatever happens, what was played is in the log, and the user is told in one line."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file
from typer.testing import Result

from agentkit.cli.failures import explain
from agentkit.memory import Episode, EpisodeLog, Role

Command = Callable[..., Result]
LAKE = ["collect", "--env", "agentkit/FrozenLake-v0", "--param", "size=2", "--param", "max_turns=3"]


def recorded(path: Path) -> list[Episode]:
    with EpisodeLog.open(path) as log:
        assert log.verify() == []
        return list(log.episodes())


def test_an_expert_is_recorded_and_told_with_its_interval(agentkit: Command, tmp_path: Path) -> None:
    arguments = [*LAKE, "--policy", "expert", "--tasks", 3, "--attempts", 2, "--split", "held_out", "--out", "log"]
    result = agentkit(*arguments)
    assert result.exit_code == 0, result.output
    # Wilson, 6 of 6: the lower end is 6 / (6 + 1.96²) = 0.610.
    assert result.stdout == "success 1.000 [0.610, 1.000]  episodes 6, 6 new in log  failed 0\n"
    assert result.stderr == ""
    episodes = recorded(tmp_path / "log")
    assert [(episode.task.split, episode.success) for episode in episodes] == [("held_out", True)] * 6
    assert "6, 0 new in log" in agentkit(*arguments).stdout


def test_a_model_that_never_closes_its_tags_plays_invalid_turns(
    agentkit: Command, tmp_path: Path, tiny_model: Path
) -> None:
    result = agentkit(*LAKE, "--policy", tiny_model, "--tasks", 2, "--attempts", 2, "--max-new-tokens", 9, "--out", "l")
    assert result.exit_code == 0, result.output
    turns = [turn for episode in recorded(tmp_path / "l") for turn in episode.turns]
    assert len(turns) == 4 * 3
    assert not any(turn.valid or turn.action for turn in turns)
    assert all(set(turn.response_roles) == {Role.OTHER} and len(turn.response_ids) <= 9 for turn in turns)


@pytest.mark.parametrize(
    ("world", "message"),
    [
        ("Raises", "step() raised ZeroDivisionError: the world divided by zero"),
        ("Hangs", "step() did not return within 0.5 s; raise the limit (env_step_s) if it is slow rather than stuck"),
        ("WrongType", "the observation is bytes, not str; wrap the environment so that it answers in text"),
    ],
)
def test_a_faulty_environment_costs_its_episodes_only(
    agentkit: Command, tmp_path: Path, world: str, message: str
) -> None:
    env = f"bad_envs:bad/{world}-v0"
    result = agentkit("collect", "--env", env, "--policy", "random", "--tasks", 4, "--out", "log", "--env-step-s", 0.5)
    assert result.exit_code == 1
    assert result.stdout.startswith("success 0.500 ")
    assert result.stdout.endswith("episodes 4, 4 new in log  failed 2\n")
    assert result.stderr == (f"error: 2 of 4 attempts failed, the first with: EnvironmentFault: {env}: {message}\n")
    episodes = sorted(recorded(tmp_path / "log"), key=lambda episode: episode.task.seed)
    assert [episode.error is None for episode in episodes] == [True, True, False, False]
    assert [episode.success for episode in episodes] == [True, True, False, False]
    assert [len(episode.turns) for episode in episodes] == [2, 2, 1, 1]


def test_an_environment_that_always_fails_ends_the_collection(agentkit: Command, tmp_path: Path) -> None:
    result = agentkit(
        "collect", "--env", "bad_envs:bad/Raises-v0", "--policy", "random", "--tasks", 100, "--out", "log"
    )
    assert result.exit_code == 1
    assert result.stderr.startswith("error: 32 attempts in a row failed, the last with: EnvironmentFault: bad_envs:")
    assert result.stderr.count("\n") == 1
    assert len(recorded(tmp_path / "log")) >= 34


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "radnom"], "no policy or model folder 'radnom'; did you mean 'random'?"),
        (
            ["--policy", "models/none"],
            "no model folder 'models/none'; check the path, or choose of random, expert, chat",
        ),
        (["--policy", "chat"], "--policy chat needs --model NAME: the endpoint's name of the model"),
        (["--policy", "random", "--model", "x"], "--model and --base-url are for --policy chat, not 'random'"),
        (["--policy", "random", "--noise", "0.5"], "--noise is for --policy expert, not 'random'"),
        (["--policy", "random", "--embedder", "hash"], "--embedder is for --memory, and there is none"),
        (["--policy", "random", "--split", "trian"], "no split 'trian'; did you mean 'train'?"),
        (["--policy", "random", "--temperature", "-1"], "temperature = -1.0: must be greater than or equal to 0"),
        (["--policy", "random", "--memory", "none"], "no memory in 'none'; `agentkit memory build LOG --out none`"),
        (["--policy", "random", "--param", "slop=0.1"], "no parameter of agentkit/FrozenLake-v0 'slop'; did you mean"),
    ],
)
def test_wrong_choices_are_told_before_anything_is_written(
    agentkit: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = agentkit(*LAKE, *arguments, "--out", "log")
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_model_folder_without_tokenizer_is_named(agentkit: Command, tmp_path: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "bare" / name).unlink()
    result = agentkit(*LAKE, "--policy", "bare", "--out", "log")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no tokenizer in 'bare': copy tokenizer.json")
    assert result.stderr.count("\n") == 1


def test_a_log_that_is_no_database_is_named(agentkit: Command, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"these are not the bytes of a database" * 100)
    result = agentkit(*LAKE, "--policy", "random", "--out", "log")
    assert result.exit_code == 1
    assert result.stderr == ("error: log: it is not a SQLite database; give another path, or move that file away\n")


def test_a_full_disk_ends_in_one_error_and_loses_nothing(
    agentkit: Command, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledged: list[str] = []
    append = EpisodeLog.append

    def spy(log: EpisodeLog, episode: Episode) -> int:
        number = append(log, episode)
        acknowledged.append(episode.id)
        return number

    monkeypatch.setattr(EpisodeLog, "append", spy)
    path = small_disk / "log"
    result = agentkit(*LAKE, "--policy", "random", "--tasks", 2000, "--concurrency", 1, "--out", path)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {path}: the disk")
    assert "everything acknowledged is kept" in result.stderr
    assert result.stderr.count("\n") == 1
    assert 1 <= len(acknowledged) < 2000
    assert [episode.id for episode in recorded(path)] == acknowledged


def test_a_full_disk_is_recognised_in_what_other_libraries_raise(small_disk: Path) -> None:
    import numpy

    with pytest.raises((SafetensorError, OSError)) as caught:
        save_file({"weights": numpy.ones(1 << 20)}, small_disk / "model.safetensors")
    assert "the disk is full; free space and run the command again" in explain(caught.value)


def test_other_failures_of_the_system_say_the_way_out() -> None:
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/etc/log")
    assert explain(refused) == "'/etc/log': permission denied; give a path that you may read and write"
    assert explain(ConnectionResetError(errno.ECONNRESET, "reset")).endswith(
        "check the path, the disk and the connection"
    )
    missing = ModuleNotFoundError("No module named 'torch'", name="torch")
    assert explain(missing) == "'torch' is not installed; run: pip install 'agentkit-rl[train]'"
    assert explain(ValueError("two\nlines")).startswith("unexpected ValueError: two lines; AGENTKIT_DEBUG=1")
