"""Real games become houses: a short one by hand, all 160 of the test data, and broken files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentkit.envs.household import engine
from agentkit.envs.household.catalogue import FITS, TRAITS_OF
from agentkit.envs.household.expert import plan
from agentkit.envs.household.grammar import parse_command
from agentkit.envs.household.house import Task
from agentkit.envs.household.importer import read_game
from agentkit.errors import ConfigError

PROBLEM = """(define (problem p) (:domain alfred) (:init
    (receptacleType Shelf_bar_1 ShelfType) (receptacleAtLocation Shelf_bar_1 loc_bar_5)
    (receptacleType Shelf_bar_0 ShelfType) (receptacleAtLocation Shelf_bar_0 loc_bar_5)
    (receptacleType Sink_bar_2_bar_SinkBasin SinkBasinType) (receptacleAtLocation Sink_bar_2_bar_SinkBasin loc_bar_3)
    (receptacleType Safe_bar_2 SafeType) (openable Safe_bar_2) (receptacleAtLocation Safe_bar_2 loc_bar_4)
    (atLocation agent1 loc_bar_9) (canContain ShelfType MugType) (canContain SinkBasinType MugType)
    (objectType Mug_bar_b MugType) (pickupable Mug_bar_b) (isReceptacleObject Mug_bar_b)
    (inReceptacle Mug_bar_b Safe_bar_2)
    (objectType Mug_bar_a MugType) (pickupable Mug_bar_a) (cleanable Mug_bar_a) (inReceptacle Mug_bar_a Shelf_bar_1)
    (objectType Mug_bar_c MugType) (objectAtLocation Mug_bar_c loc_bar_3)
    (objectType Pen_bar_a PenType) (inReceptacleObject Pen_bar_a Mug_bar_b) (opened Safe_bar_2) (isClean Mug_bar_a))
    (:goal (and (exists (?r - receptacle) (exists (?o - object) (and (cleanable ?o) (objectType ?o MugType)
        (receptacleType ?r ShelfType) (isClean ?o) (inReceptacle ?o ?r)))))))"""
GAME: dict[str, Any] = {"pddl_problem": PROBLEM, "grammar": '... "rhs": "Your task is to: clean a \\"mug\\"." ...'}


def test_names_places_and_task_of_a_game_worked_by_hand() -> None:
    house = read_game(GAME)
    # sorted identifiers: safe_bar_2, shelf_bar_0, shelf_bar_1, sink_bar_2_bar_sinkbasin; the first gets the last number
    assert [receptacle.name for receptacle in house.receptacles] == ["safe 1", "shelf 2", "shelf 1", "sinkbasin 1"]
    assert [receptacle.location for receptacle in house.receptacles] == [1, 2, 2, 0]
    assert [receptacle.openable for receptacle in house.receptacles] == [True, False, False, False]
    # three mugs are numbered, the one that is in no receptacle too, but only two can be reached
    assert [thing.name for thing in house.things] == ["mug 3", "mug 2"]
    assert house.things[0].traits == ("pickupable", "cleanable")
    assert house.things[1].traits == ("pickupable", "holder")
    assert house.things[1].inside == ("pen 1",)
    assert [thing.fits for thing in house.things] == [0b1110, 0b1110]
    assert house.start.contents == (0b10, 0, 0b01, 0)
    assert (house.start.location, house.start.opened, house.start.clean) == (-1, 0b1, 0b01)
    assert house.task == Task("pick_clean_then_place_in_recep", "mug", "shelf")
    assert house.sentence == 'clean a "mug".'
    assert engine.solved(house, house.start)


@pytest.mark.parametrize(
    ("game", "reason"),
    [
        ({}, "pddl_problem"),
        ({**GAME, "grammar": ""}, "a grammar with the task"),
        ({**GAME, "pddl_problem": PROBLEM.replace("(:goal", "(:")}, "ValueError"),
        ({**GAME, "pddl_problem": PROBLEM.replace("(isClean ?o)", "(isSliced ?o)")}, "slices"),
        ({**GAME, "pddl_problem": PROBLEM.replace("(objectType ?o MugType)", "")}, "IndexError"),
        ({**GAME, "pddl_problem": PROBLEM.replace("(atLocation agent1 loc_bar_9)", "")}, "IndexError"),
        ({**GAME, "pddl_problem": PROBLEM.replace("(objectType Mug_bar_b MugType)", "")}, "mug_bar_b"),
    ],
)
def test_what_is_no_game_is_refused(game: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_game(game)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b'{"pddl_problem": 3}'])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "game.tw-pddl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"game\.tw-pddl.* is no ALFWorld game"):
        read_game(path)
    with pytest.raises(ConfigError, match=r"missing\.tw-pddl"):
        read_game(tmp_path / "missing.tw-pddl")


def test_the_expert_solves_every_real_game(games: Path) -> None:
    paths = sorted(games.rglob("game.tw-pddl"))
    assert len(paths) == 160
    for path in paths:
        house = read_game(path)
        state = house.start
        for text in plan(house, state) or ():
            assert text in engine.admissible(house, state)
            command = parse_command(text)
            assert command is not None
            state = engine.act(house, state, command)[0]
        assert engine.solved(house, state), path


def test_the_catalogue_says_what_the_real_games_say(games: Path) -> None:
    for path in sorted(games.rglob("game.tw-pddl"))[::8]:
        house = read_game(path)
        for thing in house.things:
            assert set(thing.traits) == set(TRAITS_OF[thing.kind])
            assert [bool(thing.fits >> n & 1) for n in range(len(house.receptacles))] == [
                thing.kind in FITS[receptacle.kind] for receptacle in house.receptacles
            ]
        content = json.loads(path.read_text(encoding="utf-8"))
        assert read_game(content) == house
