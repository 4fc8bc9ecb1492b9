"""How soon a memory that takes 0.3 away is found out, and how often one that does nothing is blamed; and by pairs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from agentkit.bench.effects import World
from agentkit.bench.table import Cell, Check, Scale, Table
from agentkit.memory.exposure import Exploration
from agentkit.memory.harm import HARMFUL
from agentkit.memory.pairs import Pair, estimate_pairs
from agentkit.memory.trials import Trials
from agentkit.memory.utility import Utility, estimate_trials

LOOK_EVERY = 5
"""Episodes after which it is looked whether a memory is found to harm."""
FLAG = f"evidence {HARMFUL:.0f}"
RULES: Mapping[str, Callable[[Utility], bool]] = {
    "interval below 0": lambda utility: utility.high < 0,
    "evidence 5": lambda utility: utility.harm >= 5,
    FLAG: lambda utility: utility.harmful,
}


class Draw(NamedTuple):
    """How memories are shown."""

    exploration: Exploration
    by: Literal["relevance", "coins", "chances"] = "relevance"
    """`coins`: one that has had few is shown half the time; `chances`: Thompson sampling."""


THOMPSON = "Thompson, dropout 0.1"
DRAWS = {
    "dropout 0.1": Draw(Exploration(holdout=0.0)),
    "the same, fair coins while young": Draw(Exploration(holdout=0.0), "coins"),
    "dropout 0.5": Draw(Exploration(holdout=0.0, dropout=0.5)),
    THOMPSON: Draw(Exploration(holdout=0.0), "chances"),
}
SHARED_LUCK = (0.0, 0.5, 0.8, 1.0)


class Found(NamedTuple):
    """When memories of some worlds were found to harm, by one rule."""

    harmful: list[tuple[float, float]]
    """For each that harms: how often it was a candidate, and was shown, until then; infinite for never."""
    harmless: list[bool]
    """For each that does nothing: whether it ever was."""


def measure(scale: Scale) -> Table:
    """A row for each draw and rule, and for each share of luck that the two attempts of a pair have in common."""
    runs = scale.num_seeds(2, 12, 60)
    episodes, num_pairs = scale.pick((100, 40), (600, 100), (600, 200))
    rows: list[dict[str, Cell]] = []
    flags: dict[tuple[str, str], dict[str, Cell]] = {}
    for draw in DRAWS:
        for rule, found in find_by_coins(DRAWS[draw], runs, episodes).items():
            flags[draw, rule] = _summary(found)
            rows.append({"draw": draw, "rule": rule, **flags[draw, rule], "fewer episodes": None, "coverage": None})
    for shared in SHARED_LUCK:
        found, factor, coverage = find_by_pairs(shared, runs, num_pairs)
        draw = f"pairs, {shared:.0%} of luck shared"
        flags[draw, FLAG] = _summary(found)
        more: dict[str, Cell] = {"fewer episodes": factor, "coverage": coverage}
        rows.append({"draw": draw, "rule": FLAG, **flags[draw, FLAG], **more})
    alarms = [float(flags[draw, rule]["harmless, ever"] or 0) for draw, rule in flags if rule == FLAG]
    shown = flags[THOMPSON, FLAG]["shown, median"]
    return Table(
        name="harm",
        title=f"until a memory of effect -0.3 is found to harm; {runs} simulated worlds",
        rows=tuple(rows),
        checks=(
            Check(
                what="median times shown until harm is flagged, Thompson",
                value=math.inf if shown is None else float(shown),
                bar=30,
                at="most",
            ),
            Check(
                what="harmless memories ever flagged, mean of the draws",
                value=float(np.mean(alarms)),
                bar=0.05,
                at="most",
            ),
        ),
        notes=(
            f"Looked at every {LOOK_EVERY} of {episodes} episodes, or after each of {num_pairs} pairs.",
            "candidate: how often it was one until then, and for pairs their number; `-` where half are never found.",
            "fewer episodes: how many times fewer pairs need for the same certainty; coverage: of their 95 % interval.",
        ),
    )


def find_by_coins(draw: Draw, runs: int, episodes: int) -> dict[str, Found]:
    """When memories are found to harm in randomised episodes, by each rule."""
    found = {rule: Found([], []) for rule in RULES}
    for run in range(runs):
        world, trials = World(run, num_tasks=10, num_memories=8, effect=0.3), Trials()
        was_candidate, was_shown = Counter[str](), Counter[str]()
        found_at: dict[tuple[str, str], tuple[float, float]] = {}
        utilities: dict[str, Utility] = {}
        for number in range(1, episodes + 1):
            chances = {id: one.chance for id, one in utilities.items()}
            num_coins = {id: one.num_shown + one.num_hidden for id, one in utilities.items()}
            exposure = world.run(
                draw.exploration,
                world.num_candidates,
                chances if draw.by == "chances" else None,
                num_coins if draw.by == "coins" else None,
            )
            trials.add(exposure)
            trials.settle(exposure.episode_key, world.outcomes[exposure.episode_key].value)
            was_candidate.update(candidate.memory_id for candidate in exposure.candidates)
            was_shown.update(exposure.shown_ids)
            if number % LOOK_EVERY == 0:
                utilities = estimate_trials(trials)
                for rule, is_harmful in RULES.items():
                    for id in (id for id, one in utilities.items() if is_harmful(one)):
                        found_at.setdefault((rule, id), (was_candidate[id], was_shown[id]))
        for rule, (harmful, harmless) in found.items():
            harmful += [found_at.get((rule, id), (math.inf, math.inf)) for id in was_candidate if world.effects[id] < 0]
            harmless += [(rule, id) in found_at for id in was_candidate if world.effects[id] == 0]
    return found


def find_by_pairs(shared: float, runs: int, num: int) -> tuple[Found, float, float]:
    """When memories are found to harm in pairs of attempts that have a share of their luck in common.

    Returns:
        That; the median of how many times fewer episodes a pair needs; and how often the interval holds the truth.
    """
    found, factors, covered = Found([], []), [], []
    for run in range(runs):
        world = World(run, num_tasks=10, num_memories=8, effect=0.3)
        for id, effect in world.effects.items():
            tasks = [task for task in range(world.num_tasks) if id in dict(world.ranked[task])]
            if effect > 0 or not tasks:
                continue
            pairs: list[Pair] = []
            proved = math.inf
            for number in range(1, num + 1):
                pairs.append(_pair(world, id, int(world.rng.choice(tasks)), shared))
                if math.isinf(proved) and estimate_pairs(pairs)[id].harm >= HARMFUL:
                    proved = number
            estimate = estimate_pairs(pairs)[id]
            factors.append(estimate.factor)
            covered.append(estimate.low <= effect <= estimate.high)
            if effect < 0:
                found.harmful.append((proved, proved))
            else:
                found.harmless.append(proved < math.inf)
    return found, float(np.median(factors)), float(np.mean(covered))


def _pair(world: World, id: str, task: int, shared: float) -> Pair:
    others = [other for other, _ in world.ranked[task] if other != id]
    luck, again = world.rng.random(2)
    again = luck if world.rng.random() < shared else again
    with_it = float(luck < world.success(task, [*others, id]))
    return Pair(id, with_it, float(again < world.success(task, others)))


def _summary(found: Found) -> dict[str, Cell]:
    """Medians are None where half are never found."""
    times = np.array(found.harmful).reshape(-1, 2)
    cells: dict[str, Cell] = {}
    for name, column in zip(("candidate", "shown"), times.T, strict=True):
        median = float(np.median(column)) if len(column) else math.inf
        cells[f"{name}, median"] = median if math.isfinite(median) else None
        cells[f"{name}, at most 30"] = float((column <= 30).mean()) if len(column) else None
    return {
        **cells,
        "never": float(np.isinf(times[:, 0]).mean()) if len(times) else None,
        "harmless, ever": float(np.mean(found.harmless)) if found.harmless else None,
    }
