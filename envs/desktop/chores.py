"""Chores: what a chore is, and the table of all of them.

A chore draws its words and numbers, lays out a home, and judges by the files that are left there. Its script is how
somebody who knows the application does it: a gesture a turn, in which `<role|label>` stands for the number of the
first element of that role and label, and `<text of role|label>` for what is written in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeVar

from agentkit.envs.desktop.view import View

T = TypeVar("T")
Values = dict[str, str]
"""What was drawn for a level, by name."""

WORDS = (
    "apple amber basket bridge candle canvas carpet cherry clover copper cotton dinner drawer engine falcon fabric"
    " garden ginger hammer harbor island jacket kettle ladder lemon marble meadow mirror needle orange paper pepper"
    " pillow planet pocket ribbon rocket saddle silver spider summer tablet thread ticket tunnel velvet walnut window"
)
_PLACEHOLDER = re.compile(r"<(text of )?([a-z ]+)(?:\|([^>]*))?>")


@dataclass(frozen=True)
class Chore:
    """A kind of task."""

    name: str
    """As `tasks` names it."""
    applications: tuple[tuple[str, ...], ...]
    """Command lines, started in this order; `{...}` stands for a drawn value."""
    goal: str
    """What is asked for; `{...}` stands for a drawn value."""
    draw: Callable[[Random], Values]
    """Draws a level, with `Random.random` only."""
    files: Callable[[Values], dict[str, str]]
    """The home to begin with: path -> contents."""
    judge: Callable[[Path, Values], bool]
    """Whether the chore is done, from the home alone."""
    script: tuple[str, ...]
    """Turns of the expert; `{...}` stands for a drawn value."""


def pick(rng: Random, choices: Sequence[T]) -> T:
    """One of `choices`, with equal chances."""
    return choices[int(rng.random() * len(choices))]


def draw_words(rng: Random, num: int) -> list[str]:
    """`num` different words."""
    left = WORDS.split()
    return [left.pop(int(rng.random() * len(left))) for _ in range(num)]


def draw_lines(rng: Random, num: int) -> list[str]:
    """`num` lines of three words; no word comes twice."""
    words = draw_words(rng, 3 * num)
    return [" ".join(words[3 * line : 3 * line + 3]) for line in range(num)]


def read(home: Path, path: str) -> str | None:
    """The text of a file in the home, without the line ends after it; None if there is no such text file."""
    try:
        return (home / path).read_text().rstrip("\n")
    except (OSError, UnicodeDecodeError):
        return None


def listing(home: Path) -> dict[str, bytes | None]:
    """What is in the home, hidden files aside: path -> contents, None for a folder or what cannot be read."""
    found: dict[str, bytes | None] = {}
    for folder, names, files in os.walk(home):
        names[:] = sorted(name for name in names if not name.startswith("."))
        inside = Path(folder)
        found.update({str((inside / name).relative_to(home)): None for name in names})
        for name in files:
            file = inside / name
            if not name.startswith("."):
                plain = file.is_file() and not file.is_symlink()
                found[str(file.relative_to(home))] = file.read_bytes() if plain else None
    return found


def resolve(step: str, view: View) -> str | None:
    """A script's step with numbers and texts for its placeholders; None if something of it is not on the screen."""
    missing = False

    def fill(found: re.Match[str]) -> str:
        nonlocal missing
        element = view.find(found[2], found[3] or "")
        missing = missing or element is None
        if element is None:
            return ""
        return (element.value or element.name) if found[1] else str(element.number)

    resolved = _PLACEHOLDER.sub(fill, step)
    return None if missing else resolved


def all_chores() -> dict[str, Chore]:
    """All chores by name."""
    from agentkit.envs.desktop import calculator, editor, files, sheet, terminal

    parts = (editor.CHORES, calculator.CHORES, files.CHORES, terminal.CHORES, sheet.CHORES)
    return {chore.name: chore for part in parts for chore in part}
