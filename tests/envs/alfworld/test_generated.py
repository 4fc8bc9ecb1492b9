"""Games made on the spot: real files, the same every time, each winnable, the splits in different rooms."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentkit.envs.alfworld.games import find_games
from agentkit.envs.household.engine import solved
from agentkit.envs.household.house import TASK_TYPES
from agentkit.envs.household.importer import read_game
from agentkit.errors import ConfigError

pytestmark = pytest.mark.family("agentkit/ALFWorld-v0")


def test_there_are_games_of_every_type_in_both_splits(generated: Path) -> None:
    games = find_games(generated, "train", "valid_unseen", TASK_TYPES)
    for split, num in (("train", 24), ("held_out", 8)):
        assert [sum(game.task_type == kind for game in games[split]) for kind in TASK_TYPES] == [num] * 6


def test_the_splits_show_different_rooms_and_a_game_comes_once(generated: Path) -> None:
    rooms: dict[str, set[int]] = {}
    problems = set()
    for path in generated.rglob("traj_data.json"):
        scene = json.loads(path.read_text())["scene"]["scene_num"]
        rooms.setdefault(path.parents[2].name, set()).add(scene)
        game = json.loads(path.with_name("game.tw-pddl").read_text())
        problems.add(game["pddl_problem"].split("(:domain alfred)")[1])
    assert not rooms["train"] & rooms["valid_unseen"]
    assert len(problems) == 192


def test_no_game_is_done_from_the_start_and_the_walkthrough_of_each_is_a_plan(generated: Path) -> None:
    for path in generated.rglob("game.tw-pddl"):
        house = read_game(path)
        assert not solved(house, house.start)
        asked = house.kinds[house.task.object]
        assert not any(house.start.contents[number] & asked for number in house.targets)
        assert 1 <= len(json.loads(path.read_text())["walkthrough"]) <= 20


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_alfworld_itself_calls_the_walkthrough_a_win(generated: Path, task_type: str) -> None:
    from agentkit.envs.alfworld.engine import Engine

    path = next((generated / "valid_unseen").glob(f"{task_type}-*/*/game.tw-pddl"))
    engine = Engine(path)
    wins = [engine.step(command)[1] for command in json.loads(path.read_text())["walkthrough"]]
    assert wins == [False] * (len(wins) - 1) + [True]


def test_the_same_arguments_give_the_same_game() -> None:
    from agentkit.envs.alfworld.generated import draw_game

    first = draw_game("train", TASK_TYPES[5], 3)
    assert draw_game("train", TASK_TYPES[5], 3) == first
    assert draw_game("train", TASK_TYPES[5], 4) != first
    code = (
        "import json, sys\nfrom agentkit.envs.alfworld.generated import draw_game\n"
        f"print(json.dumps(draw_game('train', {TASK_TYPES[5]!r}, 3)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == json.dumps(list(first)) + "\n"


def test_two_processes_that_make_games_at_once_agree_and_leave_nothing_behind(generated: Path, tmp_path: Path) -> None:
    code = "from agentkit.envs.alfworld.generated import generated_folder\nprint(generated_folder())"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    (folder,) = (tmp_path / "agentkit" / "alfworld").iterdir()
    assert told == {str(folder)}
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    assert files == {
        path.relative_to(generated): path.read_bytes() for path in generated.rglob("*.*") if path.is_file()
    }


def test_a_draft_is_removed_when_another_process_was_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentkit.envs.alfworld import generated

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    final = tmp_path / "agentkit" / "alfworld" / generated.VERSION

    def write(draft: Path) -> None:
        (draft / "mine").write_text("")
        final.mkdir()
        (final / "theirs").write_text("")

    monkeypatch.setattr(generated, "_write_games", write)
    assert generated.generated_folder() == final
    assert list(final.parent.iterdir()) == [final]
    assert [path.name for path in final.iterdir()] == ["theirs"]
    shutil.rmtree(final)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentkit.envs.alfworld.generated import generated_folder

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"games cannot be generated into .*set XDG_CACHE_HOME to a folder of yours"):
        generated_folder()
