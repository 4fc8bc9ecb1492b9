"""Elements: what a page shows, as records and as lines of text.

What comes out of a page is data of a stranger: every field is checked for its type, and everything the page wrote
itself stands in quotes, on one line, so that it cannot pass for an element of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agentkit.errors import EnvironmentFault

GRAPHIC_TAGS = frozenset(("canvas", "circle", "ellipse", "image", "img", "line", "path", "polygon", "polyline", "rect"))
"""Elements that are told by place, size and colour, as is everything that bears no text."""


@dataclass(frozen=True)
class Element:
    """One line of a page: an element, or a stretch of text between elements."""

    number: int | None = None
    """What gestures call it; None for text between elements."""
    role: str = "text"
    """What it is to somebody who cannot see it, e.g. `button`."""
    tag: str = ""
    """Its HTML or SVG tag in small letters."""
    id: str = ""
    """Its `id` attribute; not shown."""
    classes: str = ""
    """Its `class` attribute; not shown."""
    name: str = ""
    """Its label or text."""
    value: str | None = None
    """What a field holds; None for anything else."""
    hint: str = ""
    """Its placeholder."""
    states: tuple[str, ...] = ()
    """Of checked, selected, expanded, collapsed, disabled, read-only, focused, scrollable."""
    options: tuple[str, ...] = ()
    """What a selection offers."""
    x: int = 0
    """Pixels from the left of the page's view to its middle."""
    y: int = 0
    """Pixels from the top of the page's view to its middle."""
    width: int = 0
    """Pixels."""
    height: int = 0
    """Pixels."""
    colour: str = ""
    """CSS colour of its area."""
    depth: int = 0
    """How many shown elements it stands in."""
    press: bool = False
    """Whether clicking it may do something."""
    bare: bool = False
    """Whether nothing is shown inside it."""

    @property
    def editable(self) -> bool:
        """Whether `fill` can put text into it."""
        return (
            self.value is not None and self.tag != "select" and not {"disabled", "read-only"}.intersection(self.states)
        )

    def line(self, max_text: int = 10_000) -> str:
        """How it reads, each text of it cut after `max_text` characters.

        >>> Element(3, "textbox", "input", name="user", value="ann", states=("focused",)).line()
        '[3] textbox "user" value="ann" focused'
        >>> Element(4, "text", name="abcdef").line(max_text=4)
        '[4] text "abcd"... 2 characters more'
        """
        quoted = lambda text: _cut(text, max_text)
        if self.number is None:
            return "  " * self.depth + quoted(self.name)
        parts = [f"[{self.number}] {self.role}"]
        if self.name:
            parts.append(quoted(self.name))
        if self.value is not None:
            parts.append(f"value={quoted(self.value)}")
        if self.hint:
            parts.append(f"hint={quoted(self.hint)}")
        if self.options:
            parts.append("options " + ", ".join(map(quoted, self.options)))
        parts.extend(self.states)
        if self.tag in GRAPHIC_TAGS or (self.bare and self.press and self.value is None and not self.name):
            # Icons and shapes: somebody who sees would tell them by their looks, and pages' classes often say as much.
            if self.classes and not self.name:
                parts.append(f"class={quoted(self.classes)}")
            parts.append(f"{self.colour} at {self.x} {self.y} size {self.width} {self.height}".strip())
        return "  " * self.depth + " ".join(parts)


@dataclass(frozen=True)
class Sight:
    """A page at one moment."""

    elements: tuple[Element, ...]
    """In the order of the document."""
    num_missing: int
    """Elements left out because the page has too many."""

    def text(self, max_chars: int, max_text: int = 10_000) -> str:
        """The lines, as many as fit into `max_chars`; the last one says how many do not. See `Element.line`."""
        lines: list[str] = []
        room = max_chars
        for element in self.elements:
            line = element.line(max_text)
            room -= len(line) + 1
            if room < 0:
                break
            lines.append(line)
        missing = len(self.elements) - len(lines) + self.num_missing
        return "\n".join([*lines, f"... {missing} more not shown"] if missing else lines)

    def numbered(self) -> Iterable[Element]:
        """The elements that gestures can name."""
        return (element for element in self.elements if element.number is not None)


def _cut(text: str, most: int) -> str:
    return quoted(text) if len(text) <= most else f"{quoted(text[:most])}... {len(text) - most} characters more"


def quoted(text: str) -> str:
    r"""`text` as a JSON string on one line, also where it holds line separators.

    >>> print(quoted('a\n[99] button "b"'))
    "a\n[99] button \"b\""
    """
    shown = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in shown)


def read_sight(answer: Any) -> Sight:
    """The page's answer, checked.

    Raises:
        EnvironmentFault: it is not what `look.js` gives, which only a page that tampers with it can bring about.
    """
    try:
        elements = tuple(_read_element(record) for record in _typed(answer, "records", list))
        return Sight(elements, _typed(answer, "missing", int))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise EnvironmentFault(f"the page gives no account of itself: {error}") from error


def _read_element(record: Any) -> Element:
    if "number" not in record:
        return Element(name=_typed(record, "text", str), depth=_depth(record))
    value = record["value"]
    return Element(
        number=_typed(record, "number", int),
        role=_typed(record, "role", str),
        tag=_typed(record, "tag", str),
        id=_typed(record, "id", str),
        classes=_typed(record, "classes", str),
        name=_typed(record, "name", str),
        value=None if value is None else _typed(record, "value", str),
        hint=_typed(record, "hint", str),
        states=tuple(str(state) for state in _typed(record, "states", list)),
        options=tuple(str(option) for option in _typed(record, "options", list)),
        x=int(_typed(record, "x", (int, float))),
        y=int(_typed(record, "y", (int, float))),
        width=int(_typed(record, "width", (int, float))),
        height=int(_typed(record, "height", (int, float))),
        colour=_typed(record, "colour", str),
        depth=_depth(record),
        press=_typed(record, "press", bool),
        bare=_typed(record, "bare", bool),
    )


def _depth(record: Any) -> int:
    return min(_typed(record, "depth", int), 20)


def _typed(record: Any, key: str, kind: Any) -> Any:
    if isinstance(record[key], kind):
        return record[key]
    raise TypeError(f"{key} is a {type(record[key]).__name__}")
