"""Runs of the study: arms, budgets, and the lines that several processes may write into one folder.

A finished run is a line of `runs.jsonl`; what has a line is not run again, so a study that was cut short goes on. A
process claims a run by a lock that dies with it. A line remembers a digest of the settings it was made with, and lines
of other settings are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agentkit.agent import AgentConfig, build_agent
from agentkit.cli.choices import load_folder
from agentkit.cli.settings import validated
from agentkit.envs import optimal_success, random_success
from agentkit.errors import ConfigError, OwnedElsewhereError
from agentkit.memory.lock import FolderLock
from agentkit.policies import LocalPolicy
from agentkit.policies.policy import Sampling
from agentkit.rollout import collect
from agentkit.task import Task, make_tasks
from agentkit.training.config import TrainConfig
from agentkit.training.sft import SftConfig, fine_tune
from agentkit.training.tiny import build_model, build_tokenizer
from agentkit.training.trainer import Trainer
from benchmarks.study.worlds import FIRST_DEMONSTRATION, WORLDS, World

LINES = "runs.jsonl"
WAIT_S = 5.0
"""Between looks at what other processes have finished."""
CLONING_RATE = 2e-3
HIDDEN, LAYERS, HEADS = 96, 3, 4

UNIFORM, ACTFOCUS = {"name": "uniform"}, {"name": "actfocus", "alpha": 0.1, "beta": 0.5}
IMITATION = {"weight": 0.5, "episodes_per_step": 16, "max_staleness": 10}
TOP_P = {"name": "top-p", "mass": 0.9, "scaling": "linear", "stop_after": None}
MAIN: dict[str, dict[str, Any]] = {
    "uniform": {"credit": UNIFORM},
    "actfocus": {"credit": ACTFOCUS},
    "uniform+imitation": {"credit": UNIFORM, "imitation": IMITATION},
    "actfocus+imitation": {"credit": ACTFOCUS, "imitation": IMITATION},
    "uniform+filter": {"credit": UNIFORM, "filter": TOP_P},
    "uniform, rate /3": {"credit": UNIFORM, "learning_rate": 1e-4},
    "actfocus, rate /3": {"credit": ACTFOCUS, "learning_rate": 1e-4},
}
"""Settings of `[train]` in which an arm differs; they are run in all worlds. At the same rate ActFocus steps further on
action tokens than uniform credit, so each has a second rate: the better of two is fairer than either."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "uniform, rate x3": {"credit": UNIFORM, "learning_rate": 9e-4},
    **{f"alpha {alpha}": {"credit": ACTFOCUS | {"alpha": alpha}} for alpha in (0.0, 0.3, 1.0)},
    **{f"beta {beta}": {"credit": ACTFOCUS | {"beta": beta}} for beta in (0.0, 2.0)},
    **{f"signal {name}": {"credit": ACTFOCUS | {"signal": name}} for name in ("entropy", "nll", "shift")},
}
"""Run in `ABLATED` worlds."""
ARMS = MAIN | ABLATIONS
ABLATED = ("lake",)
CLONE = "clone"
"""The arm of what all others begin with; its line also has the scores of random and of optimal play."""


class Run(NamedTuple):
    """One line's worth of work."""

    world: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.world}-{self.arm}-{self.seed}".replace(", ", "-").replace(" ", "-")


Digests = Mapping[tuple[str, str], str]
"""Of the settings that are in force, by world and arm."""


@dataclass(frozen=True)
class Budget:
    """How much of everything; the same for all arms."""

    name: str
    seeds: int
    iterations: int
    tasks: int
    attempts: int
    panel: int
    every: int
    """Iterations from one measurement to the next."""
    only: tuple[str, ...] = field(default=("*",))

    def in_world(self, name: str) -> Budget:
        """What of it there is in a world."""
        share = WORLDS[name].share
        return replace(self, tasks=max(1, round(share * self.tasks)), panel=round(share * self.panel))


FULL = Budget("full", 5, 15, 12, 8, 256, 5)
LONG = Budget(
    "long", 5, 60, 12, 8, 256, 15, tuple(f"{w}/{a}" for w in ("lake", "sudoku") for a in ("uniform", "actfocus"))
)
QUICK = Budget("quick", 2, 8, 8, 8, 128, 4, ("lake/uniform", "lake/actfocus", "lake/uniform+*"))
BUDGETS = {budget.name: budget for budget in (FULL, LONG, QUICK)}
"""`full` is the study; `long` asks of two worlds what four times the attempts change; `quick` is a look."""


