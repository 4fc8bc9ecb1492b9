"""The planner wins by the shortest way; ALFWorld's own expert searches, and is the same each time."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from agentkit.envs.household.house import TASK_TYPES
from agentkit.errors import EnvironmentFault

pytestmark = pytest.mark.family("agentkit/ALFWorld-v0")


def first_game(generated: Path, task_type: str) -> Path:
    return min((generated / "train").glob(f"{task_type}-*/*/game.tw-pddl"))


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_the_planner_wins_in_as_many_steps_as_it_says(generated: Path, task_type: str) -> None:
    from agentkit.envs.alfworld.engine import Engine
    from agentkit.envs.alfworld.expert import Planner

    path = first_game(generated, task_type)
    engine, planner = Engine(path), Planner(path)
    num = len(json.loads(path.read_text())["walkthrough"])
    assert not planner.wins([], num - 1)
    assert planner.wins([], num)
    played: list[str] = []
    won = False
    while not won:
        command = planner.action(played)
        assert command in engine.admissible
        _, won = engine.step(command)
        played.append(command)
    assert len(played) == num


def test_the_planner_plans_on_from_wherever_others_have_led(generated: Path) -> None:
    from agentkit.envs.alfworld.engine import Engine
    from agentkit.envs.alfworld.expert import Planner

    path = first_game(generated, TASK_TYPES[0])
    engine, planner = Engine(path), Planner(path)
    played: list[str] = []
    rng = random.Random(5)
    for _ in range(15):
        played.append(engine.admissible[int(rng.random() * len(engine.admissible))])
        engine.step(played[-1])
    for _ in range(12):
        played.append(planner.action(played))
        if engine.step(played[-1])[1]:
            break
    else:
        pytest.fail("not won in 12 steps")


def test_a_game_that_the_planner_cannot_read_is_named(generated: Path, tmp_path: Path) -> None:
    from agentkit.envs.alfworld.expert import Planner

    game = json.loads(first_game(generated, TASK_TYPES[0]).read_text())
    game["pddl_problem"] = game["pddl_problem"].split("(:goal")[0]
    (tmp_path / "game.tw-pddl").write_text(json.dumps(game))
    with pytest.raises(EnvironmentFault, match=r"no plan for the game .*game.tw-pddl"):
        Planner(tmp_path / "game.tw-pddl")


def play_handcoded(path: Path, steps: int) -> tuple[list[str], bool]:
    from agentkit.envs.alfworld.engine import Engine
    from agentkit.envs.alfworld.expert import Handcoded

    engine, expert = Engine(path), Handcoded(path)
    claim = expert.wins([], steps)
    played: list[str] = []
    won = False
    while not won and len(played) < steps:
        played.append(expert.action(played))
        _, won = engine.step(played[-1])
    expert.close()
    engine.close()
    assert won == claim
    return played, won


@pytest.mark.parametrize("task_type", TASK_TYPES[1:3])
def test_the_handcoded_expert_keeps_its_claim_and_repeats_itself(generated: Path, task_type: str) -> None:
    path = first_game(generated, task_type)
    random.seed(7)
    before = random.getstate()
    first = play_handcoded(path, 50)
    assert random.getstate() == before
    random.seed(8)
    assert play_handcoded(path, 50) == first
    assert first[0][0] == "look"
    assert first[1]


def test_the_handcoded_expert_fails_where_it_has_too_few_steps(generated: Path) -> None:
    assert play_handcoded(first_game(generated, TASK_TYPES[1]), 2)[1] is False


def test_without_traj_data_the_handcoded_expert_says_what_it_lacks(generated: Path, tmp_path: Path) -> None:
    from agentkit.envs.alfworld.expert import Handcoded

    path = Path(shutil.copy(first_game(generated, TASK_TYPES[0]), tmp_path))
    for content in (None, "{}", "["):
        if content is not None:
            (tmp_path / "traj_data.json").write_text(content)
        with pytest.raises(EnvironmentFault, match=r"cannot read traj_data.json .* the expert 'planner' does without"):
            Handcoded(path)
