"""Accessibility: reads from the applications what they show.

An application tells its whole tree in one answer (names, roles, states); places and texts are asked for only of what
is on the screen. What no player can use is left out: nameless containers, closed menus, what lies under a dialog, and
what is not the same in two runs, such as the time at which a file was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from agentkit.envs.desktop.bus import Bus, Call
from agentkit.envs.desktop.view import Element, View, Window

PREFIX = "org.a11y.atspi."
REGISTRY = PREFIX + "Registry"
ROOT = "/org/a11y/atspi/accessible/root"
ANSWER_S, HUNG_S = 2.0, 0.1
"""Seconds that an application may take to answer; and once it did not, until it does again."""
LONGEST = 2000
"""Characters of a text that are shown."""
STATES = {"focused": 12, "checked": 4, "selected": 23, "expanded": 10}
"""Bits of the states that are shown."""
ACTIVE, ARMED, MODAL, SENSITIVE, SHOWING, MANAGES_DESCENDANTS = 1, 2, 16, 24, 25, 31
CALCULATOR = "galculator"
"""Title of a window whose keys look pressed for a moment when they are typed, by a timer: not shown."""
FILE_CHOOSER = 19
DIALOGS = {2: "alert", 16: "dialog", FILE_CHOOSER: "file dialog"}
HIDDEN_WINDOWS = (64,)
"""Roles of windows that come and go by themselves: tool tips."""
ROLES = {
    7: "check box",
    8: "check menu item",
    10: "column header",
    11: "combo box",
    26: "icon",
    29: "label",
    32: "list item",
    33: "menu",
    35: "menu item",
    37: "page tab",
    40: "password text",
    43: "push button",
    44: "radio button",
    45: "radio menu item",
    51: "slider",
    52: "spin button",
    56: "table cell",
    57: "column header",
    60: "terminal",
    61: "text",
    62: "toggle button",
    79: "text",
    88: "link",
    91: "tree item",
}
"""Roles of the elements that are shown, by their number in AT-SPI, and their names."""
WRITINGS = (26, 29, 40, 52, 56, 60, 61, 79)
"""Roles whose text is asked for."""
MUTE = (26, 29, 32, 56, 91)
"""Roles that are nothing but their name, or else their text; without a word they are not shown."""
LAYERED_PANE, TERMINAL, POPUP = 30, 60, 69
LINE = 8
"""Pixels by which two elements may differ in height and stand in one line."""
FLEETING = re.compile(
    r"((Yesterday|\d{1,2}\u200e?[:∶]\d{2}( [AP]M)?)\s*)+|\d+ (second|minute)s?( ago)?|.*\d{1,2}:\d{2}:\d{2}.*|Sum = .*"
)
"""What is not the same in two runs: when files were written, the clock, a sum that is updated at leisure."""


@dataclass(eq=False)
class Node:
    """An element as its application tells it."""

    owner: str
    """Bus name of the application."""
    path: str
    """Path of the element on the bus."""
    index: int
    """Place among its parent's children."""
    role: int
    name: str
    states: int
    """Bit mask."""
    interfaces: Sequence[str]
    children: list[Node] = field(default_factory=list)
    point: tuple[int, int] | None = None
    """Its middle on the screen, once asked for."""
    text: str | None = None
    """What is written in it, once asked for."""

    def has(self, state: int) -> bool:
        """Whether it is in a state."""
        return bool(self.states >> state & 1)

    def call(self, interface: str, method: str, signature: str = "", *body: Any) -> Call:
        """A call of one of its methods."""
        return Call(self.owner, self.path, PREFIX + interface, method, signature, body)

    def get(self, interface: str, name: str) -> Call:
        """A call that reads one of its properties."""
        return Call(self.owner, self.path, "org.freedesktop.DBus.Properties", "Get", "ss", (PREFIX + interface, name))

    @property
    def folded(self) -> bool:
        """Whether its children are told only when asked for."""
        return self.has(MANAGES_DESCENDANTS) or self.role == LAYERED_PANE

    def visible(self) -> list[Node]:
        """Its children that are on the screen."""
        return [child for child in sorted(self.children, key=lambda node: node.index) if child.has(SHOWING)]

    def walk(self) -> Iterator[Node]:
        """It and what is on the screen below it."""
        yield self
        for child in self.visible():
            yield from child.walk()


