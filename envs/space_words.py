"""Observations of Gymnasium's spaces in words, and terminal drawings without escape codes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
from gymnasium import spaces

MOST_NUMBERS = 64
"""Numbers of an observation that can still be read; more are an image or a sensor field."""
COLOURS = ("gray", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
_ESCAPE = re.compile(r"\x1b\[([\d;]*)m")


def trouble_telling(space: spaces.Space[Any]) -> str | None:
    """Why observations of `space` cannot be told in words; None if they can."""
    parts: Sequence[spaces.Space[Any]] = ()
    if isinstance(space, spaces.Dict):
        parts = tuple(space.spaces.values())
    elif isinstance(space, spaces.Tuple):
        parts = space.spaces
    elif isinstance(space, (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)):
        if (num := int(np.prod(space.shape))) > MOST_NUMBERS:
            return f"an observation of {num:,} numbers cannot be told in words (at most {MOST_NUMBERS})"
    elif not isinstance(space, (spaces.Discrete, spaces.Text)):
        return f"observations of {type(space).__name__} spaces cannot be told in words"
    return next((trouble for trouble in map(trouble_telling, parts) if trouble), None)


def in_words(space: spaces.Space[Any], value: Any, fields: Sequence[str] = (), *, exact: bool = False) -> str:
    """`value` in words; the parts of a vector, a tuple or a single number are called by `fields` as far as they go.

    Args:
        space: what `value` is from.
        value: an observation.
        fields: names of its parts.
        exact: all digits of a number instead of three.

    >>> in_words(spaces.Tuple((spaces.Discrete(32), spaces.Discrete(2))), (15, 1), ["sum", "ace"])
    'sum 15, ace 1'
    >>> in_words(spaces.Box(-1, 1, (2,)), np.array([-0.51234, 0.0]), ["position"])
    'position -0.512, 0'
    >>> in_words(spaces.Dict({"left": spaces.MultiBinary(2), "word": spaces.Text(3)}), {"left": [0, 1], "word": "ab"})
    'left: [0, 1], word: ab'
    """
    if isinstance(space, spaces.Dict):
        return ", ".join(f"{key}: {_part(space[key], value[key], exact)}" for key in space.spaces)
    if isinstance(space, spaces.Tuple):
        parts = [_part(one, piece, exact) for one, piece in zip(space.spaces, value, strict=True)]
    elif isinstance(space, spaces.Box) and len(space.shape) != 1:
        parts = [_nested(np.asarray(value).tolist(), exact)]
    elif isinstance(space, spaces.Text):
        parts = [str(value)]
    else:
        parts = [_number(number, exact) for number in np.ravel(value).tolist()]
    return ", ".join(f"{fields[i]} {part}" if i < len(fields) else part for i, part in enumerate(parts))


def _part(space: spaces.Space[Any], value: Any, exact: bool) -> str:
    """A part of an observation, in brackets if it has parts itself."""
    words = in_words(space, value, exact=exact)
    if isinstance(space, (spaces.Discrete, spaces.Text)) or (space.shape is not None and len(space.shape) != 1):
        return words  # one number or text, or an array that brings its own brackets
    return f"[{words}]"


def _nested(value: Any, exact: bool) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_nested(one, exact) for one in value) + "]"
    return _number(value, exact)


def _number(value: float, exact: bool) -> str:
    if isinstance(value, (bool, int)) or not isfinite(value) or exact:
        return str(value)
    return f"{value:.3g}" if abs(value) >= 0.00005 else "0"


def plain(drawing: str) -> str:
    r"""A terminal's drawing with colours as words: they may be all that marks the player.

    >>> plain("|R: \x1b[43m \x1b[0m:\x1b[35mG\x1b[0m|")
    '|R: <on yellow: >:<magenta:G>|'
    """
    pieces, styles, at = [], list[str](), 0
    for escape in _ESCAPE.finditer(drawing):
        pieces.append(_styled(drawing[at : escape.start()], styles))
        at = escape.end()
        for code in map(int, filter(None, escape[1].split(";"))):
            if code in (38, 48):  # a colour by number, which has no name
                break
            if code == 0:
                styles = []
            elif 30 <= code <= 37 or 40 <= code <= 47:
                styles = [*styles, ("on " if code >= 40 else "") + COLOURS[code % 10]]
    pieces.append(_styled(drawing[at:], styles))
    return "".join(pieces).strip("\n")


def _styled(text: str, styles: list[str]) -> str:
    return f"<{' '.join(styles)}:{text}>" if text and styles else text
