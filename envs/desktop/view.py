"""View: what is on the screen, as windows of numbered elements; its text is what the player reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

NOTHING = "No window is open."


@dataclass(frozen=True)
class Element:
    """Something on the screen that can be pointed at."""

    number: int
    """As the player names it."""
    role: str
    """What it is, e.g. `push button`."""
    name: str
    value: str | None
    """Its text, or the number it is set to; None if it has neither."""
    states: tuple[str, ...]
    """Those it is in of: focused, checked, selected, expanded, disabled."""
    point: tuple[int, int]
    """Its middle, in pixels from the top left."""

    def __str__(self) -> str:
        parts = [f"[{self.number}] {self.role}", _quote(self.name) if self.name else ""]
        parts.append("" if self.value is None else f"= {_quote(self.value)}")
        parts.append(f"({', '.join(self.states)})" if self.states else "")
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Window:
    """A window and what can be used in it."""

    kind: str
    """`window`, `dialog`, `file dialog` or `alert`."""
    title: str
    active: bool
    """Whether keys go to it."""
    elements: tuple[Element, ...]

    def __str__(self) -> str:
        head = self.kind + (f" {_quote(self.title)}" if self.title else "") + (" (active)" if self.active else "")
        return "\n".join([head, *(f"  {element}" for element in self.elements)])


@dataclass(frozen=True)
class View:
    """What is on the screen."""

    windows: tuple[Window, ...]
    num_silent: int = 0
    """Applications that do not answer."""
    pressed: bool = False
    """Whether a button is held down, as it is for 250 ms when a key presses it; what it does is still to come."""

    @cached_property
    def elements(self) -> dict[int, Element]:
        """All elements by number."""
        return {element.number: element for window in self.windows for element in window.elements}

    @cached_property
    def menu_open(self) -> bool:
        """Whether a menu shows its items."""
        return any(element.role.endswith("menu item") for element in self.elements.values())

    def shows(self, *kinds: str) -> bool:
        """Whether a window of one of these kinds is open."""
        return any(window.kind in kinds for window in self.windows)

    def find(self, role: str, label: str = "") -> Element | None:
        """The first element of a role and, unless it is empty, of a label: its name, or else its text."""
        found = (one for one in self.elements.values() if one.role == role and label in ("", one.name or one.value))
        return next(found, None)

    def __str__(self) -> str:
        silent = ["An application does not answer."] * self.num_silent
        return "\n".join([*map(str, self.windows), *silent]) or NOTHING


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
