"""Reflect and retry: a policy with wrong habits, retried plainly, with reflections, and from the turn that failed.

The policy stands for a model that heeds what its prompt says: it errs in the same places until it is told.

Run: python examples/reflexion.py
"""

from __future__ import annotations

from agentkit import Role, make_tasks
from agentkit.agents import collect_retries, from_record
from agentkit.policies import Completion, Request, as_response

WORLD = {"max_turns": 12, "max_actions": 12, "max_actions_per_turn": 1}


class Stubborn:
    """Goes up wherever the expert would go down, unless it was told that this failed where it now is."""

    name, version = "stubborn", 0

    async def complete(self, request: Request) -> Completion:
        """One move."""
        parts = [part for message in request.messages for part in message.parts]
        seen = [part.text for part in parts if part.role is Role.OBSERVATION][-1]
        told = "".join(part.text for part in parts if part.role is Role.MEMORY)
        action = await request.world.expert_action()
        if action == "Down" and f"Seen: {seen}\nFailed by a loop: `Up`" not in told:
            action = "Up"
        return Completion(as_response(action))


def main() -> None:
    """Retry 20 levels of Sokoban in three ways; print what was solved, and one retry in full."""
    tasks = make_tasks("agentkit/Sokoban-v0", num=20, params=WORLD)
    ways = {"plainly": None, "with reflections": from_record(), "from the turn": from_record(branch=True)}
    for way, reflect in ways.items():
        tries = collect_retries(Stubborn(), tasks, reflect=reflect, attempts=4)
        print(f"{way:16} {sum(episodes[-1].success for episodes in tries)} of {len(tries)} solved")
    parent, child = next(episodes for episodes in tries if len(episodes) == 2 and episodes[1].success)
    print(f"\nepisode {child.id} leaves {parent.id} at turn {child.parent_turn}, having been told:")
    print(child.turns[-1].messages[1].parts[0].text)


if __name__ == "__main__":
    main()
