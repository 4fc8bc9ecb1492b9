"""Where learning presses: uniform credit against ActFocus, with and without self-imitation, and their controls.

Run: python benchmarks/study.py [--out FOLDER] [--quick] [--only PATTERN ...] [--report]. Everything is played by a tiny
model made as in the quickstart: cloned from noisy demonstrations, then trained, the arms of a world and a seed from the
same clone with the same number of attempts. Each finished run is a line of `FOLDER/runs.jsonl`, and what has a line is
not run again, so an interrupted study goes on; after a change of this file give another folder. `--report` writes the
tables of docs/study.md from the lines.

A run is measured every few iterations on held-out tasks. Its final success is that of the last measurement. Its peak is
chosen on the even tasks of the panel and measured on the odd ones, since the best of several noisy numbers is too high.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agentkit.agent import AgentConfig, build_agent
from agentkit.cli.choices import load_folder
from agentkit.cli.quickstart import think as think_of_lake
from agentkit.cli.settings import validated
from agentkit.envs import optimal_success, random_success
from agentkit.evaluation import wilson
from agentkit.policies import ExpertPolicy, LocalPolicy
from agentkit.policies.policy import Sampling
from agentkit.rollout import collect
from agentkit.task import make_tasks
from agentkit.training.config import TrainConfig
from agentkit.training.sft import SftConfig, fine_tune
from agentkit.training.tiny import build_model, build_tokenizer
from agentkit.training.trainer import Trainer

LINES = "runs.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "study.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
FIRST_DEMONSTRATION = 1 << 20
"""Number of the first demonstrated task, far beyond those that are trained on."""
RESAMPLES = 4000


def think_of_boxes(text: str) -> str:
    """What the demonstrator thinks of a Sokoban level: where it stands, and where box and target are.

    >>> think_of_boxes("#####\\n#P_X#\\n#__O#")
    'me 1 1 box 1 3 target 2 3'
    """
    names = {"P": "me", "S": "me", "X": "box", "O": "target"}
    lines = [line for line in text.splitlines() if line.startswith("#")]
    found = {names[c]: (row, col) for row, line in enumerate(lines) for col, c in enumerate(line) if c in names}
    return " ".join(f"{name} {found[name][0]} {found[name][1]}" for name in ("me", "box", "target") if name in found)


def think_of_gaps(text: str) -> str:
    """What the demonstrator thinks of a Sudoku: rows and columns of the empty cells.

    >>> think_of_gaps("1 . 3 4\\n3 4 1 2\\n2 1 4 .\\n4 3 2 1")
    'empty 1 2, 3 4'
    """
    lines = re.findall(r"^(?:[1-4.] ?){4}$", text, flags=re.MULTILINE)
    gaps = [f"{row} {col}" for row, line in enumerate(lines, 1) for col, c in enumerate(line.split(), 1) if c == "."]
    return "empty " + ", ".join(gaps) if gaps else ""


def think_of_house(text: str) -> str:
    """What the demonstrator thinks in a house: the last sentence it was told.

    >>> think_of_house("You arrive at drawer 1. The drawer 1 is closed.")
    'The drawer 1 is closed'
    """
    return text.strip().rstrip(".").split(". ")[-1].split("\n")[-1][:80]


@dataclass(frozen=True)
class World:
    """What is played, and by how large a model."""

    env_id: str
    params: dict[str, Any]
    think: Callable[[str], str]
    noise: float = 0.5
    """Share of the demonstrator's turns that are random."""
    history: int | None = 0
    max_new_tokens: int = 32
    vocab: int = 512
    window: int = 512


SMALL_HOUSE = {"task_types": ["pick_and_place_simple"], "max_receptacles": 6, "max_objects": 4, "max_turns": 12}
WORLDS = {
    "lake": World("agentkit/FrozenLake-v0", {"text": "coords", "p": 0.8}, think_of_lake, max_new_tokens=24),
    "slippery": World(
        "agentkit/FrozenLake-v0", {"text": "coords", "p": 0.8, "slip": 0.2}, think_of_lake, max_new_tokens=24
    ),
    "sokoban": World("agentkit/Sokoban-v0", {"size": 5}, think_of_boxes, noise=0.3, max_new_tokens=40),
    "sudoku": World("agentkit/Sudoku-v0", {"num_empty": 4}, think_of_gaps, noise=0.3, max_new_tokens=64),
    "household": World(
        "agentkit/Household-v0", SMALL_HOUSE, think_of_house, 0.3, None, max_new_tokens=48, vocab=1024, window=2048
    ),
}

