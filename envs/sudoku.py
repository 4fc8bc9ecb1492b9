"""Sudoku 4x4 in text: puzzles with one solution, and RAGEN's action forms and rewards.

There are only 288 filled boards, so the boards that agree with a set of givens are an intersection of 288-bit
masks: uniqueness is proven by one bit being left. The splits divide the filled boards, not just the puzzles:
no held-out puzzle shares its solution with a training puzzle.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from functools import lru_cache, partial
from random import Random
from typing import NamedTuple

from agentkit.envs.contract import whole_number
from agentkit.envs.puzzle import Puzzle, draw_level

SIZE, BOX = 4, 2
CELLS, VALUES = range(SIZE * SIZE), range(1, SIZE + 1)
RIGHT_REWARD, LEGAL_REWARD, REFUSED_REWARD, SOLVED_REWARD = 1.0, 0.5, -0.1, 10.0
Board = tuple[int, ...]
"""[16] values row by row, 0 for an empty cell."""


class Puzzle4x4(NamedTuple):
    """A level: the givens and their only completion."""

    givens: Board
    solution: Board


class Sudoku(Puzzle):
    """Fill a 4x4 board: every row, column and 2x2 box holds 1 to 4. Implements `Snapshot` and `Expert`.

    A placement that repeats a value in its row, column or box, or that meets a given cell, is refused: -0.1,
    the board stays. Cells the player filled may be overwritten. A cell holding its right value is worth 1,
    any other value 0.5, and a placement earns the difference, so overwriting back and forth earns nothing
    (RAGEN pays the full amount again); +10 when solved. There are no `Goals`: an achieved board says nothing
    about another puzzle.
    """

    example = "place 3 at row 1 col 2 || place 1 at row 4 col 4"

    def __init__(
        self,
        *,
        num_empty: int = 6,
        max_turns: int = 8,
        max_actions: int = 16,
        max_actions_per_turn: int = 2,
    ) -> None:
        """Make the environment; defaults are ActFocus' budgets (arXiv 2605.14558), RAGEN's "easy" board.

        Args:
            num_empty: cells to fill, 1 to 11; not more than the budgets allow placements.
            max_turns: turns in an episode.
            max_actions: played actions in an episode.
            max_actions_per_turn: actions that one turn's text may hold.

        Raises:
            ConfigError: an argument is out of range.
        """
        super().__init__(max_turns=max_turns, max_actions=max_actions, max_actions_per_turn=max_actions_per_turn)
        self.num_empty = whole_number("num_empty", num_empty, most=11)
        whole_number(
            "num_empty (with this max_actions and max_turns * max_actions_per_turn)",
            num_empty,
            1,
            self.budget,
        )
        self.instructions = (
            "Fill the empty cells (.) so that every row, column and 2x2 box holds 1, 2, 3 and 4 once. "
            "Given cells stay. Rows and columns count from 1 at the top left.\n"
            "Action: place VALUE at row ROW col COL, or ROW,COL,VALUE. "
            f"At most {max_actions_per_turn} a turn, separated by ||, for example: {self.example}\n"
            f"You have {max_turns} turns and {max_actions} actions."
        )

    def expert_action(self) -> str:
        """The next turn of a shortest solution; any placement where the board cannot be solved."""
        plan = _shortest_plan(self.level, self.state)[: min(self.max_actions_per_turn, self.actions_left)]
        return " || ".join(_TEXTS[cell][value] for cell, value in plan) or self._admissible()[0]

    def expert_success(self) -> float:
        """1.0 if a shortest solution fits the turns and actions left, else 0.0: nothing here is random."""
        if self.state == self.level.solution:
            return 1.0
        needed = len(_shortest_plan(self.level, self.state))
        left = min(self.actions_left, self.turns_left * self.max_actions_per_turn)
        return float(0 < needed <= left)

    def _draw(self, split: str, seed: int) -> Puzzle4x4:
        return _draw_puzzle(self.num_empty, split, seed)

    def _start(self) -> Board:
        return self.level.givens

    def _parse(self, text: str) -> tuple[int, int] | None:
        return _PLACEMENTS.get("".join(text.lower().split()))

    def _act(self, action: tuple[int, int]) -> tuple[float, str]:
        cell, value = action
        board = self.state
        if self.level.givens[cell]:
            return REFUSED_REWARD, f"Refused: {_spot(cell)} is given."
        if board[cell] == value:
            return REFUSED_REWARD, f"Refused: {_spot(cell)} already holds {value}."
        for peer in _PEERS[cell]:
            if board[peer] == value:
                return REFUSED_REWARD, f"Refused: {value} at {_spot(cell)} repeats {_spot(peer)}."
        self.state = (*board[:cell], value, *board[cell + 1 :])
        reward = self._worth(self.state, cell) - self._worth(board, cell)
        return reward + (SOLVED_REWARD if self._outcome() else 0.0), ""

    def _worth(self, board: Board, cell: int) -> float:
        if board[cell] == self.level.solution[cell]:
            return RIGHT_REWARD
        return LEGAL_REWARD if board[cell] else 0.0

    def _observe(self) -> str:
        text = "".join(".1234"[value] for value in self.state)
        return "\n".join(" ".join(text[start : start + SIZE]) for start in range(0, SIZE * SIZE, SIZE))

    def _outcome(self) -> bool | None:
        return True if self.state == self.level.solution else None

    def _admissible(self) -> list[str]:
        """Every value into every cell that is not given, refused or not: what is legal is the puzzle."""
        return list(_open_placements(self.level.givens))


@lru_cache(maxsize=1024)
def _open_placements(givens: Board) -> tuple[str, ...]:
    return tuple(_TEXTS[cell][value] for cell in CELLS if not givens[cell] for value in VALUES)


def _spot(cell: int) -> str:
    return f"row {cell // SIZE + 1} col {cell % SIZE + 1}"


def _peers_of(cell: int) -> tuple[int, ...]:
    def units(one: int) -> tuple[int, int, int]:
        row, column = divmod(one, SIZE)
        return row, SIZE + column, 2 * SIZE + row // BOX * BOX + column // BOX

    return tuple(other for other in CELLS if other != cell and set(units(cell)) & set(units(other)))


_PEERS = tuple(_peers_of(cell) for cell in CELLS)
_TEXTS = tuple(tuple(f"place {value} at {_spot(cell)}" for value in range(SIZE + 1)) for cell in CELLS)
_PLACEMENTS = {
    form.replace(" ", ""): (cell, value)
    for cell in CELLS
    for value in VALUES
    for form in (_TEXTS[cell][value], f"{cell // SIZE + 1},{cell % SIZE + 1},{value}")
}


def _legal_values(board: Board, cell: int) -> list[int]:
    """Values that may be written into a cell, other than the one it holds."""
    taken = {board[peer] for peer in _PEERS[cell]}
    taken.add(board[cell])
    return [value for value in VALUES if value not in taken]


@lru_cache(maxsize=1)
def filled_boards() -> tuple[Board, ...]:
    """The 288 boards that obey the rules, in lexicographic order."""
    boards: list[Board] = [()]
    for cell in CELLS:
        earlier = [peer for peer in _PEERS[cell] if peer < cell]
        boards = [
            (*board, value) for board in boards for value in VALUES if all(board[peer] != value for peer in earlier)
        ]
    return tuple(boards)


@lru_cache(maxsize=1)
def _agreeing() -> tuple[tuple[int, ...], ...]:
    """[16 cells][5 values] masks of the `filled_boards` with that value there; 0 (empty) agrees with all."""
    boards = filled_boards()
    return tuple(
        tuple(
            sum(1 << number for number, board in enumerate(boards) if value in (0, board[cell]))
            for value in range(SIZE + 1)
        )
        for cell in CELLS
    )


def num_solutions(givens: Board) -> int:
    """Number of filled boards that agree with the givens."""
    mask = -1
    for cell, value in enumerate(givens):
        mask &= _agreeing()[cell][value]
    return mask.bit_count()


def _puzzles(rng: Random, num_empty: int) -> Iterator[Puzzle4x4 | None]:
    """Endless puzzles: cells of a random board are emptied in random order, the solution staying unique."""
    boards = filled_boards()
    while True:
        solution = boards[int(rng.random() * len(boards))]
        givens, emptied = list(solution), 0
        for cell in sorted(CELLS, key=lambda _: rng.random()):
            if emptied == num_empty:
                break
            givens[cell] = 0
            if num_solutions(tuple(givens)) == 1:
                emptied += 1
            else:
                givens[cell] = solution[cell]
        yield Puzzle4x4(tuple(givens), solution) if emptied == num_empty else None


@lru_cache(maxsize=4096)
def _draw_puzzle(num_empty: int, split: str, seed: int) -> Puzzle4x4:
    return draw_level("Sudoku", partial(_puzzles, num_empty=num_empty), lambda level: str(level.solution), split, seed)


@lru_cache(maxsize=1024)
def _shortest_plan(level: Puzzle4x4, board: Board) -> tuple[tuple[int, int], ...]:
    """Fewest placements (cell, value) that solve the board; empty if it is solved or cannot be.

    A* with the number of cells that are not right yet: a placement rights at most one. More are needed only
    where wrong values block each other and one has to step aside.
    """
    open_cells = [cell for cell in CELLS if not level.givens[cell]]

    def missing(position: Board) -> int:
        return sum(position[cell] != level.solution[cell] for cell in open_cells)

    made: dict[Board, tuple[tuple[int, int], ...]] = {board: ()}
    queue = [(missing(board), 0, board)]
    while queue:
        _, negative_length, position = heapq.heappop(queue)
        plan = made[position]
        if len(plan) != -negative_length:
            continue  # a shorter way here was found after this entry was queued
        if position == level.solution:
            return plan
        for cell in open_cells:
            for value in _legal_values(position, cell):
                following = (*position[:cell], value, *position[cell + 1 :])
                if following not in made or len(made[following]) > len(plan) + 1:
                    made[following] = (*plan, (cell, value))
                    heapq.heappush(queue, (len(plan) + 1 + missing(following), -len(plan) - 1, following))
    return ()
