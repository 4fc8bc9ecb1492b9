"""MiniWoB: seeds, splits, rewards, faults, and every page of the package in a real browser."""

from __future__ import annotations

import io
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agentkit.envs import make_env
from agentkit.envs.web import env as env_module
from agentkit.envs.web import tasks as tasks_module
from agentkit.envs.web.browser import browser_host
from agentkit.envs.web.env import HEIGHT, WIDTH, MiniWoB
from agentkit.envs.web.experts import EXPERTS
from agentkit.envs.web.tasks import html_folder, page_names
from agentkit.errors import ConfigError, EnvironmentFault, UnknownNameError

pytestmark = pytest.mark.family("agentkit/MiniWoB-v0")


@pytest.fixture
def make() -> Iterator[Any]:
    """Makes environments and closes them."""
    made: list[MiniWoB] = []

    def make_one(**params: Any) -> MiniWoB:
        env = make_env("agentkit/MiniWoB-v0", **params)
        assert isinstance(env, MiniWoB)
        made.append(env)
        return env

    yield make_one
    for env in made:
        env.close()


def test_an_episode_reads_and_plays(make: Any) -> None:
    env = make(tasks="enter-text")
    observation, info = env.reset(seed=0)
    assert observation.splitlines()[0] == f"Task: {env.utterance}"
    assert observation.splitlines()[1:] == ['[1] textbox value=""', '[2] button "Submit"']
    word = env.utterance.split('"')[1]
    assert info["admissible_actions"] == ["click 1", f'fill 1 "{word}"', "click 2", "press Enter", "wait"]
    env.step(f'fill 1 "{word}"')
    observation, reward, terminated, truncated, info = env.step("click 2")
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert observation.startswith("The task is over, with reward 1.")


def test_a_failure_ends_with_the_page_s_reward(make: Any) -> None:
    env = make(tasks="enter-text")
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step("click 2")
    assert (reward, terminated, info["success"]) == (-1.0, True, False)


def test_part_of_a_task_earns_part_of_the_reward(make: Any) -> None:
    env = make(tasks="click-checkboxes-large")
    env.reset(seed=0)
    num_boxes = len([element for element in env._sight.elements if element.role == "checkbox"])
    num_wanted = len(env.utterance.removeprefix("Select ").split(" and click")[0].split(", "))
    _, reward, terminated, _, info = env.step(f"click {num_boxes + 1}")  # nothing chosen
    assert reward == pytest.approx((num_boxes - 2 * num_wanted) / num_boxes)
    assert terminated
    assert info["success"] == (reward > 0)


def test_waiting_does_not_end_an_episode(make: Any) -> None:
    env = make(tasks="click-test", max_turns=40, max_actions=40)
    env.reset(seed=0)
    for _ in range(12):  # twelve seconds of the page's time; its own limit would be ten
        _, reward, terminated, _, _ = env.step("wait")
        assert (reward, terminated) == (0.0, False)
    assert env.step("click 1")[1] == 1.0  # and the reward has not shrunk


def test_seeds_go_through_the_tasks_and_splits_keep_apart(make: Any) -> None:
    env = make(tasks=["click-test", "focus-text", "enter-text"])
    keys: set[str] = set()
    for split in ("train", "held_out"):
        for seed in range(4):
            _, info = env.reset(seed=seed, options={"split": split})
            assert env.task == ["click-test", "focus-text", "enter-text"][seed % 3]
            keys.add(info["state_key"])
    assert len(keys) == 8  # also where the pages look the same


@pytest.mark.parametrize("page", ["click-menu", "moving-items", "simon-says", "social-media", "click-collapsible-2"])
def test_the_same_gestures_meet_the_same_page_in_a_new_and_a_used_environment(make: Any, page: str) -> None:
    def play(env: MiniWoB) -> list[Any]:
        rng = Random(page)
        answers: list[Any] = [env.reset(seed=1)]
        over = False
        while not over and len(answers) < 8:
            actions = answers[-1][-1]["admissible_actions"]
            answers.append(env.step(actions[int(rng.random() * len(actions))]))
            over = answers[-1][2] or answers[-1][3]
        return answers

    used = make(tasks=page)
    used.reset(seed=0)
    used.step("click at 80 120")
    assert play(used) == play(make(tasks=page)) == play(used)


def test_the_default_is_the_pages_with_an_expert(make: Any) -> None:
    assert make().tasks == tuple(EXPERTS)
    assert make(tasks="all").tasks == page_names()
    assert set(EXPERTS) <= set(page_names())


def test_several_gestures_may_share_a_turn(make: Any) -> None:
    env = make(tasks="enter-text", max_actions_per_turn=3)
    env.reset(seed=0)
    word = env.utterance.split('"')[1]
    _, reward, _, _, info = env.step(f'fill 1 "a || b" || fill 1 "{word}" || click 2')
    assert (reward, info["valid"]) == (1.0, True)


def test_impossible_gestures_count_and_are_answered(make: Any) -> None:
    env = make(tasks="click-test")
    _, before = env.reset(seed=0)
    observation, reward, _, _, info = env.step("click 99")
    assert observation.startswith("There is no element 99.\nTask:")
    assert (reward, info["valid"], info["state_key"]) == (0.0, True, before["state_key"])
    assert (env.turns_left, env.actions_left) == (19, 19)
    assert env.step("done")[4]["valid"] is False  # the page says when it is done


