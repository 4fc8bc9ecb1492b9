"""Elements: how a page reads, and that what it wrote itself stays in quotes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.envs.web.elements import Element, Sight, quoted, read_sight
from agentkit.envs.web.keys import key_chord
from agentkit.errors import EnvironmentFault

RECORD: dict[str, Any] = {
    "number": 1, "role": "button", "tag": "button", "id": "", "classes": "", "name": "Go", "value": None, "hint": "",
    "states": [], "options": [], "x": 1, "y": 2, "width": 3, "height": 4, "colour": "", "depth": 0, "press": True,
    "bare": True,
}  # fmt: skip


def test_lines_tell_role_name_value_and_states() -> None:
    assert Element(12, "button", "button", name="Submit", press=True, bare=True).line() == '[12] button "Submit"'
    box = Element(3, "checkbox", "input", name="a", states=("checked", "disabled"), depth=1)
    assert box.line() == '  [3] checkbox "a" checked disabled'
    choice = Element(4, "select", "select", value="b", options=("a", "b"))
    assert choice.line() == '[4] select value="b" options "a", "b"'
    assert Element(name="between").line() == '"between"'


def test_what_bears_no_text_is_told_by_its_looks() -> None:
    icon = Element(5, "clickable", "span", classes="star", x=10, y=20, width=8, height=9, press=True, bare=True)
    assert icon.line() == '[5] clickable class="star" at 10 20 size 8 9'
    circle = Element(6, "circle", "circle", colour="rgb(255, 0, 0)", x=1, y=2, width=3, height=4, bare=True)
    assert circle.line() == "[6] circle rgb(255, 0, 0) at 1 2 size 3 4"


def test_a_sight_says_what_it_leaves_out() -> None:
    sight = Sight(tuple(Element(number, "button", name="x" * 10) for number in range(1, 6)), num_missing=2)
    assert sight.text(1000).splitlines()[-1] == "... 2 more not shown"
    # Each line takes 23 characters and its line break, so that two fit into 50.
    assert sight.text(50).splitlines() == ['[1] button "xxxxxxxxxx"', '[2] button "xxxxxxxxxx"', "... 5 more not shown"]


def test_long_texts_are_cut_and_say_so() -> None:
    assert Element(1, "text", name="abcdef").line(max_text=4) == '[1] text "abcd"... 2 characters more'


@given(st.text(st.characters()))
def test_whatever_a_page_writes_stays_on_one_line_in_quotes(text: str) -> None:
    line = Element(1, "button", name=text, hint=text, value=text).line()
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert json.loads(quoted(text)) == text


def test_a_forged_account_of_the_page_is_a_fault() -> None:
    assert read_sight({"records": [RECORD, {"text": "a", "depth": 0}], "missing": 0}).elements[1].name == "a"
    forged: list[Any] = [
        None,
        [],
        {"records": "x", "missing": 0},
        {"records": [None], "missing": 0},
        {"records": [{**RECORD, "number": "1"}], "missing": 0},
        {"records": [{**RECORD, "states": [["x"], {}], "x": None}], "missing": 0},
        {"records": [{**RECORD, "x": float("nan")}], "missing": 0},
    ]
    for answer in forged:
        with pytest.raises(EnvironmentFault, match="no account of itself"):
            read_sight(answer)


def test_keys_go_by_their_common_names() -> None:
    assert key_chord("Enter") == "Enter"
    assert key_chord("CTRL+A") == "Control+a"
    assert key_chord("shift+A") == "Shift+A"
    assert key_chord("A") == "A"
    assert key_chord("ctrl+alt+f5") == "Control+Alt+F5"
    assert key_chord("+") == key_chord("shift++".removeprefix("shift+")) == "+"
    assert key_chord("shift") == "Shift"
    for unknown in ("", "foo", "ctrl+", "ctrl+foo", "é", "a+b"):
        assert key_chord(unknown) is None, unknown
