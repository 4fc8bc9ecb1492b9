"""Report of the study: tables and learning curves from its lines, put into docs/study.md and docs/study/.

A run's final success is that of the last measurement. Its peak is chosen on the even tasks of the panel and measured on
the odd ones, since the best of several noisy numbers is too high.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.study.runs import ARMS, BUDGETS, CLONE, LINES, MAIN, Budget, read_lines
from benchmarks.study.worlds import WORLDS

PAGE = Path(__file__).parents[2] / "docs" / "study.md"
PICTURES = PAGE.with_suffix("")
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
RESAMPLES = 4000
COMPARED = (
    ("uniform", CLONE),
    *((arm, "uniform") for arm in MAIN if arm != "uniform"),
    ("actfocus, rate /3", "uniform, rate /3"),
    ("actfocus+imitation", "uniform+imitation"),
)
"""Arms, and what each is compared with in the overviews."""
Line = Mapping[str, Any]


def final_wins(line: Line) -> int:
    """Successes of the last measurement, on the whole panel."""
    return sum(line["measured"][-1]["wins"])


def peak_wins(line: Line) -> int:
    """Successes on the odd tasks at the measurement that was best on the even ones.

    >>> peak_wins({"measured": [{"wins": [5, 9]}, {"wins": [7, 4]}]})
    4
    """
    return max(line["measured"], key=lambda measured: measured["wins"][0])["wins"][1]


def mean_wins(line: Line) -> float:
    """Successes on the whole panel, mean of all measurements: an arm that learns sooner has more.

    >>> mean_wins({"measured": [{"wins": [5, 9]}, {"wins": [7, 5]}]})
    13.0
    """
    return float(np.mean([sum(measured["wins"]) for measured in line["measured"]]))


def over_seeds(
    wins_S: Sequence[float], num: int, less_S: Sequence[float] | None = None, *, seed: int = 0
) -> tuple[float, NDArray[np.float64]]:
    """(mean success over seeds, bootstrap draws of it), or of its difference from another arm's at the same seeds.

    A draw takes seeds with replacement, then each one's successes anew. Five seeds give an interval that is too narrow.

    Args:
        wins_S: Successes of each seed, or a mean of several.
        num: Tasks they are of.
        less_S: Successes of the other arm, which began with the same clones.
        seed: Of the draws.

    >>> round(over_seeds([6, 8], 10, less_S=[5, 5])[0], 3)
    0.2
    """
    rng = np.random.default_rng(seed)
    rate_SA = np.array([wins_S] if less_S is None else [wins_S, less_S]).T / num
    sign_A = np.array([1, -1])[: rate_SA.shape[1]]
    picks_RS = rng.integers(len(rate_SA), size=(RESAMPLES, len(rate_SA)))
    drawn_RSA = rng.binomial(num, rate_SA[picks_RS]) / num
    return float((rate_SA @ sign_A).mean()), (drawn_RSA @ sign_A).mean(axis=1)


def shown(value: float, draws_R: NDArray[np.float64], sign: str = "") -> str:
    """A number with its 95 % interval."""
    low, high = np.quantile(draws_R, [0.025, 0.975])
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def tables(lines: Sequence[Line]) -> Iterator[str]:
    """Markdown of all lines of one folder, a table for each budget and world."""
    for budget in BUDGETS.values():
        yield from overview([line for line in lines if line["budget"] == budget.name], budget)
        for world in WORLDS:
            rows = [line for line in lines if (line["budget"], line["world"]) == (budget.name, world)]
            if any(line["arm"] == CLONE for line in rows):
                yield from table(budget.in_world(world), world, rows)


def overview(lines: Sequence[Line], budget: Budget) -> Iterator[str]:
    """What main arms have over others at the same seeds, world by world, and the mean of the worlds."""
    for title, wins in (("Final success", final_wins), ("Mean over the run", mean_wins)):
        known = {(line["world"], line["arm"], line["seed"]): wins(line) for line in lines}
        rows = []
        for arm, other in COMPARED:
            found = {}
            for number, world in enumerate(WORLDS):
                seeds = [seed for seed in range(budget.seeds) if {(world, arm, seed), (world, other, seed)} <= {*known}]
                if seeds:
                    wins_S, less_S = ([known[world, each, seed] for seed in seeds] for each in (arm, other))
                    found[world] = over_seeds(wins_S, budget.in_world(world).panel, less_S, seed=number)
            if found:
                cells = [shown(*found[world], sign="+") if world in found else "" for world in WORLDS]
                values, draws_WR = zip(*found.values(), strict=True)
                cells.append(shown(float(np.mean(values)), np.mean(draws_WR, axis=0), sign="+"))
                rows.append(f"| {arm} | {other} | {' | '.join(cells)} |")
        if rows:
            yield from [f"### {title}, budget `{budget.name}`", ""]
            yield f"| arm | less | {' | '.join(WORLDS)} | mean of the worlds |"
            yield from ["|---|---|" + "---|" * (len(WORLDS) + 1), *rows, ""]


def table(budget: Budget, world: str, lines: Sequence[Line]) -> Iterator[str]:
    """One table: an arm a row, and beside the means what each seed did."""
    clones = [line for line in lines if line["arm"] == CLONE]
    random, optimal, demonstrated = (
        np.mean([line[key] for line in clones]) for key in ("random", "optimal", "demonstrated")
    )
    yield f"### {world}, budget `{budget.name}`"
    yield ""
    yield (
        f"{budget.iterations} iterations of {budget.tasks * budget.attempts} attempts, measured every {budget.every} "
        f"on {budget.panel} held-out tasks. Random play {random:.3f}, optimum {optimal:.3f}, demonstrator (on its own "
        f"tasks) {demonstrated:.3f}."
    )
    yield ""
    if has_curves(lines):
        yield f"![success over iterations]({PICTURES.name}/{picture(budget, world)})"
        yield ""
    yield "| arm | seeds | final | less uniform | mean | less uniform | peak | final of each seed | CPU s a run |"
    yield "|---|---|---|---|---|---|---|---|---|"
    uniform = {line["seed"]: line for line in lines if line["arm"] == "uniform"}
    for arm in (CLONE, *ARMS):
        runs = sorted((line for line in lines if line["arm"] == arm), key=lambda line: line["seed"])
        if not runs:
            continue
        pairs = [line for line in runs if line["seed"] in uniform and arm not in (CLONE, "uniform")]
        cells = []
        for wins in (final_wins, mean_wins):
            cells.append(shown(*over_seeds([wins(line) for line in runs], budget.panel)))
            less_S = [wins(uniform[line["seed"]]) for line in pairs]
            more = over_seeds([wins(line) for line in pairs], budget.panel, less_S) if pairs else None
            cells.append("" if more is None else shown(*more, sign="+"))
        if arm == CLONE:  # it was measured once
            cells[2:] = ["", "", ""]
        else:
            cells.append(shown(*over_seeds([peak_wins(line) for line in runs], budget.panel // 2)))
        each = " ".join(f"{final_wins(line) / budget.panel:.3f}" for line in runs)
        seconds = np.mean([line["cpu_s"] for line in runs])
        yield f"| {arm} | {len(runs)} | {' | '.join(cells)} | {each} | {seconds:.0f} |"
    yield ""


def picture(budget: Budget, world: str) -> str:
    """File name of a world's curves."""
    return f"{budget.name}-{world}.svg"