class Reader:
    """Reads the screen of a display."""

    def __init__(self, bus: Bus, width: int, height: int, home: str) -> None:
        """Read what `bus` carries.

        Args:
            bus: where the applications describe themselves.
            width: pixels of the screen.
            height: pixels of the screen.
            home: path that is shown as /home/user.
        """
        self._bus = bus
        self._size = width, height
        self._home = home
        self._hung: set[str] = set()

    def num_open(self) -> int:
        """Applications that have a window on the screen."""
        return sum(1 for windows in self._applications()[0] if windows)

    def read(self) -> View:
        """What is on the screen now. Raises `EnvironmentFault` if the bus is gone."""
        applications, num_silent = self._applications()
        tops = [top for windows in applications for top in _uncovered(windows)]
        rows = self._unfold([node for top in tops for node in top.walk() if node.folded])
        compound = [row for row in rows if row.role in MUTE and not row.name]
        self._unfold(compound)
        for row in compound:  # a picture and a text: one thing to the player
            row.name = " ".join(child.name for child in row.children if child.name)
            row.children.clear()
        listed = [node for top in tops for node in top.walk() if node.role in ROLES]
        self._place(listed)
        self._read_texts(listed)
        numbers = count(1)
        alone = len(applications) + num_silent == 1
        windows = [self._window(top, numbers, alone) for top in tops]
        return View(tuple(windows), num_silent, any(node.has(ARMED) for node in listed))

    def _applications(self) -> tuple[list[list[Node]], int]:
        """The windows of each application that answers, and how many do not."""
        [found] = self._bus.ask([Call(REGISTRY, ROOT, PREFIX + "Accessible", "GetChildren")], ANSWER_S)
        names = [name for name, _ in found[0]] if found else []
        calls = [Call(name, "/org/a11y/atspi/cache", PREFIX + "Cache", "GetItems") for name in names]
        answers: list[tuple[Any, ...] | None] = []
        for name, call in zip(names, calls, strict=True):
            [answer] = self._bus.ask([call], HUNG_S if name in self._hung else ANSWER_S)
            (self._hung.add if answer is None else self._hung.discard)(name)
            answers.append(answer)
        trees = [_tree(name, answer[0]) for name, answer in zip(names, answers, strict=True) if answer is not None]
        return trees, answers.count(None)

    def _unfold(self, owners: list[Node]) -> list[Node]:
        """Give `owners` the children that trees leave out because there may be any number of them; returns those."""
        answers = self._bus.ask([owner.call("Accessible", "GetChildren") for owner in owners], ANSWER_S)
        rows = []
        for owner, answer in zip(owners, answers, strict=True):
            known = {child.path for child in owner.children}
            for index, (name, path) in enumerate(answer[0] if answer else ()):
                if path not in known:
                    rows.append(Node(name, path, index, 0, "", 0, (PREFIX + "Text",)))
                    owner.children.append(rows[-1])
        calls = [
            call for row in rows for call in (row.call("Accessible", "GetRole"), row.call("Accessible", "GetState"))
        ]
        calls += [row.get("Accessible", "Name") for row in rows]
        answers = self._bus.ask(calls, ANSWER_S)
        titles = answers[2 * len(rows) :]
        for row, role, state, title in zip(rows, answers[::2], answers[1::2], titles, strict=False):
            if role and state and title:
                row.role, row.states, row.name = role[0], _mask(state[0]), str(title[0][1])
        return rows

    def _place(self, nodes: Sequence[Node]) -> None:
        answers = self._bus.ask([node.call("Component", "GetExtents", "u", 0) for node in nodes], ANSWER_S)
        for node, answer in zip(nodes, answers, strict=True):
            if answer and answer[0][2] > 0 and answer[0][3] > 0:
                x, y, width, height = answer[0]
                node.point = x + width // 2, y + height // 2

    def _read_texts(self, nodes: Sequence[Node]) -> None:
        writers = [node for node in nodes if node.role in WRITINGS and PREFIX + "Text" in node.interfaces]
        answers = self._bus.ask([node.call("Text", "GetText", "ii", 0, LONGEST + 1) for node in writers], ANSWER_S)
        for node, answer in zip(writers, answers, strict=True):
            node.text = answer[0] if answer else None

    def _window(self, top: Node, numbers: Iterator[int], alone: bool) -> Window:
        nodes = (node for node in _arranged(top) if self._shown(node))
        # With two applications on the screen, one that has the keyboard does not always say which element has it.
        volatile = {"focused": not alone, "checked": top.name == CALCULATOR}
        steady = {name: bit for name, bit in STATES.items() if not volatile.get(name)}
        elements = tuple(self._element(next(numbers), node, steady) for node in nodes)
        return Window(DIALOGS.get(top.role, "window"), self._clean(top.name), top.has(ACTIVE), elements)

    def _shown(self, node: Node) -> bool:
        x, y = node.point or (-1, -1)
        if not (0 <= x < self._size[0] and 0 <= y < self._size[1]):
            return False
        return node.role not in MUTE or self._clean(node.name or node.text or "") != ""

    def _element(self, number: int, node: Node, states_of: dict[str, int]) -> Element:
        states = [name for name, bit in states_of.items() if node.has(bit)]
        if "menu" in ROLES[node.role] and "focused" in states:  # which item has the focus of a menu is its own business
            states.remove("focused")
        if not node.has(SENSITIVE):
            states.append("disabled")
        name = self._clean(node.name)
        value = None if node.text is None else self._shorten(node.text)
        if node.role in MUTE:
            name, value = self._clean(node.name or node.text or ""), None
        elif node.role == TERMINAL and value is not None:
            value = value.rstrip("\n")  # the empty rows below
        return Element(number, ROLES[node.role], name, value, tuple(states), node.point or (0, 0))

    def _shorten(self, text: str) -> str:
        text = text.replace(self._home, "/home/user")
        return text if len(text) <= LONGEST else text[:LONGEST] + "…"

    def _clean(self, text: str) -> str:
        return "" if FLEETING.fullmatch(text) else self._shorten(text.strip())


