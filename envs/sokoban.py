"""Sokoban in text: random rooms with RAGEN's symbols and rewards, every level proven solvable in its budget.

Levels are found backwards: from all solved states of a random room, pulling boxes, a breadth-first search
reaches every state within the action budget together with its shortest solution. One search gives generator,
proof and expert. Left out is gym_sokoban's reverse play, which takes 8 ms a level and depends on global
random state.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from random import Random
from typing import Any, NamedTuple

from agentkit.envs.contract import whole_number
from agentkit.envs.grid import DIRECTIONS, STEPS, cell_at, parse_direction, path_lengths, place
from agentkit.envs.puzzle import Puzzle, check_split, draw_level
from agentkit.errors import ConfigError, unknown_name

LEGENDS = {
    "grid": "# wall, _ floor, O target, X box, √ box on target, P you, S you on a target.",
    "coords": "Rows count down from 0 at the top, columns right from 0 at the left; the outermost cells are walls.",
}
"""How each `text` shows a level, in the player's words."""
WALL_CHANCE = 0.2
"""Probability that an inner cell is a wall."""
SHORTEST = 2
"""Actions in the shortest solution of the easiest level; one push alone is no puzzle."""
LEVELS_PER_ROOM = 4
"""Proposals drawn from one room's search."""
STEP_REWARD, BOX_REWARD, SOLVED_REWARD = -0.1, 1.0, 10.0
State = tuple[int, int]
"""(player's cell, boxes as a bit mask over cells)"""


class Room(NamedTuple):
    """A level. Cells are numbered row by row; sets of cells are bit masks."""

    size: int
    """Rows and columns, the outer walls included."""
    walls: int
    targets: int
    boxes: int
    player: int


