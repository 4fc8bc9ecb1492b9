"""Whether estimated utility is the true one, in a simulated world whose memories have effects that are known."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from agentkit.bench.clock import Stopwatch
from agentkit.bench.effects import World
from agentkit.bench.table import Cell, Check, Scale, Table
from agentkit.memory.exposure import Exploration
from agentkit.memory.utility import estimate_utility

UPLIFT, UNNAMED, COUNTER = "uplift", "uplift, tasks unknown", "success counter"


def measure(scale: Scale) -> Table:
    """A row for each way to draw, length of the log, and estimator."""
    runs = scale.num_seeds(2, 15, 100)
    lengths = scale.pick((200,), (1000,), (300, 1000))
    rows = [
        row for thompson in (False, True) for episodes in lengths for row in measure_error(runs, episodes, thompson)
    ]
    [fixed] = [
        row for row in rows if (row["draw"], row["episodes"], row["estimator"]) == ("dropout", lengths[-1], UPLIFT)
    ]
    num = scale.pick(200, 5_000, 100_000)
    return Table(
        name="utility",
        title=f"estimated against true effects of memories (0.2, -0.2 or none), {runs} simulated worlds",
        rows=tuple(rows),
        checks=(
            Check(what="bias", value=abs(float(fixed["bias"] or 0)), bar=0.02, at="most"),
            Check(what="coverage", value=float(fixed["coverage"] or 0), bar=0.93, at="least"),
            Check(what="coverage", value=float(fixed["coverage"] or 0), bar=0.97, at="most"),
        ),
        notes=(
            "pairs: of world and memory; helps, none, harms: bias for memories that do so; coverage and width: of the "
            "95 % interval.",
            f"{num:,} exposures of 5 candidates are estimated in {estimation_s(num):.2f} CPU seconds.",
        ),
    )


def measure_error(runs: int, episodes: int, thompson: bool) -> list[dict[str, Cell]]:
    """Errors over worlds x memories, for each way to estimate."""
    found: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for run in range(runs):
        world = World(run)
        world.run_many(Exploration(seed=run), episodes, thompson=thompson)
        unnamed = [exposure.model_copy(update={"task_key": ""}) for exposure in world.exposures]
        for name, exposures in ((UPLIFT, world.exposures), (UNNAMED, unnamed)):
            for id, one in estimate_utility(exposures, world.outcomes).items():
                if one.num_shown and one.num_hidden:
                    found[name].append((world.effects[id], one.uplift, one.low, one.high))
        for id, value in success_counters(world).items():
            found[COUNTER].append((world.effects[id], value, math.nan, math.nan))
    return [
        {"draw": "Thompson" if thompson else "dropout", "episodes": episodes, "estimator": name, **_errors(listed)}
        for name, listed in found.items()
    ]


def _errors(listed: list[tuple[float, float, float, float]]) -> dict[str, Cell]:
    """Of (true effect, estimate, lower and upper end of the interval, not a number where there is none)."""
    true, estimate, low, high = np.array(listed).T
    error = estimate - true
    has_interval = bool(np.isfinite(low).all())

    def bias(sign: int) -> float | None:
        return float(error[np.sign(true) == sign].mean()) if (np.sign(true) == sign).any() else None

    return {
        "pairs": len(listed),
        "bias": float(error.mean()),
        "helps": bias(1),
        "none": bias(0),
        "harms": bias(-1),
        "RMSE": float(np.sqrt((error**2).mean())),
        "coverage": float(((low <= true) & (true <= high)).mean()) if has_interval else None,
        "width": float((high - low).mean()) if has_interval else None,
    }


def success_counters(world: World) -> dict[str, float]:
    """What counting would say: mean success of the episodes a memory was shown in, less the mean of all."""
    overall = float(np.mean([outcome.value for outcome in world.outcomes.values()]))
    seen = defaultdict(list)
    for exposure in world.exposures:
        for id in exposure.shown_ids:
            seen[id].append(world.outcomes[exposure.episode_key].value)
    return {id: float(np.mean(values)) - overall for id, values in seen.items()}


def estimation_s(num: int) -> float:
    """CPU seconds of the utilities of 1,000 memories from so many exposures."""
    world = World(0, num_tasks=500, num_memories=1000, num_candidates=5)
    world.run_many(Exploration(), num, places=5)
    watch = Stopwatch()
    world.estimate()
    return watch.cpu_s
