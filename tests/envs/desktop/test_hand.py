"""Mouse and keyboard on real applications: what is typed arrives, to the letter."""

from __future__ import annotations

import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkit.envs.desktop.env import Desktop
from agentkit.envs.desktop.hand import parse_keys
from agentkit.envs.desktop.view import View
from agentkit.envs.gestures import quote

pytestmark = pytest.mark.family("agentkit/Desktop-v0")
WRITABLE = st.characters(min_codepoint=32, max_codepoint=0x2FFF, categories=("L", "N", "P", "S", "Zs"))


def test_chords_name_their_keys() -> None:
    assert parse_keys("ctrl+shift+s") == ("Control_L", "Shift_L", "s")
    assert parse_keys("ALT+F4") == ("Alt_L", "F4")
    assert parse_keys("PageDown") == parse_keys("Page_Down") == ("Page_Down",)
    assert parse_keys("A") == ("A",)
    assert parse_keys("ctrl+plus") == ("Control_L", "plus")
    for wrong in ("", "+", "ctrl+", "ctr+s", "ctrl+sav", "s+ctrl", "\x00"):
        assert parse_keys(wrong) is None


@pytest.fixture(scope="module")
def editor(shared_env: Desktop) -> Desktop:
    for seed in range(100):
        shared_env.reset(seed=seed)
        if shared_env.level.chore == "append_line":
            break
    return shared_env


def typed(env: Desktop, text: str) -> str:
    """What an empty editor holds after `text` was typed into it."""
    env.turns_left = env.actions_left = 100
    env.step("press ctrl+a || press Delete")
    env.step(f"type {quote(text)}")
    element = seen(env).find("text")
    assert element is not None
    return element.value or ""


def seen(env: Desktop) -> View:
    return env._view


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(WRITABLE, max_size=40))
def test_any_text_arrives_as_it_was_typed(editor: Desktop, text: str) -> None:
    assert typed(editor, text) == text


def test_keys_with_and_without_shift_lines_and_tabs_arrive(editor: Desktop) -> None:
    text = "".join(map(chr, range(32, 127))) + "\naa  AA\n\n\tééß 世界 «x» 🙂\n"
    assert typed(editor, text) == text


def test_more_symbols_than_there_are_spare_keys_arrive(editor: Desktop) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 30)))
    assert typed(editor, text) == text


def test_characters_without_a_key_are_named(editor: Desktop) -> None:
    editor.turns_left = editor.actions_left = 100
    observation, _, _, _, info = editor.step(r'type "a\u0007b"')
    assert observation.startswith(r"No key types '\x07'.")
    assert info["valid"]


def test_gestures_of_one_turn_take_as_much_care_as_those_of_several(editor: Desktop) -> None:
    typed(editor, "some words")
    menus = [seen(editor).elements[number].point for number in (2, 3, 4, 2)]
    gestures = [f"click at {x} {y}" for x, y in menus]
    together = editor.step(" || ".join(gestures))[0]
    editor.step("press Escape || press Escape")
    assert typed(editor, "some words") == "some words"
    for gesture in gestures:
        apart = editor.step(gesture)[0]
    assert apart == together
    editor.step("press Escape || press Escape")


def test_a_mouse_selects_by_dragging_and_scrolls(editor: Desktop) -> None:
    assert typed(editor, "\n".join(f"line {number}" for number in range(100))).endswith("line 99")
    before = editor.screenshot()
    editor.step("scroll up 7 || scroll up 7")
    assert editor.screenshot() != before
    editor.step("press ctrl+Home || drag at 10 40 to at 300 40 || press Delete")
    element = seen(editor).find("text")
    assert element is not None
    assert not (element.value or "").startswith("line 0")


def test_a_screenshot_is_a_picture_of_the_screen(editor: Desktop) -> None:
    from PIL import Image

    picture = Image.open(io.BytesIO(editor.screenshot()))
    assert (picture.format, picture.size) == ("PNG", (1024, 640))
    assert len(picture.convert("L").getcolors() or []) > 10
