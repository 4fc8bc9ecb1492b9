"""The engine says what TextWorld says, keeps to itself, and frees what it takes."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agentkit.envs.alfworld.games import Game, find_games
from agentkit.envs.household.house import TASK_TYPES
from agentkit.errors import ConfigError, EnvironmentFault

pytestmark = pytest.mark.family("agentkit/ALFWorld-v0")


def one_of_each(folder: Path) -> list[Path]:
    """The smallest game of each type: TextWorld takes long over large ones."""
    games = sorted(find_games(folder, "train", "valid_unseen", TASK_TYPES)["train"], key=_size)
    return [next(game.path for game in games if game.task_type == task_type) for task_type in TASK_TYPES]


def _size(game: Game) -> int:
    return game.path.stat().st_size


def stock_env() -> Any:
    """A game as ALFWorld's own code sets it up."""
    import textworld
    from textworld.envs import PddlEnv

    from agentkit.envs.alfworld.package import alfworld

    wrappers = alfworld("agents.environment.alfred_tw_env")
    infos = textworld.EnvInfos(admissible_commands=True, won=True)
    return wrappers.AlfredInfos(wrappers.AlfredDemangler(PddlEnv(infos)))


def choose(choices: list[str], rng: Random) -> str:
    return choices[int(rng.random() * len(choices))]


def compare(stock: Any, path: Path, num_steps: int) -> None:
    """Play the same random commands on both, one in twenty of them impossible."""
    from agentkit.envs.alfworld.engine import Engine

    engine, rng = Engine(path), Random(path.parent.name)
    stock.load(str(path))
    state = stock.reset()
    assert engine.reset() == state["feedback"]
    for _ in range(num_steps):
        assert engine.admissible == state["admissible_commands"]
        command = choose(engine.admissible, rng) if rng.random() < 0.95 else "open sesame 1"
        state, _, _ = stock.step(command)
        assert engine.step(command) == (state["feedback"], state["won"])
    engine.close()


def test_texts_and_commands_are_those_of_textworld_over_500_random_steps(generated: Path) -> None:
    stock = stock_env()
    for path in one_of_each(generated):
        compare(stock, path, 84)


def test_texts_of_real_games_are_those_of_textworld(real_data: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "xJf", real_data / "alfworld" / "valid_seen.tar.xz", "-C", tmp_path], check=True)
    games = find_games(tmp_path, "train", "valid_unseen", TASK_TYPES)
    assert len(games["train"]) + len(games["held_out"]) == 160
    for game in sorted(games["held_out"], key=_size)[:3]:
        compare(stock_env(), game.path, 20)


def test_a_line_of_play_reads_as_in_alfworld(generated: Path) -> None:
    from agentkit.envs.alfworld.engine import Engine

    path = one_of_each(generated)[0]
    engine = Engine(path)
    opening = engine.reset()
    assert opening.startswith("-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly")
    assert "\n\nYour task is to: " in opening
    won = False
    for command in json.loads(path.read_text())["walkthrough"]:
        assert not won
        text, won = engine.step(command)
        assert text != "Nothing happens."
    assert won
    assert engine.step("make it so") == ("Nothing happens.", True)


def test_equal_states_have_equal_keys_whatever_the_way_there(generated: Path) -> None:
    from agentkit.envs.alfworld.engine import Engine

    engine, other = (Engine(path) for path in one_of_each(generated)[:2])
    start = engine.state_key
    assert engine.state_key != other.state_key
    receptacle = next(one for one in engine.admissible if one.startswith("go to"))
    engine.step("look")
    engine.step("inventory")
    assert engine.state_key == start
    engine.step(receptacle)
    there = engine.state_key
    assert there != start
    detour = next(one for one in engine.admissible if one.startswith("go to"))
    engine.step(detour)
    engine.step(receptacle)
    assert engine.state_key == there
    engine.reset()
    assert engine.state_key == start


def test_opening_and_closing_or_taking_and_putting_back_comes_back_to_the_same_state(generated: Path) -> None:
    from agentkit.envs.alfworld.engine import Engine

    engine = Engine(one_of_each(generated)[1])
    undone = set()
    for place in [one for one in engine.admissible if one.startswith("go to")]:
        engine.reset()
        engine.step(place)
        name = place.removeprefix("go to ")
        for command in engine.admissible:
            before = engine.state_key
            verb, _, rest = command.partition(" ")
            back = f"close {name}" if verb == "open" else f"move {rest.replace(' from ', ' to ')}"
            if verb not in ("open", "take"):
                continue
            engine.step(command)
            assert engine.state_key != before
            if back in engine.admissible:  # what lies somewhere it does not belong cannot be put back
                engine.step(back)
                assert engine.state_key == before
                undone.add(verb)
    assert undone == {"open", "take"}


def test_where_a_thing_was_on_its_way_does_not_matter(generated: Path) -> None:
    from agentkit.envs.alfworld.engine import Engine

    engine = Engine(one_of_each(generated)[1])
    places = [one for one in engine.admissible if one.startswith("go to")]

    def first(verb: str) -> str | None:
        return next((one for one in engine.admissible if one.startswith(verb)), None)

    def carry(route: list[str]) -> str | None:
        """Take something from the first place and lay it down at each of the others; the key in the end."""
        engine.reset()
        engine.step(route[0])
        if (taken := first("take ")) is None:
            return None
        engine.step(taken)
        for number, place in enumerate(route[1:]):
            if number:
                engine.step(str(first(f"take {' '.join(taken.split()[1:3])} ")))
            engine.step(place)
            if (laid := first("move ")) is None:
                return None
            engine.step(laid)
        return engine.state_key

    compared = 0
    for start in places:
        ends = [place for place in places if carry([start, place]) is not None and place != start]
        for through, end in itertools.permutations(ends[:3], 2):
            assert carry([start, through, end]) == carry([start, end])
            compared += 1
    assert compared > 0


