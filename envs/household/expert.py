"""A shortest plan to the goal, knowing everything.

One object is carried at a time, so that a plan is a short list of errands in a forced order: put down what is in
the way, fetch, treat, deliver. The expert lists all itineraries that can be shortest and takes the shortest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from agentkit.envs.household.engine import APPLIANCES, solved
from agentkit.envs.household.grammar import Command
from agentkit.envs.household.house import House, State, members


class Errand(NamedTuple):
    """Something to do at a receptacle; opens it first if `deed` needs that."""

    deed: str
    """Verb of the command, or `stand` for just being there."""
    receptacle: int
    thing: int


TREATMENTS = {f"pick_{verb}_then_place_in_recep": verb for verb in APPLIANCES}
Itinerary = tuple[Errand, ...]


@lru_cache(maxsize=1024)
def plan(house: House, state: State) -> tuple[str, ...] | None:
    """The commands of a shortest plan from a state; empty if the task is done, None if it cannot be done."""
    if solved(house, state):
        return ()
    choices = _Choices(house, state)
    match house.task.type:
        case "look_at_obj_in_light":
            itineraries = choices.looks()
        case "pick_two_obj_and_place":
            itineraries = choices.pairs()
        case _:
            itineraries = choices.deliveries()
    best = min(itineraries, key=lambda itinerary: _length(house, state, itinerary), default=None)
    return None if best is None else tuple(_commands(house, state, best))


class _Choices:
    """The itineraries from one state among which a shortest one is."""

    def __init__(self, house: House, state: State) -> None:
        self.house, self.state = house, state
        kind = self.kind = house.kinds.get(house.task.object, 0)
        held = 1 << state.held if state.held >= 0 else 0
        treatment = TREATMENTS.get(house.task.type)
        self.treated, self.appliances = -1, [-1]
        if treatment:
            appliance, trait = APPLIANCES[treatment]
            kind &= house.traits[trait]
            self.treated = {"clean": state.clean, "heat": state.hot, "cool": state.cool}[treatment]
            self.appliances = [n for n, receptacle in enumerate(house.receptacles) if receptacle.kind == appliance]
        self.treatment = treatment or ""
        self.held = held
        self.things = kind & (house.traits["pickupable"] | held)
        lamps = house.kinds.get(house.task.target, 0) & house.traits["toggleable"]
        self.lamps = lamps if house.task.type == "look_at_obj_in_light" else 0
        # Receptacles that play a part whatever is chosen, and the places where a way can be saved.
        wanted = self.things | self.lamps
        self.marked = {n for n, inside in enumerate(state.contents) if inside & wanted}
        if treatment:
            self.marked.update(self.appliances)
        self.places = {house.receptacles[n].location for n in self.marked} | {state.location}

    def deliveries(self) -> Iterator[Itinerary]:
        """Fetch one, treat it if it needs that, deliver it."""
        for thing in members(self.things):
            targets = self._representatives(n for n in self.house.targets if self.house.things[thing].fits >> n & 1)
            done = self.treated >> thing & 1
            treatments = [()] if done else [(Errand(self.treatment, n, thing),) for n in self.appliances]
            for fetch in self._fetches(thing):
                for treat in treatments:
                    for target in targets:
                        yield (*fetch, *treat, Errand("move", target, thing))

    def looks(self) -> Iterator[Itinerary]:
        """Fetch one, go to a lamp and turn it on if it was never used."""
        for thing in members(self.things):
            for fetch in self._fetches(thing):
                for lamp in members(self.lamps):
                    deed = "stand" if self.state.toggled >> lamp & 1 else "use"
                    put_down = [errand.receptacle for errand in fetch if errand.deed == "move" and errand.thing == lamp]
                    for number in put_down or self._holders(lamp):
                        yield (*fetch, Errand(deed, number, lamp))

    def pairs(self) -> Iterator[Itinerary]:
        """Deliver what is held if it is wanted, and fetch as many others as a target still lacks."""
        held, contents = self.state.held, self.state.contents
        for target in self._pair_targets():
            lacking = 2 - (contents[target] & self.kind).bit_count()
            pool = [
                thing
                for thing in members(self.things & ~self.held & ~contents[target])
                if self.house.things[thing].fits >> target & 1
            ]
            first: list[Itinerary] = [()]
            if self.held & self.things and self.house.things[held].fits >> target & 1:
                first, lacking = [(Errand("move", target, held),)], lacking - 1
            elif self.held:
                first = [(Errand("move", n, held),) for n in self._disposals()]
            for start in first:
                yield from self._trips(start, pool, target, lacking)

    def _trips(self, start: Itinerary, pool: list[int], target: int, lacking: int) -> Iterator[Itinerary]:
        if not lacking:
            yield start
            return
        for thing in pool:
            for number in self._holders(thing):
                trip = (*start, Errand("take", number, thing), Errand("move", target, thing))
                yield from self._trips(trip, [other for other in pool if other != thing], target, lacking - 1)

    def _fetches(self, thing: int) -> list[Itinerary]:
        """Ways to get a thing into the hand."""
        if thing == self.state.held:
            return [()]
        takes = [Errand("take", number, thing) for number in self._holders(thing)]
        if not self.held:
            return [(take,) for take in takes]
        return [(Errand("move", n, self.state.held), take) for n in self._disposals() for take in takes]

    def _holders(self, thing: int) -> list[int]:
        return [number for number, inside in enumerate(self.state.contents) if inside >> thing & 1]

    def _disposals(self) -> list[int]:
        """Where what is held can be put down."""
        fits = self.house.things[self.state.held].fits
        return self._representatives(members(fits))

    def _pair_targets(self) -> list[int]:
        holding = [n for n in self.house.targets if self.state.contents[n] & self.kind]
        return holding + self._representatives(n for n in self.house.targets if n not in holding)

    def _representatives(self, numbers: Iterable[int]) -> list[int]:
        """One receptacle of each class that no plan can tell apart by its length."""
        chosen: dict[tuple[object, ...], int] = {}
        for number in numbers:
            _, kind, location, openable = self.house.receptacles[number]
            closed = openable and not self.state.opened >> number & 1
            key = (
                kind == self.house.task.target,
                closed,
                location if location in self.places else None,
                number if number in self.marked else None,
            )
            chosen.setdefault(key, number)
        return list(chosen.values())


def _length(house: House, state: State, itinerary: Itinerary) -> int:
    """Number of commands that an itinerary takes."""
    location, opened, length = state.location, state.opened, 0
    for deed, number, _ in itinerary:
        _, _, place, openable = house.receptacles[number]
        if place != location:
            location, length = place, length + 1
        if openable and deed in ("take", "move") and not opened >> number & 1:
            opened, length = opened | 1 << number, length + 1
        length += deed != "stand"
    return length


def _commands(house: House, state: State, itinerary: Itinerary) -> Iterator[str]:
    """The commands of an itinerary; as many as `_length` says."""
    location, opened = state.location, state.opened
    for deed, number, thing in itinerary:
        name, _, place, openable = house.receptacles[number]
        if place != location:
            location = place
            yield str(Command("go", name))
        if openable and deed in ("take", "move") and not opened >> number & 1:
            opened |= 1 << number
            yield str(Command("open", name))
        if deed == "use":
            yield str(Command("use", house.things[thing].name))
        elif deed != "stand":
            yield str(Command(deed, house.things[thing].name, name))
