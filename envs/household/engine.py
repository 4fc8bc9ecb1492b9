"""The world: what a command does and what the player reads, as pure functions of house and state.

The behaviour is that of alfworld 0.4's rules (`alfred.pddl`, `alfred.twl2`), oddities included: heating needs no
open microwave; a lamp can be used, and an apple sliced, inside a closed drawer; only what is held can be examined;
`look` in the middle of the room shows nothing; every use of a lamp turns it on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentkit.envs.household.grammar import NOTHING, Command
from agentkit.envs.household.house import NOTHING_HELD, House, State, members

HELP = """\
Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""
APPLIANCES = {"clean": ("sinkbasin", "cleanable"), "heat": ("microwave", "heatable"), "cool": ("fridge", "coolable")}
"""Verb -> kind of the receptacle it needs, and the trait that the object needs."""
KNIVES = ("knife", "butterknife")
MIDDLE = "You are in the middle of a room. Looking quickly around you, you see "


def opening(house: House) -> str:
    """The first text: what is in the room, and the task."""
    if house.start.location in house.at:
        around = _look(house, house.start)
    else:
        around = MIDDLE + in_words([f"a {receptacle.name}" for receptacle in house.receptacles]) + "."
    return f"-= Welcome to TextWorld, ALFRED! =-\n\n{around}\n\nYour task is to: {house.sentence}"


def act(house: House, state: State, command: Command) -> tuple[State, str]:
    """The state after a command, and the answer; the same state and `Nothing happens.` where it cannot be done."""
    return _PLAYS[command.verb](house, state, command) or (state, NOTHING)


def solved(house: House, state: State) -> bool:
    """Whether the task is done."""
    kind = house.kinds.get(house.task.object, 0)
    contents = state.contents
    match house.task.type:
        case "look_at_obj_in_light":
            lamps = house.kinds.get(house.task.target, 0) & house.traits["toggleable"] & state.toggled
            here = house.at.get(state.location, ())
            return state.held >= 0 and bool(kind >> state.held & 1) and any(contents[r] & lamps for r in here)
        case "pick_two_obj_and_place":
            return any((contents[r] & kind).bit_count() > 1 for r in house.targets)
        case "pick_clean_then_place_in_recep":
            kind &= house.traits["cleanable"] & state.clean
        case "pick_heat_then_place_in_recep":
            kind &= house.traits["heatable"] & state.hot
        case "pick_cool_then_place_in_recep":
            kind &= house.traits["coolable"] & state.cool
    return any(contents[r] & kind for r in house.targets)


def admissible(house: House, state: State) -> list[str]:
    """The commands that can be done now, sorted, as ALFWorld lists them."""
    here = house.at.get(state.location, ())
    held = state.held
    commands = ["help", "inventory", "look"]
    commands += [f"go to {one.name}" for one in house.receptacles if one.location != state.location]
    if held >= 0:
        commands.append(f"examine {house.things[held].name}")
    for number in here:
        commands += _at_receptacle(house, state, number)
    return sorted(set(commands))


def _at_receptacle(house: House, state: State, number: int) -> list[str]:
    """The commands that a receptacle within reach allows."""
    name, kind, _, openable = house.receptacles[number]
    held, inside, things, traits = state.held, state.contents[number], house.things, house.traits
    commands = [f"examine {name}"]
    is_open = not openable or bool(state.opened >> number & 1)
    if openable:
        commands.append(f"close {name}" if is_open else f"open {name}")
    if is_open:
        if held < 0:
            commands += [f"take {things[o].name} from {name}" for o in members(inside & traits["pickupable"])]
        elif things[held].fits >> number & 1:
            commands.append(f"move {things[held].name} to {name}")
    commands += [f"use {things[o].name}" for o in members(inside & traits["toggleable"])]
    if held >= 0:
        for verb, (appliance, trait) in APPLIANCES.items():
            if kind == appliance and traits[trait] >> held & 1:
                commands.append(f"{verb} {things[held].name} with {name}")
        if things[held].kind in KNIVES:
            sliceable = members(inside & traits["sliceable"])
            commands += [f"slice {things[o].name} with {things[held].name}" for o in sliceable]
    return commands