UNIFORM, ACTFOCUS = {"name": "uniform"}, {"name": "actfocus", "alpha": 0.1, "beta": 0.5}
IMITATION = {"weight": 0.5, "episodes_per_step": 16, "max_staleness": 10}
TOP_P = {"name": "top-p", "mass": 0.9, "scaling": "linear", "stop_after": None}
ARMS: dict[str, dict[str, Any]] = {
    "uniform": {"credit": UNIFORM},
    "actfocus": {"credit": ACTFOCUS},
    "uniform+imitation": {"credit": UNIFORM, "imitation": IMITATION},
    "actfocus+imitation": {"credit": ACTFOCUS, "imitation": IMITATION},
    "uniform+filter": {"credit": UNIFORM, "filter": TOP_P},
    "actfocus+filter": {"credit": ACTFOCUS, "filter": TOP_P},
    "uniform, rate x3": {"credit": UNIFORM, "learning_rate": 1.5e-3},
    **{f"alpha {alpha}": {"credit": ACTFOCUS | {"alpha": alpha}} for alpha in (0.0, 0.3, 1.0)},
    **{f"beta {beta}": {"credit": ACTFOCUS | {"beta": beta}} for beta in (0.0, 1.0, 2.0)},
    **{f"signal {name}": {"credit": ACTFOCUS | {"signal": name}} for name in ("entropy", "nll", "shift")},
}
"""Settings of `[train]` in which an arm differs. ActFocus's step on action tokens is several times uniform's, so that
a greater learning rate is a control as well as RAGEN-2's filter (2604.06268)."""
CLONE = "clone"
"""The arm of what all others begin with; its line also has the scores of random and of optimal play."""


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
    demonstrations: int
    cloning_steps: int
    only: tuple[str, ...] = field(default=("*",))


FULL = Budget("full", 5, 50, 24, 8, 512, 10, 2000, 350)
QUICK = Budget("quick", 2, 8, 12, 8, 128, 4, 600, 150, ("lake/uniform", "lake/actfocus", "lake/uniform+*"))


