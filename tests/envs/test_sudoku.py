"""Sudoku: parsing, refusals, rewards, unique solutions against brute force, and the expert."""

from __future__ import annotations

from itertools import product
from random import Random
from typing import Any

import pytest

from agentkit.envs import make_tasks, optimal_success
from agentkit.envs.sudoku import Board, Puzzle4x4, Sudoku, _shortest_plan, filled_boards, num_solutions
from agentkit.errors import ConfigError

SOLUTION = (1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1)
GIVENS = (0, 2, 3, 4, 3, 4, 1, 2, 2, 0, 4, 3, 0, 3, 2, 1)
"""Empty: row 1 col 1 (1), row 3 col 2 (1), row 4 col 1 (4)."""


def on(givens: Board, board: Board | None = None, solution: Board = SOLUTION, **params: Any) -> Sudoku:
    """An environment put onto a puzzle of our own."""
    env = Sudoku(**params)
    env.reset(seed=0)
    saved: Any = env.snapshot()
    env.restore((saved[0], Puzzle4x4(givens, solution), board or givens, *saved[3:]))
    return env


def obeys(board: Board) -> bool:
    """The rules, spelt out."""
    rows = [board[4 * i : 4 * i + 4] for i in range(4)]
    columns = [board[i::4] for i in range(4)]
    boxes = [[board[4 * (r + i) + c + j] for i in (0, 1) for j in (0, 1)] for r in (0, 2) for c in (0, 2)]
    return all(sorted(unit) == [1, 2, 3, 4] for unit in (*rows, *columns, *boxes))


def test_the_observation_is_four_short_lines() -> None:
    assert on(GIVENS)._observe() == ". 2 3 4\n3 4 1 2\n2 . 4 3\n. 3 2 1"


@pytest.mark.parametrize(
    "text",
    ["place 1 at row 1 col 1", "PLACE  1 at\trow 1 col 1", "1,1,1", " 1 , 1 , 1 "],
)
def test_both_forms_of_an_action_are_understood(text: str) -> None:
    observation, reward, _, _, info = on(GIVENS).step(text)
    assert observation.startswith("1 2 3 4\n")
    assert (reward, info["valid"]) == (1.0, True)


@pytest.mark.parametrize("text", ["place 5 at row 1 col 1", "1,5,1", "0,1,1", "1,1", "1,1,1,1", "place at", "3"])
def test_what_names_no_cell_or_value_is_not_understood(text: str) -> None:
    _, reward, _, _, info = on(GIVENS).step(text)
    assert (reward, info["valid"]) == (0.0, False)


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("1,2,1", "Refused: row 1 col 2 is given."),
        ("1,1,2", "Refused: 2 at row 1 col 1 repeats row 1 col 2."),
        ("1,1,3", "Refused: 3 at row 1 col 1 repeats row 1 col 3."),
    ],
)
def test_refused_placements_say_why_and_change_nothing(text: str, remark: str) -> None:
    observation, reward, _, _, info = on(GIVENS).step(text)
    assert observation == remark + "\n. 2 3 4\n3 4 1 2\n2 . 4 3\n. 3 2 1"
    assert (reward, info["valid"]) == (-0.1, True)


def test_the_last_right_placement_pays_ten_more() -> None:
    env = on(GIVENS)
    assert env.step("1,1,1 || 3,2,1")[1] == 2.0
    _, reward, terminated, _, info = env.step("4,1,4")
    assert (reward, terminated, info["success"]) == (11.0, True, True)


LOOSE = (0, 0, 3, 4, 3, 4, 0, 0, 0, 0, 4, 3, 4, 3, 0, 0)
"""Legal first values that are not the solution's exist here: 2 at row 1 col 1."""


def test_a_legal_placement_that_is_not_the_solution_pays_half_and_going_back_and_forth_nothing() -> None:
    env = on(LOOSE)
    assert env.step("1,1,2")[1] == 0.5
    assert env.step("1,1,1")[1] == 0.5
    assert env.step("1,1,2")[1] == -0.5
    assert env.step("1,1,2")[1] == -0.1  # it already holds 2


def test_the_player_may_overwrite_own_values() -> None:
    env = on(LOOSE)
    env.step("1,1,2")
    assert env.step("1,1,1")[0].startswith("1 . 3 4")


