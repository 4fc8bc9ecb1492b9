"""Goals in words: the task's, and what an unfinished episode has reached instead, for hindsight relabelling."""

from __future__ import annotations

from collections.abc import Iterator

from agentkit.envs.household.engine import solved
from agentkit.envs.household.house import SENTENCES, TASK_TYPES, House, State, Task, members

NOTHING_REACHED = "nothing."
_PLACED, _LOOKED, _CLEANED, _HEATED, _COOLED, _PAIRED = TASK_TYPES


def in_words(task: Task) -> str:
    """The task in the first of ALFWorld's two wordings.

    >>> in_words(Task("pick_heat_then_place_in_recep", "mug", "shelf"))
    'put a hot mug in shelf.'
    """
    return SENTENCES[task.type][0].format(object=task.object, target=task.target)


def achieved(house: House, state: State) -> str:
    """The house's own goal once it is met, else a goal that is met now and was brought about; the hardest first."""
    if solved(house, state):
        return in_words(house.task)
    return next((in_words(task) for task in _met(house, state)), NOTHING_REACHED)


def _met(house: House, state: State) -> Iterator[Task]:
    """Tasks that are done now: looked at under a lamp, then pairs, then treated and merely placed objects."""
    things = house.things
    if state.held >= 0:
        for number in house.at.get(state.location, ()):
            for lamp in members(state.contents[number] & state.toggled):
                yield Task(_LOOKED, things[state.held].kind, things[lamp].kind)
    brought = [
        (thing, receptacle.kind, inside)
        for receptacle, inside, before in zip(house.receptacles, state.contents, house.start.contents, strict=True)
        for thing in members(inside & ~before)
    ]
    for thing, target, inside in brought:
        if (inside & house.kinds[things[thing].kind]).bit_count() > 1:
            yield Task(_PAIRED, things[thing].kind, target)
    for task_type, mask in ((_HEATED, state.hot), (_COOLED, state.cool), (_CLEANED, state.clean), (_PLACED, -1)):
        for thing, target, _ in brought:
            if mask >> thing & 1:
                yield Task(task_type, things[thing].kind, target)