class Sokoban(Puzzle):
    """Push all boxes onto the targets. Implements `Snapshot`, `Expert` and `Goals`.

    Rewards as in gym_sokoban and RAGEN: -0.1 an action, +1 a box pushed onto a target, -1 a box pushed off
    one, +10 solved. The state is the player's cell and the mask of boxes.
    """

    metadata: dict[str, Any] = {**Puzzle.metadata, "sets_goals": True}  # noqa: RUF012 - Gymnasium's own convention
    example = "Right || Down"

    def __init__(
        self,
        *,
        size: int = 6,
        num_boxes: int = 1,
        text: str = "grid",
        goal: str | None = None,
        max_turns: int = 5,
        max_actions: int = 10,
        max_actions_per_turn: int = 2,
    ) -> None:
        """Make the environment; defaults are those of RAGEN and ActFocus (arXiv 2605.14558).

        Args:
            size: rows and columns, the outer walls included, 5 to 10.
            num_boxes: boxes, and as many targets, 1 to 3.
            text: "grid" (symbols) or "coords" (sentences).
            goal: cells of floor to be the targets of every level, as in `row 1 col 2; row 4 col 3`, instead of the
                level's own; whether they can be reached is not checked. None for the level's own.
            max_turns: turns in an episode.
            max_actions: played actions in an episode.
            max_actions_per_turn: actions that one turn's text may hold.

        Raises:
            ConfigError: an argument is out of range, or no level fits the budgets.
        """
        super().__init__(max_turns=max_turns, max_actions=max_actions, max_actions_per_turn=max_actions_per_turn)
        self.size = whole_number("size", size, least=5, most=10)
        self.num_boxes = whole_number("num_boxes", num_boxes, most=3)
        if text not in LEGENDS:
            raise ConfigError(str(unknown_name("text", str(text), tuple(LEGENDS))))
        self.text = text
        whole_number("budget (the smaller of max_actions and max_turns * max_actions_per_turn)", self.budget, 2)
        self._moves = cell_steps(self.size)
        self.targets: int | None = None
        if goal is not None:
            cells = {cell_at(self.size, words.strip()) for words in goal.split(";")}
            if None in cells or len(cells) != self.num_boxes:
                raise ConfigError(
                    f"goal must be {self.num_boxes} cells, as in 'row 1 col 2; row 4 col 3', got {goal!r}"
                )
            self.targets = sum(1 << cell for cell in cells if cell is not None)
        self.instructions = (
            "Push every box onto a target. Walk into a box to push it; you cannot pull, nor push it into a "
            f"wall or another box.\n{LEGENDS[text]}\n"
            f"Actions: Up, Down, Left, Right. At most {max_actions_per_turn} a turn, separated by ||, "
            f"for example: {self.example}\n"
            f"You have {max_turns} turns and {max_actions} actions."
        )

    def expert_action(self) -> str:
        """The next turn of a shortest solution; `Up` where none fits the actions that an episode has."""
        lengths, state = self._lengths(), self.state
        chosen: list[str] = []
        while lengths.get(state, 0) > 0 and len(chosen) < min(self.max_actions_per_turn, self.actions_left):
            nearer = lengths[state] - 1
            results = [move(self.level, state, step) for step in self._moves]
            best = next(number for number, result in enumerate(results) if lengths.get(result) == nearer)
            chosen.append(DIRECTIONS[best])
            state = results[best]
        return " || ".join(chosen) or "Up"

    def expert_success(self) -> float:
        """1.0 if a shortest solution fits the turns and actions left, else 0.0: nothing here is random."""
        needed = self._lengths().get(self.state)
        left = min(self.actions_left, self.turns_left * self.max_actions_per_turn)
        return float(needed is not None and needed <= left)

    def desired_goal(self) -> str:
        """The targets' cells, as in `row 1 col 2; row 4 col 3`."""
        return "; ".join(place(self.size, cell) for cell in cells_of(self.level.targets))

    def achieved_goal(self) -> str:
        """The boxes' cells, in the same order of cells."""
        return "; ".join(place(self.size, cell) for cell in cells_of(self.state[1]))

    def _draw(self, split: str, seed: int) -> Room:
        room = _draw_room(self.size, self.num_boxes, self.budget, split, seed)
        if self.targets is None:
            return room
        if self.targets & room.walls or self.targets == room.boxes:
            raise ConfigError(
                "the goal is in a wall of this level, or where its boxes stand at the start; give another"
            )
        room = room._replace(targets=self.targets)
        check_split("Sokoban", repr(room), split)
        return room

    def _start(self) -> State:
        return self.level.player, self.level.boxes

    def _parse(self, text: str) -> int | None:
        return parse_direction(text)

    def _act(self, action: int) -> tuple[float, str]:
        targets = self.level.targets
        before = (self.state[1] & targets).bit_count()
        self.state = move(self.level, self.state, self._moves[action])
        reward = STEP_REWARD + BOX_REWARD * ((self.state[1] & targets).bit_count() - before)
        return reward + (SOLVED_REWARD if self._outcome() else 0.0), ""

    def _observe(self) -> str:
        player, boxes = self.state
        if self.text == "coords":
            return f"You: {place(self.size, player)}. Boxes: {self.achieved_goal()}. {_surroundings(self.level)}"
        glyphs = list(_drawing(self.level))
        for cell in cells_of(boxes):
            glyphs[cell + cell // self.size] = "√" if self.level.targets >> cell & 1 else "X"
        glyphs[player + player // self.size] = "S" if self.level.targets >> player & 1 else "P"
        return "".join(glyphs)

    def _outcome(self) -> bool | None:
        return True if self.state[1] == self.level.targets else None

    def _admissible(self) -> list[str]:
        return list(DIRECTIONS)

    def _lengths(self) -> dict[State, int]:
        return solution_lengths(self.size, self.level.walls, self.level.targets, self.budget)


def cell_steps(size: int) -> tuple[int, ...]:
    """[4] what each direction adds to a cell's number."""
    return tuple(rows * size + columns for rows, columns in STEPS)


def cells_of(mask: int) -> list[int]:
    """Cells of a bit mask, ascending.

    >>> cells_of(0b1010)
    [1, 3]
    """
    return [cell for cell in range(mask.bit_length()) if mask >> cell & 1]


def move(room: Room, state: State, step: int) -> State:
    """The state after one step; unchanged if a wall, or a box that cannot move, is in the way."""
    player, boxes = state
    ahead, beyond = player + step, player + 2 * step
    if room.walls >> ahead & 1:
        return state
    if not boxes >> ahead & 1:
        return ahead, boxes
    if (room.walls | boxes) >> beyond & 1:
        return state
    return ahead, boxes ^ (1 << ahead | 1 << beyond)


@lru_cache(maxsize=128)
def solution_lengths(size: int, walls: int, targets: int, longest: int) -> dict[State, int]:
    """Length of the shortest solution of every state of a room that has one of at most `longest` actions.

    Breadth first and backwards from the solved states: the player steps back, and may or may not pull the box
    it would have pushed.
    """
    solved = [(cell, targets) for cell in range(size * size) if not (walls | targets) >> cell & 1]
    lengths: dict[State, int] = dict.fromkeys(solved, 0)
    frontier = solved
    steps = cell_steps(size)
    for length in range(1, longest + 1):
        reached: list[State] = []
        for player, boxes in frontier:
            for step in steps:
                behind, ahead = player - step, player + step
                if (walls | boxes) >> behind & 1:
                    continue
                if (behind, boxes) not in lengths:
                    lengths[behind, boxes] = length
                    reached.append((behind, boxes))
                if boxes >> ahead & 1:
                    pulled = (behind, boxes ^ (1 << ahead | 1 << player))
                    if pulled not in lengths:
                        lengths[pulled] = length
                        reached.append(pulled)
        frontier = reached
    return lengths


def _rooms(rng: Random, size: int, num_boxes: int, budget: int) -> Iterator[Room | None]:
    """Endless random rooms; solution lengths are spread evenly over what the room offers."""
    inner = [row * size + column for row in range(1, size - 1) for column in range(1, size - 1)]
    outer = set(range(size * size)).difference(inner)
    while True:
        walls = outer | {cell for cell in inner if rng.random() < WALL_CHANCE}
        start = inner[int(rng.random() * len(inner))]
        if start in walls:
            yield None
            continue
        floor = sorted(path_lengths(size, start, walls))
        if len(floor) < 2 * num_boxes + 3:
            yield None
            continue
        wall_mask = sum(1 << cell for cell in set(range(size * size)).difference(floor))
        targets = sorted(floor, key=lambda _: rng.random())[:num_boxes]
        target_mask = sum(1 << cell for cell in targets)
        states: list[list[State]] = [[] for _ in range(budget + 1)]
        for state, length in solution_lengths(size, wall_mask, target_mask, budget).items():
            states[length].append(state)
        choices = [same for same in states[SHORTEST:] if same]
        for _ in range(LEVELS_PER_ROOM if choices else 0):
            same = choices[int(rng.random() * len(choices))]
            player, boxes = same[int(rng.random() * len(same))]
            yield Room(size, wall_mask, target_mask, boxes, player)
        yield None


@lru_cache(maxsize=4096)
def _draw_room(size: int, num_boxes: int, budget: int, split: str, seed: int) -> Room:
    proposals = partial(_rooms, size=size, num_boxes=num_boxes, budget=budget)
    return draw_level("Sokoban", proposals, repr, split, seed)


@lru_cache(maxsize=4096)
def _drawing(room: Room) -> str:
    """Walls, floor and targets, a line a row."""
    glyphs = [
        "#" if room.walls >> cell & 1 else "O" if room.targets >> cell & 1 else "_" for cell in range(room.size**2)
    ]
    return "\n".join("".join(glyphs[row * room.size : (row + 1) * room.size]) for row in range(room.size))


@lru_cache(maxsize=4096)
def _surroundings(room: Room) -> str:
    """Targets and inner walls in words."""
    inner = [cell for cell in cells_of(room.walls) if {*divmod(cell, room.size)}.isdisjoint((0, room.size - 1))]
    targets, walls = ("; ".join(place(room.size, cell) for cell in cells) for cells in (cells_of(room.targets), inner))
    return f"Targets: {targets}. Walls: {walls or 'none'}."
