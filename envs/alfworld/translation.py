"""Planning tasks of games, translated once: remembered in the process and, compressed, in the user's cache folder.

Translating takes ALFWorld most of the time it needs to load a game; the result depends on nothing but the game.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentkit.errors import EnvironmentFault

FORMAT = "agentkit.alfworld.translation.1"
"""Part of every entry's key: another layout of entries, or another translator, never reads old ones."""
LIMIT_S = 120.0
"""Seconds for one translation, which takes about half a second; beyond it the game counts as broken."""
PARTS = {"sas": str, "actions": dict, "types": list, "objects": dict, "facts": list}
"""Keys of a planning task and their types."""


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/agentkit/alfworld`, or `~/.cache/agentkit/alfworld`."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "agentkit" / "alfworld"


def planning_task(domain: str, problem: str, game: str) -> dict[str, Any]:
    """The translated task of a game, from memory, from the cache folder, or from Fast Downward.

    Args:
        domain: PDDL text of the domain.
        problem: PDDL text of the problem.
        game: what to call the game if it cannot be translated.

    Returns:
        `sas`: the task in Fast Downward's SAS format. `actions`: name to [parameter, type] pairs. `types`: [name,
        supertypes] pairs. `objects`: name to type. `facts`: the initial [predicate, arguments] pairs. Shared:
        callers must not change it.

    Raises:
        EnvironmentFault: the translator refused the game or took longer than `LIMIT_S`.
    """
    digest = hashlib.blake2b("\0".join((FORMAT, domain, problem)).encode(), digest_size=16).hexdigest()
    return _remembered(cache_folder() / "tasks" / f"{digest}.json.z", domain, problem, game)


@lru_cache(maxsize=16)  # a megabyte or two each
def _remembered(entry: Path, domain: str, problem: str, game: str) -> dict[str, Any]:
    task = _read(entry)
    if task is None:
        text = _translate(domain, problem, game)
        write_atomically(entry, zlib.compress(text.encode()))
        task = json.loads(text)
    return task


def _read(entry: Path) -> dict[str, Any] | None:
    """The task in a cache entry; None if there is none, or it is damaged (zlib's check sum tells)."""
    try:
        task = json.loads(zlib.decompress(entry.read_bytes()))
    except (OSError, zlib.error, ValueError):
        return None
    whole = isinstance(task, dict) and all(isinstance(task.get(part), kind) for part, kind in PARTS.items())
    return task if whole else None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a cache file so that other processes see all of it or nothing; a cache that cannot be written is none."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise


def _translate(domain: str, problem: str, game: str) -> str:
    """Translate in a child process: isolated from our `sys.argv`, bounded in time, the same in every process."""
    script = str(Path(__file__).with_name("translator.py"))
    try:
        done = subprocess.run(
            [sys.executable, "-P", script],
            input=json.dumps({"domain": domain, "problem": problem}),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=LIMIT_S,
            env={**os.environ, "PYTHONHASHSEED": "0"},  # the translator iterates over sets
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentFault(f"translating the game {game} took longer than {LIMIT_S:g} s") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise EnvironmentFault(f"the game {game} cannot be translated into a planning task: {said}")
    return done.stdout