def planned(budget: Budget, patterns: Sequence[str]) -> Iterator[Run]:
    """Runs whose `world/arm` matches, seed by seed, so that any stop leaves whole rows; a clone before its arms.

    Raises:
        ConfigError: Nothing matches.
    """
    chosen = {
        world: [
            arm for arm in (ARMS if world in ABLATED else MAIN) if any(fnmatch(f"{world}/{arm}", p) for p in patterns)
        ]
        for world in WORLDS
    }
    if not any(chosen.values()):
        raise ConfigError(f"nothing matches {list(patterns)}; worlds: {list(WORLDS)}, arms: {list(ARMS)}")
    for seed in range(budget.seeds):
        for world, arms in chosen.items():
            yield from (Run(world, arm, seed) for arm in (CLONE, *arms) if arms)


def train_config(arm: str, budget: Budget) -> TrainConfig:
    """The trainer's settings in an arm: the quickstart's, at a lower rate, where it does not say otherwise."""
    settings = {
        "iterations": budget.iterations,
        "tasks_per_iteration": budget.tasks,
        "group_size": budget.attempts,
        "minibatches": 2,
        "learning_rate": 3e-4,
        "kl_coef": 0.1,
        "imitation": {"weight": 0.0},
        "bottleneck_every": 0,
        "checkpoint_every": budget.iterations,
    }
    return validated(TrainConfig, settings | ARMS[arm])


def digest(world: str, arm: str, budget: Budget) -> str:
    """Eight hexadecimal digits of all settings that a run's numbers depend on."""
    budget = budget.in_world(world)
    numbers = {name: value for name, value in vars(budget).items() if name not in ("seeds", "only")}
    train = None if arm == CLONE else train_config(arm, budget).model_dump(mode="json")
    model = [HIDDEN, LAYERS, HEADS, CLONING_RATE]
    settings = {"world": WORLDS[world].settings(), "budget": numbers, "model": model, "train": train}
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=4).hexdigest()


