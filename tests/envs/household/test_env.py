"""Household as a text environment."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from agentkit.envs import Expert, Goals, Snapshot, check_text_env, make_env, offers
from agentkit.envs.household import goal
from agentkit.envs.household.env import Household
from agentkit.envs.household.house import House, Task
from agentkit.envs.puzzle import split_of
from agentkit.errors import AgentkitError, ConfigError, MissingPartError


@pytest.mark.parametrize(
    "params",
    [{}, {"max_receptacles": 6, "max_objects": 4, "max_turns": 12}, {"max_turns": 4, "max_actions_per_turn": 3}],
)
def test_the_contract_holds(params: dict[str, Any]) -> None:
    report = check_text_env(lambda: Household(**params), seeds=range(4))
    assert report.ok, str(report)
    assert all(offers(Household, capability) for capability in (Snapshot, Expert, Goals))


def test_an_observation_is_the_engines_answer_and_nothing_else() -> None:
    env = Household()
    opening, info = env.reset(seed=0)
    assert opening.startswith("-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room.")
    place = next(action for action in info["admissible_actions"] if action.startswith("go to"))
    observation, _, _, _, info = env.step(f"  {place.upper()} ")
    assert observation.startswith(f"You arrive at {place.removeprefix('go to ')}.")
    assert info["valid"]


@pytest.mark.parametrize(("text", "valid"), [("dance", False), ("", False), ("go to moon 1", True)])
def test_what_cannot_be_done_makes_nothing_happen(text: str, valid: bool) -> None:
    env = Household()
    _, before = env.reset(seed=0)
    observation, reward, _, _, after = env.step(text)
    assert (observation, reward) == ("Nothing happens.", 0.0)
    assert after["valid"] is valid
    assert after["state_key"] == before["state_key"]
    assert after["admissible_actions"] == before["admissible_actions"]


def test_the_reward_is_one_and_comes_when_the_task_is_done() -> None:
    env = Household()
    _, info = env.reset(seed=3)
    rewards = []
    while not info["success"]:
        assert env.achieved_goal() != env.desired_goal()
        _, reward, terminated, _, info = env.step(env.expert_action())
        rewards.append(reward)
    assert terminated
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    assert env.achieved_goal() == env.desired_goal()


def test_an_unfinished_episode_has_reached_the_goal_of_another_task(kitchen: House) -> None:
    start = kitchen.start
    assert goal.in_words(kitchen.task) == "put a hot apple in fridge."
    assert goal.achieved(kitchen, start) == "nothing."
    # apple 2 from the countertop now in the sinkbasin; then beside apple 1 in the fridge; then hot
    moved = start._replace(contents=(0, 0b01000, 0b00010, 0, 0b00100, 0b10000, 0b00001))
    assert goal.achieved(kitchen, moved) == "put a apple in sinkbasin."
    assert goal.achieved(kitchen, moved._replace(clean=1)) == "put a clean apple in sinkbasin."
    both = start._replace(contents=(0, 0b01000, 0b00011, 0, 0b00100, 0b10000, 0))
    assert goal.achieved(kitchen, both) == "put two apple in fridge."
    assert goal.achieved(kitchen, both._replace(hot=1)) == "put a hot apple in fridge."
    lit = start._replace(location=4, held=4, toggled=0b00100)
    assert goal.achieved(kitchen, lit) == "look at mug under the desklamp."
    other = House(kitchen.receptacles, kitchen.things, Task("look_at_obj_in_light", "mug", "desklamp"), "", start)
    assert goal.achieved(other, lit) == goal.in_words(other.task)


def test_a_snapshot_survives_pickling_byte_by_byte() -> None:
    env, other = Household(), Household()
    env.reset(seed=1)
    saved = env.snapshot()
    frozen = pickle.dumps(saved)
    action = env.expert_action()
    first = env.step(action)
    assert pickle.dumps(saved) == frozen
    other.restore(pickle.loads(frozen))  # noqa: S301 - our own bytes
    assert other.step(action) == first
    assert other.snapshot() == env.snapshot()


def test_only_the_named_types_of_task_are_drawn() -> None:
    env: Any = make_env("agentkit/Household-v0", task_types=["look_at_obj_in_light", "pick_two_obj_and_place"])
    drawn = set()
    for seed in range(20):
        env.reset(seed=seed)
        drawn.add(env.level.task.type)
    assert drawn == {"look_at_obj_in_light", "pick_two_obj_and_place"}


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"task_types": ["pick_heat"]}, "pick_heat"),
        ({"task_types": []}, "task_types"),
        ({"task_types": "look_at_obj_in_light"}, "task_types"),
        ({"max_receptacles": 5}, "max_receptacles"),
        ({"max_objects": 3}, "max_objects"),
        ({"games": "/nowhere", "max_objects": 9}, "either games or"),
        ({"games": "/nowhere"}, "/nowhere"),
        ({"max_turns": 0}, "max_turns"),
        ({"max_turns": 2}, "budget"),
    ],
)
def test_wrong_parameters_are_refused(params: dict[str, Any], reason: str) -> None:
    with pytest.raises(AgentkitError, match=reason):
        Household(**params)


def test_a_folder_without_games_names_the_way_to_fetch_them(tmp_path: Path) -> None:
    with pytest.raises(MissingPartError, match="alfworld-download"):
        Household(games=str(tmp_path))


def test_real_games_keep_the_split_of_their_folder_or_get_one_by_path(games: Path, tmp_path: Path) -> None:
    trials = sorted((games / "alfworld" / "valid_seen").glob("pick_cool*/*"))[:6]
    for trial, folder in zip(trials, ("train", "train", "train", "train", "valid_seen", "valid_unseen"), strict=True):
        shutil.copytree(trial, tmp_path / "sorted" / folder / trial.parent.name / trial.name)
        shutil.copytree(trial, tmp_path / "mixed" / trial.parent.name / trial.name)
    env = Household(games=str(tmp_path / "sorted"))
    assert len({env.reset(seed=seed)[1]["state_key"] for seed in range(8)}) == 4
    assert len({env.reset(seed=seed, options={"split": "held_out"})[1]["state_key"] for seed in range(8)}) == 2
    mixed = Household(games=str(tmp_path / "mixed"))
    names = [f"{trial.parent.name}/{trial.name}/game.tw-pddl" for trial in trials]
    expected = sum(split_of(name) == "train" for name in names)
    assert len({mixed.reset(seed=seed)[1]["state_key"] for seed in range(6)}) == expected
    with pytest.raises(ConfigError, match="no train game of the types look_at_obj_in_light"):
        Household(games=str(tmp_path / "sorted"), task_types=["look_at_obj_in_light"]).reset(seed=0)


def test_the_contract_holds_on_real_games(games: Path) -> None:
    report = check_text_env(lambda: Household(games=str(games / "alfworld" / "valid_seen")), seeds=range(3))
    assert report.ok, str(report)
