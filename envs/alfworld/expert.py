"""Who knows how a game is won: a planner that sees everything, and ALFWorld's own expert that looks and searches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from types import FunctionType, MethodType
from typing import Any, Protocol

from agentkit.envs.alfworld.engine import Engine
from agentkit.envs.alfworld.package import alfworld
from agentkit.envs.household.engine import act
from agentkit.envs.household.expert import plan
from agentkit.envs.household.grammar import parse_command
from agentkit.envs.household.importer import read_game
from agentkit.errors import ConfigError, EnvironmentFault

FALLBACK = "look"
"""What an expert does that knows nothing better."""
PATIENCE = 200
"""Steps after which ALFWorld's expert gives up, as `alfworld-generate` has it."""


class GameExpert(Protocol):
    """An expert on one episode. `played` are the commands since its opening, whoever chose them; it only grows."""

    def action(self, played: Sequence[str]) -> str:
        """What to do now."""

    def wins(self, played: Sequence[str], steps: int) -> bool:
        """Whether following it from here wins within so many steps."""

    def close(self) -> None:
        """Let go of what it holds."""


class Planner:
    """Plays a shortest plan over the game's imported facts; `agentkit.envs.household` follows the state.

    Args:
        path: a `game.tw-pddl`.

    Raises:
        EnvironmentFault: the household family cannot read the game.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._house = read_game(path)
        except ConfigError as error:
            raise EnvironmentFault(f"no plan for the game {path}: {error}") from error
        self._state = self._house.start
        self._seen = 0

    def action(self, played: Sequence[str]) -> str:
        """The next command of a shortest plan, `look` if there is none."""
        return next(iter(self._plan(played) or (FALLBACK,)))

    def wins(self, played: Sequence[str], steps: int) -> bool:
        """Whether there is a plan and it is short enough."""
        commands = self._plan(played)
        return commands is not None and len(commands) <= steps

    def close(self) -> None:
        """Nothing is held."""

    def _plan(self, played: Sequence[str]) -> tuple[str, ...] | None:
        for text in played[self._seen :]:
            if (command := parse_command(text)) is not None:
                self._state, _ = act(self._house, self._state, command)
        self._seen = len(played)
        return plan(self._house, self._state)


class Handcoded:
    """ALFWorld's handcoded expert, which sees what a player sees and searches where things usually are.

    It is asked as ALFWorld's `AlfredExpert` asks it: after every command, whoever chose that. Where it gives up or
    stumbles, it looks. It follows the game on an engine of its own, and draws its random choices from a generator
    of its own, so that it is the same each time.

    Args:
        path: a `game.tw-pddl` with its `traj_data.json` beside it.

    Raises:
        EnvironmentFault: there is no such `traj_data.json`, or the game cannot be played.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._agent: Any = alfworld("agents.expert").HandCodedTWAgent(max_steps=PATIENCE)
        try:
            self._agent.reset(str(path))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise EnvironmentFault(
                f"ALFWorld's expert cannot read traj_data.json beside the game {path} ({error}); "
                "the expert 'planner' does without"
            ) from error
        rng = Random(f"handcoded|{path.parent.name}")
        for owner in (self._agent, self._agent.policy):
            owner.act = MethodType(_with_random(type(owner).act, rng), owner)
        self._engine = Engine(path)
        self._agent.observe(self._engine.reset())
        self._seen = 0
        self._won = False
        self._next = FALLBACK  # AlfredExpert's first action, too

    def action(self, played: Sequence[str]) -> str:
        """What it would do now, `look` if that cannot be done."""
        for command in played[self._seen :]:
            self._follow(command)
        self._seen = len(played)
        return self._next

    def wins(self, played: Sequence[str], steps: int) -> bool:
        """Found out by playing on, on one more engine."""
        trial = Handcoded(self._path)
        try:
            line = list(played)
            while (action := trial.action(line)) and not trial._won and len(line) < len(played) + steps:
                line.append(action)
            return trial._won
        finally:
            trial.close()

    def close(self) -> None:
        """Close its engine."""
        self._engine.close()

    def _follow(self, command: str) -> None:
        text, self._won = self._engine.step(command)
        admissible = self._engine.admissible
        state = {"feedback": text, "facts": self._engine.facts, "admissible_commands": admissible}
        self._next = FALLBACK
        try:
            chosen = self._agent.act(state, 0, self._won, command)
        except (NameError, LookupError, TypeError):  # giving up is a NameError; the others are its slips
            return
        if chosen in admissible:
            self._next = chosen


def _with_random(function: Any, rng: Random) -> FunctionType:
    """The same function with `rng` in place of the module `random`, which all threads share."""
    return FunctionType(function.__code__, {**function.__globals__, "random": rng}, function.__name__)


EXPERTS: dict[str, type[Planner] | type[Handcoded]] = {"planner": Planner, "handcoded": Handcoded}
"""Name -> expert."""
