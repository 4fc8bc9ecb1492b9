"""Allocation: attempts where they tell most, hints where nothing ever succeeds."""

from __future__ import annotations

import itertools
from typing import Any, cast

import gymnasium
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkit.envs import make_env
from agentkit.errors import ConfigError
from agentkit.memory.records import Role
from agentkit.task import Task, make_tasks
from agentkit.training.plans import XRPO, Hints
from agentkit.training.plans.allocation import allocate, expert_start

LAKE = "agentkit/FrozenLake-v0"


def expected_variance(alpha, beta, k):
    """E[Var] after k more attempts, by going through all of their results one by one."""
    n = alpha + beta
    if k == 0:
        return alpha * beta / (n * n * (n + 1))
    m = alpha / n
    return m * expected_variance(alpha + 1, beta, k - 1) + (1 - m) * expected_variance(alpha, beta + 1, k - 1)


belief = st.tuples(st.floats(0.5, 6), st.floats(0.5, 6))


@given(st.lists(belief, min_size=1, max_size=3), st.integers(0, 5), st.integers(1, 5))
def test_no_other_allocation_is_expected_to_leave_less_variance(beliefs, budget, most):
    given_ = allocate(beliefs, budget, most)
    assert sum(given_) == min(budget, most * len(beliefs))
    assert max(given_) <= most

    def left(shares):
        return sum(expected_variance(a, b, k) for (a, b), k in zip(beliefs, shares, strict=True))

    others = (s for s in itertools.product(range(most + 1), repeat=len(beliefs)) if sum(s) == sum(given_))
    assert left(given_) <= min(map(left, others)) + 1e-12


def test_equal_beliefs_share_evenly_and_certain_tasks_get_least():
    assert allocate([(1, 1)] * 4, 12, 99) == [3, 3, 3, 3]
    # V·n/((n+k−1)(n+k)): (1,1) 1/36, 1/72, 1/120; (3,1) 0.0075, 0.005
    assert allocate([(1, 1), (3, 1)], 3, 99) == [3, 0]
    assert allocate([(1, 1), (3, 1)], 5, 99)[1] > 0
    assert allocate([(1, 1), (3, 1)], 5, 2) == [2, 2], "what no task may have is left"


@pytest.fixture
def lakes(parts):
    return make_tasks(LAKE, "train", 3, params=parts.PARAMS)


def test_the_budget_is_kept_and_first_attempts_are_those_of_a_run_without_a_plan(parts, tmp_path, lakes):
    ground = parts.make_ground(tmp_path, task_pool=3)
    state: dict[str, Any] = {"seen": {lakes[0].key: [0.0, 40.0], lakes[1].key: [20.0, 20.0]}}
    found = XRPO().collect(ground, lakes, state)
    sizes = [sum(e.task.key == task.key for e in found.episodes) for task in lakes]
    assert sum(sizes) == 18
    assert sizes[2] == max(sizes), "the task that nothing is known of"
    assert sizes[0] == 3, "forty failures: another attempt tells next to nothing"
    for task in lakes:
        group = [e for e in found.episodes if e.task.key == task.key]
        assert [e.attempt for e in group] == [*range(len(group))]
        assert len({e.group_id for e in group}) == 1
    won = sum(e.success for e in found.episodes if e.task.key == lakes[1].key)
    assert state["seen"][lakes[1].key] == [0.5 * 20 + won, 0.5 * 20 + sizes[1] - won]


def test_nothing_is_remembered_of_tasks_that_never_come_back(parts, tmp_path, lakes):
    state: dict[str, Any] = {}
    XRPO().collect(parts.make_ground(tmp_path), lakes, state)
    assert state["seen"] == {}


