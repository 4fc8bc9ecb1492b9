"""Ingestion: what the record of an episode alone says, counted by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit import ExpertPolicy, RandomPolicy, collect, make_tasks
from agentkit.errors import UnknownNameError
from agentkit.memory.ingestion import ACTION_LIMIT, TEXT_LIMIT, goal_of, ingest, state_of
from agentkit.memory.kinds import Draft, EpisodeBody, FactBody, FailureBody, StepBody, Trust
from agentkit.memory.records import Episode, Turn
from agentkit.task import Task

TASK = Task(env_id="test/Env-v0", seed=3)


def played(*moves: tuple[str, str | None], success: bool = False, end: str = "", **fields: object) -> Episode:
    """An episode of (state, action) pairs; a state's observation is `at <state>`."""
    turns = [
        Turn(
            observation=f"at {state}",
            response=action or "",
            action=action,
            valid=action is not None and not action.startswith("bad"),
            state_key=state,
            reward=1.0 if success and number == len(moves) - 1 else 0.0,
            terminated=end == "terminated" and number == len(moves) - 1,
            truncated=end == "truncated" and number == len(moves) - 1,
        )
        for number, (state, action) in enumerate(moves)
    ]
    return Episode.model_validate({"id": "one", "task": TASK, "turns": tuple(turns), "success": success, **fields})


