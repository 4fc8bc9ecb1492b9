"""FrozenLake in text: random solvable lakes with RAGEN's symbols on Gymnasium's own dynamics.

The transition table is the one Gymnasium builds for our map; slipping is not implemented a second time.
RAGEN's generator is followed in distribution (random start and goal, each other cell frozen with probability
`p`), see arXiv 2504.20073; left out are its `grid_coord` text, which repeats the state twice, and pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from random import Random
from typing import Any, NamedTuple

from agentkit.envs.contract import whole_number
from agentkit.envs.grid import DIRECTIONS, cell_at, parse_direction, path_lengths, place
from agentkit.envs.lake_plan import LakePlan
from agentkit.envs.puzzle import Puzzle, check_split, draw_level
from agentkit.errors import ConfigError, unknown_name

TEXTS = ("grid", "coords")
Move = tuple[float, int]
"""(cumulative probability, next cell) of one possible result of an action."""


class Lake(NamedTuple):
    """A level: one lake."""

    rows: tuple[str, ...]
    """[size] strings of Gymnasium's letters: S start, F frozen, H hole, G goal."""

    def find(self, letter: str) -> list[int]:
        """Cells holding `letter`, numbered row by row from 0."""
        return [cell for cell, found in enumerate("".join(self.rows)) if found == letter]


class FrozenLake(Puzzle):
    """Cross a frozen lake to the goal; +1 for reaching it. Implements `Snapshot`, `Expert` and `Goals`.

    Levels can be solved within the budgets when nothing slips. The state is the player's cell.
    """

    metadata: dict[str, Any] = {**Puzzle.metadata, "sets_goals": True}  # noqa: RUF012 - Gymnasium's own convention
    example = "Right || Down"

    def __init__(
        self,
        *,
        size: int = 4,
        p: float = 0.9,
        slip: float = 0.0,
        text: str = "grid",
        goal: str | None = None,
        max_turns: int = 5,
        max_actions: int = 10,
        max_actions_per_turn: int = 2,
    ) -> None:
        """Make the environment; defaults are RAGEN's maps and budgets, not slippery (ActFocus: coords, unstated slip).

        Args:
            size: rows and columns, 2 to 16.
            p: probability that a cell other than start and goal is frozen, above 0 and at most 1.
            slip: probability in [0, 1] of not moving as intended: half of it to each side, never backwards.
                Gymnasium's `success_rate` is `1 - slip`; its default lake has slip 2/3.
            text: "grid" (symbols) or "coords" (sentences).
            goal: a cell of ice to be the goal of every lake, as in `row 3 col 1`, instead of the lake's own, which
                becomes ice; whether it can be reached is not checked. None for the lake's own.
            max_turns: turns in an episode.
            max_actions: played actions in an episode.
            max_actions_per_turn: 1 to 6; the exact expert weighs 4 to this power action texts.

        Raises:
            ConfigError: an argument is out of range.
        """
        super().__init__(max_turns=max_turns, max_actions=max_actions, max_actions_per_turn=max_actions_per_turn)
        whole_number("max_actions_per_turn", max_actions_per_turn, most=6)
        self.size = whole_number("size", size, least=2, most=16)
        if not _is_number(p) or not 0 < p <= 1:
            raise ConfigError(f"p (probability of ice) must be above 0 and at most 1, got {p!r}")
        if not _is_number(slip) or not 0 <= slip <= 1:
            raise ConfigError(f"slip (probability of not moving as intended) must be in [0, 1], got {slip!r}")
        if text not in TEXTS:
            raise ConfigError(str(unknown_name("text", str(text), TEXTS)))
        self.p, self.slip, self.text = float(p), float(slip), text
        self.goal = None if goal is None else cell_at(self.size, goal)
        if goal is not None and self.goal is None:
            raise ConfigError(f"goal must be a cell of the lake, as in 'row 1 col 2', got {goal!r}")
        self.instructions = _instructions(self)

    def expert_action(self) -> str:
        """The turn that most probably leads to success; among equals the one of fewest expected actions."""
        turn = self._plan().best_turn(self.state, self.turns_left, self.actions_left)
        return " || ".join(DIRECTIONS[direction] for direction in turn or (0,))

    def expert_success(self) -> float:
        """Exact probability of success of `expert_action` to the end, by dynamic programming (`LakePlan`)."""
        return self._plan().success(self.state, self.turns_left, self.actions_left)

    def desired_goal(self) -> str:
        """The goal's cell, as in `row 3 col 1`."""
        return place(self.size, self.level.find("G")[0])

    def achieved_goal(self) -> str:
        """The player's cell, as in `row 0 col 2`."""
        return place(self.size, self.state)

    def _draw(self, split: str, seed: int) -> Lake:
        lake = _draw_lake(self.size, self.p, self.budget, split, seed)
        return lake if self.goal is None else _with_goal(lake, self.goal, split)

    def _start(self) -> int:
        return self.level.find("S")[0]

    def _parse(self, text: str) -> int | None:
        return parse_direction(text)

    def _act(self, action: int) -> tuple[float, str]:
        results = _transitions(self.level, self.slip)[self.state][action]
        cell = results[-1][1]
        if len(results) > 1:
            drawn = _noise(self.instance, self.max_actions)[self.max_actions - self.actions_left]
            cell = next((cell for bound, cell in results if drawn < bound), cell)
        self.state = cell
        return (1.0 if self._outcome() else 0.0), ""

    def _observe(self) -> str:
        letter = _letters(self.level)[self.state]
        if self.text == "coords":
            return f"You: {place(self.size, self.state)}. {_surroundings(self.level)}"
        ice = _drawing(self.level)
        spot = self.state + self.state // self.size  # a line break ends each row
        return ice[:spot] + {"H": "X", "G": "√"}.get(letter, "P") + ice[spot + 1 :]

    def _outcome(self) -> bool | None:
        return {"G": True, "H": False}.get(_letters(self.level)[self.state])

    def _admissible(self) -> list[str]:
        return list(DIRECTIONS)

    def _plan(self) -> LakePlan:
        return _plan(self.level, self.slip, self.max_actions_per_turn)