class Study:
    """The lines that are there, and how others come about."""

    def __init__(self, folder: Path, budget: Budget) -> None:
        self.folder, self.budget = folder, budget
        folder.mkdir(parents=True, exist_ok=True)
        self.lines = [line for line in read_lines(folder) if line["budget"] == budget.name]

    def run(self, patterns: Sequence[str]) -> None:
        """Run what matches one of `world/arm` and has no line, seed by seed, so that any stop leaves whole rows."""
        chosen = [
            (world, arm) for world in WORLDS for arm in ARMS if any(fnmatch(f"{world}/{arm}", p) for p in patterns)
        ]
        if not chosen:
            raise SystemExit(f"nothing matches {list(patterns)}; worlds: {list(WORLDS)}, arms: {list(ARMS)}")
        for seed in range(self.budget.seeds):
            for world, arm in chosen:
                self._finish(world, CLONE, seed)
                self._finish(world, arm, seed)

    def _finish(self, world: str, arm: str, seed: int) -> None:
        if any((line["world"], line["arm"], line["seed"]) == (world, arm, seed) for line in self.lines):
            return
        line: dict[str, Any] = {"budget": self.budget.name, "world": world, "arm": arm, "seed": seed}
        line |= self._clone(world, seed) if arm == CLONE else self._train(world, arm, seed)
        with (self.folder / LINES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)
        wins = [sum(measured["wins"]) for measured in line["measured"]]
        print(f"{world} {arm} seed {seed}: {wins} of {self.budget.panel}, {line['seconds']:.0f} s", flush=True)

    def _start(self, world: str, seed: int) -> Path:
        return self.folder / f"clone-{self.budget.name}-{world}-{seed}"

    def _clone(self, name: str, seed: int) -> dict[str, Any]:
        """Make the model that a world's arms begin with, and measure it, random play and the optimum."""
        world, begun = WORLDS[name], time.perf_counter()
        num, first = self.budget.demonstrations, FIRST_DEMONSTRATION
        tasks = make_tasks(world.env_id, "train", num, first=first, params=world.params)
        agent = build_agent(AgentConfig(system="", history=world.history))
        played = collect(ExpertPolicy(noise=world.noise, think=world.think), tasks, agent=agent, seed=seed)
        turns = [turn for episode in played for turn in episode.turns]
        tokenizer = build_tokenizer((text for turn in turns for text in (turn.observation, turn.response)), world.vocab)
        model = build_model(tokenizer, hidden=96, layers=3, heads=4, window=world.window, seed=seed)
        policy = LocalPolicy(model, tokenizer, name=name)
        fine_tune(policy, played, SftConfig(steps=self.budget.cloning_steps, learning_rate=2e-3), seed=seed)
        policy.save(self._start(name, seed))
        panel = make_tasks(world.env_id, "held_out", self.budget.panel, params=world.params)
        return {
            "measured": [{"iteration": 0, "wins": self._wins(world, policy, seed)}],
            "random": float(np.mean(random_success(panel, seed=seed))),
            "optimal": float(np.mean(optimal_success(panel))),
            "seconds": time.perf_counter() - begun,
        }

    def _train(self, name: str, arm: str, seed: int) -> dict[str, Any]:
        """One run from the clone; its folder goes when it is finished, and is begun anew when it was not."""
        world, budget, begun = WORLDS[name], self.budget, time.perf_counter()
        folder = self.folder / f"run-{budget.name}-{name}-{arm}-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        policy = load_folder(self._start(name, seed), training=True)
        measured: list[dict[str, Any]] = []
        curve: list[float | None] = []
        tokens = 0.0

        def on_iteration(iteration: int, values: Mapping[str, float | None]) -> None:
            nonlocal tokens
            curve.append(values["success"])
            tokens += values.get("tokens/policy") or 0.0
            if iteration % budget.every == 0 or iteration == budget.iterations:
                measured.append({"iteration": iteration, "wins": self._wins(world, policy, seed)})

        trainer = Trainer(
            policy,
            world.env_id,
            folder,
            train_config(arm, budget),
            params=world.params,
            agent=build_agent(AgentConfig(system="", history=world.history)),
            sampling=Sampling(max_new_tokens=world.max_new_tokens),
            seed=seed,
        )
        try:
            trainer.train(on_iteration)
        finally:
            trainer.close()
        shutil.rmtree(folder)
        return {"measured": measured, "curve": curve, "tokens": tokens, "seconds": time.perf_counter() - begun}

    def _wins(self, world: World, policy: LocalPolicy, seed: int) -> list[int]:
        """Successes on the even and on the odd tasks of the held-out panel."""
        panel = make_tasks(world.env_id, "held_out", self.budget.panel, params=world.params)
        episodes = collect(
            policy,
            panel,
            agent=build_agent(AgentConfig(system="", history=world.history)),
            sampling=Sampling(max_new_tokens=world.max_new_tokens),
            seed=seed,
        )
        success = [episode.success for episode in episodes]
        return [sum(success[0::2]), sum(success[1::2])]


def train_config(arm: str, budget: Budget) -> TrainConfig:
    """The trainer's settings in an arm; those of the quickstart where it does not say otherwise."""
    settings = {
        "iterations": budget.iterations,
        "tasks_per_iteration": budget.tasks,
        "group_size": budget.attempts,
        "minibatches": 2,
        "learning_rate": 5e-4,
        "kl_coef": 0.1,
        "imitation": {"weight": 0.0},
        "bottleneck_every": 0,
        "checkpoint_every": budget.iterations,
    }
    return validated(TrainConfig, settings | ARMS[arm])


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """The finished runs; a last line that was cut off in writing does not count."""
    path = folder / LINES
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines := lines[:-1]), encoding="utf-8")
    return [json.loads(line) for line in lines]


def final_wins(line: Mapping[str, Any]) -> int:
    """Successes of the last measurement, on the whole panel."""
    return sum(line["measured"][-1]["wins"])


def peak_wins(line: Mapping[str, Any]) -> int:
    """Successes on the odd tasks at the measurement that was best on the even ones.

    >>> peak_wins({"measured": [{"wins": [5, 9]}, {"wins": [7, 4]}]})
    4
    """
    return max(line["measured"], key=lambda measured: measured["wins"][0])["wins"][1]