def failures(episode: Episode) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Signature -> (times seen, turns)."""
    found = {}
    for draft in ingest(episode, ("failure",)):
        assert isinstance(draft.body, FailureBody)
        found[draft.body.signature] = (draft.body.num_seen, draft.source.turns)
    return found


def test_an_episode_is_told_with_its_goal_its_actions_and_its_end() -> None:
    task = Task(env_id="test/Env-v0", seed=3, goal="reach c")
    made = played(("a", "east"), ("b", "east"), ("b", "bad"), ("b", None), ("b", "go"), success=True, task=task)
    (draft,) = ingest(made, ("episode",))
    assert isinstance(draft.body, EpisodeBody)
    assert draft.body.actions == ("east", "east", "go")
    assert draft.body.state_keys == ("a", "b", "b")
    assert draft.text == "Goal: reach c\n1-2. east (2 times)\n3. go\nSuccess after 5 turns, return 1."
    assert draft.keys == {"goal": "reach c", "state": "at a"}
    assert (draft.source.episode_ids, draft.source.turns, draft.trust) == (("one",), (), Trust.OBSERVED)
    assert (draft.task_key, draft.split, draft.env_id) == (task.key, "train", "test/Env-v0")


def test_steps_are_chained_and_what_followed_the_last_is_unknown() -> None:
    first, last = ingest(played(("a", "east"), ("b", None), ("c", "go"), end="terminated"), ("step",))
    assert isinstance(first.body, StepBody)
    assert isinstance(last.body, StepBody)
    assert (first.body.state_key, first.body.action, first.body.next_state_key) == ("a", "east", "b")
    assert (first.body.next_observation, first.source.turns, first.keys["state"]) == ("at b", (0,), "at a")
    assert (last.body.state_key, last.body.next_state_key, last.body.next_observation) == ("c", "", "")
    assert (last.body.terminated, last.source.turns) == (True, (2,))


def test_a_rule_is_what_always_followed() -> None:
    made = played(("a", "east"), ("b", "west"), ("a", "east"), ("b", "slip"), ("a", "x"), ("a", "slip"), ("c", "west"))
    facts = [draft.body for draft in ingest(made, ("fact",))]
    told = [(fact.subject, fact.relation, fact.value, fact.num_seen) for fact in facts if isinstance(fact, FactBody)]
    assert told == [
        ("a", "east", "b", 2),
        ("b", "west", "a", 1),
        ("b", "slip", "a", 1),
        ("a", "x", "a", 1),
        ("a", "slip", "c", 1),
    ]
    chance = played(("a", "east"), ("b", "west"), ("a", "east"), ("c", "stop"))
    assert [draft.body.relation for draft in ingest(chance, ("fact",)) if isinstance(draft.body, FactBody)] == ["west"]
    nothing = next(draft for draft in ingest(made, ("fact",)) if draft.source.turns == (4,))
    assert nothing.text == "Seen: at a\nHere `x` changes nothing"


def test_failures_have_the_turns_that_bear_them() -> None:
    made = played(
        ("a", "go to box 1"), ("b", "east"), ("a", "go to box 1"), ("c", "go to box 2"), ("c", "go to box 2"),
        ("c", "bad 7"), ("c", None), ("c", "bad 8"), end="truncated",
    )  # fmt: skip
    assert failures(made) == {
        "loop: go to {object_1}": (2, (2, 4)),
        "invalid: bad {number_1}": (2, (5, 7)),
        "invalid: no action": (1, (6,)),
        "budget: turns ran out": (1, (7,)),
    }
    assert failures(played(("a", "jump"), end="terminated")) == {"terminal: jump": (1, (0,))}
    assert failures(played(("a", "jump"), error="it died at 12:05\ntrace")) == {
        "error: it died at {number_1}:{number_2}": (1, (0,))
    }


def test_of_a_success_only_invalid_turns_are_failures() -> None:
    made = played(("a", "x"), ("a", "x"), ("a", "bad"), ("a", "go"), success=True, end="terminated")
    assert failures(made) == {"invalid: bad": (1, (2,))}


def test_a_turn_that_was_not_acted_on_is_neither_step_nor_failure() -> None:
    thought = Turn(observation="at a", response="let me think", node="plan")
    made = played(("a", "x"), success=True).model_copy(update={"turns": (thought,)})
    assert [draft.kind for draft in ingest(made, ("step", "fact", "failure"))] == []


def test_the_goal_is_the_task_s_else_the_line_that_states_it() -> None:
    assert goal_of(played(("a", "x"), task=Task(env_id="test/Env-v0", seed=0, goal="win"))) == "win"
    stated = Turn(observation="Welcome.\n\nYour task is to: cool a tomato.\nGo.", response="")
    assert goal_of(played(("a", "x")).model_copy(update={"turns": (stated,)})) == "cool a tomato."
    assert goal_of(played(("a", "x"))) == ""


def test_states_without_a_key_are_told_apart_by_what_was_seen() -> None:
    one, same, other = (Turn(observation=text, response="") for text in ("x", "x", "y"))
    assert state_of(one) == state_of(same) != state_of(other)


def test_an_episode_that_broke_off_before_its_first_turn_has_a_key() -> None:
    drafts = ingest(played(error="no such map"), ("episode", "step", "fact", "failure"))
    assert [(draft.kind, draft.keys) for draft in drafts] == [
        ("episode", {"goal": "test/Env-v0"}),
        ("failure", {"goal": "test/Env-v0"}),
    ]
    assert drafts[0].text == "Broken off after 0 turns, return 0."


def test_long_texts_are_cut() -> None:
    made = played(*((f"s{number}" * 900, f"{number} " + "x" * 5_000) for number in range(60)), end="truncated")
    for draft in ingest(made, ("episode", "step", "fact", "failure")):
        assert len(draft.text) <= TEXT_LIMIT
        assert all(len(key) <= 1_000 for key in draft.keys.values())
        if isinstance(draft.body, FailureBody):
            assert len(draft.body.signature) <= ACTION_LIMIT + 40
    assert ingest(made, ("episode",))[0].text.endswith("Failure after 60 turns, return 0.")


def test_a_kind_that_one_episode_cannot_give_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="no kind of memory that one episode gives 'skill'"):
        ingest(played(("a", "x")), ("skill",))


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "go to box 1", "bad 1", None])), max_size=8),
    st.booleans(),
    st.sampled_from(["", "terminated", "truncated"]),
)
def test_drafts_repeat_byte_for_byte_and_cite_turns_that_exist(moves, success: bool, end: str) -> None:
    made = played(*moves, success=success, end=end)
    drafts = ingest(made, ("episode", "step", "fact", "failure"))
    again = ingest(Episode.model_validate_json(made.model_dump_json()), ("failure", "fact", "step", "episode"))
    assert [draft.model_dump_json() for draft in drafts] == [draft.model_dump_json() for draft in again]
    for draft in drafts:
        assert draft.source.episode_ids == ("one",)
        assert all(0 <= turn < len(moves) for turn in draft.source.turns)
        assert list(draft.source.turns) == sorted(set(draft.source.turns))


def test_real_episodes_give_drafts_that_survive_json() -> None:
    for env_id in ("agentkit/Household-v0", "agentkit/FrozenLake-v0", "agentkit/Sokoban-v0"):
        for policy in (ExpertPolicy(), RandomPolicy()):
            for episode in collect(policy, make_tasks(env_id, num=3)):
                drafts = ingest(episode, ("episode", "step", "fact", "failure"))
                assert [Draft.model_validate_json(draft.model_dump_json()) for draft in drafts] == drafts
                assert sum(draft.kind == "step" for draft in drafts) == len(episode.turns)
                assert drafts[0].body == ingest(episode)[0].body
                assert any(draft.kind == "failure" for draft in drafts) or episode.success
