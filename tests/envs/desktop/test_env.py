"""The environment: experts, feedback, budgets, and every fault that a desktop can have."""

from __future__ import annotations

import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from agentkit.envs import check_text_env, make_env
from agentkit.envs.desktop import env as module
from agentkit.envs.desktop import parts, sandbox
from agentkit.envs.desktop.chores import all_chores
from agentkit.envs.desktop.env import Desktop
from agentkit.errors import ConfigError, EnvironmentFault, MissingExtraError, MissingPartError

pytestmark = pytest.mark.family("agentkit/Desktop-v0")


def reset_to(env: Desktop, chore: str) -> str:
    """The first observation of a level of a chore."""
    env.chores = {chore: all_chores()[chore]}
    try:
        return env.reset(seed=0)[0]
    finally:
        env.chores = all_chores()


def application(env: Desktop, name: str) -> psutil.Process:
    """The application's own process, below its sandbox."""
    assert env._display is not None
    below = psutil.Process(env._display.applications[name].pid).children(recursive=True)
    return next(child for child in below if child.name() == name)


@pytest.mark.parametrize("chore", all_chores())
def test_the_expert_does_every_chore_and_says_so(shared_env: Desktop, chore: str) -> None:
    reset_to(shared_env, chore)
    assert shared_env.expert_success() == 1.0
    over, turns, reward = False, 0, 0.0
    while not over:
        action = shared_env.expert_action()
        observation, gain, terminated, truncated, info = shared_env.step(action)
        assert info["valid"], (action, observation)
        reward, over, turns = reward + gain, terminated or truncated, turns + 1
    assert (info["success"], terminated, reward) == (True, True, 1.0), observation
    assert turns == len(all_chores()[chore].script)


def test_done_too_early_is_a_failure_and_the_end(shared_env: Desktop) -> None:
    reset_to(shared_env, "rename_file")
    observation, reward, terminated, truncated, info = shared_env.step("done")
    assert observation.startswith("It is not done.\nGoal: Rename the file")
    assert (reward, terminated, truncated, info["success"]) == (0.0, True, False, False)


def test_what_is_saved_counts_and_not_what_is_on_the_screen(shared_env: Desktop) -> None:
    reset_to(shared_env, "append_line")
    for action in all_chores()["append_line"].script[:-2]:
        shared_env.step(action.format(**shared_env.values))
    _, reward, terminated, _, info = shared_env.step("done")
    assert (reward, terminated, info["success"]) == (0.0, True, False)


def test_an_expert_that_was_led_astray_only_claims_what_is_true(shared_env: Desktop) -> None:
    reset_to(shared_env, "make_folder")
    shared_env.step("wait")
    assert shared_env.expert_success() == 1.0
    shared_env.step("press Escape")
    assert (shared_env.expert_action(), shared_env.expert_success()) == ("done", 0.0)
    assert shared_env._display is not None
    (shared_env._display.home / shared_env.values["new"]).mkdir()
    assert shared_env.expert_success() == 1.0
    assert shared_env.step(shared_env.expert_action())[4]["success"]


def test_an_expert_knows_when_its_script_no_longer_fits(shared_env: Desktop) -> None:
    reset_to(shared_env, "make_folder")
    shared_env.turns_left = 4
    assert shared_env.expert_success() == 0.0
    shared_env.turns_left = 5
    assert shared_env.expert_success() == 1.0


def test_what_is_well_formed_but_impossible_is_played_and_remarked_on(shared_env: Desktop) -> None:
    first = reset_to(shared_env, "rename_file")
    for action, remark in (
        ("click 999", "There is no element 999."),
        ("click at 1024 10", "The screen has 1024x640 pixels."),
        ("drag 1 to 999", "There is no element 999."),
    ):
        observation, _, _, _, info = shared_env.step(action)
        assert observation == f"{remark}\n{first}"
        assert info["valid"]
    for action in ('fill 3 "a"', "press ctrl+nonsense", "click here", "type hello", 'select 1 "a"'):
        observation, _, _, _, info = shared_env.step(action)
        assert observation.startswith("Not understood: ")
        assert not info["valid"]


def test_several_gestures_a_turn_and_separators_in_quotes(shared_env: Desktop) -> None:
    reset_to(shared_env, "append_line")
    observation, _, _, _, info = shared_env.step('press ctrl+a || type "a || b" || press ctrl+s')
    assert 'text = "a || b"' in observation
    assert shared_env._display is not None
    assert (shared_env._display.home / shared_env.values["file"]).read_text().rstrip("\n") == "a || b"
    assert info["valid"]


