"""The plan of a run, from its configuration and a look at the disk: what `agentkit train --dry-run` shows."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import typer

from agentkit.cli.choices import check_env
from agentkit.cli.config import RunConfig
from agentkit.cli.run import has_checkpoints
from agentkit.cli.show import show_table
from agentkit.errors import ConfigError
from agentkit.training.config import TrainConfig
from agentkit.training.plans import RolloutPlan
from agentkit.training.settings import Settings

TOLD = {
    *("iterations", "tasks_per_iteration", "group_size", "task_pool"),
    *("epochs", "minibatches", "learning_rate", "checkpoint_every", "keep_checkpoints"),
}
"""Settings of training that the plan says in words of its own."""


def plan_rows(config: RunConfig) -> list[tuple[str, str]]:
    """(step, what it would do) in the order of a run; nothing is written or loaded."""
    train = config.train
    check_env(config.env.id, config.env.params, config.limits)
    collected = train.tasks_per_iteration * train.group_size
    pool = "new tasks each time" if train.task_pool is None else f"{train.task_pool} different tasks"
    imitation = f"imitation × {train.imitation.weight:g}" if train.imitation.weight > 0 else "no imitation"
    memory = config.memory
    params = "".join(f" {name}={value!r}" for name, value in config.env.params.items())
    outputs = ["config.json", "episodes.sqlite", "metrics.jsonl", "tensorboard/", "checkpoints/", "curve.png"]
    if train.imitation.weight > 0:
        outputs.insert(2, "replay.sqlite")
    if train.retention is not None:
        outputs.insert(2, "retained.sqlite")
    rows = [
        ("load", f"model {config.model.path} ({_size(config.model.path)})"),
        ("recall", "nothing" if memory.folder is None else f"up to {memory.k} memories from {memory.folder}"),
        ("play", config.env.id + params),
        (
            "collect",
            f"{train.iterations * collected} episodes: {train.iterations} iterations × "
            f"{train.tasks_per_iteration} tasks × {train.group_size} attempts, {pool}",
        ),
        (
            "train",
            f"up to {train.iterations * train.epochs * train.minibatches} optimizer steps at learning rate "
            f"{train.learning_rate:g}, credit {train.credit.name}, {imitation}",
        ),
        *part_rows(train),
        ("save", f"a checkpoint every {train.checkpoint_every} iterations, the last {train.keep_checkpoints} kept"),
        ("evaluate", _panel(config)),
        ("write", f"{config.out}/: {', '.join([*outputs, 'model/', 'eval.json'])}"),
    ]
    return [*rows, *(("PROBLEM", problem) for problem in _problems(config))]


def part_rows(train: TrainConfig) -> list[tuple[str, str]]:
    """(setting, what it is) of all that is not as by default and that the other rows do not say."""
    return [(name, _said(getattr(train, name))) for name in TrainConfig.model_fields if name in train.changed - TOLD]


def _said(value: Any) -> str:
    """A setting's value: a part by its name, with what differs from its own defaults."""
    if isinstance(value, Settings):
        changed = [name for name in type(value).model_fields if name in value.changed and name != "name"]
        details = ", ".join(f"{name} = {_said(getattr(value, name))}" for name in changed)
        name = getattr(value, "name", "")
        return f"{name} ({details})" if name and details else name or details or "as by default"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_said(each)}" for name, each in value.items())
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_said, value)) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)


def evaluation_rows(config: RunConfig, policy: str | None) -> list[tuple[str, str]]:
    """(step, what `agentkit eval` would do); nothing is written or loaded."""
    check_env(config.env.id, config.env.params, config.limits)
    params = "".join(f" {name}={value!r}" for name, value in config.env.params.items())
    rows = [
        ("load", f"model {config.model.path} ({_size(config.model.path)})" if policy is None else f"policy {policy}"),
        ("play", config.env.id + params),
        ("evaluate", _panel(config)),
    ]
    if policy is None:
        rows += [("PROBLEM", problem) for problem in _model_problems(config.model.path)]
    return rows


def show_plan(rows: list[tuple[str, str]]) -> None:
    """Print a plan; the exit status is 1 where it names a problem."""
    show_table(("", ""), rows)
    if any(step == "PROBLEM" for step, _ in rows):
        raise typer.Exit(1)


def _panel(config: RunConfig) -> str:
    panel = config.eval
    return (
        f"{panel.tasks * panel.attempts} episodes: {panel.tasks} {panel.split} tasks × {panel.attempts} "
        f"attempts at temperature {panel.temperature:g}"
    )


def count_parameters(folder: Path) -> int:
    """Number of weights in a model folder, read from the headers of its files."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total


def _size(folder: Path) -> str:
    if not folder.is_dir():
        return "not there"
    try:
        return f"{count_parameters(folder):,} parameters"
    except (ValueError, struct.error):
        return "its weights cannot be read"


def _model_problems(folder: Path) -> list[str]:
    """Why nothing can be loaded from a model folder."""
    if not folder.is_dir():
        return [f"there is no model folder {str(folder)!r}"]
    wanted = {"config.json": "config.json", "*.safetensors": "weights (*.safetensors)", "tokenizer*": "tokenizer"}
    lacking = [name for pattern, name in wanted.items() if not any(folder.glob(pattern))]
    return [f"{str(folder)!r} is no model folder: it has no {' and no '.join(lacking)}"] if lacking else []


def _problems(config: RunConfig) -> list[str]:
    """What would stop the run at its beginning."""
    found = _model_problems(config.model.path)
    if config.out.exists() and not config.out.is_dir():
        found.append(f"{str(config.out)!r} is no folder; give another out")
    if has_checkpoints(config.out):
        found.append(f"{str(config.out)!r} holds a run already; go on with it: agentkit resume {config.out}")
    for check in (
        lambda: config.train.check_sampling(config.sampling),
        lambda: (config.train.plan or RolloutPlan()).check(config.train, config.env.id),
    ):
        try:
            check()
        except ConfigError as error:
            found.append(str(error))
    retention = config.train.retention
    if retention is not None and not Path(retention.log).is_file():
        found.append(f"there is no earlier run's log {retention.log!r}")
    if config.memory.folder is not None and not (config.memory.folder / "memory.sqlite").is_file():
        found.append(f"there is no memory in {str(config.memory.folder)!r}")
    return found
