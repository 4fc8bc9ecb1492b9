"""Games without any download: objects scattered over the 120 rooms whose layouts come with the alfworld package.

The rooms, the kinds of objects in them, what fits where, the goals and their wordings are ALFWorld's; where objects
lie is drawn. The games are files as `alfworld-generate` writes them, in its domain and grammar, and each is proven
solvable by a plan. As in ALFRED, the games to be tested on are in rooms that the games to learn on never show.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from agentkit.envs.alfworld.package import alfworld
from agentkit.envs.alfworld.translation import cache_folder
from agentkit.envs.household.expert import plan
from agentkit.envs.household.house import TASK_TYPES
from agentkit.envs.household.importer import read_game
from agentkit.errors import ConfigError, missing_extra

VERSION = "generated-1"
"""Name of the folder: other rules for making games are another folder."""
TRAIN, HELD_OUT = "train", "valid_unseen"
PER_TYPE = {TRAIN: 24, HELD_OUT: 8}
"""Games of each task type in each split's folder."""
NEEDS = {
    "pick_clean_then_place_in_recep": ("SinkBasin", "Cleanable"),
    "pick_heat_then_place_in_recep": ("Microwave", "Heatable"),
    "pick_cool_then_place_in_recep": ("Fridge", "Coolable"),
}
"""Task type -> kind of receptacle it needs, and what the object has to be."""
LAMP = "DeskLamp"
LAMP_PLACES = ("Desk", "SideTable", "Dresser", "CoffeeTable", "DiningTable", "Shelf")
"""Where a lamp may stand, the likeliest first; ALFWorld's table of what fits where leaves lamps out."""


@dataclass(frozen=True, eq=False)
class Room:
    """A scene of ALFRED."""

    number: int
    receptacles: dict[str, tuple[float, ...]]
    """Id -> x, z, rotation and horizon of the place to stand at."""
    kinds: frozenset[str]
    """Kinds of objects that are found there."""
    points: tuple[tuple[float, float], ...]
    """Places that can be reached."""


class Aim(NamedTuple):
    """What a game asks for."""

    task_type: str
    object: str
    """Kind of the object."""
    target: str
    """Kind of the receptacle to put it in, or of the lamp."""


def generated_folder() -> Path:
    """The folder of generated games, with a subfolder for each split; made when first asked for.

    Two processes may ask at once: both make the games, which are the same, and one wins.

    Raises:
        ConfigError: the cache folder cannot be written.
    """
    folder = cache_folder() / VERSION
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{VERSION}-"))
        try:
            _write_games(draft)
            os.rename(draft, folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"games cannot be generated into {folder.parent} ({error}); set XDG_CACHE_HOME to a folder of yours"
        ) from error
    return folder


def _write_games(folder: Path) -> None:
    for split, num in PER_TYPE.items():
        for task_type in TASK_TYPES:
            for number in range(num):
                game, trajectory = draw_game(split, task_type, number)
                params, scene = trajectory["pddl_params"], trajectory["scene"]["scene_num"]
                target = params["parent_target"] or params["toggle_target"]
                task = f"{task_type}-{params['object_target']}-None-{target}-{scene}"
                trial = folder / split / task / trajectory["task_id"]
                trial.mkdir(parents=True)
                (trial / "game.tw-pddl").write_text(json.dumps(game), encoding="utf-8")
                (trial / "traj_data.json").write_text(json.dumps(trajectory), encoding="utf-8")


