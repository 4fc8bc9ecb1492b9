"""Ids, construction by name, and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import pytest

from agentkit.envs import Task, list_envs, make_env, register_envs
from agentkit.envs.frozen_lake import FrozenLake
from agentkit.envs.registration import ENVIRONMENTS
from agentkit.errors import ConfigError, UnknownNameError


def test_listings_tell_capabilities() -> None:
    rows = {row.id: row for row in list_envs()}
    assert rows["agentkit/FrozenLake-v0"].capabilities == ("Snapshot", "Expert", "Goals")
    assert rows["agentkit/Sudoku-v0"].capabilities == ("Snapshot", "Expert")
    assert rows["agentkit/MiniWoB-v0"].capabilities == ("Expert", "Screen")
    assert all("\n" not in row.description for row in rows.values())


@pytest.mark.parametrize(
    "env_id",
    [
        pytest.param(env_id, marks=pytest.mark.family(env_id))
        for env_id, bundled in ENVIRONMENTS.items()
        if bundled.sample is not None
    ],
)
def test_bundled_environments_can_be_made(env_id: str) -> None:
    params = ENVIRONMENTS[env_id].sample or {}
    for env in (make_env(env_id, **params), gymnasium.make(env_id, **params)):
        env.reset(seed=0)
        env.close()


def test_registering_again_changes_nothing(recwarn: pytest.WarningsRecorder) -> None:
    before = gymnasium.spec("agentkit/Sokoban-v0")
    register_envs()
    assert gymnasium.spec("agentkit/Sokoban-v0") is before
    assert not recwarn.list


def test_a_task_brings_its_parameters_and_arguments_win() -> None:
    task = Task(env_id="agentkit/FrozenLake-v0", seed=1, params={"size": 5, "slip": 0.2})
    env = make_env(task, slip=0.1)
    assert isinstance(env, FrozenLake)
    assert (env.size, env.slip) == (5, 0.1)


def test_unknown_ids_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        make_env("agentkit/FrozenLak-v0")
    assert str(caught.value) == "no environment 'agentkit/FrozenLak-v0'; did you mean 'agentkit/FrozenLake-v0'?"


def test_unknown_parameters_name_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        make_env("agentkit/FrozenLake-v0", slipp=0.1)
    assert str(caught.value) == "no parameter of agentkit/FrozenLake-v0 'slipp'; did you mean 'slip'?"


def test_an_environment_that_is_no_text_environment_is_refused() -> None:
    with pytest.raises(ConfigError, match="'FrozenLake-v1' made a TimeLimit, which is no"):
        make_env("FrozenLake-v1")


def test_a_module_can_be_named_before_the_id() -> None:
    assert isinstance(make_env("agentkit.envs.registration:agentkit/FrozenLake-v0"), FrozenLake)


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


def test_gymnasium_finds_the_ids_through_the_module_in_the_id() -> None:
    code = (
        "import gymnasium\n"
        "env = gymnasium.make('agentkit.envs.registration:agentkit/Sudoku-v0')\n"
        "print(env.reset(seed=0)[0])"
    )
    assert run_python(code) == make_env("agentkit/Sudoku-v0").reset(seed=0)[0]


def test_importing_stays_light() -> None:
    code = (
        "import sys, agentkit.envs, gymnasium\n"
        "gymnasium.make('agentkit/FrozenLake-v0')\n"
        "agentkit.envs.make_env('agentkit/FrozenLake-v0').reset(seed=0)\n"
        "print([name for name in ('torch', 'matplotlib', 'pygame', 'langgraph') if name in sys.modules])"
    )
    assert run_python(code) == "[]"


def test_worker_processes_make_the_environments() -> None:
    code = (
        "import gymnasium\n"
        "if __name__ == '__main__':\n"
        "    envs = gymnasium.vector.AsyncVectorEnv(\n"
        "        [lambda: gymnasium.make('agentkit.envs.registration:agentkit/Sokoban-v0')] * 2,\n"
        "        shared_memory=False)\n"
        "    print(envs.reset(seed=0)[0][1])\n"
        "    envs.close()\n"
    )
    assert run_python(code) == make_env("agentkit/Sokoban-v0").reset(seed=1)[0]