def in_words(names: Sequence[str]) -> str:
    """Names as ALFWorld lists them.

    >>> in_words(["a pen 1", "a pen 2", "a cd 1"]), in_words(["a pen 1", "a pen 2"]), in_words([])
    ('a pen 1, a pen 2, and a cd 1', 'a pen 1, and a pen 2', 'nothing')
    """
    if len(names) < 2:
        return names[0] if names else "nothing"
    return f"{', '.join(names[:-1])}, and {names[-1]}"


def _listing(house: House, mask: int) -> str:
    known = house.listings.get(mask)
    if known is None:
        known = house.listings[mask] = in_words([f"a {house.things[o].name}" for o in members(mask)])
    return known


def _describe(house: House, state: State, number: int) -> str:
    name, _, _, openable = house.receptacles[number]
    if not openable:
        return f"On the {name}, you see {_listing(house, state.contents[number])}."
    if state.opened >> number & 1:
        return f"The {name} is open. In it, you see {_listing(house, state.contents[number])}."
    return f"The {name} is closed."


def _describe_thing(house: House, state: State, number: int) -> str:
    thing = house.things[number]
    if "holder" in thing.traits:
        return f"This is a normal {thing.name}. In it, you see {in_words([f'a {name}' for name in thing.inside])}."
    clean, hot, cool, sliced = (mask >> number & 1 for mask in (state.clean, state.hot, state.cool, state.sliced))
    words = ["hot"] if hot else ["cool"] if cool else []
    if cool and not clean and not sliced:
        words = ["cold"]
    if clean:
        words.append("clean")
    if words:
        return f"This is a {' and '.join(words)}{' sliced' if sliced else ''} {thing.name}."
    if "toggleable" in thing.traits and state.toggled >> number & 1:
        return f"This {thing.name} is on."
    return f"This is a sliced {thing.name}." if sliced else f"There's nothing special about {thing.name}."


def _here(house: House, state: State, name: str) -> int | None:
    """Number of the receptacle of that name, if it is within reach."""
    number = house.receptacle_numbers.get(name)
    return number if number is not None and house.receptacles[number].location == state.location else None


def _accessible(house: House, state: State, number: int) -> bool:
    return not house.receptacles[number].openable or bool(state.opened >> number & 1)


Answer = tuple[State, str] | None
"""None where a command cannot be done."""


def _go(house: House, state: State, command: Command) -> Answer:
    number = house.receptacle_numbers.get(command.first)
    if number is None or house.receptacles[number].location == state.location:
        return None
    state = state._replace(location=house.receptacles[number].location)
    return state, f"You arrive at {command.first}. {_describe(house, state, number)}"


def _open(house: House, state: State, command: Command) -> Answer:
    number = _here(house, state, command.first)
    if number is None or _accessible(house, state, number):
        return None
    state = state._replace(opened=state.opened | 1 << number)
    return state, f"You open the {command.first}. {_describe(house, state, number)}"


def _close(house: House, state: State, command: Command) -> Answer:
    number = _here(house, state, command.first)
    if number is None or not (house.openable & state.opened) >> number & 1:
        return None
    return state._replace(opened=state.opened & ~(1 << number)), f"You close the {command.first}."


def _take(house: House, state: State, command: Command) -> Answer:
    number, thing = _here(house, state, command.second), house.thing_numbers.get(command.first)
    if number is None or thing is None or state.held >= 0 or not _accessible(house, state, number):
        return None
    if not (state.contents[number] & house.traits["pickupable"]) >> thing & 1:
        return None
    shared = len(house.at[state.location]) > 1
    taken = tuple(sorted({*state.taken, (thing, number)})) if shared else state.taken
    state = state._replace(held=thing, contents=_toggle(state.contents, number, thing), taken=taken)
    return state, f"You pick up the {command.first} from the {command.second}."