def test_two_variables_of_a_condition_stand_for_two_things() -> None:
    from textworld.logic import Placeholder, Variable

    from agentkit.envs.alfworld.world import _unify

    first, second = Placeholder("a", "object"), Placeholder("b", "object")
    mug, pen = Variable("mug", "object"), Variable("pen", "object")
    assert _unify([first, second], [mug, pen], {}) == {first: mug, second: pen}
    assert _unify([first, second], [mug, mug], {}) is None
    assert _unify([first], [pen], {first: mug}) is None
    assert _unify([first, first], [mug, mug], {}) == {first: mug}


def test_engines_in_threads_of_one_process_do_not_mix(generated: Path) -> None:
    from agentkit.envs.alfworld.engine import Engine

    paths = one_of_each(generated)[:4] * 2

    def play(path: Path) -> list[Any]:
        engine, rng = Engine(path), Random(1)
        told: list[Any] = [engine.reset()]
        for _ in range(60):
            told.append((engine.step(choose(engine.admissible, rng)), engine.state_key))
        engine.close()
        return told

    alone = [play(path) for path in paths]
    together: list[Any] = [None] * len(paths)

    def record(number: int) -> None:
        together[number] = play(paths[number])

    threads = [threading.Thread(target=record, args=(number,)) for number in range(len(paths))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_many_games_take_no_more_memory_and_no_temporary_files(generated: Path) -> None:
    import psutil

    from agentkit.envs.alfworld.engine import Engine

    paths = one_of_each(generated)[:3]

    def load_often(num: int) -> int:
        for number in range(num):
            Engine(paths[number % 3])  # nobody closes it
        return psutil.Process().memory_info().rss

    before = load_often(30)
    files = set(os.listdir(tempfile.gettempdir()))
    assert load_often(100) - before < 10 * 2**20  # one library is 34 MB
    assert not [one for one in set(os.listdir(tempfile.gettempdir())) - files if one.startswith("tmp")]


def test_playing_leaves_the_process_as_it_was(generated: Path) -> None:
    code = (
        "import os, random, sys\n"
        "from agentkit.envs.alfworld.engine import Engine\n"
        "before = (list(sys.argv), dict(os.environ), random.getstate())\n"
        "engine = Engine(sys.argv[1]); engine.reset(); engine.step('look')\n"
        "print(before == (sys.argv, dict(os.environ), random.getstate()))"
    )
    path = one_of_each(generated)[0]
    without = {name: value for name, value in os.environ.items() if name != "ALFWORLD_DATA"}  # importing it sets it
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, env=without, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_closed_engine_says_so(generated: Path) -> None:
    from agentkit.envs.alfworld.engine import Engine

    engine = Engine(one_of_each(generated)[0])
    engine.close()
    engine.close()
    with pytest.raises(ConfigError, match="is closed"):
        engine.step("look")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "cannot be read: Expecting property name"),
        ("[]", "is no ALFWorld game: it lacks pddl_domain, pddl_problem, grammar"),
        ('{"pddl_domain": "", "grammar": ""}', "is no ALFWorld game: it lacks pddl_problem"),
        ('{"pddl_domain": "", "pddl_problem": "", "grammar": "put {o} in/on {r}"}', "another version of ALFWorld"),
    ],
)
def test_a_file_that_is_no_game_is_named(content: str, complaint: str, tmp_path: Path) -> None:
    from agentkit.envs.alfworld.engine import Engine

    path = tmp_path / "game.tw-pddl"
    path.write_text(content)
    with pytest.raises(EnvironmentFault, match=complaint) as caught:
        Engine(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_cut_problem_are_named(generated: Path, tmp_path: Path) -> None:
    from agentkit.envs.alfworld.engine import Engine

    with pytest.raises(EnvironmentFault, match=r"cannot be read: .*No such file"):
        Engine(tmp_path / "none.tw-pddl")
    game = json.loads(one_of_each(generated)[0].read_text())
    game["pddl_problem"] = game["pddl_problem"][:2000]
    path = tmp_path / "cut.tw-pddl"
    path.write_text(json.dumps(game))
    with pytest.raises(EnvironmentFault, match=r"the game .*cut.tw-pddl cannot be translated"):
        Engine(path)


def test_a_game_file_cannot_run_code(generated: Path, tmp_path: Path) -> None:
    from agentkit.envs.alfworld.engine import Engine

    game = json.loads(one_of_each(generated)[0].read_text())
    game["grammar"] = game["grammar"].replace("You arrive at {r.name}", "You arrive at {__import__('os').getcwd()}")
    path = tmp_path / "evil.tw-pddl"
    path.write_text(json.dumps(game))
    engine = Engine(path)
    command = next(one for one in engine.admissible if one.startswith("go to"))
    with pytest.raises(EnvironmentFault, match="may not evaluate"):
        engine.step(command)
