"""Houses drawn at random: a room of plausible furniture, objects where they belong, and a task that can be done.

A proposal is a draft, names and numbers only; the split keeps or drops it by its content, and only what is kept
is built into a `House`. Every task can be done by construction, in `LONGEST_PLAN` commands at most, and the expert
proves it for each house that is played.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from random import Random
from typing import Any, NamedTuple

from agentkit.envs.household.catalogue import FITS, LAMP, LAMP_STANDS, OPENABLE, ROOMS, ROOMS_OF, TRAITS_OF
from agentkit.envs.household.engine import APPLIANCES
from agentkit.envs.household.expert import TREATMENTS, plan
from agentkit.envs.household.house import NOTHING_HELD, NOWHERE, SENTENCES, House, Receptacle, State, Task, Thing
from agentkit.envs.puzzle import draw_level

LONGEST_PLAN = 11
"""Commands of the longest shortest plan: two objects fetched out of closed receptacles and put into a third."""
SHARED_CHANCE = 0.15
"""Probability that a receptacle is reached from the same place as its neighbour of the same kind."""


class Draft(NamedTuple):
    """A house in names and numbers."""

    task: Task
    wording: int
    """Which of ALFWorld's two sentences gives the task."""
    receptacles: tuple[tuple[str, int], ...]
    """Kind and location of each, sorted by kind."""
    things: tuple[tuple[str, int], ...]
    """Kind of each and the number of the receptacle that it is in, sorted by kind."""


class Size(NamedTuple):
    """How full a house may be."""

    receptacles: int
    things: int


@lru_cache(maxsize=1024)
def draw_house(task_types: tuple[str, ...], size: Size, budget: int, split: str, seed: int) -> House:
    """The house of an instance; its task can be done within `budget` commands.

    Raises:
        ConfigError: no house of the split fits the budget.
    """
    drafts = partial(_drafts, task_types=task_types, size=size, budget=budget)
    house = build_house(draw_level("Household", drafts, _content, split, seed))
    commands = plan(house, house.start)
    assert commands, house
    assert len(commands) <= min(budget, LONGEST_PLAN), house
    return house


def _content(draft: Draft) -> str:
    # The wording apart: a house with the same task in other words is no new house.
    return repr((draft.task, draft.receptacles, draft.things))


def build_house(draft: Draft) -> House:
    """The house of a draft, things numbered and listed as ALFWorld does: of a kind, the highest number first."""
    names = _numbered([kind for kind, _ in draft.receptacles])
    receptacles = tuple(
        Receptacle(name, kind, location, kind in OPENABLE)
        for name, (kind, location) in zip(names, draft.receptacles, strict=True)
    )
    kinds = [kind for kind, _ in draft.things]
    fits = {kind: _mask(draft, kind) for kind in set(kinds)}
    names = _numbered(kinds)
    things = tuple(Thing(name, kind, TRAITS_OF[kind], fits[kind]) for name, kind in zip(names, kinds, strict=True))
    contents = [0] * len(receptacles)
    for number, (_, receptacle) in enumerate(draft.things):
        contents[receptacle] |= 1 << number
    task = draft.task
    sentence = SENTENCES[task.type][draft.wording].format(object=task.object, target=task.target)
    return House(receptacles, things, task, sentence, State(NOWHERE, NOTHING_HELD, tuple(contents), 0))


def _mask(draft: Draft, kind: str) -> int:
    return sum(1 << number for number, (holder, _) in enumerate(draft.receptacles) if kind in FITS[holder])


def _numbered(kinds: Sequence[str]) -> list[str]:
    left = {kind: kinds.count(kind) for kind in set(kinds)}
    names = []
    for kind in kinds:
        names.append(f"{kind} {left[kind]}")
        left[kind] -= 1
    return names


def _drafts(rng: Random, task_types: tuple[str, ...], size: Size, budget: int) -> Iterator[Draft | None]:
    """Endless drafts; every type of task comes equally often."""
    while True:
        kind_of_task = _pick(rng, task_types)
        while (draft := _draft(rng, kind_of_task, size)) is None:
            yield None
        yield draft if budget >= LONGEST_PLAN or _fits(draft, budget) else None


