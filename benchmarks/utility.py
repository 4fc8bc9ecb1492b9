"""Causal utility against a world whose effects are known: bias, coverage, regret, time to a flag, pairs, CPU seconds.

Run: python benchmarks/utility.py [bias regret flags pairs speed] [--runs N]. About five CPU minutes. In this world what
is relevant is relevant to easy tasks or to hard ones, so counting the successes of a memory measures its tasks.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agentkit.memory.exposure import Exploration, Exposure, Outcome
from agentkit.memory.harm import HARMFUL
from agentkit.memory.pairs import Pair, estimate_pairs
from agentkit.memory.trials import BASELINE_COUNT, Trials
from agentkit.memory.utility import UNKNOWN, Utility, estimate_trials, estimate_utility

Ranked = list[tuple[str, float]]


class World:
    """Tasks of unequal easiness, and memories that add a known amount to the success of any task they are shown in.

    Args:
        seed: Everything is drawn from it.
        num_tasks, num_memories, num_candidates: How many there are, and how many of them a task finds relevant.
        effect: What a helping memory adds and a harming one takes away.
        share: Share of the memories that help, and of those that harm; the others do nothing.
    """

    def __init__(
        self,
        seed: int,
        num_tasks: int = 40,
        num_memories: int = 30,
        num_candidates: int = 4,
        effect: float = 0.2,
        share: float = 0.15,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        signs = self.rng.choice([1, -1, 0], num_memories, p=[share, share, 1 - 2 * share])
        self.effects = {f"m{number}": effect * sign for number, sign in enumerate(signs.tolist())}
        names = list(self.effects)
        home = self.rng.random(num_memories)
        self.ranked: list[Ranked] = []
        self.base: list[float] = []
        for _ in range(num_tasks):
            easiness = self.rng.random()
            nearness = np.exp(-np.abs(home - easiness) / 0.2)
            picked = self.rng.choice(num_memories, num_candidates, replace=False, p=nearness / nearness.sum())
            scores = nearness[picked] * (0.5 + 0.5 * easiness)
            order = np.argsort(-scores)
            self.ranked.append([(names[picked[place]], float(scores[place])) for place in order])
            effects = np.array([self.effects[memory_id] for memory_id, _ in self.ranked[-1]])
            low, high = -effects[effects < 0].sum(), 1 - effects[effects > 0].sum()  # success stays within 0 and 1
            self.base.append(float(low + (high - low) * (0.1 + 0.8 * easiness)))

    def task(self) -> int:
        """A task, drawn at random."""
        return int(self.rng.integers(len(self.base)))

    def success(self, task: int, shown: Sequence[str]) -> float:
        """Probability of success."""
        return self.base[task] + sum(self.effects[memory_id] for memory_id in shown)

    def play(self, task: int, shown: Sequence[str]) -> float:
        """1 for success, 0 for failure."""
        return float(self.rng.random() < self.success(task, shown))

    def best(self, task: int, places: int) -> float:
        """Success with the best choice of at most `places` candidates."""
        effects = sorted((self.effects[memory_id] for memory_id, _ in self.ranked[task]), reverse=True)
        return self.base[task] + sum(effect for effect in effects[:places] if effect > 0)


@dataclass
class Log:
    """What was drawn and how it ended, as a run keeps it."""

    exposures: list[Exposure] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)


def run_episode(
    world: World,
    log: Log,
    exploration: Exploration,
    places: int,
    chances: Mapping[str, float] | None = None,
    num_coins: Mapping[str, int] | None = None,
) -> Exposure:
    """Draw, play and record one episode."""
    task = world.task()
    name = str(len(log.exposures))
    exposure = exploration.draw(
        name, world.ranked[task], places, chances=chances, num_coins=num_coins, task_key=str(task)
    )
    log.exposures.append(exposure)
    log.outcomes[name] = Outcome(value=world.play(task, exposure.shown_ids))
    return exposure


def chances_of(log: Log, memories: Mapping[str, float]) -> dict[str, float]:
    """Memory -> probability that it helps, as far as the log tells."""
    found = estimate_utility(log.exposures, log.outcomes)
    return {memory_id: found.get(memory_id, UNKNOWN).chance for memory_id in memories}


def run_log(world: World, exploration: Exploration, episodes: int, thompson: bool, places: int = 4) -> Log:
    """A log of that many episodes; with `thompson`, estimated anew every 50."""
    log = Log()
    chances: dict[str, float] | None = {} if thompson else None
    for number in range(episodes):
        if thompson and number and number % 50 == 0:
            chances = chances_of(log, world.effects)
        run_episode(world, log, exploration, places, chances)
    return log


def measure_bias(runs: int) -> None:
    """Bias and coverage over runs x memories, for each way to estimate, beside the success counter."""
    print(f"bias and coverage, {runs} runs of 30 memories (effects +-0.2 or 0), 4 candidates a task, 40 tasks")
    print("| draw | episodes | estimator | pairs | bias: all | help | none | harm | RMSE | coverage | width |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for thompson in (False, True):
        for episodes in (300, 1000):
            rows: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
            for run in range(runs):
                world = World(run)
                log = run_log(world, Exploration(seed=run), episodes, thompson)
                unnamed = [exposure.model_copy(update={"task_key": ""}) for exposure in log.exposures]
                for name, exposures in (("uplift", log.exposures), ("uplift, tasks unknown", unnamed)):
                    for memory_id, found in estimate_utility(exposures, log.outcomes).items():
                        if found.num_shown and found.num_hidden:
                            row = (found.uplift, found.low, found.high, world.effects[memory_id])
                            rows[name].append(row)
                for memory_id, counted in success_counters(log).items():
                    rows["success counter"].append((counted, math.nan, math.nan, world.effects[memory_id]))
            for name, listed in rows.items():
                table = np.array(listed)
                error = table[:, 0] - table[:, 3]
                by_sign = [error[np.sign(table[:, 3]) == sign].mean() for sign in (1, 0, -1)]
                covered = ((table[:, 1] <= table[:, 3]) & (table[:, 3] <= table[:, 2])).mean()
                shown = " | ".join(f"{value:+.4f}" for value in (error.mean(), *by_sign))
                tail = (
                    "- | -"
                    if name == "success counter"
                    else f"{covered:.3f} | {np.mean(table[:, 2] - table[:, 1]):.2f}"
                )
                draw = "Thompson" if thompson else "fixed"
                rmse = np.sqrt((error**2).mean())
                print(f"| {draw} | {episodes} | {name} | {len(table)} | {shown} | {rmse:.3f} | {tail} |")


def success_counters(log: Log) -> dict[str, float]:
    """What products keep: mean success of the episodes a memory was shown in, less the mean of all."""
    overall = float(np.mean([outcome.value for outcome in log.outcomes.values()]))
    seen = defaultdict(list)
    for exposure in log.exposures:
        for memory_id in exposure.shown_ids:
            seen[memory_id].append(log.outcomes[exposure.episode_key].value)
    return {memory_id: float(np.mean(values)) - overall for memory_id, values in seen.items()}


class Chooser:
    """Shows the best-looking candidates by a count kept for each memory; the peers of Thompson sampling."""

    def __init__(self, rule: str, seed: int) -> None:
        self.rule = rule
        self.rng = np.random.default_rng(seed)
        self.wins: dict[str, float] = defaultdict(float)
        self.uses: dict[str, int] = defaultdict(int)
        self.value: dict[str, float] = defaultdict(lambda: 0.5)
        self.all_wins, self.all_uses = 1.0, 2

    def choose(self, ranked: Ranked, places: int) -> list[str]:
        ids = [memory_id for memory_id, _ in ranked]
        if self.rule == "nothing":
            return []
        if self.rule == "relevance":
            return ids[:places]
        if self.rule == "epsilon-greedy Q" and self.rng.random() < 0.1:
            return [ids[number] for number in self.rng.permutation(len(ids))[:places]]
        best = sorted(ids, key=self.worth, reverse=True)[:places]
        if self.rule == "counter, if above the mean":
            return [memory_id for memory_id in best if self.worth(memory_id) >= self.all_wins / self.all_uses]
        return best

    def worth(self, memory_id: str) -> float:
        wins, uses = self.wins[memory_id], self.uses[memory_id]
        if self.rule == "epsilon-greedy Q":
            return self.value[memory_id]
        if self.rule == "Wilson" and uses:
            z, rate = 1.96, wins / uses
            root = math.sqrt(rate * (1 - rate) / uses + z**2 / (4 * uses**2))
            return (rate + z**2 / (2 * uses) - z * root) / (1 + z**2 / uses)
        return (wins + 1) / (uses + 2)

    def learn(self, shown: Sequence[str], outcome: float) -> None:
        self.all_wins += outcome
        self.all_uses += 1
        for memory_id in shown:
            self.wins[memory_id] += outcome
            self.uses[memory_id] += 1
            self.value[memory_id] += 0.1 * (outcome - self.value[memory_id])


RULES = ("nothing", "relevance", "success counter", "counter, if above the mean", "Wilson", "epsilon-greedy Q")


def measure_regret(runs: int, episodes: int = 2000, places: int = 3) -> None:
    """Cumulative regret: success with the best choice of candidates less success with what was shown, summed."""
    print(f"\ncumulative regret after {episodes} episodes, {places} places of 6 candidates, {runs} runs (mean +- 2 se)")
    print("| choice | regret | in the last quarter, an episode |")
    print("|---|---|---|")
    shape: dict[str, Any] = {"num_tasks": 60, "num_memories": 40, "num_candidates": 6}
    for rule in RULES:
        regrets = []
        for run in range(runs):
            world, chooser, lost = World(run, **shape), Chooser(rule, run), []
            for _ in range(episodes):
                task = world.task()
                shown = chooser.choose(world.ranked[task], places)
                chooser.learn(shown, world.play(task, shown))
                lost.append(world.best(task, places) - world.success(task, shown))
            regrets.append(lost)
        report_regret(rule, regrets)
    for name, exploration in (
        ("Thompson, dropout 0.1, holdout 0.1", Exploration()),
        ("Thompson, dropout 0.1, holdout 0", Exploration(holdout=0.0)),
        ("Thompson, dropout 0.02, holdout 0", Exploration(holdout=0.0, dropout=0.02)),
    ):
        regrets = []
        for run in range(runs):
            world, log, lost = World(run, **shape), Log(), []
            chances: dict[str, float] = {}
            for number in range(episodes):
                if number and number % 50 == 0:
                    chances = chances_of(log, world.effects)
                exposure = run_episode(world, log, exploration, places, chances)
                task = int(exposure.task_key)
                lost.append(world.best(task, places) - world.success(task, exposure.shown_ids))
            regrets.append(lost)
        report_regret(name, regrets)


def report_regret(name: str, regrets: list[list[float]]) -> None:
    table = np.array(regrets)
    total, quarter = table.sum(axis=1), table[:, -table.shape[1] // 4 :].mean()
    print(f"| {name} | {total.mean():.0f} +- {2 * total.std(ddof=1) / math.sqrt(len(total)):.0f} | {quarter:.3f} |")


RULES_OF_HARM: dict[str, Callable[[Utility], bool]] = {
    "interval below 0": lambda utility: utility.high < 0,
    "evidence 5": lambda utility: utility.harm >= 5,
    "evidence 20": lambda utility: utility.harm >= HARMFUL,
}


def measure_flags(runs: int, episodes: int = 600) -> None:
    """How often a memory that takes 0.3 is a candidate, and is shown, until it is found to harm."""
    print(f"\nuntil a memory of effect -0.3 is flagged (looked at every 5 of {episodes} episodes), {runs} runs")
    print("| draw | rule | candidate: median | <= 30 | shown: median | <= 30 | never | harmless ones ever flagged |")
    print("|---|---|---|---|---|---|---|---|")
    for name, exploration, way in (
        ("fixed, dropout 0.1", Exploration(holdout=0.0), "fixed"),
        ("the same, fair coins while young", Exploration(holdout=0.0), "young"),
        ("fixed, dropout 0.5", Exploration(holdout=0.0, dropout=0.5), "fixed"),
        ("Thompson, dropout 0.1", Exploration(holdout=0.0), "Thompson"),
    ):
        counts: dict[str, list[tuple[float, float]]] = {rule: [] for rule in RULES_OF_HARM}
        flagged = dict.fromkeys(RULES_OF_HARM, 0)
        harmless = 0
        for run in range(runs):
            world = World(run, num_tasks=10, num_memories=8, effect=0.3, share=0.15)
            log, trials = Log(), Trials()
            seen: dict[str, list[int]] = defaultdict(lambda: [0, 0])
            found_at: dict[tuple[str, str], tuple[float, float]] = {}
            chances: dict[str, float] | None = {} if way == "Thompson" else None
            num_coins: dict[str, int] | None = {} if way == "young" else None
            for number in range(1, episodes + 1):
                exposure = run_episode(world, log, exploration, 4, chances, num_coins)
                trials.add(exposure)
                trials.settle(exposure.episode_key, log.outcomes[exposure.episode_key].value)
                for candidate in exposure.candidates:
                    seen[candidate.memory_id][0] += not exposure.held_out
                    seen[candidate.memory_id][1] += candidate.shown
                if number % 5:
                    continue
                found = estimate_trials(trials)
                if way == "Thompson":
                    chances = {memory_id: utility.chance for memory_id, utility in found.items()}
                if way == "young":
                    num_coins = {memory_id: one.num_shown + one.num_hidden for memory_id, one in found.items()}
                for memory_id, utility in found.items():
                    for rule, is_harmful in RULES_OF_HARM.items():
                        if is_harmful(utility):
                            found_at.setdefault((rule, memory_id), (seen[memory_id][0], seen[memory_id][1]))
            for memory_id in seen:
                for rule in RULES_OF_HARM:
                    if world.effects[memory_id] < 0:
                        counts[rule].append(found_at.get((rule, memory_id), (math.inf, math.inf)))
                    elif world.effects[memory_id] == 0:
                        flagged[rule] += (rule, memory_id) in found_at
                harmless += world.effects[memory_id] == 0
        for rule, listed in counts.items():
            table = np.array(listed)
            cells = [f"{np.median(table[:, side]):.0f} | {(table[:, side] <= 30).mean():.0%}" for side in (0, 1)]
            never = np.isinf(table[:, 0]).mean()
            false = f"{flagged[rule] / harmless:.1%} of {harmless}"
            print(f"| {name} ({len(table)}) | {rule} | {' | '.join(cells)} | {never:.0%} | {false} |", flush=True)


def measure_pairs(runs: int, num: int = 200) -> None:
    """Pairs with and without a memory that takes 0.3 or nothing, by how much of their luck both attempts share."""
    print(f"\npaired rollouts, looked at after each of {num} pairs, {runs} runs")
    print("| shared luck | pairs until proved: median | <= 30 | never | harmless ever | factor | bias | coverage |")
    print("|---|---|---|---|---|---|---|---|")
    for shared in (0.0, 0.5, 0.8, 1.0):
        until, false, factors, errors, covered = [], [], [], [], []
        for run in range(runs):
            world = World(run, num_tasks=10, num_memories=8, effect=0.3, share=0.15)
            for memory_id, effect in world.effects.items():
                tasks = [task for task in range(10) if memory_id in dict(world.ranked[task])]
                if effect > 0 or not tasks:
                    continue
                pairs: list[Pair] = []
                proved = math.inf
                for number in range(1, num + 1):
                    task = int(world.rng.choice(tasks))
                    others = [other for other, _ in world.ranked[task] if other != memory_id]
                    luck, again = world.rng.random(2)
                    again = luck if world.rng.random() < shared else again
                    with_it = float(luck < world.success(task, [*others, memory_id]))
                    pairs.append(Pair(memory_id, with_it, float(again < world.success(task, others))))
                    if math.isinf(proved) and estimate_pairs(pairs)[memory_id].harm >= HARMFUL:
                        proved = number
                found = estimate_pairs(pairs)[memory_id]
                factors.append(found.factor)
                errors.append(found.uplift - effect)
                covered.append(found.low <= effect <= found.high)
                if effect < 0:
                    until.append(proved)
                else:
                    false.append(proved < math.inf)
        times = np.array(until)
        cells = f"{np.median(times):.0f} | {(times <= 30).mean():.0%} | {np.isinf(times).mean():.0%}"
        alarms = f"{np.mean(false):.1%} of {len(false)}"
        tail = f"{np.median(factors):.1f} x | {np.mean(errors):+.4f} | {np.mean(covered):.3f}"
        print(f"| {shared:.0%} ({len(times)}) | {cells} | {alarms} | {tail} |", flush=True)


def plain_uplift(exposures: Sequence[Exposure], outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """The uplift as `estimate_utility` has it, in plain loops and without intervals."""
    level = BASELINE_COUNT
    episodes: dict[str, tuple[str, float]] = {}
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for exposure in exposures:
        value = outcomes[exposure.episode_key].value
        episodes[exposure.episode_key] = (exposure.task_key, value)
        totals[exposure.task_key][0] += value
        totals[exposure.task_key][1] += 1
    everything, number = sum(value for _, value in episodes.values()), len(episodes)
    arms: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    seen = set()
    for exposure in exposures:
        task, value = episodes[exposure.episode_key]
        overall = (everything - value + level * 0.5) / (number - 1 + level)
        overall = (everything - value + level * overall) / (number - 1 + level)  # the one context
        baseline = (totals[task][0] - value + level * overall) / (totals[task][1] - 1 + level)
        for candidate in exposure.candidates:
            unit = (exposure.episode_key, candidate.memory_id)
            if 0 < candidate.propensity < 1 and unit not in seen:
                seen.add(unit)
                arm = arms[candidate.memory_id]
                place = 0 if candidate.shown else 2
                weight = 1 / (candidate.propensity if candidate.shown else 1 - candidate.propensity)
                arm[place] += weight * (value - baseline)
                arm[place + 1] += weight
    return {m: arm[0] / arm[1] - arm[2] / arm[3] for m, arm in arms.items() if arm[1] and arm[3]}


def measure_speed(number: int = 100_000) -> None:
    """CPU seconds over a long log, beside plain loops that leave the intervals out."""
    world = World(0, num_tasks=500, num_memories=1000, num_candidates=5)
    start = time.process_time()
    log = run_log(world, Exploration(), number, thompson=False, places=5)
    drawn = time.process_time() - start
    start = time.process_time()
    found = estimate_utility(log.exposures, log.outcomes)
    ours = time.process_time() - start
    start = time.process_time()
    plain = plain_uplift(log.exposures, log.outcomes)
    loop = time.process_time() - start
    worst = max(abs(found[memory_id].uplift - uplift) for memory_id, uplift in plain.items())
    print(f"\n{number} exposures of 5 candidates, {len(found)} memories, CPU seconds")
    print(f"estimate {ours:.2f} s, plain loops without intervals {loop:.2f} s, {loop / ours:.1f} x as long")
    print(f"greatest difference between the two {worst:.0e}")
    print(f"drawing, playing and recording {drawn / number * 1e6:.0f} us an episode")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="of bias, regret, flags, pairs and speed; default: all")
    parser.add_argument("--runs", type=int, default=100)
    arguments = parser.parse_args()
    every = ("bias", "regret", "flags", "pairs", "speed")
    parts = arguments.parts or every
    if unknown := set(parts) - set(every):
        parser.error(f"no part {sorted(unknown)[0]!r}; choose from {', '.join(every)}")
    if "bias" in parts:
        measure_bias(arguments.runs)
    if "regret" in parts:
        measure_regret(max(arguments.runs // 5, 2))
    if "flags" in parts:
        measure_flags(arguments.runs)
    if "pairs" in parts:
        measure_pairs(arguments.runs)
    if "speed" in parts:
        measure_speed()


if __name__ == "__main__":
    main()