def test_hints_go_to_hopeless_tasks_only_fade_and_are_not_in_what_is_learnt(parts, tmp_path, lakes):
    ground = parts.make_ground(tmp_path, task_pool=3, imitation={"weight": 0.0})
    plan = XRPO(first=0.34, hints=Hints(after=2, share=1.0, decay=0.5))
    state: dict[str, Any] = {"seen": {lakes[1].key: [1.0, 9.0]}, "hinted": {lakes[2].key: 3}}
    found = plan.collect(ground, lakes, state)
    hinted = [e for e in ground.log.episodes() if any("hint" in turn.memory_ids for turn in e.turns)]
    solved = {e.task.key for e in found.episodes if e.success and e.attempt < 2}
    counts = [sum(e.task.key == task.key for e in hinted) for task in lakes]
    extra = [sum(e.task.key == task.key for e in found.episodes) - 2 for task in lakes]
    assert counts[1] == 0, "it was solved once"
    if lakes[0].key not in solved:
        assert counts[0] == extra[0] > 0
        assert state["hinted"][lakes[0].key] == 1
    if lakes[2].key not in solved:
        assert counts[2] == int(extra[2] / 8 + 0.5)
    assert hinted
    assert found.values["plan/hinted"] == len(hinted)
    shown = hinted[0].turns[0].messages
    assert any("A good start here: `" in message.text for message in shown)
    made = [e for e in found.episodes if e.policy == "local+xrpo"]
    assert len(made) == len(hinted)
    for episode in found.episodes:
        assert not any(Role.MEMORY in turn.prompt_roles for turn in episode.turns)
        assert len({e.group_id for e in found.episodes if e.task.key == episode.task.key}) == 1
    told = sum(e.success for e in found.episodes if e.task.key == lakes[0].key and e.policy == "local")
    assert state["seen"][lakes[0].key][0] == told, "what a hint achieved is not held for the policy's own"


def test_hints_may_be_kept_and_may_be_a_text(parts, tmp_path, lakes):
    ground = parts.make_ground(tmp_path, task_pool=3)
    hints = Hints(source="text", text="Mind the holes.", after=1, share=1.0, keep=True)
    found = XRPO(first=0.34, hints=hints).collect(ground, lakes, {"seen": {task.key: [0.0, 1.0] for task in lakes}})
    kept = [e for e in found.episodes if any("hint" in turn.memory_ids for turn in e.turns)]
    assert kept
    assert all("Mind the holes." in e.turns[0].messages[-1].text for e in kept)
    assert all(Role.MEMORY in e.turns[0].prompt_roles for e in kept)
    assert len({e.group_id for e in found.episodes}) == 3


def test_an_environment_without_an_expert_is_refused_before_anything_is_played(parts, tmp_path):
    hints = XRPO(hints=Hints())
    config = parts.TrainConfig()
    for env_id in ("agentkit/Discrete-v0", "agentkit/OpenEnv-v0"):
        with pytest.raises(ConfigError, match=rf"{env_id} has no expert; set hints.source = 'text'"):
            hints.check(config, env_id)
        XRPO().check(config, env_id)
        XRPO(hints=Hints(source="text", text="Go.")).check(config, env_id)
    hints.check(config, LAKE)

    def made(family="agentkit/Discrete-v0", **params):
        return make_env(family, **params)

    gymnasium.register("tests/Made-v0", entry_point=cast(Any, made), disable_env_checker=True)
    try:
        hints.check(config, "tests/Made-v0")  # what a function makes is known once it is made
        ground = parts.make_ground(tmp_path, group_size=2)
        cliff = make_tasks("tests/Made-v0", "train", 2, params={"env_id": "CliffWalking-v1"})
        with pytest.raises(ConfigError, match=r"tests/Made-v0 has no expert"):
            hints.collect(ground, cliff, {})
        assert not list(ground.log.episodes())
        lake = make_tasks("tests/Made-v0", "train", 1, params={"family": LAKE, **parts.PARAMS})
        assert len(hints.collect(ground, lake, {}).episodes) == 2
    finally:
        del gymnasium.registry["tests/Made-v0"]


def test_the_experts_start_is_told_as_it_would_play_it():
    task = make_tasks(LAKE, "train", 1, params={"max_actions_per_turn": 1})[0]
    told = expert_start(task, 2)
    assert told.startswith("A good start here: `")
    assert told.count("`") in (2, 4)
    with pytest.raises(ConfigError, match=r"has no expert; set hints.source = 'text'"):
        expert_start(Task(env_id="agentkit/Discrete-v0", seed=0, params={"env_id": "CartPole-v1"}), 1)
    with pytest.raises(ValidationError, match="only 'text' needs a text"):
        Hints(source="text")
    with pytest.raises(ValidationError, match="only 'text' needs a text"):
        Hints(text="Go down.")
