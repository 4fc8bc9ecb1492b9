"""House and State: a level of the household family and a moment in it, both immutable.

Receptacles and objects are numbered in the order in which ALFWorld lists them, and sets of either are bit
masks over these numbers, so that a moment is a handful of integers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
"""ALFWorld's six kinds of task."""
TRAITS = ("pickupable", "cleanable", "heatable", "coolable", "sliceable", "toggleable", "holder")
"""What objects can be; a `holder` is a plate, a pot or a box, which ALFWorld describes by what is in it."""
SENTENCES = {
    "pick_and_place_simple": ("put a {object} in {target}.", "put some {object} on {target}."),
    "look_at_obj_in_light": ("look at {object} under the {target}.", "examine the {object} with the {target}."),
    "pick_clean_then_place_in_recep": (
        "put a clean {object} in {target}.",
        "clean some {object} and put it in {target}.",
    ),
    "pick_heat_then_place_in_recep": ("put a hot {object} in {target}.", "heat some {object} and put it in {target}."),
    "pick_cool_then_place_in_recep": (
        "put a cool {object} in {target}.",
        "cool some {object} and put it in {target}.",
    ),
    "pick_two_obj_and_place": ("put two {object} in {target}.", "find two {object} and put them in {target}."),
}
"""ALFWorld's two wordings of each task."""
NOWHERE = -1
"""The location of no receptacle; the player starts there, in the middle of the room."""
NOTHING_HELD = -1


class Receptacle(NamedTuple):
    """Something that objects lie in or on."""

    name: str
    """Kind and number, as in `cabinet 3`."""
    kind: str
    location: int
    """Number of the place where the player stands to reach it; receptacles may share one."""
    openable: bool


class Thing(NamedTuple):
    """An object."""

    name: str
    """Kind and number, as in `apple 1`."""
    kind: str
    traits: tuple[str, ...]
    """Some of `TRAITS`."""
    fits: int
    """Mask of the receptacles that take it."""
    inside: tuple[str, ...] = ()
    """Names of what is shown in it, if it is a holder; the commands cannot change it."""


class Task(NamedTuple):
    """What has to be done."""

    type: str
    """One of `TASK_TYPES`."""
    object: str
    """Kind of the object it is about."""
    target: str
    """Kind of the receptacle where it has to be in the end, or of the lamp to look at it under."""


class State(NamedTuple):
    """A moment; everything that commands can change."""

    location: int
    held: int
    """Number of the object in the player's hand, or `NOTHING_HELD`."""
    contents: tuple[int, ...]
    """[receptacles] mask of the objects in each."""
    opened: int
    """Mask of the receptacles that are open."""
    clean: int = 0
    """Mask of objects, as the next four."""
    hot: int = 0
    cool: int = 0
    sliced: int = 0
    toggled: int = 0
    taken: tuple[tuple[int, int], ...] = ()
    """Objects with a receptacle they were taken from and are no longer in, where that shares its location with
    another receptacle: `look` lists such objects."""


@dataclass(frozen=True, eq=False)
class House:
    """A level."""

    receptacles: tuple[Receptacle, ...]
    things: tuple[Thing, ...]
    task: Task
    sentence: str
    """The task in words, as the opening text gives it."""
    start: State

    @cached_property
    def content(self) -> str:
        """All fields as text: equal for equal houses."""
        return repr(tuple(getattr(self, field.name) for field in fields(self)))

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that name the house."""
        return hashlib.blake2b(self.content.encode(), digest_size=8).hexdigest()

    @cached_property
    def receptacle_numbers(self) -> dict[str, int]:
        """Name -> number."""
        return {receptacle.name: number for number, receptacle in enumerate(self.receptacles)}

    @cached_property
    def thing_numbers(self) -> dict[str, int]:
        """Name -> number."""
        return {thing.name: number for number, thing in enumerate(self.things)}

    @cached_property
    def at(self) -> dict[int, tuple[int, ...]]:
        """Location -> numbers of the receptacles there."""
        found: dict[int, tuple[int, ...]] = {}
        for number, receptacle in enumerate(self.receptacles):
            found[receptacle.location] = (*found.get(receptacle.location, ()), number)
        return found

    @cached_property
    def openable(self) -> int:
        """Mask of the receptacles that can be opened."""
        return sum(1 << number for number, receptacle in enumerate(self.receptacles) if receptacle.openable)

    @cached_property
    def traits(self) -> dict[str, int]:
        """Trait -> mask of the objects that have it."""
        masks = dict.fromkeys(TRAITS, 0)
        for number, thing in enumerate(self.things):
            for trait in thing.traits:
                masks[trait] |= 1 << number
        return masks

    @cached_property
    def kinds(self) -> dict[str, int]:
        """Kind -> mask of the objects of that kind."""
        masks: dict[str, int] = {}
        for number, thing in enumerate(self.things):
            masks[thing.kind] = masks.get(thing.kind, 0) | 1 << number
        return masks

    @cached_property
    def targets(self) -> tuple[int, ...]:
        """Numbers of the receptacles of the kind that the task names."""
        return tuple(n for n, receptacle in enumerate(self.receptacles) if receptacle.kind == self.task.target)

    @cached_property
    def listings(self) -> dict[int, str]:
        """Mask of objects -> how a sentence lists them; filled as they are met."""
        return {0: "nothing"}

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, House) and self.content == other.content)

    def __hash__(self) -> int:
        return hash(self.content)

    def __getstate__(self) -> dict[str, object]:
        # Without what is derived: a pickled level depends on nothing but its fields.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)


def members(mask: int) -> list[int]:
    """Numbers in a mask, ascending.

    >>> members(0b1010)
    [1, 3]
    """
    found = []
    while mask:
        lowest = mask & -mask
        found.append(lowest.bit_length() - 1)
        mask ^= lowest
    return found
