"""Gestures: the grammar of hands on screens."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.envs.gestures import Gesture, parse_gesture, quote, split_gestures


@pytest.mark.parametrize(
    ("text", "gesture"),
    [
        ("click 12", Gesture("click", 12)),
        ("CLICK  12 ", Gesture("click", 12)),
        ("double_click 3", Gesture("double_click", 3)),
        ("right_click 4", Gesture("right_click", 4)),
        ("hover at 5 6", Gesture("hover", (5, 6))),
        ("click at 80, 120", Gesture("click", (80, 120))),
        ("drag 3 to 7", Gesture("drag", 3, 7)),
        ("drag at 10 20 to 30 40", Gesture("drag", (10, 20), (30, 40))),
        ("drag 3 to at 30 40", Gesture("drag", 3, (30, 40))),
        ('fill 4 "new contents"', Gesture("fill", 4, text="new contents")),
        ('select 5 "an option"', Gesture("select", 5, text="an option")),
        ('type "a\\nb"', Gesture("type", text="a\nb")),
        ('type ""', Gesture("type")),
        ("press ctrl+S", Gesture("press", text="ctrl+S")),
        ("scroll down", Gesture("scroll", text="down")),
        ("scroll Up 6", Gesture("scroll", 6, text="up")),
        ("scroll left at 1 2", Gesture("scroll", (1, 2), text="left")),
        ("wait", Gesture("wait")),
        ("Done", Gesture("done")),
    ],
)
def test_a_gesture_is_read(text: str, gesture: Gesture) -> None:
    assert parse_gesture(text) == gesture


@pytest.mark.parametrize(
    "text",
    ["", "click", "click here", "click -1", "click 1234567", "fill 4 text", 'fill "text"', 'type "open', "press",
     "press a b", "scroll", "scroll inwards", "drag 3", "wait 5", "done!", 'type "a" "b"', 'type "\\x"',
     r'type "\ud800"'],
)  # fmt: skip
def test_what_is_no_gesture_is_none(text: str) -> None:
    assert parse_gesture(text) is None


@given(st.text())
def test_any_text_survives_quoting(text: str) -> None:
    found = parse_gesture(f"type {quote(text)}")
    assert found is not None
    assert found.text == text


@given(st.text())
def test_any_quoted_text_stays_one_piece(text: str) -> None:
    pieces = [f"fill 1 {quote(text)}", "wait", f"type {quote(text + '||')}"]
    assert split_gestures(" || ".join(pieces)) == pieces


@given(st.text())
def test_any_text_at_all_can_be_split_and_read(text: str) -> None:
    for piece in split_gestures(text):
        assert piece == piece.strip() != ""
        parse_gesture(piece)


def test_an_open_quote_does_not_swallow_the_separator() -> None:
    assert split_gestures('type "a || wait') == ['type "a', "wait"]


def test_line_breaks_may_stand_in_quotes_unescaped() -> None:
    found = parse_gesture('type "a\nb"')
    assert found is not None
    assert found.text == "a\nb"
    assert json.loads(quote("a\nb")) == "a\nb"