def test_an_application_that_is_killed_is_gone_and_the_chore_is_judged_all_the_same(shared_env: Desktop) -> None:
    reset_to(shared_env, "append_line")
    for action in all_chores()["append_line"].script[:-1]:
        shared_env.step(action.format(**shared_env.values))
    application(shared_env, "mousepad").kill()
    observation, _, _, _, info = shared_env.step("wait")
    assert observation.endswith("mousepad has ended.\nNo window is open.")
    assert info["admissible_actions"]
    _, reward, terminated, _, info = shared_env.step("click 1 || done")
    assert (reward, terminated, info["success"]) == (1.0, True, True)


def test_an_application_that_hangs_is_said_to_and_the_next_episode_is_sound(shared_env: Desktop) -> None:
    reset_to(shared_env, "calculate")
    hung = application(shared_env, "galculator")
    hung.send_signal(signal.SIGSTOP)
    observation, _, _, _, _ = shared_env.step('type "a"')
    assert observation.endswith("An application does not answer.")
    assert "Mousepad" in observation
    begun = time.monotonic()
    shared_env.step('type "b"')
    assert time.monotonic() - begun < 2.0
    hung.send_signal(signal.SIGCONT)
    assert "galculator" in shared_env.step("wait")[0]
    hung.send_signal(signal.SIGSTOP)
    assert "does not answer" not in reset_to(shared_env, "rename_file")
    assert not hung.is_running() or hung.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("service", ["X server", "message bus"])
def test_a_dead_part_is_a_fault_and_the_next_reset_brings_a_new_desktop(service: str) -> None:
    env = Desktop(tasks="rename_file")
    try:
        env.reset(seed=0)
        assert env._display is not None
        os.kill(env._display._services[service].pid, signal.SIGKILL)
        with pytest.raises(EnvironmentFault, match="desktop"):
            env.step("click 1")
        first = env.reset(seed=0)[0]
        assert env.expert_success() == 1.0
        os.kill(env._display._services[service].pid, signal.SIGKILL)
        assert env.reset(seed=0)[0] == first
    finally:
        env.close()


def test_an_application_that_does_not_start_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    env = Desktop(tasks="rename_file")
    [chore] = env.chores.values()
    broken = type(chore)(**{**vars(chore), "applications": (("false",),)})
    env.chores = {"rename_file": broken}
    with pytest.raises(EnvironmentFault, match="false opened no window"):
        env.reset(seed=0)
    env.chores = {"rename_file": chore}
    assert "pcmanfm" not in env.reset(seed=0)[0]
    env.close()


@pytest.mark.parametrize("program", parts.PROGRAMS)
def test_a_missing_program_is_named_with_the_command_that_installs_all(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == program else which(name))
    with pytest.raises(MissingPartError) as caught:
        make_env("agentkit/Desktop-v0")
    assert str(caught.value).startswith(
        f"{program} is not installed; run: apt-get install --no-install-recommends xvfb"
    )
    assert all(package in str(caught.value) for package in (*parts.PROGRAMS.values(), *parts.FILES.values()))


def test_an_empty_path_and_a_missing_package_are_errors_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert isinstance(Desktop.unavailable(), MissingPartError)
    monkeypatch.setattr(parts, "lacking", lambda *packages: MissingExtraError(f"{packages[0]} is missing"))
    with pytest.raises(MissingExtraError, match="jeepney is missing"):
        Desktop()


def test_forbidden_namespaces_are_an_error_that_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "namespaces_work", lambda: False)
    with pytest.raises(MissingPartError, match="sandbox=False"):
        Desktop()
    Desktop(sandbox=False).close()


def test_unknown_chores_and_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'rename_file'"):
        Desktop(tasks="rename_files")
    with pytest.raises(ConfigError, match="at least one"):
        Desktop(tasks=[])
    assert list(Desktop(tasks=["save_as", "calculate"]).chores) == ["save_as", "calculate"]


def test_a_screenshot_before_the_first_reset_is_refused() -> None:
    with pytest.raises(module.ResetNeeded):
        Desktop().screenshot()


def test_an_unconfined_desktop_is_played_alike() -> None:
    env = Desktop(tasks="append_line", sandbox=False)
    try:
        observation, info = env.reset(seed=1)
        assert str(sandbox.HOME) in observation or "~/" in observation
        while not info["success"]:
            observation, _, terminated, truncated, info = env.step(env.expert_action())
            assert not truncated
            assert terminated == info["success"], observation
    finally:
        env.close()


def test_it_keeps_the_contract() -> None:
    report = check_text_env(partial(Desktop, max_turns=6), seeds=(1, 2), resets=8)
    assert report.ok, str(report)
