"""The expert's plans: they work, and breadth-first search over all commands finds nothing shorter."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

from agentkit.envs.household import engine
from agentkit.envs.household.expert import plan
from agentkit.envs.household.grammar import parse_command
from agentkit.envs.household.house import TASK_TYPES, House, Receptacle, State, Task, Thing
from agentkit.envs.household.houses import LONGEST_PLAN, Size, draw_house

IDLE = ("examine", "look", "help", "inventory", "slice")
"""Commands that bring no task of the six types nearer."""


def after(house: House, state: State, commands: Iterable[str]) -> State:
    """The state after commands, each of which can be done."""
    for text in commands:
        assert text in engine.admissible(house, state)
        command = parse_command(text)
        assert command is not None
        state = engine.act(house, state, command)[0]
    return state


def wander(house: House, rng: Random, num_steps: int) -> State:
    """A state that play without a plan leads to, often with something in the hand."""
    state = house.start
    for _ in range(num_steps):
        useful = [text for text in engine.admissible(house, state) if text.split()[0] not in IDLE]
        here = [text for text in useful if not text.startswith("go to")]
        pool = here if here and rng.random() < 0.7 else useful
        state = after(house, state, [pool[int(rng.random() * len(pool))]])
    return state


def shortest(house: House, state: State, limit: int) -> int:
    """Length of a shortest plan by breadth-first search over all commands, at most `limit`."""
    seen, frontier = {state}, [state]
    for length in range(limit):
        if any(engine.solved(house, one) for one in frontier):
            return length
        reached = []
        for one in frontier:
            for text in engine.admissible(house, one):
                if text.split()[0] not in IDLE:
                    new = after(house, one, [text])._replace(taken=())
                    if new not in seen:
                        seen.add(new)
                        reached.append(new)
        frontier = reached
    return limit


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_no_search_finds_a_shorter_plan(task_type: str) -> None:
    for seed in range(25):
        rng = Random(seed)
        house = draw_house((task_type,), Size(6, 4), 50, "train", seed)
        state = wander(house, rng, int(rng.random() * 12))
        commands = plan(house, state)
        assert commands is not None
        assert engine.solved(house, after(house, state, commands))
        assert shortest(house, state, len(commands)) == len(commands)


def test_leaving_out_receptacles_that_are_alike_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for seed in range(240):
        house = draw_house((TASK_TYPES[seed % 6],), Size(30, 30), 50, "train", seed)
        states.append((house, wander(house, Random(seed), seed % 24)))
    lengths = [len(plan.__wrapped__(house, state) or ()) for house, state in states]
    monkeypatch.setattr("agentkit.envs.household.expert._Choices._representatives", lambda self, numbers: list(numbers))
    assert [len(plan.__wrapped__(house, state) or ()) for house, state in states] == lengths


def test_every_held_out_house_is_solved_within_the_longest_plan() -> None:
    for seed in range(256):
        house = draw_house(TASK_TYPES, Size(24, 32), 50, "held_out", seed)
        commands = plan(house, house.start)
        assert commands is not None
        assert 0 < len(commands) <= LONGEST_PLAN
        assert engine.solved(house, after(house, house.start, commands))


def test_a_plan_worked_by_hand(kitchen: House) -> None:
    assert plan(kitchen, kitchen.start) == (
        "go to countertop 1",
        "take apple 2 from countertop 1",
        "go to microwave 1",
        "heat apple 2 with microwave 1",
        "go to fridge 1",
        "open fridge 1",
        "move apple 2 to fridge 1",
    )


def test_what_is_in_the_way_is_put_down_first(kitchen: House) -> None:
    state = after(kitchen, kitchen.start, ["go to countertop 1", "take knife 1 from countertop 1"])
    commands = plan(kitchen, state)
    assert commands is not None
    assert commands[:2] == ("move knife 1 to countertop 1", "take apple 2 from countertop 1")
    assert len(commands) == 7


def test_a_drawer_that_is_opened_anyway_takes_what_is_in_the_way() -> None:
    places = (("drawer 2", 0), ("drawer 1", 0), ("desk 1", 1))
    receptacles = tuple(Receptacle(name, name.split()[0], place, name != "desk 1") for name, place in places)
    things = tuple(Thing(name, name.split()[0], ("pickupable",), 0b111) for name in ("cd 1", "pen 1"))
    start = State(-1, 0, (0, 0b10, 0), 0)  # cd 1 in the hand, pen 1 in drawer 1
    house = House(receptacles, things, Task(TASK_TYPES[0], "pen", "desk"), "", start)
    assert plan(house, start) == (
        "go to drawer 1",
        "open drawer 1",
        "move cd 1 to drawer 1",
        "take pen 1 from drawer 1",
        "go to desk 1",
        "move pen 1 to desk 1",
    )


def test_nothing_is_left_to_do_once_the_task_is_done(kitchen: House) -> None:
    done = kitchen.start._replace(hot=0b10)
    assert engine.solved(kitchen, done)
    assert plan(kitchen, done) == ()


def test_there_is_no_plan_for_what_cannot_be_done(kitchen: House) -> None:
    no_apples = House(kitchen.receptacles, kitchen.things, Task(TASK_TYPES[0], "pear", "fridge"), "", kitchen.start)
    assert plan(no_apples, no_apples.start) is None
    stuck = (*kitchen.things[:3], kitchen.things[3]._replace(fits=0), kitchen.things[4])
    house = House(kitchen.receptacles, stuck, kitchen.task, "", kitchen.start)
    holding = after(house, house.start, ["go to countertop 1", "take knife 1 from countertop 1"])
    assert plan(house, holding) is None  # the knife can be put nowhere, and the hand holds only one thing
