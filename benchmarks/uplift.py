"""What a memory is worth to an agent without a language model: paired rounds of the same tasks, six arms.

Run: python benchmarks/uplift.py [--tasks 100] [--seeds 5] [--rounds 4]. The agent plays at random (FrozenLake, maps
that stay the same) or like an expert that plays at random every now and then (Sokoban, Household, ALFWorld); with a
memory it follows remembered successes where it knows the state.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from agentkit.envs import make_tasks
from agentkit.envs.registration import bundled_family
from agentkit.policies.doubles import ExpertPolicy, RandomPolicy
from agentkit.policies.policy import Policy
from agentkit.uplift import measure_uplift

CASES: tuple[tuple[str, dict[str, Any], Policy], ...] = (
    ("agentkit/FrozenLake-v0", {}, RandomPolicy()),
    ("agentkit/Sokoban-v0", {}, ExpertPolicy(noise=0.5)),
    ("agentkit/Household-v0", {"max_turns": 15, "max_actions": 15}, ExpertPolicy(noise=0.5)),
    ("agentkit/ALFWorld-v0", {"data": "generated", "max_turns": 15, "max_actions": 15}, ExpertPolicy(noise=0.5)),
)


def main() -> None:
    """Print a table for each environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    for env_id, params, agent in CASES:
        if bundled_family(env_id).unavailable() is not None:
            print(f"{env_id} cannot be played here: left out")
            continue
        begun = time.process_time()
        num = options.tasks // 4 if "ALFWorld" in env_id else options.tasks
        tasks = make_tasks(env_id, num=num, params=params)
        others = make_tasks(env_id, num=num, first=10 * num, params=params)
        results = measure_uplift(tasks, agent, other_tasks=others, rounds=options.rounds, seeds=range(options.seeds))
        print(f"\n{env_id} {params or ''}: {agent.name}, {num} tasks, {options.seeds} seeds, {options.rounds} rounds")
        print("arm      success, 95 %            uplift, paired 95 %         harmed  turns")
        for one in results:
            success, uplift = one.success, one.uplift
            print(
                f"{one.arm:8} {success.value:.3f} [{success.low:.3f}, {success.high:.3f}]   "
                f"{uplift.value:+.3f} [{uplift.low:+.3f}, {uplift.high:+.3f}]   {one.harmed:7.3f}  {one.turns:5.1f}"
            )
        print(f"{time.process_time() - begun:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
