"""Splices: a failure up to its error, a success from there on, played again by the environment."""

from __future__ import annotations

from typing import Any

import pytest

from agentkit.envs import make_env
from agentkit.memory.records import Role
from agentkit.policies.doubles import ExpertPolicy, ScriptedPolicy, as_response
from agentkit.rollout import collect
from agentkit.task import make_tasks
from agentkit.training.plans import AgentR
from agentkit.training.plans.playing_again import play_again
from agentkit.training.sft import SftConfig, fine_tune

LAKE, SOKOBAN = "agentkit/FrozenLake-v0", "agentkit/Sokoban-v0"


def group_of(task, *scripts):
    """Attempts at a task with these actions, as one group."""
    made = []
    for number, script in enumerate(scripts):
        responses = [as_response(action, "So be it.") if action else "what?" for action in script]
        (episode,) = collect(ScriptedPolicy(responses), [task])
        made.append(episode.model_copy(update={"group_id": "g", "attempt": 0, "id": f"{number}", "error": None}))
    return made


@pytest.fixture
def lake():
    """(task, actions of a solution of at least two turns)."""
    params = {"max_actions_per_turn": 1, "max_turns": 8, "text": "coords"}
    for task in make_tasks(LAKE, "train", 40, params=params):
        (episode,) = collect(ExpertPolicy(), [task])
        if episode.success and len(episode.turns) >= 3:
            return task, [turn.action for turn in episode.turns]
    raise AssertionError("no lake is long enough")


def test_an_error_that_leads_nowhere_stays_in_the_path_and_the_sibling_goes_on(lake):
    task, way = lake
    failure, success = group_of(task, [way[0], "", "", "", "", "", "", ""], way)
    assert not failure.success
    (made,) = AgentR().episodes([failure, success])
    assert [turn.action for turn in made.turns] == [way[0], None, *way[1:]]
    assert made.success
    assert made.turns[-1].terminated
    assert (made.parent_id, made.parent_turn) == (failure.id, 2)
    assert made.turns[1].response == "what?", "the error as it was made"
    assert made.turns[2].response == as_response(
        way[1], "That was not getting me there; I will try another way. So be it."
    )
    assert [turn.response for turn in made.turns[3:]] == [turn.response for turn in success.turns[2:]]
    again = play_again(task, 0, made.turns)
    assert again.is_of(made)
    for number, turn in enumerate(made.turns):
        told = [p.text for m in turn.messages for p in m.parts if p.role is Role.OBSERVATION]
        assert told == [t.observation for t in made.turns[: number + 1]]


def test_without_the_error_the_failure_is_cut_before_it(lake):
    task, way = lake
    failure, success = group_of(task, [way[0], "", "", "", "", "", "", ""], way)
    (made,) = AgentR(keep_error=False).episodes([failure, success])
    assert [turn.action for turn in made.turns] == way
    assert made.parent_turn == 1
    assert "try another way" in made.turns[1].response
    assert made.turns[0].response == failure.turns[0].response


def test_nothing_is_spliced_where_paths_never_meet_or_nothing_of_the_failure_would_be_left(lake):
    task, way = lake
    failure, success = group_of(task, ["", "", "", "", "", "", "", ""], way)
    assert AgentR(keep_error=False).episodes([failure, success]) == [], "the error is the first turn"
    assert AgentR().episodes([failure]) == []
    assert AgentR().episodes([success, success]) == []
    apart = failure.model_copy(update={"group_id": "other"})
    assert AgentR().episodes([apart, success]) == []
    blind = [
        e.model_copy(update={"turns": tuple(t.model_copy(update={"state_key": ""}) for t in e.turns)})
        for e in (failure, success)
    ]
    assert AgentR().episodes(blind) == [], "states without keys cannot be compared"


def test_a_path_that_would_run_out_of_turns_is_left_out(lake):
    task, way = lake
    failure, success = group_of(task, [way[0], *[""] * 7], way)
    late = failure.model_copy(update={"turns": (failure.turns[0], *failure.turns[2:])})
    assert AgentR().episodes([late, success]), "room enough"
    tight = task.model_copy(update={"params": {**task.params, "max_turns": len(way)}})
    failure, success = group_of(tight, [way[0], *[""] * (len(way) - 1)], way)
    (made,) = AgentR().episodes([failure, success])
    assert made.parent_turn == 1, "with the error it would take one turn too many, so it is cut before"


def test_splices_of_real_play_in_sokoban_succeed_and_can_be_fine_tuned_on(parts):
    policy = parts.make_policy()
    tasks = make_tasks(SOKOBAN, "train", 12)
    episodes = collect(ExpertPolicy(noise=0.4), tasks, group_size=4)
    made = AgentR(per_failure=2).episodes(episodes)
    assert len(made) >= 5
    for episode in made:
        env: Any = make_env(episode.task)
        env.reset(seed=episode.task.seed)
        over = False
        for turn in episode.turns:
            _, _, over, _, info = env.step(turn.action)
        assert over
        assert info["success"]
        assert "try another way" in episode.turns[episode.parent_turn or 0].response
    losses = fine_tune(policy, made, SftConfig(steps=6, rows_per_step=4, learning_rate=1e-2))
    assert losses[-1] < losses[0]
