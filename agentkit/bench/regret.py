"""What choosing memories by estimated utility loses against the best choice, beside counters of successes.

Regret of an episode: success with the best choice of candidates, less success with what was shown.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from agentkit.bench.effects import World
from agentkit.bench.table import Cell, Check, Scale, Table
from agentkit.memory.exposure import Exploration

RULES = ("nothing", "relevance", "success counter", "counter, if above the mean", "Wilson", "epsilon-greedy Q")
THOMPSON = "Thompson, dropout 0.1"
DRAWS = {
    THOMPSON: Exploration(holdout=0.0),
    "the same, holdout 0.1": Exploration(),
    "Thompson, dropout 0.02": Exploration(holdout=0.0, dropout=0.02),
}
PLACES = 3


class Chooser:
    """Shows the best-looking candidates by a count kept for each memory; the peers of Thompson sampling."""

    def __init__(self, rule: str, seed: int) -> None:
        self.rule = rule
        self.rng = np.random.default_rng(seed)
        self.wins: dict[str, float] = defaultdict(float)
        self.uses: dict[str, int] = defaultdict(int)
        self.value: dict[str, float] = defaultdict(lambda: 0.5)
        self.all_wins, self.all_uses = 1.0, 2

    def choose(self, ids: Sequence[str]) -> list[str]:
        """At most `PLACES` of these candidates, given most relevant first."""
        if self.rule == "nothing":
            return []
        if self.rule == "relevance":
            return list(ids[:PLACES])
        if self.rule == "epsilon-greedy Q" and self.rng.random() < 0.1:
            return [ids[number] for number in self.rng.permutation(len(ids))[:PLACES]]
        best = sorted(ids, key=self.worth, reverse=True)[:PLACES]
        if self.rule == "counter, if above the mean":
            return [id for id in best if self.worth(id) >= self.all_wins / self.all_uses]
        return best

    def worth(self, id: str) -> float:
        """How good a memory looks."""
        wins, uses = self.wins[id], self.uses[id]
        if self.rule == "epsilon-greedy Q":
            return self.value[id]
        if self.rule == "Wilson" and uses:
            z, rate = 1.96, wins / uses
            root = math.sqrt(rate * (1 - rate) / uses + z**2 / (4 * uses**2))
            return (rate + z**2 / (2 * uses) - z * root) / (1 + z**2 / uses)
        return (wins + 1) / (uses + 2)

    def learn(self, shown: Sequence[str], outcome: float) -> None:
        """Count the outcome of an episode for all that was shown in it."""
        self.all_wins += outcome
        self.all_uses += 1
        for id in shown:
            self.wins[id] += outcome
            self.uses[id] += 1
            self.value[id] += 0.1 * (outcome - self.value[id])


def measure(scale: Scale) -> Table:
    """A row for each way to choose."""
    runs, episodes = max(2, scale.num_seeds(2, 5, 20)), scale.pick(100, 2000, 2000)
    rows: list[dict[str, Cell]] = []
    regrets: dict[str, float] = {}
    for name in (*RULES, *DRAWS):
        lost = np.array([run_episodes(name, run, episodes) for run in range(runs)])
        total = lost.sum(axis=1)
        regrets[name] = float(total.mean())
        error = 2 * float(total.std(ddof=1)) / math.sqrt(runs)
        last = float(lost[:, -episodes // 4 :].mean())
        rows.append({"choice": name, "regret": regrets[name], "2 s.e.": error, "last quarter, an episode": last})
    best = min(regrets[rule] for rule in RULES)
    return Table(
        name="regret",
        title=f"regret summed over {episodes} episodes, {PLACES} places for 6 candidates, {runs} simulated worlds",
        rows=tuple(rows),
        checks=(
            Check(
                what="regret of Thompson over that of the best counter",
                value=regrets[THOMPSON] / best,
                bar=1,
                at="most",
            ),
        ),
    )


def run_episodes(name: str, run: int, episodes: int) -> list[float]:
    """The regret of each episode, in world number `run`."""
    world = World(run, num_tasks=60, num_memories=40, num_candidates=6)
    if name in DRAWS:
        return world.run_many(DRAWS[name], episodes, places=PLACES, thompson=True)
    chooser, lost = Chooser(name, run), []
    for _ in range(episodes):
        task = world.task()
        shown = chooser.choose([id for id, _ in world.ranked[task]])
        chooser.learn(shown, world.play(task, shown))
        lost.append(world.regret(task, shown, PLACES))
    return lost
