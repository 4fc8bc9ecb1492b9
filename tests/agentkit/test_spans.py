"""Which characters are thought and action, and what role each token gets."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.memory import Role
from agentkit.spans import parse_response, response_roles

GOOD = "<think>a</think> <answer>Up</answer>"


def roles(text: str, cuts: list[int]) -> list[str]:
    """Names of the roles of the tokens that lie between the cuts."""
    edges = [0, *cuts, len(text)]
    return [role.name for role in response_roles(parse_response(text), list(pairwise(edges)))]


def test_the_spans_of_a_well_formed_response_are_where_they_stand() -> None:
    parsed = parse_response(GOOD)
    assert parsed is not None
    assert GOOD[slice(*parsed.thought)] == "<think>a</think>"
    assert GOOD[slice(*parsed.answer)] == "<answer>Up</answer>"
    assert GOOD[slice(*parsed.action)] == "Up"
    assert parsed.text == "Up"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Up",
        "<answer>Up</answer>",
        "<think>a</think>",
        "<think>a</think><answer>Up",
        "<think>a<answer>Up</answer>",
        "<think>a</think> so <answer>Up</answer>",
        "<answer>Up</answer><think>a</think>",
        "</think><answer>Up</answer><think>",
        "<THINK>a</THINK><ANSWER>Up</ANSWER>",
    ],
)
def test_anything_else_is_malformed_and_all_its_tokens_are_other(text: str) -> None:
    assert parse_response(text) is None
    assert response_roles(None, [(0, 1), (1, len(text)), (len(text), len(text))]) == (Role.OTHER,) * 3


def test_of_several_answers_the_first_counts() -> None:
    twice = parse_response("<think>a</think><answer>Up</answer><think>b</think><answer>Down</answer>")
    assert twice is not None
    assert (twice.text, twice.thought) == ("Up", (0, 16))


def test_a_closed_thought_without_an_answer_runs_on_to_the_one_with() -> None:
    text = "<think>a</think>no<think>b</think>\n<answer>Up</answer>"
    parsed = parse_response(text)
    assert parsed is not None
    assert text[slice(*parsed.thought)] == "<think>a</think>no<think>b</think>"


def test_an_action_may_span_lines_and_is_stripped() -> None:
    parsed = parse_response("<think>\n\n</think>\n\n<answer>\n Up ||\n Left \n</answer>")
    assert parsed is not None
    assert parsed.text == "Up ||\n Left"


def test_tags_of_the_thought_are_thought_and_those_of_the_answer_are_format() -> None:
    # <think> a </think> " " <answer> Up </answer>
    assert roles(GOOD, [7, 8, 16, 17, 25, 27]) == [
        "THOUGHT",
        "THOUGHT",
        "THOUGHT",
        "FORMAT",
        "FORMAT",
        "ACTION",
        "FORMAT",
    ]


def test_a_token_that_straddles_a_boundary_belongs_to_the_action() -> None:
    # '…<answer>U' and 'p</…' both hold a character of the action.
    assert roles(GOOD, [16, 26, 29]) == ["THOUGHT", "ACTION", "ACTION", "FORMAT"]


def test_a_token_that_holds_everything_is_action() -> None:
    assert roles(GOOD, []) == ["ACTION"]


def test_a_token_from_the_thought_into_the_gap_is_thought() -> None:
    assert roles(GOOD, [15, 20]) == ["THOUGHT", "THOUGHT", "ACTION"]


def test_text_before_and_after_the_tags_is_other_and_the_end_of_sequence_is_format() -> None:
    text = "So: " + GOOD + " bye"
    found = response_roles(parse_response(text), [(0, 4), (4, 20), (21, 29), (29, 31), (31, 40), (40, 44), (44, 44)])
    assert [role.name for role in found] == ["OTHER", "THOUGHT", "FORMAT", "ACTION", "FORMAT", "OTHER", "FORMAT"]


def test_an_empty_action_has_no_action_tokens() -> None:
    text = "<think></think><answer></answer>"
    assert parse_response(text) is not None
    assert roles(text, [15, 24]) == ["THOUGHT", "FORMAT", "FORMAT"]


def test_tokens_that_share_a_character_share_its_role() -> None:
    text = "<think>é</think><answer>→</answer>"
    found = response_roles(
        parse_response(text), [(0, 7), (7, 8), (7, 8), (8, 24), (24, 25), (24, 25), (24, 25), (25, 34)]
    )
    assert [role.name[0] for role in found] == list("TTTTAAAF")


PIECES = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "Up", "é→", " ", "\n", "<", ">", "x || y", "🎈"]
)


@given(st.lists(PIECES, max_size=14).map("".join))
def test_parsing_agrees_with_the_regular_expression_that_defines_it(text: str) -> None:
    match = re.search(r"<think>(.*?)</think>\s*<answer>(.*?)</answer>", text, re.DOTALL)
    parsed = parse_response(text)
    assert (parsed is None) == (match is None)
    if parsed is not None and match is not None:
        assert parsed.action == match.span(2)
        assert parsed.thought == (match.start(), match.end(1) + len("</think>"))
        assert parsed.answer == (match.start(2) - len("<answer>"), match.end())


@given(
    st.lists(PIECES, max_size=14).map("".join)
    | st.text(max_size=6).map(lambda t: f"<think>{t}</think><answer>{t}</answer>"),
    st.sets(st.integers(0, 80)),
    st.booleans(),
)
def test_every_character_of_the_action_is_covered_by_action_tokens_only(text: str, cuts: set[int], end: bool) -> None:
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(text)), len(text)]
    offsets = list(pairwise(edges)) + [(len(text), len(text))] * end
    parsed = parse_response(text)
    found = response_roles(parsed, offsets)
    assert len(found) == len(offsets)
    if parsed is None:
        assert set(found) <= {Role.OTHER}
        return
    for character in range(*parsed.action):
        assert {role for role, (a, b) in zip(found, offsets, strict=True) if a <= character < b} == {Role.ACTION}
    for role, (a, b) in zip(found, offsets, strict=True):
        if role is Role.ACTION:
            assert set(range(a, b)) & set(range(*parsed.action))


def test_a_text_of_repeated_tags_is_parsed_in_no_time() -> None:
    begun = time.process_time()
    assert parse_response("<think></think><answer>" * 20_000) is None
    assert parse_response("<think>" * 50_000) is None
    assert time.process_time() - begun < 1.0
