"""Rates of the writers of memories that need no model, in CPU seconds, and how much of what they write repeats or errs.

Run: python benchmarks/writing.py [--tasks 40] [--attempts 4]. The peer of ingestion is the same episodes' validation
from JSON, which any reader of the log pays anyway.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

from agentkit import ExpertPolicy, RandomPolicy, collect, make_tasks
from agentkit.memory.distillation import distil
from agentkit.memory.ingestion import ingest
from agentkit.memory.kinds import Draft, InsightBody, Kind
from agentkit.memory.records import Episode
from agentkit.memory.skills import extract_skills

KINDS: tuple[Kind, ...] = ("episode", "step", "fact", "failure")
Result = TypeVar("Result")


def timed(work: Callable[[], Result], repeats: int = 3) -> tuple[float, Result]:
    """Least CPU seconds of some runs, and what the last gave."""
    least = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        result = work()
        least = min(least, time.process_time() - began)
    return least, result


def is_sound(draft: Draft, turns: dict[str, int]) -> bool:
    """Every episode and turn that it cites exists."""
    cited = set(draft.source.episode_ids)
    if isinstance(draft.body, InsightBody):
        cited |= {*draft.body.evidence_for, *draft.body.evidence_against}
    return (
        bool(cited)
        and all(name in turns for name in cited)
        and all(0 <= turn < turns[draft.source.episode_ids[0]] for turn in draft.source.turns)
    )


def row_of(env_id: str, num_tasks: int, num_attempts: int) -> str:
    """Play an environment, write all that can be written of it, and tell the rates."""
    tasks = make_tasks(env_id, num=num_tasks)
    episodes = list(collect(ExpertPolicy(), tasks))
    for seed in range(num_attempts):
        episodes += collect(RandomPolicy(), tasks, seed=seed)
    turns = {episode.id: len(episode.turns) for episode in episodes}
    texts = [episode.model_dump_json() for episode in episodes]
    won = [episode for episode in episodes if episode.success]
    lost = [episode for episode in episodes if not episode.success]
    usual_s, _ = timed(lambda: [draft for made in episodes for draft in ingest(made)])
    all_s, plain = timed(lambda: [draft for made in episodes for draft in ingest(made, KINDS)])
    json_s, _ = timed(lambda: [Episode.model_validate_json(text) for text in texts])
    distil_s, lessons = timed(lambda: distil(won, lost))
    skills_s, skills = timed(lambda: extract_skills(episodes))
    num_turns = sum(len(episode.turns) for episode in episodes)
    rates = " | ".join(f"{num_turns / seconds:,.0f}" for seconds in (usual_s, all_s, json_s, distil_s, skills_s))
    drafts = [*plain, *lessons, *skills]
    right = sum(is_sound(draft, turns) for draft in drafts) / len(drafts)
    insights = [draft.body for draft in lessons if isinstance(draft.body, InsightBody)]
    repeated = 1 - len({(body.condition, body.action) for body in insights}) / max(1, len(insights))
    counts = f"{len(insights)} | {len(skills)} | {repeated:.2f} | {right:.3f}"
    return f"| {env_id} | {num_turns} | {rates} | {counts} |"


def main() -> None:
    """Print one row for each environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=40, help="tasks of each environment")
    parser.add_argument("--attempts", type=int, default=4, help="random attempts at each task, beside the expert's")
    arguments = parser.parse_args()
    print("Turns per CPU second: ingest with its usual kinds, with all four, reading the JSON, distil, extract_skills")
    print("| environment | turns | ingest | all | JSON | distil | extract | insights | skills | repeated | sound |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for env_id in ("agentkit/Household-v0", "agentkit/FrozenLake-v0", "agentkit/Sokoban-v0"):
        print(row_of(env_id, arguments.tasks, arguments.attempts))


if __name__ == "__main__":
    main()
