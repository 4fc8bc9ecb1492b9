"""Our engine against the real one: the same commands in the same games, every text compared."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agentkit.envs.household import engine
from agentkit.envs.household.expert import plan
from agentkit.envs.household.grammar import NOTHING, Command, parse_command
from agentkit.envs.household.house import TASK_TYPES, House, State
from agentkit.envs.household.importer import read_game

pytestmark = pytest.mark.family("agentkit/ALFWorld-v0")

GAMES_PER_TYPE = 2
NUM_STEPS = 30
GARBAGE = ("", "go", "go to", "take it", "open sesame", "look at me", "put", "?!", "use desklamp", "go to desk one")
VERBS = ("go", "open", "close", "take", "move", "examine", "use", "heat", "clean", "cool", "slice")


@contextlib.contextmanager
def real_game(path: Path) -> Iterator[Any]:
    """A game in TextWorld's own environment, numbered by ALFWorld's own wrapper."""
    arguments = list(sys.argv)  # the planner's translator overwrites them
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs import PddlEnv

    env = AlfredDemangler(PddlEnv(textworld.EnvInfos(admissible_commands=True, won=True)), shuffle=False)
    try:
        env.load(str(path))
        yield env
    finally:
        env.close()
        sys.argv = arguments


def some_command(house: House, rng: Random) -> str:
    """A well-formed command about things that the house has; it can seldom be done."""
    verb = VERBS[int(rng.random() * len(VERBS))]
    places = [receptacle.name for receptacle in house.receptacles]
    things = [thing.name for thing in house.things]
    about = places if verb in ("go", "open", "close") else things if verb != "examine" else places + things
    second = things if verb == "slice" else places
    first = about[int(rng.random() * len(about))]
    single = verb in ("go", "open", "close", "examine", "use")
    return str(Command(verb, first, "" if single else second[int(rng.random() * len(second))]))


def choose(house: House, state: State, rng: Random) -> str:
    """An admissible command, one of a shortest plan, a well-formed one, or garbage."""
    dice = rng.random()
    commands = engine.admissible(house, state)
    here = [command for command in commands if not command.startswith("go to")]
    if dice < 0.3:
        return here[int(rng.random() * len(here))]
    if dice < 0.5:
        return commands[int(rng.random() * len(commands))]
    if dice < 0.7:
        return next(iter(plan(house, state) or ("look",)))
    if dice < 0.9:
        return some_command(house, rng)
    return GARBAGE[int(rng.random() * len(GARBAGE))]


def compare(path: Path, num_steps: int) -> int:
    """Play the game in both engines; the number of texts that were found equal."""
    house, rng = read_game(path), Random(f"conformance|{path.parent.parent.name}")
    state = house.start
    with real_game(path) as real:
        told = real.reset()
        assert engine.opening(house) == told.feedback
        for _ in range(num_steps):
            assert engine.admissible(house, state) == told["admissible_commands"]
            assert engine.solved(house, state) == told["won"]
            text = choose(house, state, rng)
            command = parse_command(text)
            state, answer = (state, NOTHING) if command is None else engine.act(house, state, command)
            told, _, _ = real.step(text)
            assert answer == told.feedback, f"{path}: {text}"
    return num_steps + 1


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_both_engines_say_the_same(task_type: str, games: Path) -> None:
    chosen = sorted(games.rglob(f"{task_type}-*/*/game.tw-pddl"))
    for path in chosen[:: len(chosen) // GAMES_PER_TYPE][:GAMES_PER_TYPE]:
        assert compare(path, NUM_STEPS) == NUM_STEPS + 1
