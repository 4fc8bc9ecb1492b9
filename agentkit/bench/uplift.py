"""What a memory is worth to an agent without a language model: six arms play the same tasks with the same seeds.

The agent plays at random (FrozenLake, maps that stay the same) or like an expert that plays at random every now and
then (the others); with a memory it follows remembered successes where it knows the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentkit.bench.table import Cell, Check, Scale, Table
from agentkit.envs import make_tasks
from agentkit.envs.registration import bundled_family
from agentkit.policies.doubles import ExpertPolicy, RandomPolicy
from agentkit.policies.policy import Policy
from agentkit.uplift import PLACEBO_CASES, ArmResult, measure_uplift

CASES: tuple[tuple[str, dict[str, Any], Policy, int], ...] = (
    ("agentkit/FrozenLake-v0", {}, RandomPolicy(), 1),
    ("agentkit/Sokoban-v0", {}, ExpertPolicy(noise=0.5), 1),
    ("agentkit/Household-v0", {"max_turns": 15, "max_actions": 15}, ExpertPolicy(noise=0.5), 1),
    ("agentkit/ALFWorld-v0", {"data": "generated", "max_turns": 15, "max_actions": 15}, ExpertPolicy(noise=0.5), 4),
)
"""Environment, its arguments, who plays, and by how much its tasks are fewer: ALFWorld plays a hundredth as fast."""


def measure(scale: Scale) -> Table:
    """Six arms in each environment that can be played here."""
    num_tasks, rounds = scale.pick((4, 2), (20, 3), (100, 4))
    seeds = range(scale.num_seeds(1, 2, 5))
    found: dict[str, list[ArmResult]] = {}
    notes = []
    for env_id, params, agent, fewer in CASES:
        name = env_id.removeprefix("agentkit/").removesuffix("-v0")
        reason = bundled_family(env_id).unavailable()
        if reason is not None or (fewer > 1 and scale.size != "full"):
            notes.append(f"{name} is left out: {reason or 'it is slow; only the full run plays it'}")
            continue
        num = num_tasks // fewer
        tasks = make_tasks(env_id, num=num, params=params)
        others = make_tasks(env_id, num=num, first=10 * num, params=params)
        found[name] = measure_uplift(tasks, agent, other_tasks=others, rounds=rounds, seeds=seeds)
    live = {name: next(one for one in arms if one.arm == "live") for name, arms in found.items()}
    corrected = dict(zip(live, holm([one.p for one in live.values()]), strict=True))
    rows = [_row(name, one, corrected[name]) for name, arms in found.items() for one in arms]
    return Table(
        name="uplift",
        title=f"success on tasks that come back, {num_tasks} tasks, {len(seeds)} seeds, {rounds} rounds, 95 %",
        rows=tuple(rows),
        checks=_checks(found, live, corrected),
        notes=(
            "p: of the uplift of live, signs of the tasks' differences flipped, Holm's correction over environments.",
            f"random: {PLACEBO_CASES} memories of these tasks, so it should help a little.",
            *notes,
        ),
    )


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected for there being several (Holm 1979), in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(ps)
    most = 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        most = max(most, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = most
    return corrected


def _row(name: str, one: ArmResult, corrected: float) -> dict[str, Cell]:
    return {
        "environment": name,
        "arm": one.arm,
        "success": str(one.success),
        "uplift": str(one.uplift),
        "p, Holm": corrected if one.arm == "live" else None,
        "harmed": one.harmed,
        "turns": one.turns,
    }


def _checks(
    found: dict[str, list[ArmResult]], live: dict[str, ArmResult], corrected: dict[str, float]
) -> tuple[Check, ...]:
    placebo = [one.uplift.value for arms in found.values() for one in arms if one.arm == "random"]
    helped = sum(one.uplift.low > 0 and corrected[name] < 0.05 for name, one in live.items())
    harmed = max((one.harmed for one in live.values()), default=float("nan"))
    return (
        Check(what="environments where live helps (interval and p)", value=helped, bar=2, at="least"),
        Check(what="greatest uplift of the placebo", value=max(placebo, default=0.0), bar=0.05, at="most"),
        Check(what="greatest harm rate of live", value=harmed, bar=0.01, at="most"),
    )
