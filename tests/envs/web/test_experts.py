"""The experts: every scripted page is solved, by what its experts see."""

from __future__ import annotations

import pytest

from agentkit.envs.gestures import Gesture
from agentkit.envs.web.elements import Element
from agentkit.envs.web.env import MiniWoB
from agentkit.envs.web.experts import EXPERTS, Scene, quoted_strings

pytestmark = pytest.mark.family("agentkit/MiniWoB-v0")


def test_every_scripted_page_is_solved_in_the_gestures_it_promises() -> None:
    env = MiniWoB()
    for seed, page in enumerate(EXPERTS, start=1000 * len(EXPERTS)):
        env.reset(seed=seed, options={"split": "held_out"})
        assert env.task == page
        assert env.expert_success() == 1.0
        over, reward = False, 0.0
        while not over:
            _, reward, terminated, truncated, info = env.step(env.expert_action())
            over = terminated or truncated
            assert info["valid"]
        assert reward == 1.0, (page, seed)
        assert 20 - env.turns_left <= EXPERTS[page].most_gestures, page
    env.close()


def test_an_expert_that_looks_in_vain_waits_instead_of_breaking() -> None:
    env = MiniWoB(tasks="email-inbox-forward")
    env.reset(seed=0)
    for action in (env.expert_action(), "wait", "wait", "wait"):
        env.step(action)
    assert env.expert_action() == "wait"  # by its count of gestures the mail would be written by now
    for expert in EXPERTS.values():
        assert expert.gesture(Scene("Something else.", ())) is None
    env.close()


def test_scenes_find_what_they_are_asked_for() -> None:
    scene = Scene(
        'Say "a", then "b" or "a".',
        (
            Element(1, "text", name="Go"),
            Element(2, "button", name="GO", press=True),
            Element(3, "checkbox", name="x", states=("checked",)),
            Element(4, "checkbox", name="y"),
        ),
        (Gesture("click", 2),),
    )
    assert scene.strings == quoted_strings(scene.utterance) == ["a", "b"]
    assert scene.click("go") == "click 2"
    assert scene.click("go", "text") == "click 1"
    assert scene.click("stop") is None
    assert scene.missing_click(["x", "y"]) == "click 4"
    assert [element.number for element in scene.after("GO")] == [3, 4]
    assert scene.tried(scene.elements[1])
    assert not scene.tried(scene.elements[0])
    with pytest.raises(LookupError, match="does not read like"):
        scene.reading("Click (.+)")
