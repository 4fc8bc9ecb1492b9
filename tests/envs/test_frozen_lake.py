"""FrozenLake: texts, moves, slipping, and its exact optimum against numbers worked by hand."""

from __future__ import annotations

from itertools import product
from typing import Any

import gymnasium
import pytest

from agentkit.envs import make_env, make_tasks, optimal_success, random_success
from agentkit.envs.frozen_lake import FrozenLake, Lake, _plan, _transitions
from agentkit.errors import ConfigError

CORRIDOR = Lake(("SFG", "HHH", "FFF"))
"""Right, Right wins; a slip from the top row to the side meets the border above or a hole below."""


def on(lake: Lake, *, attempt: int = 0, **params: Any) -> FrozenLake:
    """An environment put onto a lake of our own."""
    env = FrozenLake(size=len(lake.rows), **params)
    env.reset(seed=0, options={"attempt": attempt})
    saved: Any = env.snapshot()
    env.restore((saved[0], lake, lake.find("S")[0], *saved[3:]))
    return env


def test_the_grid_shows_player_holes_and_goal() -> None:
    env = on(CORRIDOR)
    assert env._observe() == "P_G\nOOO\n___"
    assert env.step("Right")[0] == "_PG\nOOO\n___"
    assert env.step("Down")[0] == "__G\nOXO\n___"
    env = on(CORRIDOR)
    assert env.step("Right || Right")[0] == "__√\nOOO\n___"


def test_the_coordinates_are_short_sentences() -> None:
    env = on(CORRIDOR, text="coords")
    assert env._observe() == ("You: row 0 col 0. Goal: row 0 col 2. Holes: row 1 col 0; row 1 col 1; row 1 col 2.")
    assert on(Lake(("SG", "FF")), text="coords")._observe() == ("You: row 0 col 0. Goal: row 0 col 1. Holes: none.")


def test_the_goal_pays_one_and_terminates() -> None:
    _, reward, terminated, truncated, info = on(CORRIDOR).step("right||RIGHT")
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


def test_a_hole_pays_nothing_and_terminates() -> None:
    env = on(CORRIDOR)
    _, reward, terminated, truncated, info = env.step("Down || Up")
    assert (reward, terminated, truncated, info["success"]) == (0.0, True, False, False)
    assert env.expert_success() == 0.0
    assert env.actions_left == 9


def test_walking_into_the_border_stays_and_costs_an_action() -> None:
    env = on(CORRIDOR)
    observation, *_ = env.step("Up || Left")
    assert observation == "P_G\nOOO\n___"
    assert env.actions_left == 8


def test_the_goals_are_cells_in_words() -> None:
    env = on(CORRIDOR)
    assert (env.achieved_goal(), env.desired_goal()) == ("row 0 col 0", "row 0 col 2")
    env.step("Right || Right")
    assert env.achieved_goal() == env.desired_goal()


def test_slip_is_the_probability_of_not_moving_as_intended() -> None:
    # slip 0.4 on "Right": 0.6 as intended, 0.2 down, 0.2 up (the border), never left
    results = dict.fromkeys(range(9), 0.0)
    before = 0.0
    for bound, cell in _transitions(CORRIDOR, 0.4)[0][2]:
        results[cell] += bound - before
        before = bound
    assert results[1] == pytest.approx(0.6)
    assert results[3] == pytest.approx(0.2)
    assert results[0] == pytest.approx(0.2)
    assert before == pytest.approx(1.0)


def test_the_dynamics_are_gymnasiums() -> None:
    lake = Lake(("SFFF", "FHFH", "FFFH", "HFFG"))
    bare: Any = gymnasium.make("FrozenLake-v1", success_rate=0.7).unwrapped
    for cell, action in product(range(16), range(4)):
        total = 0.0
        expected = []
        for probability, following, _, _ in bare.P[cell][action]:
            total += probability
            expected.append((total, following))
        ours = _transitions(lake, 1 - 0.7)[cell][action]
        assert [following for _, following in ours] == [following for _, following in expected]
        assert [bound for bound, _ in ours] == pytest.approx([bound for bound, _ in expected])


