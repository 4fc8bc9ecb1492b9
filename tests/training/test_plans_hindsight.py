"""Hindsight: failures are successes at what they reached, and the environment itself says so."""

from __future__ import annotations

import itertools
from typing import Any, cast

import gymnasium
import pytest
from pydantic import ValidationError

from agentkit.envs import make_env
from agentkit.envs.frozen_lake import FrozenLake
from agentkit.errors import ConfigError
from agentkit.memory.gate import admit_episode
from agentkit.memory.records import Role
from agentkit.policies.doubles import RandomPolicy, ScriptedPolicy, as_response
from agentkit.rollout import collect
from agentkit.task import Task, make_tasks
from agentkit.training.plans import Hindsight
from agentkit.training.plans.playing_again import play_again
from agentkit.training.rows import build_rows

LAKE, SOKOBAN = "agentkit/FrozenLake-v0", "agentkit/Sokoban-v0"


def played(parts, tmp_path, env_id, params, num=10, group_size=4, policy=None):
    ground = parts.make_ground(tmp_path, policy, group_size=group_size)
    tasks = make_tasks(env_id, "train", num, params=params)
    return ground, collect(ground.policy, tasks, group_size=group_size, **ground.options)


def with_tokens(parts, policy, env_id, params, num):
    """Random play, with the ids that a model would have sampled."""
    episodes = collect(RandomPolicy(), make_tasks(env_id, "train", num, params=params))
    made = []
    for episode in episodes:
        turns, history = [], []
        for turn in episode.turns:
            ids, _ = policy.encode_response(turn.response)
            changes = {"response_ids": ids, "response_roles": (Role.OTHER,) * len(ids), "logprobs": (-1.0,) * len(ids)}
            turns.append(turn.model_copy(update=changes))
            history.append(turn)
        made.append(episode.model_copy(update={"turns": tuple(turns)}))
    return made


@pytest.mark.parametrize("text", ["coords", "grid"])
@pytest.mark.parametrize("slip", [0.0, 0.5])
def test_a_relabelled_lake_is_one_that_the_environment_plays_the_same_way(parts, text, slip):
    policy = parts.make_policy()
    params = {"text": text, "max_turns": 4, "slip": slip, "max_actions_per_turn": 1}
    episodes = with_tokens(parts, policy, LAKE, params, 12)
    made = Hindsight().episodes(policy, episodes)
    assert len(made) >= 3
    parents = {episode.id: episode for episode in episodes}
    for episode in made:
        parent = parents[episode.parent_id]
        assert not parent.success
        assert episode.success
        assert episode.turns[-1].terminated
        assert episode.episode_return == 1.0
        goal = episode.task.params["goal"]
        again = play_again(episode.task, episode.attempt, episode.turns)
        assert again.is_of(episode)
        assert again.achieved == goal
        for number, (turn, was) in enumerate(zip(episode.turns, parent.turns, strict=False)):
            assert turn.response_ids == was.response_ids
            assert turn.action == was.action
            shown = [p.text for m in turn.messages for p in m.parts if p.role is Role.OBSERVATION]
            assert shown == [t.observation for t in episode.turns[: number + 1]], "history too is of the new goal"
            assert (turn.prompt_ids, turn.prompt_roles) == policy.renderer.render(turn.messages)
            if text == "coords":
                assert f"Goal: {goal}." in turn.observation
        assert episode.policy == "random+hindsight"
        assert episode.group_id != parent.group_id
        assert admit_episode(episode).status == "active"


def test_relabelled_sokoban_has_the_targets_where_the_boxes_came_to_stand(parts):
    policy = parts.make_policy()
    episodes = with_tokens(parts, policy, SOKOBAN, {}, 40)
    made = Hindsight().episodes(policy, episodes)
    assert made, "some of forty random plays move a box"
    for episode in made:
        assert episode.success
        assert "O" in episode.turns[0].observation.replace("√", "O"), "a target is shown"
        env: Any = make_env(episode.task)
        env.reset(seed=episode.task.seed)
        assert env.desired_goal() == episode.task.params["goal"]
    moved = {e.id for e in episodes if not e.success}
    assert {e.parent_id for e in made} < moved, "one whose boxes stand where they stood reached nothing"