def _move(house: House, state: State, command: Command) -> Answer:
    number, thing = _here(house, state, command.second), house.thing_numbers.get(command.first)
    if number is None or thing is None or state.held != thing or not _accessible(house, state, number):
        return None
    if not house.things[thing].fits >> number & 1:
        return None
    taken = tuple(pair for pair in state.taken if pair != (thing, number))
    contents = state.contents if state.contents[number] >> thing & 1 else _toggle(state.contents, number, thing)
    state = state._replace(held=NOTHING_HELD, contents=contents, taken=taken)
    return state, f"You move the {command.first} to the {command.second}."


def _toggle(contents: tuple[int, ...], number: int, thing: int) -> tuple[int, ...]:
    return (*contents[:number], contents[number] ^ 1 << thing, *contents[number + 1 :])


def _examine(house: House, state: State, command: Command) -> Answer:
    number = _here(house, state, command.first)
    if number is not None:
        return state, _describe(house, state, number)
    thing = house.thing_numbers.get(command.first, -1)
    return (state, _describe_thing(house, state, thing)) if 0 <= thing == state.held else None


def _use(house: House, state: State, command: Command) -> Answer:
    thing = house.thing_numbers.get(command.first)
    if thing is None or not (_around(house, state) & house.traits["toggleable"]) >> thing & 1:
        return None
    return state._replace(toggled=state.toggled | 1 << thing), f"You turn on the {command.first}."


def _treat(house: House, state: State, command: Command) -> Answer:
    """Heat, clean or cool what is in the hand."""
    number, thing = _here(house, state, command.second), house.thing_numbers.get(command.first)
    appliance, trait = APPLIANCES[command.verb]
    if number is None or thing is None or state.held != thing or house.receptacles[number].kind != appliance:
        return None
    if not house.traits[trait] >> thing & 1:
        return None
    bit = 1 << thing
    match command.verb:
        case "heat":
            state = state._replace(hot=state.hot | bit, cool=state.cool & ~bit)
        case "cool":
            state = state._replace(cool=state.cool | bit, hot=state.hot & ~bit)
        case "clean":
            state = state._replace(clean=state.clean | bit)
    return state, f"You {command.verb} the {command.first} using the {command.second}."


def _slice(house: House, state: State, command: Command) -> Answer:
    thing, knife = house.thing_numbers.get(command.first), house.thing_numbers.get(command.second)
    if thing is None or knife is None or state.held != knife or house.things[knife].kind not in KNIVES:
        return None
    if not (_around(house, state) & house.traits["sliceable"]) >> thing & 1:
        return None
    return state._replace(
        sliced=state.sliced | 1 << thing
    ), f"You sliced the {command.first} with the {command.second}."


def _around(house: House, state: State) -> int:
    """Mask of the objects in receptacles within reach, also in closed ones."""
    mask = 0
    for number in house.at.get(state.location, ()):
        mask |= state.contents[number]
    return mask


def _look(house: House, state: State) -> str:
    here = house.at.get(state.location, ())
    if not here:
        return MIDDLE + "nothing."
    around = _around(house, state)
    beside = [f"a {house.things[o].name}" for o, r in state.taken if r in here and around >> o & 1]
    facing = in_words([house.receptacles[number].name for number in here])
    return f"You are facing the {facing}. Next to it, you see {in_words(beside)}."


def _inventory(house: House, state: State, command: Command) -> Answer:
    if state.held < 0:
        return state, "You are not carrying anything."
    return state, f"You are carrying: a {house.things[state.held].name}."


_PLAYS: dict[str, Callable[[House, State, Command], Answer]] = {
    "go": _go,
    "open": _open,
    "close": _close,
    "take": _take,
    "move": _move,
    "examine": _examine,
    "use": _use,
    "heat": _treat,
    "clean": _treat,
    "cool": _treat,
    "slice": _slice,
    "look": lambda house, state, command: (state, _look(house, state)),
    "inventory": _inventory,
    "help": lambda house, state, command: (state, HELP),
}