class Study:
    """The lines that are there, and how others come about.

    Args:
        folder: Where lines, clones and unfinished runs are; several processes may share it.
        budget: How much of everything.
    """

    def __init__(self, folder: Path, budget: Budget) -> None:
        self.folder, self.budget = folder, budget
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, patterns: Sequence[str]) -> None:
        """Run what matches one of `world/arm` and has no line; returns when all of it has one, whoever wrote it.

        Raises:
            ConfigError: Nothing matches, or a line was made with other settings.
        """
        runs = list(planned(self.budget, patterns))
        digests = {run[:2]: digest(run.world, run.arm, self.budget) for run in runs}
        while missing := self._missing(runs, digests):
            ready = [run for run in missing if run.arm == CLONE or run._replace(arm=CLONE) not in missing]
            if not any(self._finish(run, digests) for run in ready):  # after each one from the first again
                time.sleep(WAIT_S)  # the rest is in the hands of others

    def _missing(self, runs: Sequence[Run], digests: Digests) -> list[Run]:
        lines = [line for line in read_lines(self.folder) if line["budget"] == self.budget.name]
        done = {Run(line["world"], line["arm"], line["seed"]): line["settings"] for line in lines}
        for run in runs:
            if done.get(run, digests[run[:2]]) != digests[run[:2]]:
                raise ConfigError(
                    f"{str(self.folder / LINES)!r} has {run.world}/{run.arm} of other settings ({done[run]}, here "
                    f"{digests[run[:2]]}); give another --out, or remove that arm's lines"
                )
        return [run for run in runs if run not in done]

    def _finish(self, run: Run, digests: Digests) -> bool:
        """Do a run, unless somebody else does it or has done it; returns whether it did."""
        try:
            claim = FolderLock(self.folder / "claims" / f"{self.budget.name}-{run.name}")
        except OwnedElsewhereError:
            return False
        try:
            if not self._missing([run], digests):
                return False
            line: dict[str, Any] = {"budget": self.budget.name, **run._asdict(), "settings": digests[run[:2]]}
            line["panel"] = self.budget.in_world(run.world).panel
            begun = time.process_time()
            line |= self._clone(run) if run.arm == CLONE else self._train(run)
            line["cpu_s"] = round(time.process_time() - begun, 1)
            append_line(self.folder, line)
        finally:
            claim.close()
        wins = [sum(measured["wins"]) for measured in line["measured"]]
        print(f"{run.world} {run.arm} seed {run.seed}: {wins} of {line['panel']}, {line['cpu_s']:.0f} s", flush=True)
        return True

    def start(self, run: Run) -> Path:
        """Where the model is that the arms of a world and seed begin with."""
        return self.folder / "clones" / f"{self.budget.name}-{run.world}-{run.seed}"

    def _clone(self, run: Run) -> dict[str, Any]:
        """Make the model that a world's arms begin with, and measure it, random play and the optimum."""
        world = WORLDS[run.world]
        tasks = make_tasks(world.env_id, "train", world.demonstrations, first=FIRST_DEMONSTRATION, params=world.params)
        played = collect(world.demonstrator(), tasks, agent=agent_of(world), seed=run.seed)
        turns = [turn for episode in played for turn in episode.turns]
        tokenizer = build_tokenizer((text for turn in turns for text in (turn.observation, turn.response)), world.vocab)
        model = build_model(tokenizer, hidden=HIDDEN, layers=LAYERS, heads=HEADS, window=world.window, seed=run.seed)
        policy = LocalPolicy(model, tokenizer, name=run.world)
        fine_tune(policy, played, SftConfig(steps=world.cloning_steps, learning_rate=CLONING_RATE), seed=run.seed)
        made = self.start(run).with_suffix(".partial")
        policy.save(made)
        panel = self._panel(run.world)
        line = {
            "measured": [{"iteration": 0, "wins": self._wins(run, policy)}],
            "random": float(np.mean(random_success(panel, seed=run.seed))),
            "optimal": float(np.mean(optimal_success(panel))),
            "demonstrated": float(np.mean([episode.success for episode in played])),
        }
        shutil.rmtree(self.start(run), ignore_errors=True)
        made.rename(self.start(run))  # whole or not there: other processes begin with it
        return line

    def _train(self, run: Run) -> dict[str, Any]:
        """One run from the clone; its folder goes when it is finished, and is begun anew when it was not."""
        world, budget = WORLDS[run.world], self.budget.in_world(run.world)
        folder = self.folder / "unfinished" / f"{budget.name}-{run.name}"
        shutil.rmtree(folder, ignore_errors=True)
        if not self.start(run).is_dir():
            raise ConfigError(f"the clone {str(self.start(run))!r} is gone; remove the world's lines of that seed")
        policy = load_folder(self.start(run), training=True)
        measured: list[dict[str, Any]] = []
        curve: list[float] = []
        spent = dict.fromkeys(("collect_s", "learn_s", "panel_s", "tokens"), 0.0)

        def on_iteration(iteration: int, values: Mapping[str, float | None]) -> None:
            curve.append(round(values["success"] or 0.0, 4))
            spent["tokens"] += values.get("tokens/policy") or 0.0
            spent["collect_s"] += values["seconds/collect"] or 0.0
            spent["learn_s"] += values["seconds/learn"] or 0.0
            if iteration % budget.every == 0 or iteration == budget.iterations:
                begun = time.perf_counter()
                measured.append({"iteration": iteration, "wins": self._wins(run, policy)})
                spent["panel_s"] += time.perf_counter() - begun

        trainer = Trainer(
            policy,
            world.env_id,
            folder,
            train_config(run.arm, budget),
            params=world.params,
            agent=agent_of(world),
            sampling=Sampling(max_new_tokens=world.max_new_tokens),
            seed=run.seed,
        )
        try:
            trainer.train(on_iteration)
        finally:
            trainer.close()
        shutil.rmtree(folder)
        return {"measured": measured, "curve": curve} | {name: round(value, 1) for name, value in spent.items()}

    def _wins(self, run: Run, policy: LocalPolicy) -> list[int]:
        """Successes on the even and on the odd tasks of the held-out panel."""
        world = WORLDS[run.world]
        sampling = Sampling(max_new_tokens=world.max_new_tokens)
        played = collect(policy, self._panel(run.world), agent=agent_of(world), sampling=sampling, seed=run.seed)
        success = [episode.success for episode in played]
        return [sum(success[0::2]), sum(success[1::2])]

    def _panel(self, name: str) -> list[Task]:
        world, num = WORLDS[name], self.budget.in_world(name).panel
        return make_tasks(world.env_id, "held_out", num, params=world.params)


def agent_of(world: World) -> Any:
    """The agent that plays a world."""
    return build_agent(AgentConfig(system="", history=world.history))


def append_line(folder: Path, line: Mapping[str, Any]) -> None:
    """Append a line in one write; what a kill cut off before it stays a line of its own."""
    with (folder / LINES).open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        whole = file.read(1) in (b"", b"\n")
        file.write(("" if whole else "\n").encode() + json.dumps(line).encode() + b"\n")


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """The finished runs; a line that was cut off in writing does not count."""
    path = folder / LINES
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines
