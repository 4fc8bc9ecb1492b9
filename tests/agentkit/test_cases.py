"""Acting by remembered cases, and what that is worth."""

from __future__ import annotations

import asyncio

import pytest

from agentkit.envs import make_tasks
from agentkit.errors import ConfigError
from agentkit.memory.case import draft_of
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.kinds import EpisodeBody, FactBody, Memory, Source, Trust
from agentkit.memory.store import MemoryStore
from agentkit.policies import CasePolicy, ExpertPolicy, RandomPolicy, Request, Sampling, ScriptedPolicy
from agentkit.rollout import collect
from agentkit.uplift import measure_uplift

LAKE = "agentkit/FrozenLake-v0"


class Somewhere:
    admissible_actions = ("Left",)

    def __init__(self, state_key: str) -> None:
        self.state_key = state_key

    async def expert_action(self) -> str:
        raise NotImplementedError


def case(id: str, *steps: tuple[str, str], success: bool = True, trust: Trust = Trust.OBSERVED) -> Memory:
    body = EpisodeBody(
        success=success,
        episode_return=1.0,
        actions=tuple(action for _, action in steps),
        state_keys=tuple(state for state, _ in steps),
    )
    source = Source(writer="environment", episode_ids=(id,))
    return Memory(id=id, body=body, text="", keys={"state": "s"}, env_id="e", source=source, trust=trust)


def said(policy: CasePolicy, state_key: str) -> str:
    request = Request(messages=(), sampling=Sampling(), seed=0, world=Somewhere(state_key))
    return asyncio.run(policy.complete(request)).text


def other() -> ScriptedPolicy:
    return ScriptedPolicy(lambda request: "<answer>other</answer>")


def test_a_known_state_is_played_as_it_was_won_and_any_other_is_asked() -> None:
    policy = CasePolicy([case("a", ("s1", "Up"), ("s2", "Right"))], other())
    assert said(policy, "s2") == "<think></think><answer>Right</answer>"
    assert said(policy, "s3") == "<answer>other</answer>"
    assert said(policy, "") == "<answer>other</answer>"
    assert (len(policy), policy.name) == (2, "cases+scripted")


def test_of_several_cases_trust_counts_first_then_the_way_that_was_left_then_the_id() -> None:
    long = case("a", ("s1", "Up"), ("s2", "Up"))
    short = case("b", ("s1", "Down"))
    twin = case("c", ("s1", "Left"))
    assert "Down" in said(CasePolicy([twin, long, short], other()), "s1")
    trusted = case("z", ("s1", "Right"), ("s2", "Up"), trust=Trust.VERIFIED)
    assert "Right" in said(CasePolicy([twin, long, short, trusted], other()), "s1")


def test_failures_and_other_kinds_are_no_cases() -> None:
    lost = case("a", ("s1", "Up"), success=False)
    fact = lost.model_copy(update={"body": FactBody(subject="s1", relation="is", value="wet")})
    assert len(CasePolicy([lost, fact], other())) == 0


def test_an_agent_that_remembers_solves_again_what_it_has_solved(tmp_path) -> None:
    tasks = make_tasks(LAKE, num=12)
    first = collect(ExpertPolicy(), tasks)
    with MemoryStore.open(tmp_path, embedder=HashEmbedder(), index="exact") as memory:
        memory.write([draft_of(episode) for episode in first])
        policy = CasePolicy(memory.held(env_id=LAKE), RandomPolicy())
        assert memory.held(env_id="other") == []
    again = collect(policy, tasks, seed=1)
    assert [[turn.action for turn in episode.turns] for episode in again] == [
        [turn.action for turn in episode.turns] for episode in first
    ]
    assert all(episode.success for episode in again)


def test_uplift_compares_paired_arms() -> None:
    tasks = make_tasks("agentkit/Sokoban-v0", num=8)
    others = make_tasks("agentkit/Sokoban-v0", num=8, first=100)
    rows = measure_uplift(tasks, ExpertPolicy(noise=0.5), other_tasks=others, rounds=3, seeds=[0, 1])
    found = {row.arm: row for row in rows}
    assert list(found) == ["none", "random", "stale", "frozen", "live", "oracle"]
    assert (found["none"].uplift.value, found["none"].uplift.low, found["none"].harmed) == (0, 0, 0)
    assert found["stale"].uplift.value == 0  # no level of other tasks is met here
    assert found["live"].uplift.value >= found["frozen"].uplift.value > 0
    assert found["live"].uplift.value == pytest.approx(found["live"].success.value - found["none"].success.value)
    assert found["oracle"].success.value == 1
    with pytest.raises(ConfigError, match="two rounds, a task and a seed"):
        measure_uplift(tasks, RandomPolicy(), other_tasks=others, rounds=1)