def _instructions(env: FrozenLake) -> str:
    if env.text == "grid":
        legend = "P you, _ ice, O hole, G goal, X you in a hole, √ you on the goal."
    else:
        legend = "Rows count down from 0 at the top, columns to the right from 0 at the left."
    side = f" The ice is slippery: with probability {env.slip:g} you slide to one side instead."
    return (
        f"Cross the frozen lake to the goal; falling into a hole ends the game. {legend}"
        f"{side if env.slip else ''}\n"
        f"Actions: Up, Down, Left, Right. At most {env.max_actions_per_turn} a turn, separated by ||, "
        f"for example: {env.example}\n"
        f"You have {env.max_turns} turns and {env.max_actions} actions."
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _lakes(rng: Random, size: int, p: float, budget: int) -> Iterator[Lake | None]:
    """Endless random lakes; None where the goal is out of reach or further than `budget` steps."""
    while True:
        letters = ["F" if rng.random() < p else "H" for _ in range(size * size)]
        start = goal = int(rng.random() * size * size)
        while goal == start:
            goal = int(rng.random() * size * size)
        letters[start], letters[goal] = "S", "G"
        holes = {cell for cell, letter in enumerate(letters) if letter == "H"}
        if path_lengths(size, start, holes).get(goal, budget + 1) <= budget:
            yield Lake(tuple("".join(letters[row * size : (row + 1) * size]) for row in range(size)))
        else:
            yield None


@lru_cache(maxsize=4096)
def _draw_lake(size: int, p: float, budget: int, split: str, seed: int) -> Lake:
    proposals = partial(_lakes, size=size, p=p, budget=budget)
    return draw_level("FrozenLake", proposals, lambda lake: "\n".join(lake.rows), split, seed)


def _with_goal(lake: Lake, goal: int, split: str) -> Lake:
    size = len(lake.rows)
    letters = list(_letters(lake).replace("G", "F"))
    if letters[goal] != "F":
        raise ConfigError(f"goal {place(size, goal)!r} is a hole or the start of this lake; choose a cell of ice")
    letters[goal] = "G"
    changed = Lake(tuple("".join(letters[row * size : (row + 1) * size]) for row in range(size)))
    check_split("FrozenLake", "\n".join(changed.rows), split)
    return changed


@lru_cache(maxsize=1024)
def _transitions(lake: Lake, slip: float) -> tuple[tuple[tuple[Move, ...], ...], ...]:
    """[cells][4 actions] possible results of Gymnasium's table for this lake."""
    from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

    table = FrozenLakeEnv(desc=list(lake.rows), is_slippery=slip > 0, success_rate=1.0 - slip).P
    return tuple(tuple(_accumulate(table[cell][action]) for action in range(4)) for cell in range(len(table)))


def _accumulate(results: list[tuple[float, int, float, bool]]) -> tuple[Move, ...]:
    moves, total = [], 0.0
    for probability, cell, _, _ in results:
        total += probability
        moves.append((total, int(cell)))
    return tuple(moves)


@lru_cache(maxsize=4096)
def _noise(instance: tuple[str, int, int], num: int) -> tuple[float, ...]:
    """[num] uniform numbers, one an action: all noise of an attempt, so a snapshot needs no generator."""
    split, seed, attempt = instance
    rng = Random(f"FrozenLake|noise|{split}|{seed}|{attempt}")
    return tuple(rng.random() for _ in range(num))


@lru_cache(maxsize=1024)
def _plan(lake: Lake, slip: float, max_actions_per_turn: int) -> LakePlan:
    return LakePlan(_transitions(lake, slip), lake.find("G")[0], lake.find("H"), max_actions_per_turn)


@lru_cache(maxsize=4096)
def _letters(lake: Lake) -> str:
    return "".join(lake.rows)


@lru_cache(maxsize=4096)
def _drawing(lake: Lake) -> str:
    return "\n".join(lake.rows).translate(str.maketrans("SFH", "__O"))


@lru_cache(maxsize=4096)
def _surroundings(lake: Lake) -> str:
    size = len(lake.rows)
    holes = "; ".join(place(size, cell) for cell in lake.find("H")) or "none"
    return f"Goal: {place(size, lake.find('G')[0])}. Holes: {holes}."
