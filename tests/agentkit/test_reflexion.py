"""Retries with reflections, from the start and from a turn, and the agent that anticipates."""

from __future__ import annotations

import asyncio
import doctest
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkit.agent import AgentConfig, build_agent
from agentkit.agents import (
    Reflection,
    build_anticipating_agent,
    by_model,
    chat_with,
    collect_retries,
    from_record,
    pivotal_turn,
    retry,
)
from agentkit.attempt import Attempt, Branch, Limits
from agentkit.envs import Task, make_tasks
from agentkit.envs.frozen_lake import FrozenLake
from agentkit.errors import ConfigError
from agentkit.evaluation import bootstrap
from agentkit.memory import Episode, EpisodeLog, HashEmbedder, MemoryStore, Role
from agentkit.memory.distillation import distil
from agentkit.memory.distiller import Distiller
from agentkit.memory.exposure import uniform
from agentkit.policies import Completion, ExpertPolicy, LocalPolicy, Request, Sampling, ScriptedPolicy, as_response
from agentkit.rollout import collect
from agentkit.rollout import play as play_attempt

ROOT = Path(__file__).parents[2]
SOLID = {"p": 1.0, "max_actions_per_turn": 1, "max_turns": 8, "max_actions": 8}
LAKE = make_tasks("agentkit/FrozenLake-v0", num=1, params=SOLID)[0]
SLIPPERY = make_tasks("agentkit/FrozenLake-v0", num=1, params={**SOLID, "slip": 0.6})[0]
TasksOf = Callable[..., list[Task]]


def play(task: Task, *actions: str, **options: Any) -> Episode:
    return collect(ScriptedPolicy([as_response(action) for action in actions]), [task], **options)[0]


@pytest.fixture(scope="module")
def solution() -> list[str]:
    """What solves the lake, in at least three turns."""
    actions = [str(turn.action) for turn in collect(ExpertPolicy(), [LAKE])[0].turns]
    assert 3 <= len(actions) <= 6
    return actions


def memory_shown(request: Request) -> str:
    return "".join(part.text for message in request.messages for part in message.parts if part.role is Role.MEMORY)


def test_a_retry_shows_the_reflection_and_names_what_it_follows(solution, tmp_path) -> None:
    idle = [as_response("Up")] * 8
    policy = ScriptedPolicy([*idle, *map(as_response, solution)])
    seen: list[str] = []

    def reflect(episode: Episode) -> str:
        seen.append(episode.id)
        return "Do not stand still."

    with EpisodeLog.open(tmp_path / "log.sqlite") as log:
        episodes = asyncio.run(retry(policy, LAKE, reflect=reflect, attempts=5, log=log))
        assert [episode.id for _, episode in log.numbered(after=0)] == [episode.id for episode in episodes]
    failed, solved = episodes
    assert (failed.success, solved.success, len(seen)) == (False, True, 1)
    assert (failed.parent_id, failed.parent_turn, solved.parent_id, solved.parent_turn) == (None, None, failed.id, 0)
    assert (failed.attempt, solved.attempt) == (0, 1)
    for turn in solved.turns:
        assert turn.memory_ids == (f"reflection-{failed.id}",)
        assert [part.role for part in turn.messages[1].parts] == [Role.MEMORY, Role.OBSERVATION]
        assert "Do not stand still." in turn.messages[1].text
    assert all(not turn.memory_ids for turn in failed.turns)
    assert solved.memory_snapshot is not None
    assert solved.group_id != failed.group_id  # they did not see the same memory


def test_attempts_are_used_up_and_no_more_than_three_reflections_are_shown() -> None:
    told: list[int] = []

    def stand_still(request: Request) -> str:
        told.append(memory_shown(request).count("</memory>"))
        return as_response("Up")

    episodes = asyncio.run(retry(ScriptedPolicy(stand_still), LAKE, reflect=lambda episode: "Move.", attempts=6))
    assert [episode.success for episode in episodes] == [False] * 6
    assert sorted(set(told)) == [0, 1, 2, 3]
    assert told[-1] == 3


def test_without_reflections_a_retry_is_what_a_group_would_have_played() -> None:
    tries = asyncio.run(retry(ExpertPolicy(0.9), LAKE, attempts=3, seed=4))
    group = collect(ExpertPolicy(0.9), [LAKE], group_size=3, seed=4)
    assert [[turn.action for turn in one.turns] for one in tries] == [
        [turn.action for turn in one.turns] for one in group[: len(tries)]
    ]