def _tree(owner: str, items: list[Any]) -> list[Node]:
    """The windows of an application that are on the screen, with all that is in them."""
    nodes = {}
    for (name, path), _, _, index, _, interfaces, title, role, _, states in items:
        nodes[path] = Node(name, path, index, role, title, _mask(states), interfaces)
    tops = []
    for (_, path), _, (_, parent), *_ in items:
        if parent in nodes and parent != ROOT:
            nodes[parent].children.append(nodes[path])
        elif parent == ROOT and path != ROOT:
            tops.append(nodes[path])
    tops.sort(key=lambda node: node.index)
    return [top for top in tops if top.has(SHOWING) and top.role not in HIDDEN_WINDOWS and top.owner == owner]


def _uncovered(windows: list[Node]) -> list[Node]:
    """The windows that take input: if there is a dialog, only the topmost one; and menus that have popped up."""
    dialogs = [window for window in windows if window.has(MODAL) or window.role in DIALOGS]
    front = [dialog for dialog in dialogs if dialog.has(ACTIVE)] or dialogs or windows
    return [window for window in windows if window in front or window.role == POPUP]


def _arranged(node: Node) -> list[Node]:
    """What is placed of a node and what is below it, in reading order.

    Siblings go from top to bottom and from left to right: the order in which an application made them is arbitrary.
    """
    below = [part for child in node.visible() if (part := _arranged(child))]
    below.sort(key=lambda part: _line(part[0].point))
    own = [node] if node.point is not None else []
    return own + [one for part in below for one in part]


def _line(point: tuple[int, int] | None) -> tuple[int, int]:
    x, y = point or (0, 0)
    return y // LINE, x


def _mask(words: Sequence[int]) -> int:
    """States as one number; the bus carries them as two of 32 bits."""
    return words[0] | words[1] << 32
