"""Gestures: what a hand does on a screen, in one grammar for web pages and desktops.

    click 12                  double_click 12           right_click 12         hover 12
    click at 80 120           drag 3 to 7               drag at 10 10 to 90 10
    fill 4 "new contents"     type "at the focus"       select 5 "an option"
    press ctrl+s              scroll down               scroll up 6            wait            done

Numbers name elements of the last observation; `at X Y` is in pixels from the top left. Quoted text is a JSON
string, so that `\n` and `\"` can be written.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from agentkit.envs.contract import SEPARATOR

Target = int | tuple[int, int]
"""Number of an element, or a point (x, y) in pixels."""


@dataclass(frozen=True)
class Gesture:
    """One action on a screen."""

    kind: str
    """First word, e.g. `click`."""
    target: Target | None = None
    """Where; None for the focus or the whole screen."""
    end: Target | None = None
    """Where a drag ends."""
    text: str = ""
    """What is typed, chosen or pressed; the direction of a scroll."""


_POINT = r"at\s+(\d{1,5})[\s,]+(\d{1,5})"
_QUOTED = r'("(?:[^"\\]|\\.)*")'
_ELEMENT = r"(\d{1,6})"
_POINTING = re.compile(rf"(click|double_click|right_click|hover)\s+(?:{_ELEMENT}|{_POINT})", re.I)
_DRAG = re.compile(
    rf"drag\s+(?:{_ELEMENT}|{_POINT})\s+to\s+(?:{_ELEMENT}|(?:at\s+)?(\d{{1,5}})[\s,]+(\d{{1,5}}))", re.I
)
_WRITING = re.compile(rf"(fill|select)\s+{_ELEMENT}\s+{_QUOTED}", re.I | re.S)
_TYPE = re.compile(rf"type\s+{_QUOTED}", re.I | re.S)
_PRESS = re.compile(r"press\s+(\S+)", re.I)
_SCROLL = re.compile(rf"scroll\s+(up|down|left|right)(?:\s+(?:{_ELEMENT}|{_POINT}))?", re.I)
_ALONE = re.compile(r"(wait|done)", re.I)
_LEXEME = re.compile(rf"{_QUOTED}|({re.escape(SEPARATOR)})|[\s\S]")


def parse_gesture(text: str) -> Gesture | None:
    r"""The gesture that `text` means, or None.

    >>> parse_gesture("click at 80 120")
    Gesture(kind='click', target=(80, 120), end=None, text='')
    >>> parse_gesture('fill 4 "a \\"b\\""').text, parse_gesture("click here")
    ('a "b"', None)
    """
    text = text.strip()
    if found := _POINTING.fullmatch(text):
        return Gesture(found[1].lower(), _target(*found.groups()[1:]))
    if found := _DRAG.fullmatch(text):
        return Gesture("drag", _target(*found.groups()[:3]), _target(*found.groups()[3:]))
    if found := _WRITING.fullmatch(text):
        return _quoting(found[1].lower(), found[3], int(found[2]))
    if found := _TYPE.fullmatch(text):
        return _quoting("type", found[1], None)
    if found := _PRESS.fullmatch(text):
        return Gesture("press", text=found[1])
    if found := _SCROLL.fullmatch(text):
        return Gesture("scroll", _target(*found.groups()[1:]), text=found[1].lower())
    if found := _ALONE.fullmatch(text):
        return Gesture(found[1].lower())
    return None


def split_gestures(text: str) -> list[str]:
    """The gestures of a turn's text; `||` inside quotes is text.

    >>> split_gestures('click 3 || type "a || b"')
    ['click 3', 'type "a || b"']
    """
    pieces = [""]
    for lexeme in _LEXEME.finditer(text):
        if lexeme[2]:
            pieces.append("")
        else:
            pieces[-1] += lexeme[0]
    return [piece for piece in map(str.strip, pieces) if piece]


def quote(text: str) -> str:
    """`text` as a gesture quotes it."""
    return json.dumps(text, ensure_ascii=False)


def _target(element: str | None, x: str | None, y: str | None) -> Target | None:
    if element is not None:
        return int(element)
    return None if x is None or y is None else (int(x), int(y))


def _quoting(kind: str, quoted: str, element: int | None) -> Gesture | None:
    try:
        text = json.loads(quoted, strict=False)
        text.encode()  # half a surrogate pair is no text that a keyboard or a browser could take
    except ValueError:
        return None
    return Gesture(kind, element, text=text)
