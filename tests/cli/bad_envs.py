"""Environments that misbehave from task 2 on, registered when this module is imported (`bad_envs:bad/…`)."""

from __future__ import annotations

import os
import time
from typing import Any

import gymnasium

from agentkit.envs import TextEnv


class Counting(TextEnv):
    """Ends after two turns; a subclass says how it goes wrong."""

    instructions = "Say anything."

    def __init__(self) -> None:
        super().__init__(max_turns=2, max_actions=2, max_actions_per_turn=1)
        self.number = self.turn = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self.number, self.turn = seed or 0, 0
        return f"task {self.number}", self._about(False)

    def step(self, action: str) -> Any:
        if self.number >= 2:
            return self.go_wrong()
        self.turn += 1
        return "next", 0.5, self.turn == 2, False, self._about(self.turn == 2)

    def go_wrong(self) -> Any:
        raise NotImplementedError

    def _about(self, success: bool) -> dict[str, Any]:
        return {"success": success, "valid": True, "state_key": str(self.turn), "admissible_actions": ["go"]}


class Raises(Counting):
    def go_wrong(self) -> Any:
        raise ZeroDivisionError("the world divided by zero")


class Hangs(Counting):
    def go_wrong(self) -> Any:
        time.sleep(3)


class Crashes(Counting):
    def go_wrong(self) -> Any:
        os.abort()


class WrongType(Counting):
    def go_wrong(self) -> Any:
        return b"bytes", 0.0, False, False, self._about(False)


class Unmakeable(Counting):
    def __init__(self) -> None:
        raise ZeroDivisionError("no world today")


class Slow(Counting):
    def step(self, action: str) -> Any:
        time.sleep(0.2)
        return "next", 0.0, True, False, self._about(True)


for name in ("Raises", "Hangs", "Crashes", "WrongType", "Unmakeable", "Slow"):
    if f"bad/{name}-v0" not in gymnasium.registry:  # pytest imports this file too, under another name
        gymnasium.register(f"bad/{name}-v0", entry_point=f"{__name__}:{name}", disable_env_checker=True)