def test_turns_after_the_goal_was_reached_are_dropped_and_the_shortest_path_is_kept(parts):
    """Five turns that are on the next cell after the first, against two that step on it with the second."""
    policy = parts.make_policy()
    made = []
    for lake in make_tasks(LAKE, "train", 60, params={"max_actions_per_turn": 1, "max_turns": 5}):
        if _open_right(lake):
            five = _scripted(policy, lake, "Right", "Left", "Right", "Left", "Right")
            two = _scripted(policy, lake, "Left", "Right", *["Left"] * 3)
            two = two.model_copy(update={"turns": two.turns[:2], "success": False})
            ends = [play_again(lake, each.attempt, each.turns).achieved for each in (five, two)]
            if ends[0] == ends[1]:  # there is no cell to the left
                twice = Hindsight(per_goal=2).episodes(policy, [two, five])
                assert [len(episode.turns) for episode in twice] in ([1, 2], []), "none if it makes a held-out lake"
                made += Hindsight().episodes(policy, [two, five])
    assert len(made) >= 3
    assert all(len(episode.turns) == 1 for episode in made)


def _scripted(policy, task, *actions):
    (episode,) = collect(ScriptedPolicy([as_response(action) for action in actions]), [task])
    return _tokens(policy, episode)


def test_goals_on_the_way_make_an_episode_each_that_ends_where_the_goal_was_reached(parts):
    """Down, Right, Right, Left, Left on a lake without holes: five cells, one twice and one the start's neighbour."""
    policy = parts.make_policy()
    script = [as_response(action) for action in ("Down", "Right", "Right", "Left", "Left")]
    tasks = make_tasks(LAKE, "train", 60, params={"max_actions_per_turn": 1, "max_turns": 5, "text": "coords"})
    failed = [episode for task in tasks for episode in collect(ScriptedPolicy(script), [task]) if not episode.success]
    checked = 0
    for episode in failed:
        plan = Hindsight(strategy="future", goals=9)
        made = plan.episodes(policy, [_tokens(policy, episode)])
        reached = [seen.achieved for seen in play_again(episode.task, episode.attempt, episode.turns).turns]
        for one in made:
            goal = one.task.params["goal"]
            assert len(one.turns) == reached.index(goal) + 1, "it ends at the first visit"
            assert one.success
        goals = [one.task.params["goal"] for one in made]
        assert len(set(goals)) == len(goals)
        assert set(goals) <= set(reached)
        last = {one.task.params["goal"] for one in Hindsight().episodes(policy, [_tokens(policy, episode)])}
        assert last <= set(goals), "all goals were asked for, the last among them"
        checked += len(goals) > 1
    assert checked >= 5
    drawn = [Hindsight(strategy="future", goals=1).episodes(policy, [_tokens(policy, e)]) for e in failed]
    assert all(len(made) <= 1 for made in drawn)
    assert len({len(made[0].turns) for made in drawn if made}) > 1, "not always the same turn"
    with pytest.raises(ValidationError, match=r"plan.goals = 2 and plan.strategy = 'final'"):
        Hindsight(goals=2)


def _tokens(policy, episode):
    turns = []
    for turn in episode.turns:
        ids, _ = policy.encode_response(turn.response)
        changes = {"response_ids": ids, "response_roles": (Role.OTHER,) * len(ids), "logprobs": (-1.0,) * len(ids)}
        turns.append(turn.model_copy(update=changes))
    return episode.model_copy(update={"turns": tuple(turns)})


def _open_right(task):
    env: Any = make_env(task)
    env.reset(seed=task.seed)
    start = env.achieved_goal()
    _, _, over, _, _ = env.step("Right")
    there = env.achieved_goal()
    env.step("Left") if not over else None
    return not over and there != start == env.achieved_goal()


