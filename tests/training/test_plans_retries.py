"""R³L: who tries again, from where, and what is left of the guidance when it is learnt from."""

from __future__ import annotations

import itertools
from typing import Any, cast

import gymnasium
import pytest
import torch

from agentkit.agent import render_memories
from agentkit.agents.reflection import Reflection
from agentkit.agents.retries import Told
from agentkit.envs.frozen_lake import FrozenLake
from agentkit.errors import ConfigError
from agentkit.memory.records import Message, Part, Role
from agentkit.task import make_tasks
from agentkit.training.advantages import Outcomes
from agentkit.training.credit import Pivot
from agentkit.training.plans import R3L, retries
from agentkit.training.plans.unaided import unaided
from agentkit.training.rows import build_rows
from agentkit.training.stream import flatten

LAKE = "agentkit/FrozenLake-v0"
SLOW = {"text": "coords", "max_turns": 4, "max_actions_per_turn": 1}


@pytest.fixture
def collected(parts, tmp_path):
    """(ground, group of six of one slow lake, what was played as the log has it)."""
    ground = parts.make_ground(tmp_path, imitation={"weight": 0.0})
    tasks = make_tasks(LAKE, "train", 4, params=SLOW)
    found = R3L(old_logprobs="recomputed").collect(ground, tasks, {})
    return ground, found, list(ground.log.episodes())


def test_half_of_a_group_leaves_the_failures_of_the_other_half(collected):
    _, found, logged = collected
    assert len(found.episodes) == 4 * 6
    assert len(logged) == 4 * 6
    retried = 0
    for place in range(4):
        group = found.episodes[6 * place : 6 * place + 6]
        assert [e.attempt for e in group] == [0, 1, 2, 3, 4, 5]
        assert len({e.group_id for e in group}) == 1, "one group, with and without guidance"
        for base, later in zip(group[:3], group[3:], strict=True):
            assert base.parent_id is None
            assert later.parent_id == (None if base.success else base.id)
            retried += not base.success
    assert found.values["plan/retries"] == retried > 0


def test_what_is_learnt_shows_no_guidance_and_keeps_every_sampled_id(collected):
    ground, found, logged = collected
    guided = {e.parent_id: e for e in logged if e.parent_id}
    branched = 0
    for learnt in (e for e in found.episodes if e.parent_id):
        raw = guided[learnt.parent_id]
        assert learnt.policy == "local+r3l"
        assert learnt.parent_turn == raw.parent_turn
        assert len(learnt.turns) == len(raw.turns)
        branched += bool(raw.parent_turn)
        for number, (turn, was) in enumerate(zip(learnt.turns, raw.turns, strict=True)):
            assert turn.response_ids == was.response_ids
            assert turn.response_roles == was.response_roles
            assert (turn.action, turn.reward, turn.observation) == (was.action, was.reward, was.observation)
            assert not any(part.role is Role.MEMORY for message in turn.messages for part in message.parts)
            assert Role.MEMORY not in turn.prompt_roles
            assert turn.memory_ids == ()
            assert (turn.prompt_ids, turn.prompt_roles) == ground.policy.renderer.render(turn.messages)
            if number >= (raw.parent_turn or 0):
                assert Role.MEMORY in was.prompt_roles
                assert len(turn.prompt_ids) < len(was.prompt_ids)
            else:
                assert turn.prompt_ids == was.prompt_ids
        rows, joins = build_rows([learnt])
        assert len(rows) == 1, "without the guidance, turns before and after the pivot are one conversation"
        assert joins.forked == 0
    assert branched > 0


def test_log_probabilities_are_those_without_guidance_or_as_sampled_when_stored(parts, tmp_path, collected):
    ground, found, logged = collected
    made = [e for e in found.episodes if e.parent_id]
    for episode in made:
        expected, _ = ground.measure(build_rows([episode])[0])
        assert [p for turn in episode.turns for p in turn.logprobs] == pytest.approx(expected.tolist(), abs=1e-4)
    folder = tmp_path / "stored"
    folder.mkdir()
    other = parts.make_ground(folder, ground.policy, imitation={"weight": 0.0})
    tasks = list({e.task.key: e.task for e in found.episodes}.values())
    stored = R3L(old_logprobs="stored").collect(other, tasks, {}).episodes
    guided = {e.parent_id: e for e in logged if e.parent_id}
    differing = 0
    for episode, recomputed in zip((e for e in stored if e.parent_id), made, strict=True):
        assert [t.logprobs for t in episode.turns] == [t.logprobs for t in guided[episode.parent_id].turns]
        differing += [t.logprobs for t in episode.turns] != [t.logprobs for t in recomputed.turns]
    assert differing > 0


