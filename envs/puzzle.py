"""Puzzle: a TextEnv whose level and state are immutable plain data.

From that alone follow splits that are disjoint by content, snapshots, and state keys. A family draws its
levels from an endless stream of proposals, so that generation reads as a loop and rejection is written once,
here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from random import Random
from typing import Any, TypeVar

from agentkit.envs.contract import TextEnv
from agentkit.errors import ConfigError

Level = TypeVar("Level")

MAX_PROPOSALS = 20_000
"""Proposals tried before the parameters are called impossible."""
HELD_OUT_SHARE = 5
"""One level in five is held out."""


def split_of(content: str) -> str:
    """The split that owns a level, by a stable hash of its content (BLAKE2b, 8 bytes, modulo 5).

    >>> split_of("level 3"), split_of("level 6")
    ('train', 'held_out')
    """
    digest = hashlib.blake2b(content.encode(), digest_size=8).digest()
    return "held_out" if int.from_bytes(digest, "big") % HELD_OUT_SHARE == 0 else "train"


def draw_level(
    family: str,
    proposals: Callable[[Random], Iterator[Level | None]],
    content: Callable[[Level], str],
    split: str,
    seed: int,
) -> Level:
    """The first proposed level that belongs to `split`; the same arguments always give the same level.

    Args:
        family: keeps the families' random streams apart.
        proposals: endless stream of levels drawn with the given generator; None is a rejected draw.
        content: what makes two levels the same for the split, as text.
        split: "train" or "held_out".
        seed: number of the instance.

    Raises:
        ConfigError: `MAX_PROPOSALS` proposals held no level for the split.
    """
    # Only Random.random() is promised to give the same numbers in every Python; families use nothing else of
    # it.
    rng = Random(f"{family}|{split}|{seed}")
    for level in islice(proposals(rng), MAX_PROPOSALS):
        if level is not None and split_of(content(level)) == split:
            return level
    raise ConfigError(f"{family} found no {split} level in {MAX_PROPOSALS} tries; loosen its parameters or budgets")


def check_split(family: str, content: str, split: str) -> None:
    """Refuse, with `ConfigError`, a level that was changed into one of another split."""
    if split_of(content) != split:
        raise ConfigError(f"with this goal the {family} level is no {split} level; give another goal or seed")


@lru_cache(maxsize=4096)
def level_key(family: str, level: Any) -> str:
    """16 hexadecimal digits that name a level."""
    return hashlib.blake2b(f"{family}|{level!r}".encode(), digest_size=8).hexdigest()


class Puzzle(TextEnv):
    """A text environment with an immutable `level` and an immutable `state`; implements `Snapshot`.

    A family implements `_draw` and `_start` besides the remaining hooks of `TextEnv`.
    """

    metadata: dict[str, Any] = {"render_modes": [], "inline": True}  # noqa: RUF012 - Gymnasium's own convention

    def __init__(self, *, max_turns: int, max_actions: int, max_actions_per_turn: int) -> None:
        """See `TextEnv`."""
        super().__init__(max_turns=max_turns, max_actions=max_actions, max_actions_per_turn=max_actions_per_turn)
        self.instance: tuple[str, int, int] = ("train", 0, 0)
        self.level: Any = None
        self.state: Any = None

    @property
    def budget(self) -> int:
        """Actions that fit into an episode: every level can be solved within them."""
        return min(self.max_actions, self.max_turns * self.max_actions_per_turn)

    def snapshot(self) -> object:
        """Instance, level, state and budgets as nested tuples of strings and numbers."""
        return self.instance, self.level, self.state, self.turns_left, self.actions_left, self._over

    def restore(self, state: object) -> None:
        """Go back to a `snapshot` of an environment made with the same arguments.

        Raises:
            ConfigError: `state` is no snapshot of a puzzle.
        """
        if not isinstance(state, tuple) or len(state) != 6:
            raise ConfigError(f"restore() needs what snapshot() returned, got {type(state).__name__}")
        self.instance, self.level, self.state, self.turns_left, self.actions_left, self._over = state

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        self.instance = (split, seed, attempt)
        self.level = self._draw(split, seed)
        self.state = self._start()

    def _state_key(self) -> str:
        return f"{level_key(type(self).__name__, self.level)}:{self.state}".replace(" ", "")

    def _draw(self, split: str, seed: int) -> Any:
        """The level of an instance; cached by the family, because a group of attempts shares it."""
        raise NotImplementedError

    def _start(self) -> Any:
        """The first state of `self.level`."""
        raise NotImplementedError