def over_seeds(
    wins_S: Sequence[int], num: int, less_S: Sequence[int] | None = None
) -> tuple[float, NDArray[np.float64]]:
    """(mean success over seeds, bootstrap draws of it), or of its difference from another arm's at the same seeds.

    A draw takes seeds with replacement, then each one's successes anew. Five seeds give an interval that is too narrow.

    Args:
        wins_S: Successes of each seed.
        num: Tasks they are of.
        less_S: Successes of the other arm, which began with the same clones.

    >>> round(over_seeds([6, 8], 10, less_S=[5, 5])[0], 3)
    0.2
    """
    rng = np.random.default_rng(0)
    rate_SA = np.array([wins_S] if less_S is None else [wins_S, less_S]).T / num
    sign_A = np.array([1, -1])[: rate_SA.shape[1]]
    picks_RS = rng.integers(len(rate_SA), size=(RESAMPLES, len(rate_SA)))
    drawn_RSA = rng.binomial(num, rate_SA[picks_RS]) / num
    return float((rate_SA @ sign_A).mean()), (drawn_RSA @ sign_A).mean(axis=1)


def shown(value: float, draws_R: NDArray[np.float64], sign: str = "") -> str:
    """A number with its 95 % interval."""
    low, high = np.quantile(draws_R, [0.025, 0.975])
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def tables(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Markdown of all lines of one folder, a table for each budget and world."""
    for budget in (FULL, QUICK):
        for world in WORLDS:
            rows = [line for line in lines if (line["budget"], line["world"]) == (budget.name, world)]
            if rows:
                yield from table(budget, world, rows)


def table(budget: Budget, world: str, lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One table: an arm a row, and beside the means what each seed did."""
    clones = [line for line in lines if line["arm"] == CLONE]
    random, optimal = (np.mean([line[key] for line in clones]) for key in ("random", "optimal"))
    yield f"### {world}, budget `{budget.name}`"
    yield ""
    yield (
        f"{budget.iterations} iterations of {budget.tasks * budget.attempts} attempts, measured every {budget.every} "
        f"on {budget.panel} held-out tasks. Random play {random:.3f}, optimum {optimal:.3f}."
    )
    yield ""
    yield "| arm | seeds | final | final less uniform | peak | final of each seed (Wilson) | s a run |"
    yield "|---|---|---|---|---|---|---|"
    uniform = {line["seed"]: final_wins(line) for line in lines if line["arm"] == "uniform"}
    for arm in (CLONE, *ARMS):
        runs = sorted((line for line in lines if line["arm"] == arm), key=lambda line: line["seed"])
        if not runs:
            continue
        final = shown(*over_seeds([final_wins(line) for line in runs], budget.panel))
        peak = shown(*over_seeds([peak_wins(line) for line in runs], budget.panel // 2)) if arm != CLONE else ""
        pairs = [line for line in runs if line["seed"] in uniform and arm not in (CLONE, "uniform")]
        wins_S, less_S = [final_wins(line) for line in pairs], [uniform[line["seed"]] for line in pairs]
        gained = shown(*over_seeds(wins_S, budget.panel, less_S), sign="+") if pairs else ""
        each = "; ".join(str(wilson(final_wins(line), budget.panel)) for line in runs)
        seconds = np.mean([line["seconds"] for line in runs])
        yield f"| {arm} | {len(runs)} | {final} | {gained} | {peak} | {each} | {seconds:.0f} |"
    yield ""


def write_report(folder: Path) -> None:
    """Put the tables between the marks of docs/study.md."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    body = "\n".join(tables(read_lines(folder))).strip()
    PAGE.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Run what is missing, or write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of the lines")
    parser.add_argument("--quick", action="store_true", help="two seeds and a small budget, a few minutes")
    parser.add_argument("--only", action="append", help="world/arm, as in 'sokoban/*'; may be given again")
    parser.add_argument("--report", action="store_true", help="write docs/study.md from the lines, and run nothing")
    arguments = parser.parse_args()
    if arguments.report:
        write_report(arguments.out)
        return
    torch.set_num_threads(1)  # the network is tiny: more threads only slow it down
    budget = QUICK if arguments.quick else FULL
    Study(arguments.out, budget).run(arguments.only or budget.only)


if __name__ == "__main__":
    main()
