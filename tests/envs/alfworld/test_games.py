"""Which games a folder holds, in which order, and in which split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentkit.envs.alfworld import games
from agentkit.envs.alfworld.games import find_games
from agentkit.envs.household.house import TASK_TYPES
from agentkit.envs.puzzle import split_of
from agentkit.errors import ConfigError, MissingPartError

PICK, LOOK = TASK_TYPES[:2]


def write_game(trial: Path, name: str = "game.tw-pddl", **content: Any) -> None:
    trial.mkdir(parents=True, exist_ok=True)
    given = {"pddl_domain": "", "pddl_problem": str(trial), "grammar": "", "solvable": True, **content}
    (trial / name).write_text(json.dumps(given))


def ids(folder: Path, *task_types: str) -> dict[str, list[str]]:
    games._scan.cache_clear()  # a process looks at a folder once
    found = find_games(folder, "train", "valid_unseen", task_types or TASK_TYPES)
    return {split: [game.id for game in same] for split, same in found.items()}


@pytest.mark.parametrize("inner", ["json_2.1.1", "."])
def test_the_official_layout_is_read_with_its_splits(tmp_path: Path, inner: str) -> None:
    for split in ("train", "valid_seen", "valid_unseen"):
        for number in range(3):
            write_game(tmp_path / inner / split / f"{PICK}-Mug-None-Desk-{number}" / "trial_1")
    found = ids(tmp_path)
    assert sorted(found["train"]) == [f"{PICK}-Mug-None-Desk-{number}/trial_1" for number in range(3)]
    assert sorted(found["train"]) == sorted(found["held_out"])
    seen = find_games(tmp_path, "train", "valid_seen", TASK_TYPES)
    assert {game.path.parents[2].name for game in seen["held_out"]} == {"valid_seen"}


def test_a_folder_without_both_splits_is_divided_by_content(tmp_path: Path) -> None:
    for number in range(30):
        write_game(tmp_path / "valid_seen" / f"{LOOK}-Pen-None-DeskLamp-{number}" / "t", pddl_problem=f"p{number}")
    found = ids(tmp_path)
    assert len(found["train"]) + len(found["held_out"]) == 30
    for split, names in found.items():
        for name in names:
            place = name.removesuffix("/t").rpartition("-")[2]
            assert split_of(f"p{place}") == split


def test_games_in_a_flat_folder_tell_their_type_by_their_name(tmp_path: Path) -> None:
    for number in range(12):
        write_game(tmp_path, f"{PICK}-{number}.tw-pddl", pddl_problem=f"p{number}")
    write_game(tmp_path, "chess-1.tw-pddl")
    found = find_games(tmp_path, "train", "valid_unseen", [PICK])
    assert sum(map(len, found.values())) == 12
    assert found["train"][0].task_type == PICK
    assert found["train"][0].id.endswith(".tw-pddl")


def test_the_order_mixes_the_types_and_does_not_depend_on_the_file_system(tmp_path: Path) -> None:
    trials = [f"train/{task_type}-{number}/t" for task_type in TASK_TYPES for number in range(20)]
    for folder, order in (("a", trials), ("b", trials[::-1])):
        for trial in [*order, f"valid_unseen/{PICK}/t"]:
            write_game(tmp_path / folder / trial)
    first, second = ids(tmp_path / "a")["train"], ids(tmp_path / "b")["train"]
    assert first == second
    assert {name.partition("-")[0] for name in first[:30]} == set(TASK_TYPES)


def test_what_the_official_loader_leaves_out_is_left_out(tmp_path: Path) -> None:
    for split in ("train", "valid_unseen"):
        write_game(tmp_path / split / f"{PICK}-Mug" / "good")
        write_game(tmp_path / split / f"{PICK}-Mug" / "unsolvable", solvable=False)
        write_game(tmp_path / split / f"{PICK}-Mug" / "unproven", solvable=None)
        write_game(tmp_path / split / f"{PICK}-AppleSliced-None-Desk-1" / "t")
        write_game(tmp_path / split / "pick_and_place_with_movable_recep-Pen-Mug-Desk-1" / "t")
    assert ids(tmp_path) == {split: [f"{PICK}-Mug/good"] for split in ("train", "held_out")}


def test_the_type_in_traj_data_wins_over_the_name(tmp_path: Path) -> None:
    for split in ("train", "valid_unseen"):
        write_game(tmp_path / split / f"{PICK}-Mug" / "t")
        (tmp_path / split / f"{PICK}-Mug" / "t" / "traj_data.json").write_text(json.dumps({"task_type": LOOK}))
    assert ids(tmp_path, LOOK)["train"] == [f"{PICK}-Mug/t"]
    with pytest.raises(MissingPartError, match=f"no solvable train game of type {PICK}"):
        ids(tmp_path, PICK)


def test_a_corrupt_file_stays_in_the_list_so_that_its_player_is_told(tmp_path: Path) -> None:
    for split in ("train", "valid_unseen"):
        write_game(tmp_path / split / f"{PICK}-Mug" / "t")
    (tmp_path / "train" / f"{PICK}-Mug" / "t" / "game.tw-pddl").write_text('{"solvable": tru')
    assert ids(tmp_path)["train"] == [f"{PICK}-Mug/t"]


def test_a_scan_is_remembered_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "valid_unseen"):
        for number in range(3):
            write_game(tmp_path / split / f"{PICK}-{number}" / "t")
    assert len(ids(tmp_path)["train"]) == 3
    looked: list[Path] = []
    real = games._look_at

    def look_at(path: Path, folder: Path, stamp: list[int]) -> Any:
        looked.append(path)
        return real(path, folder, stamp)

    monkeypatch.setattr(games, "_look_at", look_at)
    assert len(ids(tmp_path)["train"]) == 3
    assert looked == []
    write_game(tmp_path / "train" / f"{PICK}-0" / "t", solvable=False)
    assert len(ids(tmp_path)["train"]) == 2
    assert [path.parent.parent.name for path in looked] == [f"{PICK}-0"]


def test_a_damaged_index_is_made_anew(tmp_path: Path, cache: Path) -> None:
    for split in ("train", "valid_unseen"):
        write_game(tmp_path / split / f"{PICK}-0" / "t")
    expected = ids(tmp_path)
    for index in (cache / "agentkit" / "alfworld" / "scans").iterdir():
        index.write_text('{"game": [1]}')
    assert ids(tmp_path) == expected


def test_without_data_the_commands_that_get_it_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for data in (None, str(tmp_path / "nowhere")):
        with pytest.raises(MissingPartError) as caught:
            find_games(data, "train", "valid_unseen", TASK_TYPES)
        assert "pip install 'agentkit-rl[alfworld]' && alfworld-download" in str(caught.value)
        assert 'data="generated"' in str(caught.value)


def test_the_environment_variable_and_the_place_of_the_download_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("home/.cache/alfworld", "elsewhere"):
        for split in ("train", "valid_unseen"):
            write_game(tmp_path / place / "json_2.1.1" / split / f"{PICK}-{place[0]}" / "t")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert find_games(None, "train", "valid_unseen", TASK_TYPES)["train"][0].id == f"{PICK}-h/t"
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "elsewhere"))
    assert find_games(None, "train", "valid_unseen", TASK_TYPES)["train"][0].id == f"{PICK}-e/t"


def test_an_empty_folder_and_unknown_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingPartError, match=r"has no solvable train game .*\(0 files looked at\)"):
        find_games(tmp_path, "train", "valid_unseen", TASK_TYPES)
    with pytest.raises(ConfigError, match="no type of task 'pick_two'; did you mean 'pick_two_obj_and_place'"):
        find_games(tmp_path, "train", "valid_unseen", ["pick_two"])
    wrongs: tuple[Any, ...] = ([], PICK)
    for wrong in wrongs:
        with pytest.raises(ConfigError, match="task_types must be a list"):
            find_games(tmp_path, "train", "valid_unseen", wrong)
