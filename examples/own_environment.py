"""Your own environment in thirty lines, played by a scripted policy.

Run: python examples/own_environment.py
"""

from __future__ import annotations

from typing import Any

import gymnasium

from agentkit import ScriptedPolicy, TextEnv, collect, make_tasks


class Guess(TextEnv):
    """Guess a number from 1 to 9; the answer is higher, lower or found."""

    metadata: dict[str, Any] = {"render_modes": [], "inline": True}  # noqa: RUF012 - Gymnasium's own convention
    instructions = "Guess my number from 1 to 9. Write one number."
    example = "5"

    def __init__(self) -> None:
        super().__init__(max_turns=6, max_actions=6, max_actions_per_turn=1)

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        self.secret, self.hint = seed % 9 + 1, "Guess."

    def _parse(self, text: str) -> int | None:
        return int(text) if text.isdecimal() else None

    def _act(self, action: int) -> tuple[float, str]:
        self.hint = "found" if action == self.secret else "higher" if action < self.secret else "lower"
        return float(self.hint == "found"), ""

    def _observe(self) -> str:
        return self.hint

    def _outcome(self) -> bool | None:
        return True if self.hint == "found" else None

    def _state_key(self) -> str:
        return f"{self.secret}:{self.hint}"

    def _admissible(self) -> list[str]:
        return [str(number) for number in range(1, 10)]


def main() -> None:
    """Play one game and print it."""
    gymnasium.register("example/Guess-v0", entry_point=f"{__name__}:Guess", disable_env_checker=True)
    policy = ScriptedPolicy([f"<think>halve</think><answer>{number}</answer>" for number in (5, 7, 8)])
    episode = collect(policy, make_tasks("example/Guess-v0", num=1, first=7))[0]
    for turn in episode.turns:
        print(f"{turn.observation:>8} -> {turn.action}")
    print("success:", episode.success)


if __name__ == "__main__":
    main()
