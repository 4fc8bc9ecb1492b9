"""What reflections and branches add to plain retries, with equal attempts, for two experts that err.

The wanderer errs by chance, anew each time, and reads nothing: all that can help it is where it begins again. The
creature of habit errs in the same states in the same way, as models do, until its prompt says of that state that this
action was played in vain: it shows whether reflections name the right mistakes, not how well a model would listen.

Run: python benchmarks/retries.py [--tasks 100] [--seeds 3] [--attempts 3]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentkit import ExpertPolicy, Task, make_tasks
from agentkit.agents import collect_retries, from_record
from agentkit.agents.reflection import SEEN_LIMIT
from agentkit.evaluation import bootstrap
from agentkit.memory import Role
from agentkit.memory.case import clip
from agentkit.memory.exposure import uniform
from agentkit.policies import Completion, Request, as_response

WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "Sokoban": ("agentkit/Sokoban-v0", {"max_turns": 12, "max_actions": 12, "max_actions_per_turn": 1}),
    "Household": ("agentkit/Household-v0", {"max_turns": 14, "max_receptacles": 8, "max_objects": 6}),
}
ARMS = {"plain": None, "reflexion": from_record(), "from the turn": from_record(branch=True)}


@dataclass
class CreatureOfHabit:
    """The expert, but in a share of the states it always does the same wrong thing, unless it was told not to."""

    share: float
    seed: int = 0
    name: str = "habit"
    version: int = 0

    async def complete(self, request: Request) -> Completion:
        """Its habit, where it has one and its prompt does not speak against it; else the expert's action."""
        state, choices = request.world.state_key, list(request.world.admissible_actions)
        right = await request.world.expert_action()
        if uniform(self.seed, "has a habit", state) >= self.share:
            return Completion(as_response(right))
        habit = choices[int(uniform(self.seed, "habit", state) * len(choices))]
        return Completion(as_response(right if _told_off(request, habit) else habit))


def _told_off(request: Request, action: str) -> bool:
    """Whether a reflection in the prompt says of what is seen now that `action` failed."""
    parts = [part for message in request.messages for part in message.parts]
    observation = [part.text for part in parts if part.role is Role.OBSERVATION][-1]
    memory = "".join(part.text for part in parts if part.role is Role.MEMORY)
    _, here, after = memory.partition(f"Seen: {clip(observation, SEEN_LIMIT)}\n")
    return bool(here) and f"`{action}`" in after.partition("\nSeen: ")[0]


def solved(policy_of: Callable[[int], Any], tasks: list[Task], reflect: Any, attempts: int, seeds: int) -> Any:
    """([S, T] whether each task was solved, turns that the policy was asked for, a task)."""
    won, turns = [], 0
    for seed in range(seeds):
        tries = collect_retries(policy_of(seed), tasks, reflect=reflect, attempts=attempts, seed=seed)
        won.append([episodes[-1].success for episodes in tries])
        turns += sum(len(episode.turns) - (episode.parent_turn or 0) for episodes in tries for episode in episodes)
    return np.array(won, float), turns / (seeds * len(tasks))


def main() -> None:
    """Print success and turns of every arm, and the paired difference to plain retries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--attempts", type=int, default=3)
    given = parser.parse_args()
    experts: dict[str, Callable[[int], Any]] = {
        "wanderer": lambda seed: ExpertPolicy(0.5),
        "habit": lambda seed: CreatureOfHabit(0.3, seed),
    }
    print(f"{'world':10} {'expert':9} {'arm':14} {'solved':>7} {'turns':>6}  difference to plain, 95 %")
    begun = time.process_time()
    for world, (env_id, params) in WORLDS.items():
        tasks = make_tasks(env_id, num=given.tasks, params=params)
        for expert, policy_of in experts.items():
            plain = np.zeros(0)
            for arm, reflect in ARMS.items():
                won_ST, turns = solved(policy_of, tasks, reflect, given.attempts, given.seeds)
                plain = won_ST if reflect is None else plain
                gain = bootstrap((won_ST - plain).mean(axis=0), np.random.default_rng(0))
                print(f"{world:10} {expert:9} {arm:14} {won_ST.mean():7.3f} {turns:6.1f}  {gain if reflect else ''}")
    print(f"{time.process_time() - begun:.0f} s of CPU")


if __name__ == "__main__":
    main()