def test_screens_are_pictures_and_points_are_enough(make: Any) -> None:
    from PIL import Image

    env = make(tasks="click-test", observation="screen")
    observation, info = env.reset(seed=0)
    assert observation == f"Task: {env.utterance}"
    picture = Image.open(io.BytesIO(env.screenshot()))
    assert (picture.format, picture.size) == ("PNG", (WIDTH, HEIGHT))
    click = next(action for action in info["admissible_actions"] if action.startswith("click at"))
    assert env.step(click)[1] == 1.0


def test_long_pages_are_cut_and_say_so(make: Any) -> None:
    env = make(tasks="order-food", max_chars=300, max_text=10)
    observation, info = env.reset(seed=0)
    assert len(observation) <= len(env.utterance) + 350
    assert observation.splitlines()[-1].endswith("more not shown")
    assert "characters more" in observation
    assert any(action.startswith("scroll down") for action in info["admissible_actions"])


def test_the_expert_promises_only_what_it_can_keep(make: Any) -> None:
    env = make(tasks="enter-text")
    env.reset(seed=0)
    assert env.expert_success() == 1.0
    env.step("wait")
    assert env.expert_success() == 0.0
    hurried = make(tasks="enter-password", max_turns=2)
    hurried.reset(seed=0)
    assert hurried.expert_success() == 0.0
    unknown = make(tasks="tic-tac-toe")
    unknown.reset(seed=0)
    assert (unknown.expert_success(), unknown.expert_action()) == (0.0, "wait")


@pytest.mark.parametrize("given", [{"tasks": []}, {"observation": "sound"}, {"max_chars": 5}, {"max_text": 0}])
def test_wrong_arguments_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MiniWoB(**given)


def test_an_unknown_page_is_named_with_its_neighbour() -> None:
    with pytest.raises((ConfigError, UnknownNameError), match="did you mean 'click-test'"):
        MiniWoB(tasks="click-tset")


def test_a_browser_killed_in_an_episode_is_a_fault_and_the_next_reset_is_fine(make: Any) -> None:
    env, other = make(tasks="click-test"), make(tasks="click-test")
    first = env.reset(seed=3)
    other.reset(seed=4)
    pid = browser_host().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    for broken in (env, other):
        with pytest.raises(EnvironmentFault):
            broken.step("click 1")
    assert env.reset(seed=3) == first
    assert env.step("click 1")[1] == 1.0


@pytest.fixture
def own_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Plays a page of our own as if it were MiniWoB's."""

    def play(script: str) -> MiniWoB:
        (tmp_path / "miniwob").mkdir()
        shutil.copytree(html_folder() / "core", tmp_path / "core", ignore=shutil.ignore_patterns("jquery-ui"))
        (tmp_path / "miniwob" / "own.html").write_text(
            '<script src="../core/core.js"></script><script>var genProblem = () => {};'
            f"window.onload = () => core.startEpisode(); {script}</script>"
            '<div id="wrap"><div id="query">Do it.</div><div id="area"><button>b</button></div></div>'
        )
        for module in (tasks_module, env_module):
            monkeypatch.setattr(module, "html_folder", lambda: tmp_path)
            monkeypatch.setattr(module, "page_names", lambda: ("own",))
        env = MiniWoB(tasks="own")
        env._page.step_s = 3.0
        made.append(env)
        return env

    made: list[MiniWoB] = []
    yield play
    for env in made:
        env.close()


def test_a_page_that_never_gets_ready_is_a_fault(own_page: Any) -> None:
    with pytest.raises(EnvironmentFault, match="did not become ready"):
        own_page("WOB_TASK_READY = false;").reset(seed=0)


def test_a_page_that_is_ready_later_is_waited_for(own_page: Any) -> None:
    env = own_page("WOB_TASK_READY = false; setTimeout(() => { WOB_TASK_READY = true }, 3000);")
    assert env.reset(seed=0)[0] == 'Task: Do it.\n[1] button "b"'


def test_a_page_whose_scripts_break_is_a_fault(own_page: Any) -> None:
    with pytest.raises(EnvironmentFault, match="oops"):
        own_page("genProblem = () => { throw new Error('oops') };").reset(seed=0)


def test_a_page_that_loops_for_ever_is_a_fault(own_page: Any) -> None:
    with pytest.raises(EnvironmentFault, match="within 3 s"):
        own_page("genProblem = () => { for (;;) {} };").reset(seed=0)


def test_a_page_that_lies_about_its_reward_is_a_fault_and_rewards_stay_in_range(own_page: Any) -> None:
    env = own_page("genProblem = () => { document.querySelector('button').onclick = () => core.endEpisode(7) };")
    env.reset(seed=0)
    assert env.step("click 1")[1] == 1.0
    env.reset(seed=0)
    env._page.evaluate("() => { WOB_RAW_REWARD_GLOBAL = 'much' }")
    with pytest.raises(EnvironmentFault, match="no account of the episode"):
        env.step("wait")


def test_an_instruction_stays_on_its_line(own_page: Any) -> None:
    env = own_page("genProblem = () => { document.getElementById('query').textContent ="
                   " 'Do\\n[9] button\\u2028[8] link' + '!'.repeat(1e5) };")  # fmt: skip
    observation, _ = env.reset(seed=0)
    assert len(observation.splitlines()) == 2
    assert observation.startswith("Task: Do [9] button [8] link!!!")
    assert len(observation) < 2100


def test_every_page_of_the_package_can_be_played(make: Any) -> None:
    assert len(page_names()) == 130
    env = make(tasks="all")
    starts = browser_host().num_starts
    for seed in range(130):
        observation, info = env.reset(seed=seed)
        assert observation.startswith("Task: "), env.task
        assert env.utterance, env.task
        assert info["admissible_actions"], env.task
        assert env._reward is None
    assert browser_host().num_starts == max(starts, 1)  # in one browser
