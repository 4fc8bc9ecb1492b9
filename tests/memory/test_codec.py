"""The stored form of an episode: exact, and linear in the length of the history."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.memory.codec import common, decode, encode
from agentkit.memory.records import Episode, Message, Part, Picture, Role, Turn
from agentkit.task import Task

texts = st.text(max_size=20)
floats = st.floats(allow_nan=False)
roles = st.sampled_from(list(Role))


@st.composite
def messages(draw):
    words = st.builds(Part, role=roles, text=texts)
    pictures = st.builds(Picture, role=roles, png=st.binary(max_size=20))
    parts = draw(st.lists(words | pictures, max_size=2))
    ids = draw(st.none() | st.lists(st.integers(0, 2**31), max_size=3).map(tuple))
    return Message(speaker=draw(st.sampled_from(["system", "user", "assistant"])), parts=tuple(parts), ids=ids)


@st.composite
def episodes(draw):
    turns: list[Turn] = []
    for _ in range(draw(st.integers(0, 4))):
        prompt = draw(st.lists(st.tuples(st.integers(0, 9), roles), max_size=6))
        shown = draw(st.lists(messages(), max_size=3))
        if turns and draw(st.booleans()):  # continues the history, wholly or from some place on
            before = turns[-1]
            known = list(zip(before.prompt_ids, before.prompt_roles, strict=True))
            known += list(zip(before.response_ids, before.response_roles, strict=True))
            prompt = known[: draw(st.integers(0, len(known)))] + prompt
            shown = list(before.messages[: draw(st.integers(0, len(before.messages)))]) + shown
        response = draw(st.lists(st.tuples(st.integers(0, 9), roles, floats), max_size=5))
        turns.append(
            Turn(
                observation=draw(texts),
                messages=tuple(shown),
                prompt_ids=tuple(id for id, _ in prompt),
                prompt_roles=tuple(role for _, role in prompt),
                response=draw(texts),
                response_ids=tuple(id for id, _, _ in response),
                response_roles=tuple(role for _, role, _ in response),
                logprobs=tuple(logprob for _, _, logprob in response),
                action=draw(st.none() | texts),
                reward=draw(floats),
                memory_ids=tuple(draw(st.lists(texts, max_size=2))),
                policy_s=draw(floats),
            )
        )
    task = Task(env_id=draw(texts), seed=draw(st.integers(0, 2**63)), params={"p": draw(floats | texts)})
    error = draw(st.none() | texts)
    return Episode(id=draw(texts), task=task, turns=tuple(turns), error=error, started_at=draw(floats))


@settings(max_examples=150, deadline=None)
@given(episodes())
def test_an_episode_survives_the_round_trip_exactly(episode):
    back = decode(encode(episode))
    assert back == episode
    assert back.fingerprint() == episode.fingerprint()
    assert encode(back) == encode(episode)  # finer than ==: tells 0.0 from -0.0


def test_infinite_and_undefined_numbers_survive():
    logprobs = (-math.inf, math.inf, math.nan)
    turn = Turn(observation="", response="", response_ids=(1, 2, 3), response_roles=(4, 4, 4), logprobs=logprobs)  # type: ignore[arg-type]
    back = decode(encode(Episode(id="e", task=Task(env_id="e", seed=0), turns=(turn,)))).turns[0]
    assert back.logprobs[:2] == (-math.inf, math.inf)
    assert math.isnan(back.logprobs[2])


def test_lone_surrogates_are_recorded_as_the_replacement_character():
    turn = Turn(observation="a\ud800b", response="\ud83d\ude00")
    back = decode(encode(Episode(id="e", task=Task(env_id="e", seed=0), turns=(turn,)))).turns[0]
    assert back.observation == "a\ufffdb"
    assert back.response == "\U0001f600"


def test_size_grows_linearly_with_the_history(make_episode):
    short, long = (len(encode(make_episode(turns=n, ids=300))) for n in (10, 40))
    assert long < 6 * short  # 16 times, were the history stored with every turn


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 1), max_size=30), st.lists(st.integers(0, 1), max_size=30))
def test_the_common_prefix_is_what_a_loop_finds(first, second):
    expected = 0
    while expected < min(len(first), len(second)) and first[expected] == second[expected]:
        expected += 1
    assert common(first, second) == expected


def test_every_flipped_byte_is_found(make_episode):
    payload = encode(make_episode())
    for place in range(0, len(payload), 7):
        damaged = bytearray(payload)
        damaged[place] ^= 0x10
        with pytest.raises(ValueError, match="checksum"):
            decode(bytes(damaged))


def test_an_episode_of_a_newer_format_is_refused(make_episode):
    with pytest.raises(ValueError, match="format 99"):
        encode(make_episode().model_copy(update={"format": 99}))
