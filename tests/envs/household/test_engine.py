"""ALFWorld's rules and sentences, in a house that fits into the head."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.envs.household import engine
from agentkit.envs.household.grammar import NOTHING, Command, parse_command
from agentkit.envs.household.house import TASK_TYPES, House, State
from agentkit.envs.household.houses import Size, draw_house


def play(house: House, *commands: str) -> tuple[State, str]:
    """The state after some commands, each of which can be done, and the last answer."""
    state, answer = house.start, ""
    for command in commands:
        assert command in engine.admissible(house, state)
        state, answer = say(house, state, command)
    return state, answer


def say(house: House, state: State, text: str) -> tuple[State, str]:
    command = parse_command(text)
    assert command is not None
    return engine.act(house, state, command)


def test_the_opening_lists_the_room_and_gives_the_task(kitchen: House) -> None:
    assert engine.opening(kitchen) == (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see a "
        "cabinet 1, a countertop 1, a fridge 1, a microwave 1, a shelf 2, a shelf 1, and a sinkbasin 1.\n\n"
        "Your task is to: put a hot apple in fridge."
    )


@pytest.mark.parametrize(
    ("commands", "answer"),
    [
        (["look"], "You are in the middle of a room. Looking quickly around you, you see nothing."),
        (["inventory"], "You are not carrying anything."),
        (["go to cabinet 1"], "You arrive at cabinet 1. The cabinet 1 is closed."),
        (
            ["go to cabinet 1", "open cabinet 1"],
            "You open the cabinet 1. The cabinet 1 is open. In it, you see nothing.",
        ),
        (["go to cabinet 1", "open cabinet 1", "close cabinet 1"], "You close the cabinet 1."),
        (["go to countertop 1"], "You arrive at countertop 1. On the countertop 1, you see a apple 2, and a knife 1."),
        (["go to countertop 1", "take knife 1 from countertop 1"], "You pick up the knife 1 from the countertop 1."),
        (["go to countertop 1", "take knife 1 from countertop 1", "inventory"], "You are carrying: a knife 1."),
        (["go to shelf 1", "look"], "You are facing the shelf 2, and shelf 1. Next to it, you see nothing."),
        (["go to shelf 1", "use desklamp 1"], "You turn on the desklamp 1."),
        (["go to shelf 1", "use desklamp 1", "use desklamp 1"], "You turn on the desklamp 1."),
        (["go to fridge 1", "examine fridge 1"], "The fridge 1 is closed."),
    ],
)
def test_answers_are_those_of_alfworld(kitchen: House, commands: list[str], answer: str) -> None:
    assert play(kitchen, *commands)[1] == answer


def test_what_was_moved_to_the_neighbour_lies_next_to_it(kitchen: House) -> None:
    take = ("go to shelf 1", "take mug 1 from shelf 1")
    assert play(kitchen, *take, "look")[1].endswith("Next to it, you see nothing.")
    state, answer = play(kitchen, *take, "move mug 1 to shelf 2")
    assert answer == "You move the mug 1 to the shelf 2."
    assert say(kitchen, state, "look")[1] == "You are facing the shelf 2, and shelf 1. Next to it, you see a mug 1."
    for text in ("take mug 1 from shelf 2", "move mug 1 to shelf 1"):
        state, _ = say(kitchen, state, text)
    # taken from either by now, it lies on shelf 1 and is missed on shelf 2
    assert say(kitchen, state, "look")[1].endswith("Next to it, you see a mug 1.")


def test_heating_needs_no_open_microwave_and_undoes_cooling(kitchen: House) -> None:
    fetch = ("go to countertop 1", "take apple 2 from countertop 1")
    state, answer = play(kitchen, *fetch, "go to fridge 1", "cool apple 2 with fridge 1", "examine apple 2")
    assert (answer, state.cool, state.hot) == ("This is a cold apple 2.", 1, 0)
    state, _ = say(kitchen, state, "go to microwave 1")
    state, answer = say(kitchen, state, "heat apple 2 with microwave 1")
    assert (answer, state.cool, state.hot) == ("You heat the apple 2 using the microwave 1.", 0, 1)


@pytest.mark.parametrize(
    ("deeds", "answer"),
    [
        ((), "There's nothing special about apple 2."),
        (("clean",), "This is a clean apple 2."),
        (("heat",), "This is a hot apple 2."),
        (("cool",), "This is a cold apple 2."),
        (("slice",), "This is a sliced apple 2."),
        (("clean", "heat"), "This is a hot and clean apple 2."),
        (("clean", "cool"), "This is a cool and clean apple 2."),
        (("clean", "slice"), "This is a clean sliced apple 2."),
        (("cool", "slice"), "This is a cool sliced apple 2."),
        (("heat", "slice"), "This is a hot sliced apple 2."),
        (("clean", "heat", "slice"), "This is a hot and clean sliced apple 2."),
    ],
)
def test_an_object_is_described_by_what_was_done_to_it(kitchen: House, deeds: tuple[str, ...], answer: str) -> None:
    clean, hot, cool, sliced = (int(deed in deeds) for deed in ("clean", "heat", "cool", "slice"))
    state = kitchen.start._replace(held=0, clean=clean, hot=hot, cool=cool, sliced=sliced)
    assert say(kitchen, state, "examine apple 2") == (state, answer)


def test_only_what_is_held_can_be_examined_and_a_mug_shows_what_is_in_it(kitchen: House) -> None:
    state, _ = play(kitchen, "go to shelf 1")
    assert say(kitchen, state, "examine mug 1") == (state, NOTHING)
    _, answer = play(kitchen, "go to shelf 1", "take mug 1 from shelf 1", "examine mug 1")
    assert answer == "This is a normal mug 1. In it, you see a pen 1."


def test_a_knife_slices_also_what_is_behind_a_closed_door(kitchen: House) -> None:
    take = ("go to countertop 1", "take knife 1 from countertop 1")
    state, answer = play(kitchen, *take, "slice apple 2 with knife 1", "go to fridge 1", "slice apple 1 with knife 1")
    assert (answer, state.sliced) == ("You sliced the apple 1 with the knife 1.", 0b11)


def test_an_object_goes_only_where_its_kind_fits(kitchen: House) -> None:
    state, _ = play(
        kitchen, "go to countertop 1", "take apple 2 from countertop 1", "go to cabinet 1", "open cabinet 1"
    )
    assert say(kitchen, state, "move apple 2 to cabinet 1") == (state, NOTHING)


def test_the_task_is_done_when_a_hot_apple_is_in_the_fridge(kitchen: House) -> None:
    state, _ = play(
        kitchen,
        "go to fridge 1",
        "open fridge 1",
        "take apple 1 from fridge 1",
        "go to microwave 1",
        "heat apple 1 with microwave 1",
        "go to fridge 1",
    )
    assert not engine.solved(kitchen, state)
    assert engine.solved(kitchen, say(kitchen, state, "move apple 1 to fridge 1")[0])


HOUSES = st.builds(
    lambda task_type, seed: draw_house((task_type,), Size(8, 12), 50, "train", seed),
    st.sampled_from(TASK_TYPES),
    st.integers(0, 10_000),
)


@settings(deadline=None, max_examples=30)
@given(HOUSES, st.integers(0, 1 << 20))
def test_admissible_are_exactly_the_commands_that_do_something(house: House, seed: int) -> None:
    rng, state = Random(seed), house.start
    places = [receptacle.name for receptacle in house.receptacles]
    things = [thing.name for thing in house.things]
    names = places + things
    for _ in range(8):
        commands = engine.admissible(house, state)
        assert commands == sorted(set(commands))
        at = [place for place in places if house.receptacles[places.index(place)].location == state.location]
        held = [] if state.held < 0 else [things[state.held]]
        every = [Command(verb) for verb in ("look", "inventory", "help")]
        every += [Command(verb, name) for verb in ("go", "open", "close", "examine", "use") for name in names]
        every += [Command("take", thing, place) for thing in things for place in at]
        every += [Command(verb, held[0], place) for verb in ("move", "heat", "clean", "cool") for place in at if held]
        every += [Command("slice", thing, held[0]) for thing in things if held]
        done = [str(command) for command in every if engine.act(house, state, command)[1] != NOTHING]
        assert sorted(done) == commands
        for command in every:
            if str(command) not in commands:
                assert engine.act(house, state, command)[0] == state
        here = [command for command in commands if not command.startswith("go to")]
        pool = here if rng.random() < 0.6 else commands
        state, _ = say(house, state, pool[int(rng.random() * len(pool))])
