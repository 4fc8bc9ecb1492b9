"""Exchange: memories as a file of JSON lines that another store can take in, with a manifest in front.

The file holds what the store holds now, in order of the ids, whatever came before: exported, imported into an empty
store and exported again, it is the same to the byte.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentkit.errors import RecordError
from agentkit.memory.journal import memory_id
from agentkit.memory.kinds import Memory, Trust

VERSION = 1
"""Of the file's format."""
LONGEST = 16_000_000
"""Bytes of a line that are read."""


def write_memories(path: str | os.PathLike[str], memories: Iterable[Memory]) -> int:
    """Write memories to a file, which appears whole or not at all; returns how many.

    Raises:
        RecordError: The file cannot be written.
    """
    target = Path(path)
    lines = [memory.model_dump_json(exclude={"score"}) for memory in sorted(memories, key=lambda memory: memory.id)]
    manifest = {"agentkit_memory": VERSION, "memories": len(lines), "digest": _digest(lines)}
    beside = target.with_name(target.name + ".part")
    try:
        beside.write_text("\n".join([json.dumps(manifest), *lines]) + "\n", encoding="utf-8")
        beside.replace(target)
    except OSError as error:
        raise RecordError(f"cannot write {target} ({error.strerror}); give a path in a writable folder") from error
    return len(lines)


def read_memories(path: str | os.PathLike[str], most_trust: Trust = Trust.TRUSTED) -> list[Memory]:
    """The memories in such a file.

    Args:
        path: The file.
        most_trust: What is trusted more than this is trusted this much: a file can claim anything.

    Raises:
        RecordError: It is no such file, it was cut short or changed, or a memory in it is malformed.
    """
    lines = list(_lines(Path(path)))
    try:
        manifest: Any = json.loads(lines[0]) if lines else None
        version, num, digest = (manifest[key] for key in ("agentkit_memory", "memories", "digest"))
    except (ValueError, TypeError, KeyError) as error:
        raise RecordError(f"{path} is no export of memories; `agentkit memory export` makes one") from error
    if version != VERSION:
        raise RecordError(f"{path} has format {version!r}, this agentkit knows {VERSION}; upgrade agentkit")
    if num != len(lines) - 1 or digest != _digest(lines[1:]):
        raise RecordError(f"{path} was cut short or changed since it was exported; export it again")
    return [_memory(path, number, line, most_trust) for number, line in enumerate(lines[1:], 2)]


def _memory(path: object, number: int, line: str, most_trust: Trust) -> Memory:
    try:
        memory = Memory.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecordError(f"{path}, line {number}: {where}: {first['msg']}; nothing was imported") from error
    if memory.id != memory_id(memory):
        raise RecordError(f"{path}, line {number}: {memory.id!r} is not the id of what it says; nothing was imported")
    return memory.model_copy(update={"trust": min(memory.trust, most_trust), "score": None})


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            while line := file.readline(LONGEST + 1):
                if len(line) > LONGEST:
                    raise RecordError(f"{path} has a line of more than {LONGEST} bytes; it is no export of memories")
                yield line.decode("utf-8").rstrip("\n")
    except OSError as error:
        raise RecordError(f"cannot read {path} ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is no export of memories: it is not UTF-8") from error


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
