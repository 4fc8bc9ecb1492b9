"""The games in a folder: which there are, of which type, and which split each belongs to.

Three layouts are understood: what `alfworld-download` unpacks (`json_2.1.1/SPLIT/TASK/TRIAL/game.tw-pddl`), folders
of splits alone, and any folder with games somewhere below. As in ALFWorld's own loader, games that are not known to
be solvable and tasks with sliced objects or movable receptacles are left out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from agentkit.envs.alfworld.translation import cache_folder, write_atomically
from agentkit.envs.household.house import TASK_TYPES
from agentkit.envs.puzzle import split_of
from agentkit.errors import ConfigError, MissingPartError, unknown_name
from agentkit.task import SPLITS

SUFFIX = ".tw-pddl"
UNSUPPORTED = ("movable", "Sliced")
"""In a folder's name: tasks that ALFWorld's text games do not support."""
HOW_TO_GET = (
    "get ALFWorld's games with: pip install 'agentkit-rl[alfworld]' && alfworld-download, "
    'or make games on the spot with data="generated"'
)


class Game(NamedTuple):
    """A game that can be played."""

    id: str
    """Its path relative to the folder of games, with `/`, without the file's name if that is `game.tw-pddl`."""
    path: Path
    task_type: str
    """One of ALFWorld's six."""


class _Row(NamedTuple):
    """What a scan remembers of a file."""

    stamp: list[int]
    """Size in bytes and time of the last change in nanoseconds: a file with another stamp is read again."""
    task_type: str
    """"" where it is none of the six."""
    playable: bool
    split: str
    """The split that owns its content where folders do not say."""


def find_games(
    data: str | os.PathLike[str] | None, train: str, held_out: str, task_types: Sequence[str]
) -> dict[str, tuple[Game, ...]]:
    """The games of both splits, each in an order that mixes the task types and is the same on every machine.

    Args:
        data: folder of games; None for `$ALFWORLD_DATA` or the folder into which `alfworld-download` puts them.
        train: subfolder with the games to learn on.
        held_out: subfolder with the games to be tested on. If `data` lacks one of the two, all games in it are
            divided by a hash of their content, one in five held out.
        task_types: the types to keep.

    Raises:
        MissingPartError: no such folder, or a split of it has no game to play.
        ConfigError: an unknown task type.
    """
    if isinstance(task_types, str) or not task_types:
        raise ConfigError(f"task_types must be a list with some of {', '.join(TASK_TYPES)}, got {task_types!r}")
    for task_type in task_types:
        if task_type not in TASK_TYPES:
            raise ConfigError(str(unknown_name("type of task", str(task_type), TASK_TYPES)))
    root = _locate(data)
    folders = {"train": root / train, "held_out": root / held_out}
    if all(folder.is_dir() for folder in folders.values()):
        rows = {split: list(_scan(folder).items()) for split, folder in folders.items()}
    else:
        folders = dict.fromkeys(SPLITS, root)
        found = _scan(root)
        rows = {split: [(name, row) for name, row in found.items() if row.split == split] for split in SPLITS}
    games = {}
    for split, folder in folders.items():
        kept = [_game(folder, name, row) for name, row in rows[split] if row.playable and row.task_type in task_types]
        if not kept:
            raise MissingPartError(
                f"{folder} has no solvable {split} game of type {' or '.join(task_types)} "
                f"({len(rows[split])} files looked at); {HOW_TO_GET}"
            )
        games[split] = tuple(sorted(kept, key=lambda game: hashlib.blake2b(game.id.encode()).digest()))
    return games


def _locate(data: str | os.PathLike[str] | None) -> Path:
    """The folder that holds the folders of splits."""
    given = data if data is not None else os.environ.get("ALFWORLD_DATA") or Path.home() / ".cache" / "alfworld"
    folder = Path(given).expanduser()
    inner = folder / "json_2.1.1"
    if inner.is_dir():
        return inner
    if data is None and not folder.is_dir():
        raise MissingPartError(f"no games of ALFWorld: neither data nor $ALFWORLD_DATA names a folder; {HOW_TO_GET}")
    if not folder.is_dir():
        raise MissingPartError(f"no folder {folder} with games of ALFWorld; {HOW_TO_GET}")
    return folder


def _game(folder: Path, name: str, row: _Row) -> Game:
    return Game(name.removesuffix("/game" + SUFFIX), folder / name, row.task_type)


@lru_cache(maxsize=64)
def _scan(folder: Path) -> dict[str, _Row]:
    """Name -> row of every game file below a folder; rows of unchanged files come from the cache folder.

    The thousands of games of ALFWorld take seconds to read, and every worker process needs them. A folder is
    looked at once a process.
    """
    folder = folder.resolve()
    digest = hashlib.blake2b(str(folder).encode(), digest_size=16).hexdigest()
    index = cache_folder() / "scans" / f"{digest}.json"
    known = _read_index(index)
    rows = {}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        row = known.get(name)
        rows[name] = row if row is not None and row.stamp == stamp else _look_at(path, folder, stamp)
    if rows != known:
        write_atomically(index, json.dumps(rows).encode())
    return rows


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names if name.endswith(SUFFIX))


def _read_index(index: Path) -> dict[str, _Row]:
    try:
        return {name: _Row(*row) for name, row in json.loads(index.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # none yet, or damaged: the files are read again


def _look_at(path: Path, folder: Path, stamp: list[int]) -> _Row:
    """A file that cannot be read stays in: who plays it is told, and which games others get does not change."""
    inside = path.relative_to(folder)
    task_type = _task_type(path, inside)
    supported = not any(word in part for part in inside.parts for word in UNSUPPORTED)
    try:
        game: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _Row(stamp, task_type, supported, split_of(inside.as_posix()))
    if not isinstance(game, dict):
        return _Row(stamp, task_type, supported, split_of(inside.as_posix()))
    return _Row(stamp, task_type, supported and bool(game.get("solvable")), split_of(str(game.get("pddl_problem"))))


def _task_type(path: Path, inside: Path) -> str:
    """The type that `traj_data.json` beside the file tells, else the one with which a folder or the file begins."""
    try:
        told = json.loads(path.with_name("traj_data.json").read_text(encoding="utf-8"))["task_type"]
    except (OSError, ValueError, TypeError, KeyError):
        told = None
    if told is not None:
        return told if told in TASK_TYPES else ""
    names = (part for part in reversed(inside.parts))
    return next((known for name in names for known in TASK_TYPES if name.startswith(known)), "")