def test_measured_slips_have_the_stated_frequencies() -> None:
    cells = []
    for attempt in range(2000):
        env = on(CORRIDOR, slip=0.4, attempt=attempt)
        env.step("Right")
        cells.append(env.state)
    # 4 standard errors of 0.011 and 0.009
    assert cells.count(1) / 2000 == pytest.approx(0.6, abs=0.044)
    assert cells.count(3) / 2000 == pytest.approx(0.2, abs=0.036)
    assert cells.count(0) / 2000 == pytest.approx(0.2, abs=0.036)


def test_noise_belongs_to_the_attempt_and_repeats() -> None:
    def walk(attempt: int) -> list[Any]:
        env = make_env("agentkit/FrozenLake-v0", slip=0.5, size=6, p=1.0)
        env.reset(seed=3, options={"attempt": attempt})
        return [env.step("Right || Down")[0] for _ in range(2)]

    assert walk(1) == walk(1)
    assert len({tuple(walk(attempt)) for attempt in range(8)}) > 1


def test_one_slippery_action_is_worth_its_chance() -> None:
    # one action left, goal to the right: the intended 0.7 wins, both slips miss
    assert _plan(Lake(("SG", "FF")), 0.3, 1).success(0, 1, 1) == pytest.approx(0.7)


def test_a_slippery_corner_worked_by_hand() -> None:
    # Map S G / F F, slip 0.4, one action a turn, two turns.
    # Last turn: V1(0) = 0.6 (Right; Up or Down only 0.2). V1(2), below the start: going Up gives no goal: 0.
    # V1(3), below the goal: Up wins with 0.6.
    # Two turns from 0 by Right: 0.6 goal + 0.2 up: stays at 0, V1 = 0.6 + 0.2 down: cell 2, V1 = 0.
    # = 0.6 + 0.2 * 0.6 = 0.72; any other first action is worse.
    plan = _plan(Lake(("SG", "FF")), 0.4, 1)
    assert plan.success(0, 1, 2) == pytest.approx(0.6)
    assert plan.success(3, 1, 2) == pytest.approx(0.6)
    assert plan.success(2, 1, 2) == pytest.approx(0.0)
    assert plan.success(0, 2, 2) == pytest.approx(0.72)
    assert plan.best_turn(0, 2, 2) == (2,)


def test_committing_to_actions_is_worth_less_than_looking_in_between() -> None:
    # Map S F / H G, slip 0.4, three actions. Right from the start: 0.6 to the right, 0.2 stays, 0.2 hole.
    # Down from the right: 0.6 goal, 0.2 stays (border), 0.2 back to the start; Right from
    # there: 0.2 goal, else it stays.
    # Looking after each action: V1(right) = 0.6, V1(start) = 0, V2(start) = 0.6 * 0.6 = 0.36,
    # V2(right) = 0.6 + 0.2 * 0.6 + 0.2 * 0 = 0.72 by Down, V3(start) = 0.6 * 0.72 + 0.2 * 0.36 = 0.504.
    lake = Lake(("SF", "HG"))
    assert _plan(lake, 0.4, 1).success(0, 2, 2) == pytest.approx(0.36)
    assert _plan(lake, 0.4, 1).success(0, 3, 3) == pytest.approx(0.504)
    # One text of three is best as Right, Right, Down, which serves both who moved and who stayed:
    # 0.6 * (0.2 + 0.8 * 0.6) + 0.2 * 0.6 * 0.6 = 0.408 + 0.072 = 0.48.
    assert _plan(lake, 0.4, 3).success(0, 1, 3) == pytest.approx(0.48)
    assert _plan(lake, 0.4, 3).best_turn(0, 1, 3) == (2, 2, 1)