def test_the_pivotal_mask_covers_shared_turns_in_both(collected):
    _, found, _ = collected
    child = next(e for e in found.episodes if e.parent_turn)
    parent = next(e for e in found.episodes if e.id == child.parent_id)
    rows, _ = build_rows([parent, child])
    outcomes = Outcomes.of([parent, child])
    assert outcomes.num_groups == 1
    stream = flatten(rows, torch.zeros(sum(row.num_sampled for row in rows)))
    weight_N = Pivot().weights(stream)
    assert ((stream.turn_N < child.parent_turn) == (weight_N == 0)).all()
    assert (weight_N == 0).any()


def test_the_same_seed_retries_the_same_way(parts, tmp_path, collected):
    ground, found, _ = collected
    folder = tmp_path / "again"
    folder.mkdir()
    again = parts.make_ground(folder, ground.policy, imitation={"weight": 0.0})
    tasks = list({e.task.key: e.task for e in found.episodes}.values())
    assert [e.id for e in R3L().collect(again, tasks, {}).episodes] == [e.id for e in found.episodes]


def test_without_branching_every_retry_starts_anew_and_the_policy_may_reflect_itself(parts, tmp_path):
    ground = parts.make_ground(tmp_path, group_size=2)
    tasks = make_tasks(LAKE, "train", 3, params=parts.PARAMS)
    found = R3L(pivot="start", reflect="policy", reflection_tokens=8).collect(ground, tasks, {})
    retries = [e for e in found.episodes if e.parent_id]
    assert retries
    assert all(e.parent_turn == 0 for e in retries)
    assert all(e.id in ground.log for e in retries), "replay reads what was made from the log"


def test_only_the_guidance_is_taken_out_where_other_memories_are_shown_too(parts):
    policy = parts.make_policy()
    told, other = Told(id="reflection-x", text="Do not <memory> go Left."), Told(id="m1", text="Holes are bad.")
    both = render_memories((told, other))
    question = Part(role=Role.OBSERVATION, text="You: row 0 col 0.")

    def turn(text):
        message = Message(speaker="user", parts=(Part(role=Role.MEMORY, text=text), question))
        ids, roles = policy.renderer.render([message])
        return parts.make_turn(ids, (5, 6), messages=(message,), prompt_roles=roles, memory_ids=(told.id, other.id))

    made = unaided(policy, parts.make_episode([turn(both)]), told, "r3l")
    assert made.turns[0].messages[0].parts[0].text == render_memories((other,))
    assert made.turns[0].memory_ids == ("m1",)
    assert made.turns[0].prompt_ids == policy.renderer.render(made.turns[0].messages)[0]
    with pytest.raises(ConfigError, match=r"shows guidance in words of its own.*render_memories"):
        unaided(policy, parts.make_episode([turn("Remember: go down.")]), told, "r3l")


def test_an_environment_that_does_not_repeat_itself_is_named(parts, tmp_path, monkeypatch):
    visits = itertools.count()

    class Forgetful(FrozenLake):
        def _observe(self):
            return f"{super()._observe()} Visit {next(visits)}."

        def _outcome(self):
            return None  # it goes on for all its turns

    gymnasium.register("tests/Forgetful-v0", entry_point=cast(Any, Forgetful), disable_env_checker=True)
    try:
        ground = parts.make_ground(tmp_path)
        tasks = make_tasks("tests/Forgetful-v0", "train", 4, params=SLOW)
        monkeypatch.setattr(retries, "from_record", lambda branch: lambda episode: Reflection(text="Go on.", turn=1))
        with pytest.raises(ConfigError, match=r"none of \d+ retries came to its turn.*set plan.pivot = 'start'"):
            R3L().collect(ground, tasks, {})
    finally:
        del gymnasium.registry["tests/Forgetful-v0"]
