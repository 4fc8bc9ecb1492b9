"""Household: ALFWorld's chores in houses drawn at random, or in imported games, played by an engine of our own.

Sentences, commands and rules are those of alfworld 0.4; what is our own are the houses, the expert and the speed.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentkit.envs.contract import whole_number
from agentkit.envs.household import engine, goal
from agentkit.envs.household.expert import plan
from agentkit.envs.household.games import read_games
from agentkit.envs.household.grammar import NOTHING, Command, parse_command, player_instructions
from agentkit.envs.household.house import TASK_TYPES, House, State
from agentkit.envs.household.houses import Size, draw_house
from agentkit.envs.puzzle import Puzzle
from agentkit.errors import ConfigError, unknown_name

SIZE = Size(24, 32)
"""Receptacles and objects in the fullest houses, if nothing else is asked for."""


class Household(Puzzle):
    """Find, clean, heat, cool and carry things in a house that is seen a place at a time.

    Implements `Snapshot`, `Expert` and `Goals`. The reward is 1 when the task is done, as in ALFWorld.
    """

    example = "go to fridge 1"

    def __init__(
        self,
        *,
        task_types: Sequence[str] = TASK_TYPES,
        max_receptacles: int | None = None,
        max_objects: int | None = None,
        games: str | None = None,
        max_turns: int = 50,
        max_actions: int = 50,
        max_actions_per_turn: int = 1,
    ) -> None:
        """Make the environment; the budgets are ALFWorld's.

        Args:
            task_types: ALFWorld's names of the types of task to draw, each equally often.
            max_receptacles: receptacles in the fullest houses, 6 to 60; None for 24.
            max_objects: objects in the fullest houses, 4 to 120; None for 32.
            games: folder of real games (`game.tw-pddl`) to play in place of drawn houses.
            max_turns: turns in an episode.
            max_actions: played actions in an episode.
            max_actions_per_turn: actions that one turn's text may hold.

        Raises:
            ConfigError: an argument is out of range, sizes are given together with `games`, or a game is broken.
            MissingPartError: `games` holds no game.
        """
        super().__init__(max_turns=max_turns, max_actions=max_actions, max_actions_per_turn=max_actions_per_turn)
        self.task_types = _read_task_types(task_types)
        if games is not None and not (max_receptacles is None and max_objects is None):
            raise ConfigError("games have the size they have: give either games or max_receptacles and max_objects")
        whole_number("budget (the smaller of max_actions and max_turns * max_actions_per_turn)", self.budget, 3)
        self.size = Size(
            whole_number("max_receptacles", SIZE.receptacles if max_receptacles is None else max_receptacles, 6, 60),
            whole_number("max_objects", SIZE.things if max_objects is None else max_objects, 4, 120),
        )
        self.games = games
        self._imported = {
            split: [house for house in houses if house.task.type in self.task_types]
            for split, houses in (read_games(games).items() if games is not None else ())
        }
        self.instructions = player_instructions(max_turns, max_actions, max_actions_per_turn)

    def expert_action(self) -> str:
        """The next commands of a shortest plan; `look` where there is none."""
        commands = plan(self.level, self.state) or ("look",)
        return " || ".join(commands[: min(self.max_actions_per_turn, self.actions_left)])

    def expert_success(self) -> float:
        """1.0 if a shortest plan fits the turns and actions left, else 0.0: nothing here is random."""
        commands = plan(self.level, self.state)
        left = min(self.actions_left, self.turns_left * self.max_actions_per_turn)
        return float(commands is not None and len(commands) <= left)

    def desired_goal(self) -> str:
        """The task in the first of ALFWorld's two wordings, as in `put a hot mug in shelf.`"""
        return goal.in_words(self.level.task)

    def achieved_goal(self) -> str:
        """A task in the same words that is done in the current state and was not at the start, or `nothing.`"""
        return goal.achieved(self.level, self.state)

    def _draw(self, split: str, seed: int) -> House:
        if self.games is None:
            return draw_house(self.task_types, self.size, self.budget, split, seed)
        houses = self._imported[split]
        if not houses:
            raise ConfigError(f"{self.games!r} holds no {split} game of the types {', '.join(self.task_types)}")
        return houses[seed % len(houses)]

    def _start(self) -> State:
        return self.level.start

    def _misread(self, culprit: str, some_played: bool) -> str:
        return NOTHING

    def _parse(self, text: str) -> Command | None:
        return parse_command(text)

    def _act(self, action: Command) -> tuple[float, str]:
        self.state, answer = engine.act(self.level, self.state, action)
        return float(engine.solved(self.level, self.state)), answer

    def _observe(self) -> str:
        return engine.opening(self.level) if self.turns_left == self.max_turns else ""

    def _outcome(self) -> bool | None:
        return True if engine.solved(self.level, self.state) else None

    def _state_key(self) -> str:
        return f"{self.level.key}:{tuple(self.state)}".replace(" ", "")

    def _admissible(self) -> list[str]:
        return engine.admissible(self.level, self.state)


def _read_task_types(task_types: Sequence[str]) -> tuple[str, ...]:
    if isinstance(task_types, str) or not task_types:
        raise ConfigError(f"task_types must be a list with some of {', '.join(TASK_TYPES)}, got {task_types!r}")
    for name in task_types:
        if name not in TASK_TYPES:
            raise ConfigError(str(unknown_name("type of task", str(name), TASK_TYPES)))
    return tuple(name for name in TASK_TYPES if name in task_types)