def test_the_plan_equals_brute_force_over_every_tree_of_texts() -> None:
    lake = Lake(("SFF", "FHF", "FFG"))
    moves = _transitions(lake, 0.3)

    def outcomes(cell: int, text: tuple[int, ...]) -> dict[int, float]:
        chances = {cell: 1.0}
        for action in text:
            after: dict[int, float] = {}
            for place, chance in chances.items():
                before = 0.0
                for bound, following in moves[place][action]:
                    after[following] = after.get(following, 0.0) + chance * (bound - before)
                    before = bound
            chances = after
        return chances

    def best(cell: int, turns: int, actions: int) -> float:
        if cell == 8 or cell == 4 or turns == 0 or actions == 0:
            return float(cell == 8)
        texts = [text for length in range(1, min(2, actions) + 1) for text in product(range(4), repeat=length)]
        return max(
            sum(p * best(end, turns - 1, actions - len(text)) for end, p in outcomes(cell, text).items())
            for text in texts
        )

    plan = _plan(lake, 0.3, 2)
    for turns, actions in ((1, 1), (1, 2), (2, 2), (2, 3), (2, 4)):
        assert plan.success(0, turns, actions) == pytest.approx(best(0, turns, actions), abs=1e-9)


def test_the_expert_takes_a_shortest_way_when_nothing_slips() -> None:
    env = on(Lake(("SFFF", "FHFH", "FFFH", "HFFG")))
    played = 0
    while env.turns_left and env._outcome() is None:
        before = env.actions_left
        env.step(env.expert_action())
        played += before - env.actions_left
    assert env._outcome() is True
    assert played == 6


def test_every_level_fits_its_budgets() -> None:
    tasks = make_tasks("agentkit/FrozenLake-v0", num=100, params={"size": 7, "p": 0.7, "max_turns": 3})
    assert optimal_success(tasks) == [1.0] * 100


@pytest.mark.parametrize(("slip", "published"), [(0.1, 0.980), (0.2, 0.945), (0.5, 0.713)])
def test_the_optimum_agrees_with_the_reference_on_other_maps(slip: float, published: float) -> None:
    # values of single maps spread by up to 0.22: 4 standard errors of two means of 400 and 1000 maps
    tasks = make_tasks("agentkit/FrozenLake-v0", num=400, params={"slip": slip})
    values = optimal_success(tasks)
    assert sum(values) / 400 == pytest.approx(published, abs=0.22 * 4 * (1 / 400 + 1 / 1000) ** 0.5)


def test_random_play_succeeds_on_about_a_quarter_of_the_maps() -> None:
    tasks = make_tasks("agentkit/FrozenLake-v0", num=400)
    shares = random_success(tasks, attempts=8)
    assert sum(shares) / 400 == pytest.approx(0.265, abs=0.06)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"size": 1}, "size must be a whole number from 2 to 16, got 1"),
        ({"p": 0}, "p .* must be above 0 and at most 1, got 0"),
        ({"p": "0.9"}, "p .* must be above 0 and at most 1, got '0.9'"),
        ({"slip": 1.5}, "slip .* must be in \\[0, 1\\], got 1.5"),
        ({"slip": float("nan")}, "slip .* must be in \\[0, 1\\], got nan"),
        ({"text": "gird"}, "no text 'gird'; did you mean 'grid'?"),
        ({"max_actions_per_turn": 7}, "max_actions_per_turn must be a whole number from 1 to 6, got 7"),
    ],
)
def test_wrong_arguments_are_named(params: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FrozenLake(**params)


def test_the_instructions_follow_the_arguments() -> None:
    assert "slippery" not in FrozenLake().instructions
    assert "probability 0.25" in FrozenLake(slip=0.25).instructions
    assert "√" in FrozenLake().instructions
    assert "√" not in FrozenLake(text="coords").instructions
    assert "At most 3 a turn" in FrozenLake(max_actions_per_turn=3).instructions
