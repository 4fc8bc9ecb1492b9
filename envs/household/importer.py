"""Real ALFWorld games as houses: reads `game.tw-pddl`, numbers included.

ALFWorld names things by their identifiers in sorted order, the first of a kind with the highest number, and
lists them in that order. Objects that are in no receptacle count there, but no command reaches them; any other
object is where its receptacle is.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentkit.envs.household.house import NOTHING_HELD, NOWHERE, TASK_TYPES, House, Receptacle, State, Task, Thing
from agentkit.errors import ConfigError

_ATOM = re.compile(r"\(([^()]*)\)")
_SENTENCE = re.compile(r'"Your task is to: ((?:[^"\\]|\\.)*)"')
_TRAITS = {
    "pickupable": "pickupable",
    "cleanable": "cleanable",
    "heatable": "heatable",
    "coolable": "coolable",
    "sliceable": "sliceable",
    "toggleable": "toggleable",
    "isreceptacleobject": "holder",
}
"""Predicate -> trait."""
_TREATED = {"isclean": TASK_TYPES[2], "ishot": TASK_TYPES[3], "iscool": TASK_TYPES[4]}

Facts = dict[str, list[tuple[str, ...]]]
"""Predicate -> the arguments of each of its facts, all in lower case."""


def read_game(game: str | Path | Mapping[str, Any]) -> House:
    """The house of a real game.

    Args:
        game: path of a `game.tw-pddl`, or what it holds.

    Raises:
        ConfigError: the file cannot be read, is no such game, or its task is none of the six types.
    """
    try:
        content = game if isinstance(game, Mapping) else json.loads(Path(game).read_text(encoding="utf-8"))
        before, goal = str(content["pddl_problem"]).lower().split("(:goal", 1)
        facts = _read_facts(before.split("(:init", 1)[1])
        sentence = json.loads(f'"{_SENTENCE.findall(content["grammar"])[0]}"')
        return _build(facts, _read_task(goal), sentence)
    except (OSError, LookupError, TypeError, ValueError) as error:
        name = "this" if isinstance(game, Mapping) else repr(str(game))
        raise ConfigError(
            f"{name} is no ALFWorld game that can be imported: {type(error).__name__}: {error}; it needs a "
            "pddl_problem with :init and :goal, a grammar with the task, and a task of ALFWorld's six types"
        ) from error


def _read_facts(text: str) -> Facts:
    facts: Facts = defaultdict(list)
    for atom in _ATOM.findall(text):
        predicate, *arguments = atom.split()
        facts[predicate].append(tuple(arguments))
    return facts


def _read_task(goal: str) -> Task:
    """The task that a goal asks for, told by its predicates."""
    kinds = re.findall(r"\(objecttype \?\w+ (\w+)type\)", goal)
    targets = re.findall(r"\(receptacletype \?\w+ (\w+)type\)", goal)
    if "inreceptacleobject" in goal or "issliced" in goal:
        raise ValueError("its task needs slices or a plate, pot or box to carry in")
    if "istoggled" in goal:
        return Task("look_at_obj_in_light", kinds[1], kinds[0])
    if len(kinds) == 2:
        return Task("pick_two_obj_and_place", kinds[0], targets[0])
    for predicate, task_type in _TREATED.items():
        if predicate in goal:
            return Task(task_type, kinds[0], targets[0])
    return Task("pick_and_place_simple", kinds[0], targets[0])


def _names(identifiers: set[str]) -> dict[str, str]:
    """Identifier -> name with its number, as ALFWorld's demangler gives it."""
    kind = {one: one.partition("_bar_")[0] + ("basin" if "basin" in one else "") for one in identifiers}
    left = Counter(kind[one] for one in identifiers if "_bar_" in one)
    names = {}
    for one in sorted(identifiers):
        names[one] = f"{kind[one]} {left[kind[one]]}" if "_bar_" in one else one
        left[kind[one]] -= 1
    return names


def _build(facts: Facts, task: Task, sentence: str) -> House:
    names = _names({argument for rows in facts.values() for arguments in rows for argument in arguments})
    at = {row[0]: row[1] for row in facts["receptacleatlocation"]}
    places = {place: number for number, place in enumerate(sorted(set(at.values())))}
    kinds = {row[0]: row[1].removesuffix("type") for row in facts["receptacletype"] + facts["objecttype"]}
    openable = _first(facts["openable"])
    holders = {one: number for number, one in enumerate(sorted(at))}
    receptacles = tuple(Receptacle(names[one], kinds[one], places[at[one]], one in openable) for one in holders)
    numbers = {one: number for number, one in enumerate(sorted(_first(facts["inreceptacle"])))}
    contents = [0] * len(receptacles)
    for one, holder in facts["inreceptacle"]:
        contents[holders[holder]] |= 1 << numbers[one]

    def mask(predicate: str, of: Mapping[str, int]) -> int:
        return sum(1 << of[one] for one in _first(facts[predicate]) if one in of)

    start = State(
        location=places.get(facts["atlocation"][0][1], NOWHERE),
        held=NOTHING_HELD,
        contents=tuple(contents),
        opened=mask("opened", holders),
        clean=mask("isclean", numbers),
        hot=mask("ishot", numbers),
        cool=mask("iscool", numbers),
        sliced=mask("issliced", numbers),
        toggled=mask("istoggled", numbers),
    )
    return House(receptacles, _things(facts, list(numbers), names, kinds, receptacles), task, sentence, start)


def _things(
    facts: Facts,
    identifiers: Sequence[str],
    names: Mapping[str, str],
    kinds: Mapping[str, str],
    receptacles: Sequence[Receptacle],
) -> tuple[Thing, ...]:
    takes = {(row[0].removesuffix("type"), row[1].removesuffix("type")) for row in facts["cancontain"]}
    having = {trait: _first(facts[predicate]) for predicate, trait in _TRAITS.items()}
    inside: dict[str, tuple[str, ...]] = {}
    for one, holder in sorted(facts["inreceptacleobject"]):
        inside[holder] = (*inside.get(holder, ()), names[one])
    return tuple(
        Thing(
            names[one],
            kinds[one],
            tuple(trait for trait, things in having.items() if one in things),
            sum(1 << n for n, receptacle in enumerate(receptacles) if (receptacle.kind, kinds[one]) in takes),
            inside.get(one, ()),
        )
        for one in identifiers
    )


def _first(rows: Sequence[tuple[str, ...]]) -> set[str]:
    return {row[0] for row in rows}