def test_they_go_to_replay_only_and_have_the_policys_log_probabilities(parts, tmp_path):
    ground, episodes = played(parts, tmp_path, LAKE, parts.PARAMS)
    patched = Hindsight(gain=0.5).patch(ground, episodes, {})
    assert patched.episodes == episodes
    assert patched.extra
    assert patched.gain == 0.5
    for episode in patched.extra:
        assert ground.log.get(episode.id) == episode
        expected, _ = ground.measure(build_rows([episode])[0])
        assert [p for turn in episode.turns for p in turn.logprobs] == pytest.approx(expected.tolist(), abs=1e-5)
    again = Hindsight(gain=0.5).patch(ground, episodes, {})
    assert [e.id for e in again.extra] == [e.id for e in patched.extra]
    stored = Hindsight(old_logprobs="stored").patch(ground, episodes, {}).extra
    parents = {e.id: e for e in episodes}
    assert all(
        t.logprobs == p.logprobs for e in stored for t, p in zip(e.turns, parents[e.parent_id].turns, strict=False)
    )


def test_successes_broken_attempts_and_branches_are_left_alone(parts, tmp_path):
    ground, episodes = played(parts, tmp_path, LAKE, parts.PARAMS, num=4)
    changed = [
        e.model_copy(update=change)
        for e, change in zip(episodes, itertools.cycle([{"success": True}, {"error": "x"}, {"parent_turn": 1}]))
    ]
    assert Hindsight().episodes(ground.policy, changed) == []


def test_goals_that_the_environment_refuses_are_no_goals():
    task = make_tasks(LAKE, "train", 1)[0]
    env: Any = make_env(task)
    env.reset(seed=0)
    start = env.achieved_goal()
    with pytest.raises(ConfigError, match=r"is a hole or the start of this lake"):
        make_env(LAKE, goal=start).reset(seed=0)
    with pytest.raises(ConfigError, match=r"goal must be a cell of the lake, as in 'row 1 col 2', got 'there'"):
        make_env(LAKE, goal="there")
    box: Any = make_env(SOKOBAN)
    box.reset(seed=0)
    with pytest.raises(ConfigError, match=r"or where its boxes stand at the start"):
        make_env(SOKOBAN, goal=box.achieved_goal()).reset(seed=0)
    with pytest.raises(ConfigError, match=r"goal must be 1 cells, as in 'row 1 col 2; row 4 col 3'"):
        make_env(SOKOBAN, goal="row 1 col 1; row 2 col 2")


def test_a_goal_never_makes_a_training_level_of_a_held_out_one():
    refused = accepted = 0
    for seed, cell in itertools.product(range(6), range(16)):
        env: Any = make_env(LAKE, goal=f"row {cell // 4} col {cell % 4}")
        try:
            env.reset(seed=seed)
        except ConfigError as error:
            refused += "is no train level" in str(error)
        else:
            accepted += 1
            assert env.desired_goal() == f"row {cell // 4} col {cell % 4}"
    assert refused > 0
    assert accepted > refused


def test_environments_without_goals_to_set_runs_without_replay_and_worlds_that_change_are_refused(
    parts, make_trainer, tmp_path
):
    config = parts.TrainConfig()
    with pytest.raises(ConfigError, match=r"agentkit/Sudoku-v0 cannot be given the goal.*metadata\['sets_goals'\]"):
        Hindsight().check(config, "agentkit/Sudoku-v0")
    with pytest.raises(ConfigError, match=r"imitation.weight = 0: relabelled episodes are only imitated"):
        make_trainer(tmp_path, plan=Hindsight(), imitation={"weight": 0.0})
    visits = itertools.count()

    class Forgetful(FrozenLake):
        def _observe(self):
            return f"{super()._observe()} Visit {next(visits)}."

    gymnasium.register("tests/Changing-v0", entry_point=cast(Any, Forgetful), disable_env_checker=True)
    try:
        policy = parts.make_policy()
        episodes = collect(RandomPolicy(), [Task(env_id="tests/Changing-v0", seed=seed) for seed in range(3)])
        failed = [_tokens(policy, e.model_copy(update={"success": False})) for e in episodes]
        with pytest.raises(ConfigError, match=r"none of 3 failed attempts went the same way.*not deterministic"):
            Hindsight().episodes(policy, failed)
    finally:
        del gymnasium.registry["tests/Changing-v0"]
