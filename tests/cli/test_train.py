"""`agentkit train`, `resume` and `eval`, end to end on a tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from agentkit.evaluation import Report
from agentkit.memory import EpisodeLog
from agentkit.policies import LocalPolicy
from agentkit.training.metrics import TIMINGS, read_metrics

Command = Callable[..., Result]


def metrics(folder: Path) -> list[dict[str, float]]:
    """The metrics of a run without what differs between two runs from the same seed."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if not name.startswith(TIMINGS)} for line in lines]


def tree(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("command", ["train", "eval"])
def test_the_network_has_the_threads_that_the_configuration_gives_it(
    agentkit: Command, write_config: Callable[..., Path], command: str
) -> None:
    before = torch.get_num_threads()
    try:
        wanted = 3 if before != 3 else 4
        result = agentkit(command, write_config(), "--set", f"model.threads={wanted}", "--set", "train.iterations=1")
        assert result.exit_code == 0, result.output
        assert torch.get_num_threads() == wanted
    finally:
        torch.set_num_threads(before)


def test_a_run_trains_evaluates_and_resumes(
    agentkit: Command, write_config: Callable[..., Path], tmp_path: Path, warm_model: Path
) -> None:
    config = write_config("learning_rate = 1e-3\nbottleneck_every = 2\nkeep_checkpoints = 9", warm_model)
    result = agentkit("train", config)
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    assert [line.split()[:3] for line in result.stdout.splitlines()[:2]] == [
        ["iteration", "1/2", "success"],
        ["iteration", "2/2", "success"],
    ]
    made = {path.name for path in run.iterdir()}
    assert made >= {
        *("config.json", "episodes.sqlite", "replay.sqlite", "metrics.jsonl", "tensorboard", "checkpoints"),
        *("curve.png", "model", "eval.json"),
    }
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["000000", "000001", "000002"]
    assert Report.model_validate_json((run / "eval.json").read_text()).episodes == 4
    assert len(metrics(run)) == 2
    with EpisodeLog.open(run / "episodes.sqlite") as log:
        assert len(log) == 2 * 2 * 3  # the evaluation leaves no trace in it
    LocalPolicy.load(run / "model")

    again = agentkit("train", config)
    assert again.exit_code == 1
    assert again.stderr == (
        "error: 'run' holds a run already; go on with it: agentkit resume run, "
        "or choose another folder: --set out=FOLDER\n"
    )

    shutil.copytree(run, tmp_path / "copy")
    resumed = agentkit("resume", "run", "--set", "train.iterations=4")
    assert resumed.exit_code == 0, resumed.output
    assert resumed.stdout.startswith("going on after iteration 2 of 4\niteration 3/4")
    assert [line["iteration"] for line in metrics(run)] == [1, 2, 3, 4]
    assert any(line.get("grad_norm", 0) > 0 for line in metrics(run)[2:])  # else the numbers below would say nothing
    assert metrics(run)[-1]["imitation/entries"] > 0
    assert json.loads((run / "config.json").read_text())["train"]["iterations"] == 4

    # A damaged checkpoint is told; without it the run goes on from the one before, and arrives at the same numbers.
    copy = tmp_path / "copy"
    weights = copy / "checkpoints" / "000002" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    damaged = agentkit("resume", "copy", "--set", "train.iterations=4")
    assert damaged.exit_code == 1
    assert damaged.stderr == (
        "error: checkpoint 'copy/checkpoints/000002' is damaged: model.safetensors is not what was written; "
        "delete the folder and resume from the one before it\n"
    )
    shutil.rmtree(weights.parent)
    mended = agentkit("resume", "copy", "--set", "train.iterations=4")
    assert mended.exit_code == 0, mended.output
    assert mended.stdout.startswith("going on after iteration 1 of 4\n")
    assert metrics(copy) == metrics(run)


def test_resume_refuses_what_would_make_it_another_run(
    agentkit: Command, write_config: Callable[..., Path], tmp_path: Path, tiny_model: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config = write_config("imitation.weight = 0")
    arguments = ["--set", f"model.path={model}", "--set", "train.iterations=1", "--set", "eval.tasks=1"]
    result = agentkit("train", config, *arguments)
    assert result.exit_code == 0, result.output

    assert "'seed' cannot change in a run that has begun" in agentkit("resume", "run", "--set", "seed=3").stderr
    slippery = agentkit("resume", "run", "--set", "env.params.slip=0.9").stderr
    assert "'env.params.slip' cannot change in a run that has begun" in slippery
    assert "did you mean 'iterations'?" in agentkit("resume", "run", "--set", "train.iteration=3").stderr
    assert agentkit("resume", "nothing").stderr.startswith("error: no run in 'nothing': it has no config.json")

    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    swapped = agentkit("resume", "run")
    assert swapped.exit_code == 1
    assert "was trained beside another reference" in swapped.stderr

    shutil.rmtree(tmp_path / "run" / "checkpoints")
    empty = agentkit("resume", "run")
    assert empty.stderr == "error: no checkpoint in 'run/checkpoints'; give the folder of a run that saved one\n"


def test_a_dry_run_shows_the_plan_and_touches_nothing(
    agentkit: Command, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    config = write_config("epochs = 3")
    before = tree(tmp_path)
    result = agentkit("train", config, "--dry-run", "--set", "train.iterations=5", "--set", "eval.attempts=2")
    assert result.exit_code == 0, result.output
    assert tree(tmp_path) == before
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert "parameters)" in rows["load"]
    assert rows["collect"].startswith("30 episodes: 5 iterations × 2 tasks × 3 attempts")
    assert rows["train"].startswith("up to 15 optimizer steps")
    assert rows["evaluate"].startswith("8 episodes")
    assert "PROBLEM" not in rows


def test_a_dry_run_names_every_part_that_is_not_the_default(
    agentkit: Command, write_config: Callable[..., Path]
) -> None:
    plain = agentkit("train", write_config(), "--dry-run").stdout
    assert [line.split()[0] for line in plain.splitlines()] == [
        *("load", "recall", "play", "collect", "train", "save", "evaluate", "write"),
    ]
    more = """
    task_pool = 4
    tasks = {name = "mopps", memory = 0.25}
    filter = {name = "top-p"}
    schedules.learning_rate = {name = "linear", end = 0.5, length = 9}
    schedules.kl_coef = {name = "constant", warmup = 2, warmup_from = 0.5}
    kl_coef = 0.125
    plan = {name = "exgrpo", share = 0.25}
    mismatch = {weigh = {name = "icepop"}}
    modifiers = [{name = "canon"}, {name = "ace"}]
    overlong_penalty = {max_length = 16, cache_length = 4}
    overlong_filter = "episodes"
    retention.log = "earlier.sqlite"
    """
    result = agentkit("train", write_config(more), "--dry-run")
    assert result.exit_code == 1, "the last row is a problem"
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    told = {
        "tasks": "mopps (memory = 0.25)",
        "filter": "top-p",
        "schedules": "learning_rate: linear (length = 9, end = 0.5), kl_coef: constant (warmup = 2, warmup_from = 0.5)",
        "kl_coef": "0.125",
        "plan": "exgrpo (share = 0.25)",
        "mismatch": "weigh = icepop",
        "modifiers": "(canon, ace)",
        "overlong_penalty": "max_length = 16, cache_length = 4",
        "overlong_filter": "episodes",
        "retention": "log = earlier.sqlite",
    }
    assert {name: rows[name].strip() for name in told} == told
    assert "retained.sqlite" in rows["write"]
    assert rows["PROBLEM"].strip() == "there is no earlier run's log 'earlier.sqlite'"


def test_a_dry_run_tells_what_the_trainer_would_refuse(agentkit: Command, write_config: Callable[..., Path]) -> None:
    more = """
    plan.name = "spec-rl"
    overlong_penalty = {max_length = 20, cache_length = 4}
    """
    lines = agentkit("train", write_config(more), "--dry-run").stdout.splitlines()
    problems = [line for line in lines if line.startswith("PROBLEM")]
    assert len(problems) == 2
    assert "max_length - cache_length = 16 tokens, and sampling.max_new_tokens = 16" in problems[0]
    assert "task_pool = None" in problems[1]


def test_a_dry_run_tells_what_would_stop_the_run(
    agentkit: Command, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "run" / "checkpoints" / "000003").mkdir(parents=True)
    settings = ["model.path=nowhere", "sampling.temperature=0", "memory.folder=none"]
    options = [part for setting in settings for part in ("--set", setting)]
    result = agentkit("train", write_config(), "--dry-run", *options)
    assert result.exit_code == 1, "so that what follows it in a script is not begun"
    problems = [line for line in result.stdout.splitlines() if line.startswith("PROBLEM")]
    assert len(problems) == 4
    assert "nowhere (not there)" in result.stdout
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    (tmp_path / "taken").write_text("")
    options = ["--set", "model.path=empty", "--set", "out=taken"]
    shown = agentkit("train", write_config(), "--dry-run", *options).stdout
    assert "'empty' is no model folder: it has no weights (*.safetensors) and no tokenizer" in shown
    assert "'taken' is no folder; give another out" in shown


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.path=nowhere", "no model in 'nowhere': it has no config.json; give a transformers folder"),
        ("env.id=agentkit/FrozenLak-v0", "no environment 'agentkit/FrozenLak-v0'; did you mean"),
        ("sampling.temperature=0", "temperature = 0 gives every attempt of a group the same tokens"),
        ("sampling.max_new_tokens=5000", "show less history or lower max_new_tokens"),
    ],
)
def test_a_run_that_cannot_begin_says_why(
    agentkit: Command, write_config: Callable[..., Path], setting: str, message: str
) -> None:
    result = agentkit("train", write_config(), "--set", setting)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_ctrl_c_points_to_resume(
    agentkit: Command, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agentkit.training.trainer.Trainer.iterate", interrupted)
    result = agentkit("train", write_config())
    assert result.exit_code == 130
    assert result.stderr.splitlines() == [
        "warning: the iteration at hand is lost; go on with: agentkit resume run",
        "stopped; what was recorded is kept",
    ]


def test_a_panel_is_evaluated_and_written(agentkit: Command, write_config: Callable[..., Path], tmp_path: Path) -> None:
    config = write_config()
    result = agentkit("eval", config, "--policy", "expert", "--out", "reports/expert.json", "--set", "eval.attempts=2")
    assert result.exit_code == 0, result.output
    report = Report.model_validate_json((tmp_path / "reports" / "expert.json").read_text())
    assert (report.policy, report.tasks, report.episodes, report.success.value) == ("expert", 4, 8, 1.0)
    assert report.optimal == 1.0
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()[1:])
    assert rows["success"].startswith("1.000 [1.000, 1.000]")
    assert rows["normalised"].startswith("1.000")

    trained = agentkit("eval", config, "--out", "model.json")
    assert trained.exit_code == 0, trained.output
    assert Report.model_validate_json((tmp_path / "model.json").read_text()).policy == "tiny"


def test_a_failed_attempt_fails_the_evaluation(agentkit: Command, write_config: Callable[..., Path]) -> None:
    env = "env={id='bad_envs:bad/Raises-v0'}"
    result = agentkit("eval", write_config(), "--policy", "random", "--set", env, "--set", "eval.split=train")
    assert result.exit_code == 1
    assert "4 of 4 tasks, 2 failed" in result.stdout
    assert result.stderr.startswith("error: 2 of 4 attempts failed, the first with: EnvironmentFault")
