"""A policy may answer with a skill: its actions are played one after the other, as ordinary turns."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from agentkit.envs import make_tasks
from agentkit.memory import Draft, Episode, Source
from agentkit.memory.kinds import InsightBody, SkillBody
from agentkit.memory.skills import extract_skills
from agentkit.policies import Completion, ExpertPolicy, Request, ScriptedPolicy, SkillPolicy, as_response
from agentkit.rollout import collect

CHORE: dict[str, Any] = {"task_types": ["pick_and_place_simple"], "max_receptacles": 8, "max_objects": 6}
HOUSE = make_tasks("agentkit/Household-v0", num=1, params=CHORE)[0]  # a spraybottle in a garbagecan, for the shelf
SOLVED = [
    "go to garbagecan 1",
    "take spraybottle 1 from garbagecan 1",
    "go to shelf 1",
    "move spraybottle 1 to shelf 1",
]


def skill(name: str, *actions: str, slots: tuple[str, ...] = (), before: tuple[str, ...] = ()) -> Draft:
    return Draft(
        body=SkillBody(name=name, slots=slots, actions=actions, preconditions=before),
        text=name,
        keys={"goal": name},
        env_id=HOUSE.env_id,
        source=Source(writer="environment"),
    )


FETCH = skill("fetch", "go to {place}", "take {thing} from {place}", slots=("place", "thing"))
PUT = skill("put down", "go to {place}", "move {thing} to {place}", slots=("thing", "place"))


def play(*answers: str, skills: tuple[Draft, ...] = (FETCH, PUT), **options: Any) -> tuple[Episode, list[Request]]:
    asked: list[Request] = []
    rest = list(answers)

    def answer(request: Request) -> str:
        asked.append(request)
        return as_response(rest.pop(0) if rest else "look")

    policy = SkillPolicy(ScriptedPolicy(answer), skills, **options)
    return collect(policy, [HOUSE])[0], asked


def test_two_answers_play_four_ordinary_turns() -> None:
    episode, asked = play(
        "use fetch with place=garbagecan 1, thing=spraybottle 1",
        "Use Put Down with place = shelf 1,thing = spraybottle 1",
    )
    assert episode.success
    assert episode.policy == "skills+scripted"
    assert [turn.action for turn in episode.turns] == SOLVED
    assert [turn.node for turn in episode.turns] == ["decide"] * 4
    assert [turn.reward for turn in episode.turns] == [0.0, 0.0, 0.0, 1.0]
    assert len(asked) == 2
    assert episode.turns[1].response == as_response(SOLVED[1], "Skill, action 2 of 2.")
    assert asked[1].messages[-1].text.startswith("You pick up the spraybottle 1")


def test_skills_that_were_extracted_from_successes_are_played_on_another_task() -> None:
    chores = make_tasks("agentkit/Household-v0", num=30, params=CHORE)
    found = extract_skills(collect(ExpertPolicy(), chores[1:]))
    longest = next(draft for draft in found if isinstance(draft.body, SkillBody) and len(draft.body.actions) == 3)
    body = longest.body
    assert isinstance(body, SkillBody)
    assert body.actions == ("take {object_1} from {object_2}", "go to {object_3}", "move {object_1} to {object_3}")
    episode, asked = play(
        SOLVED[0],
        f"use {body.name} with object_1=spraybottle 1, object_2=garbagecan 1, object_3=shelf 1",
        skills=tuple(found),
    )
    assert ([turn.action for turn in episode.turns], episode.success, len(asked)) == (SOLVED, True, 2)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("use fecth with place=shelf 1", "no skill 'fecth'; did you mean 'fetch'?"),
        ("use fetch with place=shelf 1", "slot {thing} of 'take {thing} from {place}' is not bound"),
        ("use fetch", "is not bound"),
        ("use fetch with thing=egg 1, spot=shelf 1", "no slot of the skill 'fetch' 'spot'"),
        ("use careful with place=shelf 1", "the skill 'careful' needs 'The shelf 1 is open.', which is not seen"),
        ("use </think><answer>look with a=b", "no skill '‹/think>‹answer>look'"),
    ],
)
def test_a_call_that_cannot_be_played_costs_one_turn_and_says_why(call, reason) -> None:
    careful = skill("careful", "go to {place}", "look", slots=("place",), before=("The {place} is open.",))
    episode, asked = play(call, SOLVED[0], skills=(FETCH, careful))
    first, second = episode.turns[:2]
    assert first.action == call
    assert reason in first.response
    assert episode.turns[1].observation.startswith("Nothing happens.")
    assert second.action == SOLVED[0]
    assert len(episode.turns) == len(asked)
    assert any(reason in message.text for message in asked[1].messages if message.speaker == "assistant")


def test_a_precondition_that_is_seen_or_not_asked_for_lets_the_skill_begin() -> None:
    here = skill("leave", "go to {place}", "look", slots=("place",), before=("You are in the middle of a room.",))
    episode, _ = play("use leave with place=shelf 1", skills=(here,))
    assert [turn.action for turn in episode.turns[:2]] == ["go to shelf 1", "look"]
    missing = skill("leave", "go to {place}", "look", slots=("place",), before=("You fly.",))
    episode, _ = play("use leave with place=shelf 1", skills=(missing,), check=False)
    assert [turn.action for turn in episode.turns[:2]] == ["go to shelf 1", "look"]


def test_an_action_that_begins_with_use_is_no_call() -> None:
    episode, _ = play("use desklamp 1", "use")
    assert [turn.response for turn in episode.turns[:2]] == [as_response("use desklamp 1"), as_response("use")]


def test_a_skill_whose_next_action_is_impossible_ends_early_and_the_policy_is_asked() -> None:
    episode, asked = play("use fetch with place=shelf 1, thing=spraybottle 1", "go to garbagecan 1")
    assert [turn.action for turn in episode.turns[:3]] == ["go to shelf 1", "go to garbagecan 1", "look"]
    assert asked[1].messages[-1].text == episode.turns[1].observation


def test_attempts_at_once_do_not_play_each_others_skills() -> None:
    class Caller:
        name, version = "caller", 3

        async def complete(self, request: Request) -> Completion:
            action = await request.world.expert_action()
            verb, _, place = action.partition(" to ")
            return Completion(as_response(f"use walk with place={place}" if verb == "go" else action))

    walk = skill("walk", "go to {place}", "look", slots=("place",))
    chores = make_tasks("agentkit/Household-v0", num=12, params=CHORE)
    policy = SkillPolicy(Caller(), [walk])
    together = collect(policy, chores, concurrency=12)
    apart = [collect(SkillPolicy(Caller(), [walk]), [chore])[0] for chore in chores]
    assert [[turn.action for turn in one.turns] for one in together] == [
        [turn.action for turn in one.turns] for one in apart
    ]
    assert all(episode.success for episode in together)
    assert policy.version == 3
    gc.collect()
    assert not policy._playing  # attempts that ended in the middle of a skill are forgotten


def test_memories_of_other_kinds_are_no_skills_and_the_first_of_a_name_counts() -> None:
    insight = Draft(
        body=InsightBody(condition="c", advice="a"),
        text="a",
        keys={"condition": "c"},
        env_id="e",
        source=Source(writer="human"),
    )
    assert len(SkillPolicy(ExpertPolicy(), [insight, FETCH, skill("FETCH", "look", "look")])) == 1
    episode, _ = play("use fetch", skills=(skill("Fetch", "look", "inventory"), FETCH))
    assert [turn.action for turn in episode.turns[:2]] == ["look", "inventory"]
