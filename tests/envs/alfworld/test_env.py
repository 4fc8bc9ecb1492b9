"""The environment: which game a seed plays, what is seen and rewarded, and what goes wrong how."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from gymnasium.error import ResetNeeded

from agentkit.envs import check_text_env, make_env
from agentkit.envs.alfworld.env import ALFWorld
from agentkit.envs.household.house import TASK_TYPES
from agentkit.errors import ConfigError, EnvironmentFault, MissingPartError
from agentkit.task import HELD_OUT_OFFSET, Task

pytestmark = pytest.mark.family("agentkit/ALFWorld-v0")


def made(**params: Any) -> ALFWorld:
    env = make_env("agentkit/ALFWorld-v0", data="generated", **params)
    assert isinstance(env, ALFWorld)
    return env


@pytest.mark.parametrize("expert", ["planner", "handcoded"])
def test_it_keeps_the_contract(expert: str) -> None:
    params = {"data": "generated", "expert": expert, "task_types": list(TASK_TYPES[:2])}
    report = check_text_env(Task(env_id="agentkit/ALFWorld-v0", seed=0, params=params), seeds=(0, 1))
    assert report.ok, str(report)


def test_a_seed_names_a_game_of_its_split_and_starts_over_after_the_last() -> None:
    env = made(task_types=[TASK_TYPES[1]])
    assert {split: len(games) for split, games in env.games.items()} == {"train": 24, "held_out": 8}
    seen = []
    for seed, split in ((1, "train"), (25, "train"), (1, "held_out"), (HELD_OUT_OFFSET + 9, "held_out")):
        env.reset(seed=seed, options={"split": split})
        assert env.game is not None
        assert env.game.task_type == TASK_TYPES[1]
        seen.append(env.game.path)
    assert seen == [
        env.games["train"][1].path,
        env.games["train"][1].path,
        env.games["held_out"][1].path,
        env.games["held_out"][1].path,
    ]


def test_held_out_seeds_count_from_their_offset() -> None:
    env = made()
    assert HELD_OUT_OFFSET % len(env.games["held_out"]) != 0
    env.reset(seed=HELD_OUT_OFFSET + 1, options={"split": "held_out"})
    assert env.game == env.games["held_out"][1]


def test_an_observation_is_the_games_answer_and_nothing_else() -> None:
    env = made(task_types=[TASK_TYPES[0]])
    opening, info = env.reset(seed=0)
    assert opening.startswith("-= Welcome to TextWorld, ALFRED! =-\n\n")
    place = next(action for action in info["admissible_actions"] if action.startswith("go to"))
    name = place.removeprefix("go to ")
    observation, reward, terminated, truncated, info = env.step(f"  GO   to {name.upper()}")
    assert observation.startswith(f"You arrive at {name}. ")
    assert (reward, terminated, truncated, info["valid"]) == (0.0, False, False, True)
    assert env.step(f"heat {name} with {name}")[0] == "Nothing happens."


def test_what_is_no_command_is_answered_as_alfworld_does_and_is_invalid() -> None:
    env = made()
    env.reset(seed=0)
    for text, valid in (("dance", False), ("", False), ("take mug 99 from desk 99", True), ("go to mug", False)):
        observation, _, _, _, info = env.step(text)
        assert (observation, info["valid"]) == ("Nothing happens.", valid)


def test_the_reward_is_one_when_the_task_is_done() -> None:
    env = made(task_types=[TASK_TYPES[3]])
    env.reset(seed=2)
    assert env.expert_success() == 1.0
    rewards, terminated = [], False
    while not terminated:
        _, reward, terminated, _, info = env.step(env.expert_action())
        rewards.append(reward)
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    assert info["success"]
    assert env.expert_success() == 1.0


def test_the_expert_claims_no_more_than_its_turns_allow() -> None:
    env = made(task_types=[TASK_TYPES[5]], max_turns=3)
    env.reset(seed=0)
    assert env.expert_success() == 0.0
    assert env.expert_action() in env.step("look")[4]["admissible_actions"]


def test_a_closed_environment_can_be_reset_again() -> None:
    env = made()
    first = env.reset(seed=0)
    env.close()
    env.close()
    for call in (lambda: env.step("look"), env.expert_action):
        with pytest.raises(ResetNeeded):
            call()
    assert env.reset(seed=0) == first


def test_a_corrupt_game_ends_in_a_fault_that_names_it_and_the_next_one_plays(tmp_path: Path) -> None:
    import shutil

    good = made(task_types=[TASK_TYPES[0]]).games["train"][0].path.parent
    for split in ("train", "valid_unseen"):
        for number in range(2):
            shutil.copytree(good, tmp_path / split / f"{TASK_TYPES[0]}-{number}" / "t")
    env = ALFWorld(data=str(tmp_path))
    env.games["train"][0].path.write_text("{")
    with pytest.raises(EnvironmentFault, match=str(env.games["train"][0].path)):
        env.reset(seed=0)
    with pytest.raises(ResetNeeded):
        env.step("look")
    assert env.reset(seed=1)[1]["admissible_actions"]


def test_wrong_parameters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no expert of ALFWorld 'planer'; did you mean 'planner'"):
        made(expert="planer")
    with pytest.raises(ConfigError, match="no type of task"):
        made(task_types=["cook"])
    with pytest.raises(MissingPartError, match="alfworld-download"):
        ALFWorld(data=str(tmp_path / "none"))


def test_without_the_extra_the_class_is_there_and_names_the_command() -> None:
    code = """
        import sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("alfworld", "textworld", "fast_downward", "jericho"):
                    raise ModuleNotFoundError(name=name)
        sys.meta_path.insert(0, Absent())
        import importlib.util
        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, package=None: None if name in ("alfworld", "textworld") else real(name)
        from agentkit.envs.alfworld.env import ALFWorld
        try:
            ALFWorld(data="generated")
        except ImportError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "'alfworld' is not installed; run: pip install 'agentkit-rl[alfworld]'\n"


def test_importing_the_class_does_not_import_the_packages_of_the_extra() -> None:
    code = (
        "import sys\nfrom agentkit.envs.alfworld.env import ALFWorld\nassert ALFWorld.unavailable() is None\n"
        "print(sorted({'textworld', 'alfworld', 'fast_downward', 'jericho', 'tatsu'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
