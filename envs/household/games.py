"""A folder of real ALFWorld games, divided into splits."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from agentkit.envs.household.engine import solved
from agentkit.envs.household.house import House
from agentkit.envs.household.importer import read_game
from agentkit.envs.puzzle import split_of
from agentkit.errors import MissingPartError

SPLIT_OF_FOLDER = {
    "train": "train",
    "valid_train": "train",
    "valid_seen": "held_out",
    "valid_unseen": "held_out",
}
"""ALFWorld's own folders -> split."""
FILE_NAME = "game.tw-pddl"


@lru_cache(maxsize=16)
def read_games(folder: str) -> dict[str, tuple[House, ...]]:
    """Split -> the houses of a folder's games, in the order of their paths.

    ALFWorld's sub-folders keep their split; where there are none, a stable hash of a game's path inside the
    folder decides. Games whose task is done from the start are left out.

    Raises:
        MissingPartError: the folder holds no game.
        ConfigError: a game cannot be read.
    """
    root = Path(folder)
    paths = sorted(root.rglob(FILE_NAME))
    if not paths:
        raise MissingPartError(
            f"no {FILE_NAME} below {folder!r}; fetch ALFWorld's games with: pip install 'agentkit-rl[alfworld]' "
            "&& alfworld-download"
        )
    games: dict[str, list[House]] = {"train": [], "held_out": []}
    for path in paths:
        house = read_game(path)
        if not solved(house, house.start):
            games[_split(path.relative_to(root))].append(house)
    return {split: tuple(houses) for split, houses in games.items()}


def _split(path: Path) -> str:
    return next((SPLIT_OF_FOLDER[part] for part in path.parts if part in SPLIT_OF_FOLDER), split_of(path.as_posix()))
