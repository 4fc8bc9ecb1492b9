"""A small house whose every answer can be worked out by hand, and the real games."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from agentkit.envs.household.house import House, Receptacle, State, Task, Thing

EVERYWHERE = 0b1111111
FOOD = ("pickupable", "cleanable", "heatable", "coolable", "sliceable")


@pytest.fixture(scope="session")
def kitchen() -> House:
    """Seven receptacles at six places; the two shelves share one. The task is to put a hot apple in the fridge."""
    receptacles = (
        Receptacle("cabinet 1", "cabinet", 0, True),
        Receptacle("countertop 1", "countertop", 1, False),
        Receptacle("fridge 1", "fridge", 2, True),
        Receptacle("microwave 1", "microwave", 3, True),
        Receptacle("shelf 2", "shelf", 4, False),
        Receptacle("shelf 1", "shelf", 4, False),
        Receptacle("sinkbasin 1", "sinkbasin", 5, False),
    )
    things = (
        Thing("apple 2", "apple", FOOD, 0b1001110),
        Thing("apple 1", "apple", FOOD, 0b1001110),
        Thing("desklamp 1", "desklamp", ("toggleable",), 0),
        Thing("knife 1", "knife", ("pickupable", "cleanable"), EVERYWHERE),
        Thing("mug 1", "mug", ("pickupable", "cleanable", "heatable", "coolable", "holder"), EVERYWHERE, ("pen 1",)),
    )
    # apple 2 and knife 1 on the countertop, apple 1 in the fridge, desklamp 1 on shelf 2, mug 1 on shelf 1
    contents = (0, 0b01001, 0b00010, 0, 0b00100, 0b10000, 0)
    task = Task("pick_heat_then_place_in_recep", "apple", "fridge")
    return House(receptacles, things, task, "put a hot apple in fridge.", State(-1, -1, contents, 0))


@pytest.fixture(scope="session")
def games(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the real games, unpacked."""
    folder = tmp_path_factory.mktemp("alfworld")
    with tarfile.open(real_data / "alfworld" / "valid_seen.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder
