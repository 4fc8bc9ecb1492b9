"""A game's file, checked: another version's rules would give other texts, and nonsense would crash the planner."""

from __future__ import annotations

import json
from pathlib import Path

from agentkit.errors import EnvironmentFault

PARTS = ("pddl_domain", "pddl_problem", "grammar")
MOVE = "move {o} to {r}"
"""The command that ALFWorld 0.4 introduced in place of `put {o} in/on {r}`."""


def read_game_file(path: Path) -> dict[str, str]:
    """Domain, problem and grammar of a `game.tw-pddl`.

    Raises:
        EnvironmentFault: it cannot be read, is no game, or was made for another version of ALFWorld.
    """
    try:
        game = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EnvironmentFault(f"the game {path} cannot be read: {error}") from error
    lacking = [part for part in PARTS if not (isinstance(game, dict) and isinstance(game.get(part), str))]
    if lacking:
        raise EnvironmentFault(f"{path} is no ALFWorld game: it lacks {', '.join(lacking)}")
    if MOVE not in game["grammar"]:
        raise EnvironmentFault(
            f"the game {path} was made for another version of ALFWorld: its commands do not have {MOVE!r}; "
            "fetch the games of version 0.4 with: alfworld-download --force"
        )
    return {part: game[part] for part in PARTS}
