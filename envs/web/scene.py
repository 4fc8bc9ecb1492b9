"""Scene: what an expert goes by, which is what every player sees: the instruction and the page's elements."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from agentkit.envs.gestures import Gesture, quote
from agentkit.envs.web.elements import Element

ORDINALS = ("1st", "2nd", "3rd")


@dataclass(frozen=True)
class Scene:
    """One moment of an episode."""

    utterance: str
    """What the task says."""
    elements: tuple[Element, ...]
    """What the page shows, in order."""
    played: tuple[Gesture, ...] = ()
    """The gestures of the episode so far."""

    @property
    def strings(self) -> list[str]:
        """What the instruction has in quotes."""
        return quoted_strings(self.utterance)

    def of(self, *roles: str) -> list[Element]:
        """The elements of some roles."""
        return [element for element in self.elements if element.role in roles]

    def find(self, name: str, *roles: str) -> Element | None:
        """The first element of that name, in capitals or not, which can be pressed unless `roles` are given."""
        for element in self.elements:
            fits = element.role in roles if roles else element.press
            if fits and element.name.lower() == name.lower():
                return element
        return None

    def click(self, name: str, *roles: str) -> str | None:
        """A click on the element that `find` finds."""
        found = self.find(name, *roles)
        return None if found is None else f"click {found.number}"

    def after(self, mark: str) -> list[Element]:
        """The elements behind the first one named `mark`."""
        for index, element in enumerate(self.elements):
            if element.name == mark:
                return list(self.elements[index + 1 :])
        return []

    def reading(self, pattern: str) -> re.Match[str]:
        """The instruction matched against a pattern that it is known to follow."""
        found = re.search(pattern, self.utterance)
        if found is None:
            raise LookupError(f"{self.utterance!r} does not read like {pattern!r}")
        return found

    def missing_click(self, names: list[str]) -> str | None:
        """A click on the first of some boxes that is not checked yet."""
        for name in names:
            box = self.find(name, "checkbox", "radio")
            if box is not None and "checked" not in box.states:
                return f"click {box.number}"
        return None

    def tried(self, element: Element, kind: str = "click") -> bool:
        """Whether the episode has a gesture of that kind on it."""
        return any(gesture.kind == kind and gesture.target == element.number for gesture in self.played)


@dataclass(frozen=True)
class PageExpert:
    """Solves one page."""

    act: Callable[[Scene], str | None]
    """The next gesture, where nobody else has played."""
    most_gestures: int
    """No episode of it is longer."""

    def gesture(self, scene: Scene) -> str | None:
        """The next gesture; None on a page that others have brought to where the expert looks for things in vain."""
        try:
            return self.act(scene)
        except (LookupError, StopIteration, TypeError, ValueError):
            return None


EXPERTS: dict[str, PageExpert] = {}
"""Page -> its expert; filled by the modules of experts."""


def solves(*pages: str, most: int = 20) -> Callable[[Callable[[Scene], str | None]], Callable[[Scene], str | None]]:
    """Enters a function into `EXPERTS` as the expert of some pages, which takes at most `most` gestures."""

    def enter(act: Callable[[Scene], str | None]) -> Callable[[Scene], str | None]:
        EXPERTS.update(dict.fromkeys(pages, PageExpert(act, most)))
        return act

    return enter


def fill(element: Element, text: str) -> str | None:
    """A gesture that makes a field hold `text`; None if it does already (dots of a password are counted)."""
    held = "•" * len(text) if element.role == "password" else text
    return None if element.value == held else f"fill {element.number} {quote(text)}"


def quoted_strings(text: str) -> list[str]:
    """What stands in double quotes, without repetitions.

    >>> quoted_strings('Enter "a b" and "c", then "a b".')
    ['a b', 'c']
    """
    return list(dict.fromkeys(re.findall(r'"([^"]+)"', text)))
