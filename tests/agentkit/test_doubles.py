"""The policies that are no language models."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from agentkit.envs import make_tasks, optimal_success
from agentkit.errors import ConfigError, EnvironmentFault, PolicyFault
from agentkit.memory import Message, Part, Role
from agentkit.policies import ExpertPolicy, Policy, RandomPolicy, Request, Sampling, ScriptedPolicy, as_response
from agentkit.rollout import collect
from agentkit.spans import parse_response


class World:
    """Knows its actions and, unless told otherwise, its solution."""

    def __init__(self, actions: Sequence[str] = ("Up", "Down", "Left"), solution: str | None = "Up || Left") -> None:
        self.admissible_actions = actions
        self.state_key = ""
        self.solution = solution

    async def expert_action(self) -> str:
        if self.solution is None:
            raise EnvironmentFault("no expert")
        return self.solution


def say(policy: Policy, seed: int = 0, world: World | None = None) -> str:
    message = Message(speaker="user", parts=(Part(role=Role.OBSERVATION, text="the lake"),))
    request = Request(messages=(message,), sampling=Sampling(), seed=seed, world=world or World())
    return asyncio.run(policy.complete(request)).text


def action(policy: Policy, seed: int = 0, world: World | None = None) -> str:
    parsed = parse_response(say(policy, seed, world))
    assert parsed is not None
    return parsed.text


@pytest.mark.parametrize("policy", [ScriptedPolicy(["x"]), RandomPolicy(), ExpertPolicy()])
def test_doubles_are_policies(policy: Policy) -> None:
    assert isinstance(policy, Policy)


def test_a_script_is_said_in_order_and_running_out_is_a_fault() -> None:
    policy = ScriptedPolicy(["one", "two"])
    assert [say(policy), say(policy)] == ["one", "two"]
    with pytest.raises(PolicyFault, match="the script has 2 responses and one more was asked for"):
        say(policy)


def test_a_script_may_be_a_function_of_the_request() -> None:
    policy = ScriptedPolicy(lambda request: request.messages[-1].text.upper())
    assert [say(policy), say(policy)] == ["THE LAKE", "THE LAKE"]


def test_random_play_is_uniform_over_the_admissible_actions() -> None:
    counts = Counter(action(RandomPolicy(), seed) for seed in range(3000))
    assert set(counts) == {"Up", "Down", "Left"}
    chi2 = sum((count - 1000) ** 2 / 1000 for count in counts.values())
    assert chi2 < 13.8  # the 99.9 % quantile with two degrees of freedom


def test_random_play_depends_on_the_seed_only() -> None:
    policy = RandomPolicy(actions_per_turn=3)
    assert say(policy, 5) == say(policy, 5)
    assert len(action(policy, 5).split(" || ")) == 3
    assert len({say(policy, seed) for seed in range(20)}) > 5


@pytest.mark.parametrize("policy", [RandomPolicy(), ExpertPolicy(noise=1.0)])
def test_random_play_without_known_actions_is_a_fault(policy: Policy) -> None:
    with pytest.raises(PolicyFault, match="needs info\\['admissible_actions'\\]"):
        say(policy, world=World(actions=()))


def test_the_expert_plays_the_solution_and_thinks_what_it_is_told() -> None:
    assert say(ExpertPolicy()) == "<think></think><answer>Up || Left</answer>"
    thinking = ExpertPolicy(think=lambda observation: f"I see {observation}.")
    assert say(thinking) == as_response("Up || Left", "I see the lake.")


def test_a_noisy_expert_replaces_that_share_of_its_turns() -> None:
    # A replaced turn is one of three single actions, none of them the solution: exactly the noise shows.
    replaced = sum(action(ExpertPolicy(noise=0.25), seed) != "Up || Left" for seed in range(4000))
    assert abs(replaced - 1000) < 3.3 * (4000 * 0.25 * 0.75) ** 0.5


def test_an_environment_without_an_expert_is_a_fault() -> None:
    with pytest.raises(EnvironmentFault, match="no expert"):
        say(ExpertPolicy(), world=World(solution=None))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="noise is a probability"):
        ExpertPolicy(noise=1.5)
    with pytest.raises(ConfigError, match="actions_per_turn must be at least 1"):
        RandomPolicy(actions_per_turn=0)


def test_the_expert_reaches_the_optimum_of_a_lake_that_is_not_slippery() -> None:
    tasks = make_tasks("agentkit/FrozenLake-v0", num=20)
    assert [episode.success for episode in collect(ExpertPolicy(), tasks)] == [True] * 20
    assert optimal_success(tasks) == [1.0] * 20
