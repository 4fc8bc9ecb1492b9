"""The quickstart, shortened: every part runs, and what it writes is what it promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentkit.cli import quickstart
from agentkit.cli.run import continue_run
from agentkit.errors import ConfigError
from agentkit.memory import EpisodeLog
from agentkit.training.metrics import read_metrics

SHORT = (
    "train.iterations=2",
    "train.tasks_per_iteration=4",
    "train.group_size=4",
    "train.checkpoint_every=1",
    "eval.tasks=16",
)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "DEMONSTRATIONS", 100)
    monkeypatch.setattr(quickstart, "CLONING_STEPS", 40)


def untimed(folder: Path) -> list[dict[str, float]]:
    lines = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if not name.startswith("seconds/")} for line in lines]


@pytest.mark.usefixtures("short")
def test_it_writes_all_it_promises_twice_the_same_and_can_be_resumed(tmp_path: Path) -> None:
    summaries = [quickstart.run_quickstart(tmp_path / name, seed=3, overrides=SHORT) for name in ("a", "b")]
    written = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert written == summaries[0]
    assert list(written) == ["random", "warm_start", "after_rl", "optimal", "seconds"]
    for name in ("random", "warm_start", "after_rl", "optimal"):
        row = written[name]
        assert set(row) == {"success", "low", "high", "episodes"}
        assert 0 <= row["low"] <= row["success"] <= row["high"] <= 1
        assert row["episodes"] == 16
    assert written["optimal"]["success"] == 1
    for name in ("curve.png", "metrics.jsonl", "model/model.safetensors", "warm_start/tokenizer.json", "eval.json"):
        assert (tmp_path / "a" / name).stat().st_size > 0
    with EpisodeLog.open(tmp_path / "a" / "episodes.sqlite") as log:
        assert len(log) == 32
    del summaries[0]["seconds"], summaries[1]["seconds"]
    assert summaries[0] == summaries[1]
    assert untimed(tmp_path / "a") == untimed(tmp_path / "b")

    weights = (tmp_path / "a" / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "b" / "model" / "model.safetensors").read_bytes() == weights
    newest = sorted((tmp_path / "b" / "checkpoints").glob("0*"))[-1]
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    continue_run(tmp_path / "b")
    assert (tmp_path / "b" / "model" / "model.safetensors").read_bytes() == weights
    assert untimed(tmp_path / "a") == untimed(tmp_path / "b")


@pytest.mark.usefixtures("short")
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something else than a quickstart; choose another --out"):
        quickstart.run_quickstart(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
