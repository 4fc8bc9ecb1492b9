"""Sokoban: moves, rewards, and the solver against brute force."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from agentkit.envs import make_env, make_tasks, optimal_success
from agentkit.envs.sokoban import Room, Sokoban, State, cell_steps, move, solution_lengths
from agentkit.errors import ConfigError

DRAWING = """
######
#P__##
#_X_O#
#____#
#____#
######
"""


def room_of(drawing: str) -> Room:
    """The level that a drawing shows."""
    rows = drawing.split()
    glyphs = "".join(rows)
    masks = {kind: sum(1 << i for i, glyph in enumerate(glyphs) if glyph in kind) for kind in ("#", "O√S", "X√")}
    player = next(i for i, glyph in enumerate(glyphs) if glyph in "PS")
    return Room(len(rows), masks["#"], masks["O√S"], masks["X√"], player)


def on(drawing: str, **params: Any) -> Sokoban:
    """An environment put onto a room of our own."""
    room = room_of(drawing)
    env = Sokoban(size=room.size, num_boxes=room.boxes.bit_count(), **params)
    env.reset(seed=0)
    saved: Any = env.snapshot()
    env.restore((saved[0], room, (room.player, room.boxes), *saved[3:]))
    return env


def test_drawings_are_observations() -> None:
    assert on(DRAWING)._observe() == DRAWING.strip()


def test_coordinates_say_what_the_drawing_shows() -> None:
    env = on(DRAWING, text="coords")
    walls = "row 1 col 4"
    assert env._observe() == f"You: row 1 col 1. Boxes: row 2 col 2. Targets: row 2 col 4. Walls: {walls}."
    env.step("Down || Right")
    assert env._observe() == f"You: row 2 col 2. Boxes: row 2 col 3. Targets: row 2 col 4. Walls: {walls}."
    assert "outermost cells are walls" in env.instructions


def test_several_boxes_and_no_wall_have_coordinates_too() -> None:
    env = on("##### #PXO# #_√_# #___# #####".replace(" ", "\n"), text="coords")
    assert env._observe() == (
        "You: row 1 col 1. Boxes: row 1 col 2; row 2 col 2. Targets: row 1 col 3; row 2 col 2. Walls: none."
    )


def test_a_text_that_sokoban_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="no text 'map'; known: 'coords', 'grid'"):
        Sokoban(text="map")


def test_a_push_moves_box_and_player() -> None:
    env = on(DRAWING)
    env.step("Down")
    assert env.step("Right")[0].split()[2] == "#_PXO#"


def test_rewards_are_those_of_gym_sokoban() -> None:
    env = on(DRAWING)
    assert env.step("Down || Right")[1] == pytest.approx(-0.2)
    _, reward, terminated, _, info = env.step("Right")
    assert reward == pytest.approx(-0.1 + 1 + 10)
    assert terminated
    assert info["success"]


def test_pushing_a_box_off_its_target_costs_one() -> None:
    env = on("###### #P√X_# #___O# #____# #____# ######".replace(" ", "\n"))
    assert env.step("Down")[1] == pytest.approx(-0.1)
    # back up, then Right is blocked: another box stands behind the first
    assert env.step("Up || Right")[1] == pytest.approx(-0.2)
    env = on("###### #P√__# #_XO_# #____# #____# ######".replace(" ", "\n"))
    assert env.step("Right")[1] == pytest.approx(-0.1 - 1)


def test_walls_and_boxes_block() -> None:
    env = on("###### #PX##_ #____# #___O# #____# ######".replace(" ", "\n").replace("#_\n", "##\n"))
    before = env._observe()
    assert env.step("Right || Up")[0] == before


def test_the_player_on_a_target_is_shown() -> None:
    env = on(DRAWING.replace("P__", "SX_").replace("_X_O", "____"))
    assert env._observe().split()[1] == "#SX_##"
    assert env.step("Down")[0].split()[1] == "#OX_##"


def test_a_solution_worked_by_hand_is_the_shortest() -> None:
    env = on(DRAWING)
    assert env._lengths()[env.state] == 3
    assert [env.expert_action(), env.step(env.expert_action()) and env.expert_action()] == [
        "Down || Right",
        "Right",
    ]


def test_the_expert_knows_when_the_budget_no_longer_suffices() -> None:
    env = on(DRAWING, max_turns=2, max_actions=4)
    assert env.expert_success() == 1.0
    env.step("Up")
    assert env.expert_success() == 0.0
    assert env.expert_action() == "Down || Right"


def test_the_expert_knows_a_dead_end() -> None:
    env = on("###### #_P__# #_X__# #___O# #____# ######".replace(" ", "\n"))
    assert env.expert_success() == 1.0
    env.step("Down || Down")  # the box is in the bottom row, the target is not
    assert env.expert_success() == 0.0
    assert env.expert_action() == "Up"
    assert env.step("Up")[2] is False


def test_goals_are_the_cells_of_boxes_and_targets() -> None:
    env = on(DRAWING)
    assert (env.achieved_goal(), env.desired_goal()) == ("row 2 col 2", "row 2 col 4")


def forward_lengths(room: Room, longest: int) -> dict[State, int]:
    """Shortest solution of every state, by forward search from each of them: slow and obvious."""
    cells = range(room.size**2)
    steps = cell_steps(room.size)
    num = room.boxes.bit_count()
    free = [cell for cell in cells if not room.walls >> cell & 1]
    answers = {}
    for player, *boxes in product(free, repeat=num + 1):
        if boxes != sorted(set(boxes)) or player in boxes:
            continue
        start = (player, sum(1 << box for box in boxes))
        seen, frontier = {start}, [start]
        for length in range(longest + 1):
            if any(state[1] == room.targets for state in frontier):
                answers[start] = length
                break
            frontier = [move(room, state, step) for state in frontier for step in steps]
            frontier = [state for state in dict.fromkeys(frontier) if state not in seen]
            seen.update(frontier)
    return answers


@pytest.mark.parametrize(
    "drawing",
    [
        "##### #PX_# #_O_# #___# #####",
        "##### #P_## #_X_# #__O# #####",
        "###### #P___# #_XX_# #__O## ##_O_# ######",
    ],
)
def test_the_backward_search_equals_brute_force(drawing: str) -> None:
    room = room_of(drawing.replace(" ", "\n"))
    found = solution_lengths(room.size, room.walls, room.targets, 8)
    assert found == forward_lengths(room, 8)


def test_levels_are_unsolved_solvable_and_of_every_length() -> None:
    env = Sokoban()
    lengths = []
    for seed in range(300):
        env.reset(seed=seed)
        assert env.level.boxes != env.level.targets
        lengths.append(env._lengths()[env.state])
    assert set(lengths) == set(range(2, 11))
    assert optimal_success(make_tasks("agentkit/Sokoban-v0", num=300)) == [1.0] * 300


def test_a_small_turn_budget_gives_short_levels() -> None:
    env = Sokoban(max_turns=2, max_actions=10)
    for seed in range(50):
        env.reset(seed=seed)
        assert 2 <= env._lengths()[env.state] <= 4


def test_two_boxes_are_solved_by_the_expert() -> None:
    env = make_env("agentkit/Sokoban-v0", size=8, num_boxes=2, max_turns=10, max_actions=20)
    assert isinstance(env, Sokoban)
    for seed in range(5):
        env.reset(seed=seed)
        assert env.level.boxes.bit_count() == env.level.targets.bit_count() == 2
        while env.turns_left and env._outcome() is None:
            env.step(env.expert_action())
        assert env._outcome() is True


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"size": 4}, "size must be a whole number from 5 to 10, got 4"),
        ({"num_boxes": 0}, "num_boxes must be a whole number from 1 to 3, got 0"),
        ({"max_actions": 1}, "must be a whole number of at least 2, got 1"),
    ],
)
def test_wrong_arguments_are_named(params: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Sokoban(**params)
