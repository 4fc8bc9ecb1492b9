"""Whether estimated utility is the true one: a simulated world whose memories have effects that are known.

What is relevant there is relevant to easy tasks or to hard ones, so counting the successes of a memory measures its
tasks. Each memory adds its effect to the success of any task it is shown in.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agentkit.bench.table import Cell, Check, Scale, Table
from agentkit.memory.exposure import Exploration, Exposure, Outcome
from agentkit.memory.utility import UNKNOWN, Utility, estimate_utility

REFIT_EVERY = 50
"""Episodes after which utilities are estimated anew."""
LOOK_EVERY = 5
"""Episodes after which it is looked whether a memory is flagged as harmful."""
Found = Mapping[str, Utility]


@dataclass
class World:
    """Tasks of unequal easiness, memories of known effects, and the log of what was shown and how it ended.

    Args:
        seed: Everything is drawn from it.
        num_tasks, num_memories, num_candidates: How many there are, and how many of them a task finds relevant.
        effect: What a helping memory adds and a harming one takes away; 15 in 100 help, as many harm.
    """

    seed: int
    num_tasks: int = 40
    num_memories: int = 30
    num_candidates: int = 4
    effect: float = 0.2
    exposures: list[Exposure] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        signs = self.rng.choice([1, -1, 0], self.num_memories, p=[0.15, 0.15, 0.7])
        self.effects = {f"m{number}": self.effect * sign for number, sign in enumerate(signs.tolist())}
        home = self.rng.random(self.num_memories)
        self.ranked: list[list[tuple[str, float]]] = []
        self.base: list[float] = []
        for _ in range(self.num_tasks):
            easiness = self.rng.random()
            nearness = np.exp(-np.abs(home - easiness) / 0.2)
            chances = nearness / nearness.sum()
            picked = self.rng.choice(self.num_memories, self.num_candidates, replace=False, p=chances)
            order = picked[np.argsort(-nearness[picked])]
            self.ranked.append([(f"m{number}", float(nearness[number])) for number in order])
            effects = np.array([self.effects[id] for id, _ in self.ranked[-1]])
            low, high = -effects[effects < 0].sum(), 1 - effects[effects > 0].sum()  # success stays within 0 and 1
            self.base.append(float(low + (high - low) * (0.1 + 0.8 * easiness)))

    def run(self, exploration: Exploration, places: int, chances: Mapping[str, float] | None) -> float:
        """Draw, play and record an episode; returns by how much the best choice would have been better."""
        task = self.task()
        name = str(len(self.exposures))
        exposure = exploration.draw(name, self.ranked[task], places, chances=chances, task_key=str(task))
        self.exposures.append(exposure)
        self.outcomes[name] = Outcome(value=self.play(task, exposure.shown_ids))
        return self.regret(task, exposure.shown_ids, places)

    def task(self) -> int:
        """A task, drawn at random."""
        return int(self.rng.integers(self.num_tasks))

    def success(self, task: int, shown: Sequence[str]) -> float:
        """Probability of success."""
        return self.base[task] + sum(self.effects[id] for id in shown)

    def play(self, task: int, shown: Sequence[str]) -> float:
        """1 for success, 0 for failure."""
        return float(self.rng.random() < self.success(task, shown))

    def regret(self, task: int, shown: Sequence[str], places: int) -> float:
        """Success with the best choice of at most `places` candidates, less that with what was shown."""
        effects = sorted((self.effects[id] for id, _ in self.ranked[task]), reverse=True)
        best = self.base[task] + sum(effect for effect in effects[:places] if effect > 0)
        return best - self.success(task, shown)

    def estimate(self) -> dict[str, Utility]:
        """Utilities from the log so far."""
        return estimate_utility(self.exposures, self.outcomes)


def measure(scale: Scale) -> Table:
    """Rows for the error of the estimate, for regret, and for the flags of harmful memories."""
    runs = scale.num_seeds(2, 15, 100)
    error = measure_error(runs, scale.pick(200, 1000, 1000))
    regrets = measure_regret(max(2, runs // 5), scale.pick(100, 1000, 2000))
    flags = measure_flags(max(2, runs // 2), scale.pick(100, 400, 600))
    figures: dict[str, Cell] = {
        "bias of the uplift": error["bias"],
        "bias of a success counter": error["bias of a counter"],
        "coverage of the 95 % interval": error["coverage"],
        **{f"regret: {name}": value for name, value in regrets.items()},
        **{f"flags: {name}": value for name, value in flags.items()},
    }
    best = min(value for name, value in regrets.items() if name != "Thompson")
    return Table(
        name="utility",
        title=f"estimated against true effects of memories, {runs} simulated worlds",
        rows=tuple({"figure": name, "value": value} for name, value in figures.items()),
        checks=(
            Check(what="bias", value=abs(error["bias"]), bar=0.02, at="most"),
            Check(what="coverage", value=error["coverage"], bar=0.93, at="least"),
            Check(what="coverage", value=error["coverage"], bar=0.97, at="most"),
            Check(
                what="regret of Thompson over that of the best counter",
                value=regrets["Thompson"] / best,
                bar=1,
                at="most",
            ),
            Check(
                what="median times shown until harm is flagged", value=flags["median times shown"], bar=30, at="most"
            ),
        ),
        notes=("regret: success with the best choice less success with what was shown, summed over the episodes.",),
    )


def measure_error(runs: int, episodes: int) -> dict[str, float]:
    """Mean error of the uplift and of a counter over worlds x memories, and how often the interval holds the truth."""
    errors, counted, covered = [], [], []
    for run in range(runs):
        world = World(run)
        for _ in range(episodes):
            world.run(Exploration(seed=run), world.num_candidates, None)
        shown: dict[str, list[float]] = defaultdict(list)
        for exposure in world.exposures:
            for id in exposure.shown_ids:
                shown[id].append(world.outcomes[exposure.episode_key].value)
        overall = float(np.mean([outcome.value for outcome in world.outcomes.values()]))
        for id, found in world.estimate().items():
            if found.num_shown and found.num_hidden:
                true = world.effects[id]
                errors.append(found.uplift - true)
                counted.append(abs(float(np.mean(shown[id])) - overall - true))
                covered.append(found.low <= true <= found.high)
    return {
        "bias": float(np.mean(errors)),
        "bias of a counter": float(np.mean(counted)),
        "coverage": float(np.mean(covered)),
    }


def measure_regret(runs: int, episodes: int, places: int = 3) -> dict[str, float]:
    """Mean cumulative regret: nothing shown, the most relevant, the best by success counter, Thompson sampling."""
    sums: dict[str, list[float]] = defaultdict(list)
    for run in range(runs):
        for rule in ("nothing", "relevance", "success counter"):
            world = World(run, num_tasks=60, num_memories=40, num_candidates=6)
            wins: dict[str, float] = defaultdict(lambda: 1.0)
            uses: dict[str, float] = defaultdict(lambda: 2.0)
            lost = 0.0
            for _ in range(episodes):
                task = world.task()
                ids = [id for id, _ in world.ranked[task]]
                if rule == "success counter":
                    ids.sort(key=lambda id: wins[id] / uses[id], reverse=True)
                shown = [] if rule == "nothing" else ids[:places]
                lost += world.regret(task, shown, places)
                won = world.play(task, shown)
                for id in shown:
                    wins[id] += won
                    uses[id] += 1
            sums[rule].append(lost)
        world = World(run, num_tasks=60, num_memories=40, num_candidates=6)
        chances: dict[str, float] = {}
        lost = 0.0
        for number in range(episodes):
            if number and number % REFIT_EVERY == 0:
                found = world.estimate()
                chances = {id: found.get(id, UNKNOWN).chance for id in world.effects}
            lost += world.run(Exploration(holdout=0.0), places, chances)
        sums["Thompson"].append(lost)
    return {rule: float(np.mean(values)) for rule, values in sums.items()}


def measure_flags(runs: int, episodes: int) -> dict[str, float]:
    """How often a memory of effect -0.3 is shown until its interval lies below 0, and how often a harmless one is."""
    counts: list[float] = []
    harmless = flagged = 0
    for run in range(runs):
        world = World(run, num_tasks=10, num_memories=8, effect=0.3)
        flagged_at: dict[str, int] = {}
        chances: dict[str, float] = {}
        for number in range(1, episodes + 1):
            world.run(Exploration(holdout=0.0), world.num_candidates, chances)
            if number % LOOK_EVERY == 0:
                found = world.estimate()
                chances = {id: utility.chance for id, utility in found.items()}
                for id, utility in found.items():
                    if utility.high < 0:
                        flagged_at.setdefault(id, utility.num_shown)
        known = {id for exposure in world.exposures for id in (one.memory_id for one in exposure.candidates)}
        for id in known:
            if world.effects[id] < 0:
                counts.append(flagged_at.get(id, math.inf))
            elif world.effects[id] == 0:
                harmless += 1
                flagged += id in flagged_at
    return {
        "median times shown": float(np.median(counts)) if counts else math.nan,
        "share never": float(np.mean(np.isinf(counts))) if counts else math.nan,
        "share of harmless memories": flagged / max(1, harmless),
    }