def draw_game(split: str, task_type: str, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A game and its `traj_data.json`, as ALFWorld's files hold them; the same arguments give the same game."""
    rng = Random(f"alfworld|{split}|{task_type}|{number}")
    while True:
        room = _pick(rng, _rooms(split, task_type))
        aim = _pick(rng, _aims(room, task_type))
        objects = _scatter(rng, room, aim)
        trial = f"trial_G{number:04}"
        game = _game(rng, room, aim, objects, trial)
        house = read_game(game)
        commands = plan(house, house.start)
        if commands:  # a dozen at most, of the 50 that an episode has
            game["walkthrough"] = list(commands)
            return game, _trajectory(room, aim, trial)


def _pick(rng: Random, choices: Sequence[Any]) -> Any:
    return choices[int(rng.random() * len(choices))]


def _scatter(rng: Random, room: Room, aim: Aim) -> dict[str, str]:
    """Object -> receptacle, both by id: one to three of each kind, wherever ALFWorld lets the kind lie."""
    holders = alfworld("gen.constants").VAL_RECEPTACLE_OBJECTS
    lying: dict[str, str] = {}
    for kind in sorted(room.kinds):
        if kind == LAMP:
            places = next((same for lit in LAMP_PLACES if (same := _of_kind(room, lit))), [])
            places = places[:1]
        else:
            places = [one for one in room.receptacles if kind in holders.get(_kind(one), ())]
        wanted = kind == aim.object
        if wanted:
            places = [one for one in places if _kind(one) != aim.target]
        if not places:
            continue
        least = 2 if wanted and aim.task_type == "pick_two_obj_and_place" else 1
        num = 1 if kind == LAMP else max(least, 1 + int(rng.random() * 3))
        for _ in range(num):
            place = _pick(rng, places)
            lying[_id_near(rng, kind, place, lying)] = place
    return lying


def _id_near(rng: Random, kind: str, place: str, taken: dict[str, str]) -> str:
    """An id as ALFRED forms them, from the kind and a position close to the receptacle's."""
    position = [float(number) for number in place.split("|")[1:4]]
    while True:
        name = "|".join([kind, *(f"{one + rng.random() * 0.6 - 0.3:+06.2f}" for one in position)])
        if name not in taken:
            return name


def _game(rng: Random, room: Room, aim: Aim, lying: dict[str, str], trial: str) -> dict[str, Any]:
    goal = alfworld("gen.goal_library").gdict[aim.task_type]
    stands = {_location(*place) for place in room.receptacles.values()}
    starts = [at for x, z in room.points if (at := _location(x, z, 0, 30)) not in stands]
    params = {"obj": aim.object, "recep": aim.target, "toggle": aim.target}
    wording = _pick(rng, goal["templates"]).format(**{name: kind.lower() for name, kind in params.items()})
    domain, grammar = _rules()
    return {
        "pddl_domain": domain,
        "grammar": grammar.replace("UNKNOWN GOAL", wording),
        "pddl_problem": _problem(room, lying, _pick(rng, starts), trial, goal["pddl"].format(**params)),
        "solvable": True,
        "walkthrough": None,
    }


def _problem(room: Room, lying: dict[str, str], start: str, trial: str, goal: str) -> str:
    """The PDDL text; `goal` closes the problem's parenthesis, as all goals of ALFWorld's library do."""
    constants = alfworld("gen.constants")
    locations = {one: _location(*place) for one, place in room.receptacles.items()}
    # The domain's actions mention the appliances and knives, so that they must be declared where there are none.
    kinds = sorted({_kind(one) for one in lying} | {"Knife", "ButterKnife"})
    holders = sorted({_kind(one) for one in room.receptacles} | {"SinkBasin", "Microwave", "Fridge"})
    declared = ["agent1 - agent"]
    declared += [f"{kind}Type - otype" for kind in kinds] + [f"{kind}Type - rtype" for kind in holders]
    declared += [f"{_mangle(one)} - object" for one in lying] + [f"{_mangle(one)} - receptacle" for one in locations]
    declared += [f"{place} - location" for place in sorted({start, *locations.values()})]
    facts = [f"atLocation agent1 {start}"]
    facts += [
        f"canContain {holder}Type {kind}Type"
        for holder in holders
        for kind in kinds
        if kind in constants.VAL_RECEPTACLE_OBJECTS.get(holder, ())
    ]
    for one, place in locations.items():
        facts += [f"receptacleType {_mangle(one)} {_kind(one)}Type", f"receptacleAtLocation {_mangle(one)} {place}"]
        if _kind(one) in constants.OPENABLE_CLASS_SET:
            facts.append(f"openable {_mangle(one)}")
    for one, receptacle in lying.items():
        facts += [f"objectType {_mangle(one)} {_kind(one)}Type", f"inReceptacle {_mangle(one)} {_mangle(receptacle)}"]
        facts.append(f"objectAtLocation {_mangle(one)} {locations[receptacle]}")
        facts += [f"{trait} {_mangle(one)}" for trait in _traits(_kind(one))]
    lines = [f"(define (problem plan_{trial})", "(:domain alfred)", "(:objects", *declared, ")", "(:init"]
    return "\n".join([*lines, *(f"({fact})" for fact in facts), ")", goal.replace("#", "-")])


def _traits(kind: str) -> list[str]:
    constants = alfworld("gen.constants")
    traits = [name.lower() for name, kinds in constants.VAL_ACTION_OBJECTS.items() if kind in kinds]
    if kind != LAMP:
        traits.append("pickupable")
    if kind in constants.MOVABLE_RECEPTACLES_SET:
        traits.append("isReceptacleObject")
    return traits


def _trajectory(room: Room, aim: Aim, trial: str) -> dict[str, Any]:
    """What ALFWorld's tools and its handcoded expert read of `traj_data.json`."""
    look = aim.target == LAMP
    return {
        "task_type": aim.task_type,
        "task_id": trial,
        "pddl_params": {
            "mrecep_target": "",
            "object_sliced": False,
            "object_target": aim.object,
            "parent_target": "" if look else aim.target,
            "toggle_target": aim.target if look else "",
        },
        "scene": {"floor_plan": f"FloorPlan{room.number}", "scene_num": room.number},
        "turk_annotations": {"anns": []},
    }


@lru_cache(maxsize=512)
def _aims(room: Room, task_type: str) -> tuple[Aim, ...]:
    """All that can be asked for in a room such that it is not done from the start."""
    constants = alfworld("gen.constants")
    present = {_kind(one) for one in room.receptacles}
    appliance, trait = NEEDS.get(task_type, ("", ""))
    aims = []
    for kind in sorted(room.kinds - {LAMP}):
        places = {holder for holder in present if kind in constants.VAL_RECEPTACLE_OBJECTS.get(holder, ())}
        if task_type == "look_at_obj_in_light":
            targets = {LAMP} if places and LAMP in room.kinds and present & set(LAMP_PLACES) else set()
        elif appliance and (appliance not in present or kind not in constants.VAL_ACTION_OBJECTS[trait]):
            targets = set()
        else:
            targets = {target for target in places - {appliance} if places - {target}}
        aims += [Aim(task_type, kind, target) for target in sorted(targets)]
    return tuple(aims)


@lru_cache(maxsize=32)
def _rooms(split: str, task_type: str) -> tuple[Room, ...]:
    """The rooms in which ALFRED sets a type of task and something can be asked for."""
    constants = alfworld("gen.constants")
    scenes = constants.TRAIN_SCENE_NUMBERS if split == TRAIN else constants.TEST_SCENE_NUMBERS
    allowed = {number for room in constants.GOALS_VALID[task_type] for number in constants.SCENE_TYPE[room]}
    rooms = (_room(number) for number in sorted(allowed.intersection(scenes)))
    return tuple(room for room in rooms if _aims(room, task_type))


@lru_cache(maxsize=256)
def _room(number: int) -> Room:
    import numpy as np

    holders = alfworld("gen.constants").VAL_RECEPTACLE_OBJECTS
    plan_of = _package_folder() / "gen" / "layouts" / f"FloorPlan{number}"
    receptacles = json.loads(Path(f"{plan_of}-openable.json").read_text(encoding="utf-8"))
    kinds = json.loads(Path(f"{plan_of}-objects.json").read_text(encoding="utf-8"))
    known = {kind for inside in holders.values() for kind in inside} | {LAMP}
    points = np.load(f"{plan_of}-layout.npy", allow_pickle=False).tolist()
    return Room(
        number,
        {one: tuple(place) for one, place in sorted(receptacles.items())},
        frozenset(known.intersection(kinds)),
        tuple((x, z) for x, z in points),
    )


@lru_cache(maxsize=1)
def _rules() -> tuple[str, str]:
    """ALFWorld's PDDL domain and text rules."""
    data = _package_folder() / "data"
    return (data / "alfred.pddl").read_text(encoding="utf-8"), (data / "alfred.twl2").read_text(encoding="utf-8")


def _package_folder() -> Path:
    spec = importlib.util.find_spec("alfworld")
    if spec is None or spec.origin is None:
        raise missing_extra("alfworld")
    return Path(spec.origin).parent


def _kind(one: str) -> str:
    """Kind of a thing by its id: `Apple|+00.10|...` is an Apple, `Sink|...|SinkBasin` a SinkBasin."""
    first, *_, last = one.split("|")
    return last if last.isalpha() else first


def _of_kind(room: Room, kind: str) -> list[str]:
    return [one for one in room.receptacles if _kind(one) == kind]


def _mangle(one: str) -> str:
    """An id as PDDL can spell it."""
    for character, word in (("|", "_bar_"), ("-", "_minus_"), ("+", "_plus_"), (".", "_dot_")):
        one = one.replace(character, word)
    return one


def _location(x: float, z: float, rotation: float, horizon: float) -> str:
    """Id of a place to stand, in ALFRED's steps of a quarter metre and quarter turns."""
    return _mangle(f"loc|{round(x * 4)}|{round(z * 4)}|{round(rotation / 90)}|{round(horizon)}")
