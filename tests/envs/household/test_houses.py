"""Drawn houses: possible, plausible, varied, and of one split only."""

from __future__ import annotations

from collections import Counter

import pytest

from agentkit.envs.household import engine
from agentkit.envs.household.catalogue import FITS, LAMP, LAMP_STANDS, ROOMS, TRAITS_OF
from agentkit.envs.household.expert import plan
from agentkit.envs.household.house import TASK_TYPES, House, Task, members
from agentkit.envs.household.houses import Draft, Size, build_house, draw_house
from agentkit.errors import ConfigError

SIZE = Size(24, 32)


def draw(
    seed: int, split: str = "train", size: Size = SIZE, budget: int = 50, types: tuple[str, ...] = TASK_TYPES
) -> House:
    return draw_house(types, size, budget, split, seed)


def test_things_are_numbered_and_listed_as_in_alfworld() -> None:
    task = Task("pick_and_place_simple", "pen", "desk")
    draft = Draft(task, 1, (("desk", 0), ("drawer", 1), ("drawer", 1)), (("cd", 0), ("pen", 2), ("pen", 1)))
    house = build_house(draft)
    assert [receptacle.name for receptacle in house.receptacles] == ["desk 1", "drawer 2", "drawer 1"]
    assert [thing.name for thing in house.things] == ["cd 1", "pen 2", "pen 1"]
    assert house.start.contents == (0b001, 0b100, 0b010)
    assert house.sentence == "put some pen on desk."
    assert house.things[0].fits == 0b111
    assert house.openable == 0b110


def test_objects_are_where_their_kind_belongs() -> None:
    for seed in range(100):
        house = draw(seed)
        for receptacle, inside in zip(house.receptacles, house.start.contents, strict=True):
            for thing in members(inside):
                kind = house.things[thing].kind
                assert receptacle.kind in LAMP_STANDS if kind == LAMP else kind in FITS[receptacle.kind]
        assert sum(house.start.contents) == (1 << len(house.things)) - 1  # each is in one place


def test_every_kind_of_the_catalogue_has_a_place_in_its_room() -> None:
    for furniture, chattels in ROOMS.values():
        assert set(furniture) <= set(FITS)
        assert all(kind in TRAITS_OF and any(kind in FITS[holder] for holder in furniture) for kind in chattels)


def test_types_of_task_come_equally_often() -> None:
    # 600 draws, 100 a type: four standard deviations of a binomial count are 4 * sqrt(600 / 6 * 5 / 6) = 36.5
    counts = Counter(draw(seed).task.type for seed in range(600))
    assert all(abs(counts[task_type] - 100) <= 36 for task_type in TASK_TYPES)


def test_no_task_is_done_at_the_start() -> None:
    assert not any(engine.solved(house, house.start) for house in map(draw, range(200)))


def test_splits_share_no_house() -> None:
    size = Size(6, 4)
    train = {draw(seed, "train", size).content for seed in range(300)}
    held_out = {draw(seed, "held_out", size).content for seed in range(300)}
    assert not train & held_out


def test_the_same_arguments_draw_the_same_house() -> None:
    house = draw(7)
    draw_house.cache_clear()
    again = draw(7)
    assert again == house
    assert again.key == house.key
    assert again is not house
    assert draw(8) != house


@pytest.mark.parametrize("size", [Size(6, 4), Size(12, 10), Size(60, 120)])
def test_houses_keep_their_size(size: Size) -> None:
    houses = [draw(seed, size=size) for seed in range(100)]
    assert max(len(house.receptacles) for house in houses) <= size.receptacles
    assert max(len(house.things) for house in houses) <= size.things


def test_a_small_budget_gets_tasks_that_fit_it() -> None:
    lengths = [len(plan(house, house.start) or ()) for house in (draw(seed, budget=4) for seed in range(30))]
    assert set(lengths) <= {3, 4}


def test_a_budget_that_no_task_fits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkit.envs.puzzle.MAX_PROPOSALS", 100)
    with pytest.raises(ConfigError, match="Household found no train level"):
        draw_house((TASK_TYPES[0],), Size(6, 4), 2, "train", 0)