def _draft(rng: Random, kind_of_task: str, size: Size) -> Draft | None:
    """A draft in one of the rooms that the task is set in; None if the room does not allow the task."""
    furniture, chattels = ROOMS[_pick(rng, ROOMS_OF[kind_of_task])]
    kinds = _draw_receptacles(rng, furniture, size.receptacles)
    task = _draw_task(rng, kind_of_task, kinds, list(chattels))
    if task is None:
        return None
    things = _draw_things(rng, task, kinds, chattels, size.things)
    return Draft(task, int(rng.random() * 2), _placed(rng, kinds), tuple(things))


def _fits(draft: Draft, budget: int) -> bool:
    house = build_house(draft)
    return len(plan(house, house.start) or ()) <= budget


def _draw_receptacles(rng: Random, furniture: dict[str, tuple[float, int]], most: int) -> list[str]:
    """Kinds of the receptacles, sorted; those that the room cannot be without come first when there are too many."""
    found = [kind for kind, (chance, _) in furniture.items() if rng.random() < chance]
    kinds = sorted(found, key=lambda kind: -furniture[kind][0])
    more = [kind for kind in kinds for _ in range(int(rng.random() * furniture[kind][1]))]
    return sorted([*kinds, *_shuffled(rng, more)][:most])


def _draw_task(rng: Random, kind_of_task: str, kinds: list[str], chattels: list[str]) -> Task | None:
    """A task that the receptacles allow; None if they allow none for the object drawn."""
    appliance, trait = APPLIANCES.get(TREATMENTS.get(kind_of_task, ""), ("", "pickupable"))
    wanted = _pick(rng, [kind for kind in chattels if trait in TRAITS_OF[kind]])
    if kind_of_task == "look_at_obj_in_light":
        stands = any(kind in LAMP_STANDS for kind in kinds) and any(wanted in FITS[kind] for kind in kinds)
        return Task(kind_of_task, wanted, LAMP) if stands else None
    holders = sorted({kind for kind in kinds if wanted in FITS[kind]})
    targets = [kind for kind in holders if kind != appliance]
    if len(holders) < 2 or not targets:
        return None
    return Task(kind_of_task, wanted, _pick(rng, targets))


def _draw_things(
    rng: Random, task: Task, kinds: list[str], chattels: dict[str, tuple[float, int]], most: int
) -> list[tuple[str, int]]:
    """Objects and where they are, sorted by kind; those that the task is about are not at its target yet."""
    holders: dict[str, list[int]] = {}
    least = 2 if task.type == "pick_two_obj_and_place" else 1
    wanted = [task.object] * (least + int(rng.random() * (4 - least)))
    if task.type == "look_at_obj_in_light":
        holders[LAMP] = [number for number, kind in enumerate(kinds) if kind in LAMP_STANDS]
        wanted.append(LAMP)
    others = [
        kind
        for kind, (chance, number) in chattels.items()
        if kind != task.object and rng.random() < chance
        for _ in range(1 + int(rng.random() * number))
    ]
    names = sorted([*wanted, *_shuffled(rng, others)][: max(most, len(wanted))])
    places = []
    for kind in names:
        if kind not in holders:
            avoided = task.target if kind == task.object else ""
            holders[kind] = [n for n, holder in enumerate(kinds) if kind in FITS[holder] and holder != avoided]
        if holders[kind]:
            places.append((kind, _pick(rng, holders[kind])))
    return places


def _placed(rng: Random, kinds: list[str]) -> tuple[tuple[str, int], ...]:
    """Each receptacle with its location."""
    placed: list[tuple[str, int]] = []
    for number, kind in enumerate(kinds):
        beside = number > 0 and kinds[number - 1] == kind and rng.random() < SHARED_CHANCE
        placed.append((kind, placed[-1][1] if beside else number))
    return tuple(placed)


def _pick(rng: Random, choices: Sequence[Any]) -> Any:
    return choices[int(rng.random() * len(choices))]


def _shuffled(rng: Random, items: list[str]) -> list[str]:
    return sorted(items, key=lambda _: rng.random())