def has_curves(lines: Sequence[Line]) -> bool:
    """Whether there is an arm to draw."""
    return any(line["arm"] in MAIN for line in lines)


def draw_curves(path: Path, budget: Budget, world: str, lines: Sequence[Line]) -> None:
    """Success of the main arms over iterations, from the clone on: mean over seeds and its 95 % interval."""
    import matplotlib
    from matplotlib.figure import Figure

    clones = {line["seed"]: line["measured"] for line in lines if line["arm"] == CLONE}
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, arm in enumerate(MAIN):
        runs = [clones[line["seed"]] + line["measured"] for line in lines if line["arm"] == arm]
        if not runs:
            continue
        iterations = [measured["iteration"] for measured in runs[0]]
        points = [
            over_seeds(wins_S, budget.panel) for wins_S in np.array([[sum(m["wins"]) for m in r] for r in runs]).T
        ]
        low, high = np.array([np.quantile(draws_R, [0.025, 0.975]) for _, draws_R in points]).T
        axes.plot(iterations, [mean for mean, _ in points], color=f"C{number}", label=arm)
        axes.fill_between(iterations, low, high, color=f"C{number}", alpha=0.1, linewidth=0)
    axes.axhline(float(np.mean([line["random"] for line in lines if line["arm"] == CLONE])), color="0.5", linestyle=":")
    axes.set(
        xlabel="iteration", ylabel="success", ylim=(0, 1), title=f"{world}, {len(clones)} seeds; dotted: random play"
    )
    axes.legend(fontsize="small", loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "study"}):  # the same lines, the same file
        figure.savefig(path, metadata={"Date": None})


def write_report(folder: Path) -> None:
    """Put tables between the marks of docs/study.md, and curves and the lines themselves beside it."""
    lines = sorted(read_lines(folder), key=lambda line: (line["budget"], line["world"], line["seed"], line["arm"]))
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / LINES).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for budget in BUDGETS.values():
        for world in WORLDS:
            rows = [line for line in lines if (line["budget"], line["world"]) == (budget.name, world)]
            if has_curves(rows):
                draw_curves(PICTURES / picture(budget, world), budget.in_world(world), world, rows)
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    body = "\n".join(tables(lines)).strip()
    PAGE.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")
