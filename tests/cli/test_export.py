"""`agentkit export`: what it writes and says, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from agentkit.envs import make_tasks
from agentkit.memory import EpisodeLog
from agentkit.policies import RandomPolicy
from agentkit.rollout import collect

Command = Callable[..., Result]
LAKE = "agentkit/FrozenLake-v0"
PARAMS = {"size": 2, "max_turns": 3}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random play of four lakes and two held-out ones, four times each; one attempt that broke."""
    path = tmp_path_factory.mktemp("logs") / "random.sqlite"
    tasks = make_tasks(LAKE, num=4, params=PARAMS) + make_tasks(LAKE, "held_out", 2, params=PARAMS)
    with EpisodeLog.open(path) as recorded:
        played = collect(RandomPolicy(), tasks, group_size=4, log=recorded)
        recorded.append(played[0].model_copy(update={"id": "broken", "error": "the world broke", "success": False}))
    return path


def test_a_log_is_exported_and_the_manifest_says_so(agentkit: Command, tmp_path: Path, log: Path) -> None:
    result = agentkit("export", log, "--to", "jsonl", "--out", "exports/all")
    assert (result.exit_code, result.stdout) == (
        0,
        "25 rows of 25 episodes; test.jsonl, train.jsonl in exports/all\n",
    ), result.output
    manifest = json.loads((tmp_path / "exports" / "all" / "manifest.json").read_text())
    assert (manifest["format"], manifest["rows"], manifest["failed"]) == ("jsonl", 25, 1)


def test_successes_of_a_split_can_be_picked(agentkit: Command, tmp_path: Path, log: Path) -> None:
    pick = ["--success", "--split", "train", "--env", LAKE]
    result = agentkit("export", log, "--to", "jsonl", "--out", "won", *pick)
    assert result.exit_code == 0, result.output
    episodes = [json.loads(line) for line in (tmp_path / "won" / "train.jsonl").open()]
    assert episodes
    assert all(episode["success"] and episode["task"]["split"] == "train" for episode in episodes)


def test_failed_attempts_are_left_out_and_told(agentkit: Command, log: Path) -> None:
    pytest.importorskip("pyarrow")
    result = agentkit("export", log, "--to", "trl-unpaired", "--out", "turns")
    assert result.exit_code == 0, result.output
    assert "of 25 episodes, 1 failed attempts left out; test.parquet, train.parquet in turns" in result.stdout
    assert agentkit("export", log, "--to", "trl-preference", "--out", "pairs").exit_code == 0


def test_what_cannot_be_exported_is_told(agentkit: Command, tmp_path: Path, log: Path) -> None:
    pytest.importorskip("pyarrow")

    def refused(*options: str, to: str = "jsonl") -> str:
        result = agentkit("export", log, "--to", to, "--out", "out", *options)
        assert result.exit_code == 1
        return result.stderr

    assert refused(to="json").startswith("error: no format 'json'; did you mean 'jsonl'?")
    assert refused("--split", "test").startswith("error: no split 'test'; ")
    assert "has no such episode; select less narrowly, or record some" in refused("--env", "test/Other-v0")
    assert "has no token ids, which format 'datasets' needs; record with a policy that" in refused(to="datasets")
    assert "a pair is a success and a failure; leave out success" in refused("--success", to="trl-preference")
    assert agentkit("export", "no.sqlite", "--to", "jsonl", "--out", "out").stderr.startswith(
        "error: no episode log 'no.sqlite'"
    )
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    assert refused() == "error: 'out' exists already; give a new folder, or remove it\n"