@pytest.mark.parametrize("task", [LAKE, SLIPPERY], ids=["firm", "slippery"])
def test_a_branch_plays_the_turns_before_it_again_and_is_asked_from_there_on(task) -> None:
    parent = play(task, *["Up", "Left", "Up", "Left", "Up", "Left", "Up", "Left"])
    turn = min(3, len(parent.turns) - 1)
    asked: list[Request] = []

    def answer(request: Request) -> str:
        asked.append(request)
        return as_response("Left")

    attempt = Attempt(task, ScriptedPolicy(answer), number=7, branch=Branch(parent, turn))
    child = asyncio.run(play_attempt(build_agent(), attempt))
    assert (child.parent_id, child.parent_turn, child.attempt) == (parent.id, turn, 7)
    assert child.turns[:turn] == parent.turns[:turn]
    assert child.turns[turn].observation == parent.turns[turn].observation
    assert len(asked) == len(child.turns) - turn
    past = [message.text for message in asked[0].messages if message.speaker == "assistant"]
    assert past == [one.response for one in parent.turns[:turn]]  # the conversation goes on where it was left
    assert len(child.turns) <= 8  # the budget is what the parent had left


def test_a_branch_of_a_branch_keeps_the_noise_of_the_first() -> None:
    policy = ScriptedPolicy(lambda request: as_response("Up"))  # slides to the sides, a way that the noise decides
    anew = asyncio.run(retry(policy, SLIPPERY, attempts=4))
    assert len({episode.turns[2].observation for episode in anew}) > 1
    told = lambda episode: Reflection(text="Go on.", turn=2)
    tries = asyncio.run(retry(policy, SLIPPERY, reflect=told, attempts=4))
    assert [(episode.parent_turn, episode.error) for episode in tries] == [
        (None, None),
        (2, None),
        (2, None),
        (2, None),
    ]
    assert len({episode.turns[2].observation for episode in tries}) == 1


def test_an_environment_that_does_not_repeat_itself_cannot_be_left_at_a_turn(tasks_of) -> None:
    starts: list[int] = []

    class Restless(FrozenLake):
        def reset(self, **given: Any) -> Any:
            starts.append(1)
            observation, info = super().reset(**given)
            return f"visit {len(starts)}\n{observation}", info

    (task,) = tasks_of(Restless)
    policy = ScriptedPolicy(lambda request: as_response("Up"))
    told = lambda episode: Reflection(text="Move.", turn=1)
    tries = asyncio.run(retry(policy, task, reflect=told, attempts=3))
    assert tries[1].error is not None
    assert "led elsewhere before turn 0 than they did then" in tries[1].error
    assert (tries[2].error, tries[2].parent_turn) == (None, 0)  # it starts anew, and is still told
    assert tries[2].turns[0].memory_ids == (f"reflection-{tries[0].id}",)


