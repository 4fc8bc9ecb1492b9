"""Consensus over recommended actions; the numbers are worked by hand with all relevances 1 and utilities 0.5."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.errors import ConfigError
from agentkit.memory.consensus import ConsensusSettings, Recommendation, agree, recommended
from agentkit.memory.kinds import Body, EpisodeBody, FactBody, FailureBody, InsightBody, SkillBody, StepBody, Trust


def vote(id: str, action: str, trust: Trust = Trust.OBSERVED, **changes: Any) -> Recommendation:
    return Recommendation(id, action, trust=trust, **changes)


def test_a_poisoned_majority_loses_to_one_verified_memory() -> None:
    poison = [vote(f"p{n}", "go to garbagecan 1", origin=f"session {n}") for n in range(9)]
    found = agree([*poison, vote("good", "go to fridge 1", Trust.VERIFIED)])
    assert found.kept == ("good",)
    assert found.actions == (("go to fridge 1", 4.0),)
    assert {reason for _, reason in found.dropped} == {"verified memories recommend 'go to fridge 1' instead"}


def test_verified_evidence_for_another_situation_does_not_silence_anybody() -> None:
    found = agree([vote("here", "open door"), vote("elsewhere", "go north", Trust.VERIFIED, relevance=0.5)])
    assert found.actions[0][0] == "open door"
    assert found.dropped == ()


def test_two_verified_actions_both_stay() -> None:
    found = agree([vote("a", "left", Trust.VERIFIED), vote("b", "right", Trust.TRUSTED), vote("c", "up")])
    assert found.actions == (("right", 8.0), ("left", 4.0))
    assert [id for id, _ in found.dropped] == ["c"]


def test_an_origin_has_one_vote_however_much_it_writes() -> None:
    loud = [vote(f"l{n}", "jump", origin="loud") for n in range(20)]
    found = agree([*loud, vote("a", "walk", origin="a"), vote("b", "walk", origin="b")])
    assert found.actions == (("walk", 2.0), ("jump", 1.0))


def test_a_clear_majority_of_origins_outvotes_a_lone_one() -> None:
    many = [vote(f"m{n}", "walk", origin=f"o{n}") for n in range(3)]
    found = agree([vote("lone", "jump"), *many])
    assert found.dropped == (("lone", "outvoted: support 1.00 against 3.00 of several origins"),)
    assert agree([vote("lone", "jump"), *many[:2]]).dropped == ()


def test_what_a_trusted_memory_says_elsewhere_does_not_speak_for_an_untrusted_one_here() -> None:
    page = vote("page", "jump", Trust.UNTRUSTED, relevance=0.9)
    found = agree([page, vote("elsewhere", "jump", relevance=0.5)])
    assert found.kept == ("elsewhere",)
    assert found.dropped == (("page", "no trusted memory of a situation as alike recommends 'jump'; verify it"),)
    assert agree([page, vote("here", "jump", relevance=0.9)]).kept == ("page", "here")
    assert (
        agree([page, vote("elsewhere", "jump", relevance=0.5)], ConsensusSettings(untrusted_alone=True)).dropped == ()
    )


def test_what_only_the_untrusted_say_waits_until_it_is_verified() -> None:
    crowd = [vote(f"u{n}", "jump", Trust.UNTRUSTED, origin=f"page {n}") for n in range(50)]
    found = agree(crowd)
    assert (found.actions, found.kept) == ((), ())
    assert found.dropped[0][1].startswith("only untrusted memories recommend it; verify it")
    assert agree(crowd, ConsensusSettings(untrusted_alone=True)).actions[0] == ("jump", 12.5)


def test_a_crowd_of_the_untrusted_adds_a_tenth_at_most() -> None:
    crowd = [vote(f"u{n}", "jump", Trust.UNTRUSTED, origin=f"page {n}") for n in range(50)]
    assert agree([*crowd, vote("o", "jump")]).actions == (("jump", pytest.approx(1.1)),)


def test_utility_and_relevance_weigh_a_vote() -> None:
    assert agree([vote("a", "walk", utility=1.0)]).actions[0][1] == 1.5
    assert agree([vote("a", "walk", relevance=0.5)]).actions[0][1] == 0.5**16


def test_advice_against_an_action_is_taken_off() -> None:
    found = agree([vote("a", "jump"), vote("b", "walk"), vote("c", "", avoid="Jump.")])
    assert found.actions == (("walk", 1.0),)
    assert found.dropped == (("a", "as much speaks against it as for it"),)
    assert found.kept == ("b", "c")


def test_actions_are_compared_without_case_quotes_and_spaces() -> None:
    found = agree([vote("a", "Go  to `fridge 1`"), vote("b", " 'go to fridge 1'."), vote("c", "GO TO FRIDGE 1")])
    assert ("go to fridge 1", 2.0) in found.actions


def test_nothing_recalled_is_nothing_agreed() -> None:
    found = agree([])
    assert (found.actions, found.kept, found.dropped) == ((), (), ())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (EpisodeBody(success=True, episode_return=1, actions=("a", "b"), state_keys=("s", "t")), ("b", "")),
        (EpisodeBody(success=False, episode_return=0, actions=("a", "b"), state_keys=("s", "t")), ("", "")),
        (EpisodeBody(success=True, episode_return=1, actions=("a", "b")), ("", "")),
        (StepBody(observation="o", action="a", reward=1, next_observation="n"), ("a", "")),
        (StepBody(observation="o", action="a", reward=-1, next_observation="n"), ("", "a")),
        (StepBody(observation="o", action="a", reward=0, next_observation="n"), ("", "")),
        (InsightBody(condition="c", advice="x", action="a", avoid="b"), ("a", "b")),
        (SkillBody(name="s", actions=("a", "b")), ("a", "")),
        (FailureBody(signature="s", cause="loop", action="a", fix="b"), ("b", "a")),
        (FactBody(subject="s", relation="r", value="v"), ("", "")),
    ],
)
def test_what_each_kind_recommends(body: Body, expected: tuple[str, str]) -> None:
    assert recommended(body, "t") == expected


@pytest.mark.parametrize("field", ["relevance", "utility"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_numbers_out_of_range_are_an_error(field: str, value: float) -> None:
    changes: dict[str, Any] = {field: value}
    with pytest.raises(ConfigError, match=r"memory m: relevance .* must be in \[0, 1\]"):
        agree([replace(vote("m", "walk"), **changes)])


def test_weights_that_fall_with_trust_are_an_error() -> None:
    with pytest.raises(ConfigError, match="fall with trust"):
        agree([], ConsensusSettings(weights=(1.0, 0.5, 4.0, 8.0)))


VOTES = st.lists(
    st.builds(
        Recommendation,
        memory_id=st.uuids().map(str),
        action=st.sampled_from(["walk", "jump", "swim", ""]),
        trust=st.sampled_from(Trust),
        origin=st.sampled_from(["", "a", "b", "c"]),
        relevance=st.floats(0, 1),
        utility=st.floats(0, 1),
    ),
    max_size=8,
)


@given(VOTES)
def test_every_memory_is_kept_or_dropped_and_no_untrusted_action_stands_alone(votes: list[Recommendation]) -> None:
    found = agree(votes)
    assert sorted(found.kept + tuple(id for id, _ in found.dropped)) == sorted(one.memory_id for one in votes)
    for action, _ in found.actions:
        assert any(one.action == action and one.trust > Trust.UNTRUSTED for one in votes)


@given(VOTES, st.integers(1, 30))
def test_more_untrusted_votes_never_change_what_is_first(votes: list[Recommendation], number: int) -> None:
    """Unless two actions were within a tenth of each other."""
    crowd = [vote(f"u{n}", "swim", Trust.UNTRUSTED, origin=f"page {n}") for n in range(number)]
    before, after = agree(votes).actions, agree([*votes, *crowd]).actions
    if len(before) > 1 and before[0][1] > 1.1 * before[1][1]:
        assert after[0][0] == before[0][0]