def test_there_are_288_boards_and_they_obey_the_rules() -> None:
    boards = filled_boards()
    assert len(set(boards)) == 288  # the known number of 4x4 Sudoku grids
    assert all(obeys(board) for board in boards)


def test_solutions_are_counted_as_by_trying_everything() -> None:
    rng = Random(0)
    for number in range(12):
        board = filled_boards()[number * 24]
        empty = rng.sample(range(16), 6)
        givens = tuple(0 if cell in empty else value for cell, value in enumerate(board))
        tried = 0
        for values in product(range(1, 5), repeat=6):
            full = list(givens)
            for cell, value in zip(empty, values, strict=True):
                full[cell] = value
            tried += obeys(tuple(full))
        assert num_solutions(givens) == tried


@pytest.mark.parametrize("num_empty", [1, 6, 11])
def test_levels_have_one_solution_and_the_asked_number_of_empty_cells(num_empty: int) -> None:
    env = Sudoku(num_empty=num_empty)
    for seed in range(40):
        env.reset(seed=seed)
        assert env.level.givens.count(0) == num_empty
        assert num_solutions(env.level.givens) == 1
        assert obeys(env.level.solution)


def test_the_expert_needs_one_placement_a_cell_from_the_start() -> None:
    assert sorted(_shortest_plan(Puzzle4x4(GIVENS, SOLUTION), GIVENS)) == [(0, 1), (9, 1), (12, 4)]


def test_the_expert_repairs_wrong_values() -> None:
    env = on(LOOSE)
    env.step("1,1,2")
    assert len(_shortest_plan(env.level, env.state)) == 8
    assert env.expert_success() == 1.0
    while env._outcome() is None:
        env.step(env.expert_action())
    assert env.state == SOLUTION


def test_the_expert_sees_a_swap_that_cannot_be_undone() -> None:
    # 2 1 3 4 in the first row: both wrong, each blocks the other, and 3 and 4 are taken in the row
    board = (2, 1, 3, 4, *SOLUTION[4:])
    env = on((0, 0, 3, 4, 3, 4, 0, 0, 2, 1, 4, 3, 4, 3, 2, 1), (2, 1, 3, 4, 3, 4, 0, 0, *SOLUTION[8:]))
    assert board[:4] == env.state[:4]
    assert env.expert_success() == 0.0
    assert env.step(env.expert_action())[4]["valid"]


def test_the_plan_is_as_short_as_breadth_first_search_finds() -> None:
    rng = Random(1)
    env = Sudoku(num_empty=5)
    compared = 0
    for seed in range(15):
        _, info = env.reset(seed=seed)
        for _ in range(3):
            env.step(" || ".join(rng.choice(info["admissible_actions"]) for _ in range(2)))
        if env._outcome():
            continue
        compared += 1
        assert len(_shortest_plan(env.level, env.state)) == breadth_first(env)
    assert compared > 10


def breadth_first(env: Sudoku) -> int:
    """Fewest placements to the solution, played through the environment itself; 0 if there is no way."""
    parsed = [env._parse(text) for text in env._admissible()]
    seen, frontier = {env.state}, [env.state]
    for length in range(1, 40):
        following = []
        for board in frontier:
            for action in parsed:
                env.state = board
                assert action is not None
                env._act(action)
                if env.state == env.level.solution:
                    env.state = frontier[0]
                    return length
                if env.state not in seen:
                    seen.add(env.state)
                    following.append(env.state)
        frontier = following
    return 0


def test_every_level_is_solved_by_the_expert() -> None:
    tasks = make_tasks("agentkit/Sudoku-v0", "held_out", num=100, params={"num_empty": 9})
    assert optimal_success(tasks) == [1.0] * 100


def test_admissible_actions_are_all_values_into_cells_that_are_not_given() -> None:
    env = on(GIVENS)
    assert len(env._admissible()) == 3 * 4
    assert env._admissible()[0] == "place 1 at row 1 col 1"


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"num_empty": 12}, "num_empty must be a whole number from 1 to 11, got 12"),
        ({"num_empty": 9, "max_turns": 4}, "num_empty .* must be a whole number from 1 to 8, got 9"),
    ],
)
def test_wrong_arguments_are_named(params: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Sudoku(**params)