@pytest.mark.parametrize(
    ("branch", "message"),
    [
        (lambda parent: Branch(parent, 8), "a branch at turn 8 of an episode of 8 turns"),
        (lambda parent: Branch(parent, -1), "a branch at turn -1 of an episode of 8 turns"),
        (
            lambda parent: Branch(parent.model_copy(update={"task": LAKE.model_copy(update={"seed": 9})})),
            "cannot leave one at",
        ),
    ],
)
def test_a_branch_that_cannot_be_is_refused(branch, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Attempt(LAKE, ExpertPolicy(), branch=branch(play(LAKE, *["Up"] * 8)))


def test_retrying_needs_an_attempt_and_someone_to_do_it() -> None:
    with pytest.raises(ConfigError, match="attempts 0 must be at least 1"):
        asyncio.run(retry(ExpertPolicy(), LAKE, attempts=0))
    with pytest.raises(ConfigError, match="concurrency 0 must be at least 1"):
        collect_retries(ExpertPolicy(), [LAKE], concurrency=0)


def test_an_answer_that_was_not_acted_on_is_no_action_on_record() -> None:
    (episode,) = collect(ScriptedPolicy(lambda request: as_response("Up")), [LAKE], agent=build_anticipating_agent())
    assert [turn.action for turn in episode.turns[:4]] == [None, "Up", None, "Up"]
    assert all(turn.valid for turn in episode.turns)


def test_the_pivot_is_where_the_first_loop_began(solution) -> None:
    back = {"Up": "Down", "Down": "Up", "Left": "Right", "Right": "Left"}
    wander = [solution[0], solution[1], back[solution[1]], solution[1], back[solution[1]]]
    episode = play(LAKE, *wander, *["Up"] * 3)
    keys = [turn.state_key for turn in episode.turns]
    assert pivotal_turn(episode) == keys.index(keys[3]) == 1


def test_without_a_loop_the_pivot_is_the_turn_of_a_losing_end_or_the_start() -> None:
    fell = [
        episode
        for episode in collect(
            ExpertPolicy(0.6), make_tasks("agentkit/FrozenLake-v0", num=60, params={**SOLID, "p": 0.7})
        )
        if episode.turns[-1].terminated and not episode.success
        if len({turn.state_key for turn in episode.turns}) == len(episode.turns) > 1
    ]
    assert fell
    assert all(pivotal_turn(episode) == len(episode.turns) - 1 for episode in fell)
    assert pivotal_turn(fell[0].model_copy(update={"turns": ()})) == 0


def test_the_record_says_where_it_looped_and_what_is_known_to_help(solution, tmp_path) -> None:
    failed = play(LAKE, solution[0], *["Up" if solution[0] != "Up" else "Left"] * 7)
    text = from_record()(failed).text
    assert "Failed by a loop: `" in text
    assert "Failed by running out of turns: no success within 8 turns." in text
    assert "What has succeeded there" not in text
    with MemoryStore.open(tmp_path, embedder=HashEmbedder(), index="exact") as memory:
        memory.write(distil([collect(ExpertPolicy(), [LAKE])[0]], [failed]))
        assert f"What has succeeded there is `{solution[1]}`." in from_record(memory)(failed).text
    branched = from_record(branch=True)(failed)
    assert (branched.text, branched.turn) == (text, pivotal_turn(failed))


def told_by_model(answer: Callable[[str], str]) -> tuple[Distiller, list[str]]:
    read: list[str] = []

    def respond(request: Request) -> str:
        read.append(request.messages[-1].text)
        return answer(read[-1])

    return Distiller(chat_with(ScriptedPolicy(respond)), "scripted"), read


def test_a_model_reflects_and_names_the_turn_to_leave_at() -> None:
    failed = play(LAKE, *["Up"] * 8)

    def answer(asked: str) -> str:
        return json.dumps(
            {
                "cause": "loop",
                "action": "Up",
                "fix": "Down",
                "explanation": "Up leads into the wall.",
                "cites": [{"episode": failed.id, "turn": 2}, {"episode": failed.id, "turn": 4}],
            }
        )

    distiller, read = told_by_model(answer)
    said = asyncio.run(by_model(distiller, branch=True)(failed))
    assert (said.text, said.turn) == ("Up leads into the wall.\nTo try: Down", 2)
    assert '"action": "Up"' in read[0]
    assert asyncio.run(by_model(distiller)(failed)).turn == 0


def test_where_a_model_says_what_the_record_does_not_bear_out_the_record_speaks() -> None:
    failed = play(LAKE, *["Up"] * 8)
    distiller, _ = told_by_model(lambda asked: "I would rather not say.")
    assert asyncio.run(by_model(distiller)(failed)) == from_record()(failed)


def test_a_local_model_retries_with_its_reflection_in_the_tokens(policy: LocalPolicy) -> None:
    limits, sampling = Limits(max_turns=2), Sampling(max_new_tokens=4)
    tries = asyncio.run(
        retry(policy, LAKE, reflect=lambda episode: "Go on.", attempts=2, limits=limits, sampling=sampling)
    )
    turn = tries[1].turns[0]
    marked = [i for i, role in zip(turn.prompt_ids, turn.prompt_roles, strict=True) if role is Role.MEMORY]
    assert "Go on." in policy.tokenizer.decode(marked)
    assert all(role is not Role.MEMORY for role in tries[0].turns[0].prompt_roles)


class Habit:
    """The expert, but in some states it always errs in the same way, until its prompt speaks against that there."""

    name, version = "habit", 0

    def __init__(self, seed: int) -> None:
        self.seed = seed

    async def complete(self, request: Request) -> Completion:
        state, choices = request.world.state_key, list(request.world.admissible_actions)
        right = await request.world.expert_action()
        habit = choices[int(uniform(self.seed, "habit", state) * len(choices))]
        shown = [part.text for m in request.messages for part in m.parts if part.role is Role.OBSERVATION][-1]
        _, here, after = memory_shown(request).partition(f"Seen: {shown}\n")
        warned = bool(here) and f"`{habit}`" in after.partition("\nSeen: ")[0]
        errs = uniform(self.seed, "errs", state) < 0.3 and not warned
        return Completion(as_response(habit if errs else right))


def test_reflections_from_the_record_help_a_policy_that_heeds_them() -> None:
    """Sokoban, 30 tasks, 3 seeds, 3 attempts each way; what `benchmarks/retries.py` measures at length."""
    tasks = make_tasks(
        "agentkit/Sokoban-v0", num=30, params={"max_turns": 12, "max_actions": 12, "max_actions_per_turn": 1}
    )

    def solved(reflect: Any) -> Any:
        runs = [collect_retries(Habit(seed), tasks, reflect=reflect, attempts=3, seed=seed) for seed in range(3)]
        assert all(len(tries) <= 3 for run in runs for tries in run)
        return np.array([[tries[-1].success for tries in run] for run in runs], float)

    plain = solved(None)
    for reflect in (from_record(), from_record(branch=True)):
        gain = bootstrap((solved(reflect) - plain).mean(axis=0), np.random.default_rng(0))
        assert gain.low > 0.2


def test_the_anticipating_agent_asks_first_and_reminds_of_the_alternative_after_a_failure() -> None:
    said: list[str] = []

    def answer(request: Request) -> str:
        said.append(request.messages[-1].text)
        return as_response("Down" if "Nothing is played yet." in said[-1] else "Up")

    agent = build_anticipating_agent(AgentConfig(history=1))
    (episode,) = collect(ScriptedPolicy(answer), [LAKE], agent=agent, limits=Limits(max_turns=6))
    assert [turn.node for turn in episode.turns] == ["anticipate", "decide"] * 3
    assert said[1] == "Now act."
    stuck = episode.turns[2].state_key == episode.turns[0].state_key
    assert stuck  # the lake begins at its upper edge
    assert "Your last action failed. What you would do in that case: Down" in said[2]
    assert "Your last action failed" not in said[0]
    assert episode.turns[-1].truncated
    speakers = ["".join(message.speaker[0] for message in turn.messages) for turn in episode.turns]
    assert speakers == ["su", "suau", "suauau", "suauauau", "suauau", "suauauau"]


class Obstinate:
    """Mumbles first in every state; does what it said it would do instead only once it is reminded of it."""

    name, version = "obstinate", 0

    async def complete(self, request: Request) -> Completion:
        asked = [message.text for message in request.messages if message.speaker == "user"]
        if asked[-1].endswith("Nothing is played yet."):
            return Completion(as_response(await request.world.expert_action()))
        reminded = len(asked) > 1 and "What you would do in that case: " in asked[-2]
        return Completion(as_response(asked[-2].partition("in that case: ")[2].split()[0] if reminded else "mumble"))


def test_a_policy_that_is_reminded_of_its_alternative_solves_what_it_would_not() -> None:
    roomy = LAKE.model_copy(update={"params": {**SOLID, "max_turns": 40, "max_actions": 40}})
    assert collect(Obstinate(), [roomy], agent=build_anticipating_agent())[0].success
    assert not collect(Obstinate(), [roomy])[0].success


def test_the_page_on_agents_runs_as_printed() -> None:
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    page = str(ROOT / "docs" / "agents.md")
    failed, attempted = doctest.testfile(page, module_relative=False, encoding="utf-8", optionflags=flags)
    assert (failed, attempted > 30) == (0, True)


def test_the_example_runs() -> None:
    example = [sys.executable, str(ROOT / "examples" / "reflexion.py")]
    done = subprocess.run(example, capture_output=True, text=True, check=True, timeout=60)
    assert "plainly          5 of 20 solved\nwith reflections 20 of 20 solved" in done.stdout
