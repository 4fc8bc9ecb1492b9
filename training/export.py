"""Export: a log's episodes as files that other trainers read, a few hundred rows in memory at a time.

The folder appears complete, with a manifest of what is in it, or not at all; the same log gives the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from agentkit.errors import ConfigError, RecordError, require, unknown_name
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import FORMAT_VERSION, Episode
from agentkit.task import SPLITS
from agentkit.training.formats import FORMATS, Rows

MANIFEST = "manifest.json"
ROWS_AT_ONCE = 256
"""Rows written, and held in memory, together."""
FILES = {"train": "train", "held_out": "test"}
"""Name of each split's file, as `datasets` and verl expect it."""


class File(BaseModel):
    """One file of an export."""

    model_config = ConfigDict(frozen=True)

    rows: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What an export holds; `manifest.json` in its folder."""

    model_config = ConfigDict(frozen=True)

    format: str
    record_format: int = FORMAT_VERSION
    """Newest format of the record that the exporter knew."""
    log: str
    """`EpisodeLog.id` of the source."""
    selected: dict[str, str | bool]
    """What was asked of the episodes."""
    episodes: int
    """Episodes that were selected."""
    failed: int
    """Of these, attempts with an `error`; only `jsonl` holds them."""
    rows: int
    files: dict[str, File]


def export_episodes(
    log: EpisodeLog,
    path: str | os.PathLike[str],
    *,
    format: str,
    env_id: str | None = None,
    split: str | None = None,
    success: bool | None = None,
) -> Manifest:
    """Write episodes of a log to a new folder in one of `FORMATS`; returns its manifest.

    Args:
        log: The source.
        path: The folder to make: a file for each split (`train`, `test`) and `manifest.json`.
        format: `jsonl`, `datasets`, `trl-sft`, `trl-preference`, `trl-unpaired` or `verl`.
        env_id: Only of this environment.
        split: Only of this split.
        success: Only successes (True) or failures (False).

    Raises:
        UnknownNameError: No such format or split.
        ConfigError: The path exists, nothing is selected, or the format needs what the episodes do not have.
        MissingExtraError: The format is written in parquet, and the extra `trl` is not installed.
        RecordError: The log is damaged, or the files cannot be written.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if split is not None and split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if format == "trl-preference" and success is not None:
        raise ConfigError("format 'trl-preference' and success: a pair is a success and a failure; leave out success")
    target, chosen = Path(path), FORMATS[format]
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{str(target)!r} exists already; give a new folder, or remove it")
    if chosen.columns is not None:
        require("pyarrow")
    asked: dict[str, Any] = {"env_id": env_id, "split": split, "success": success}
    if not log.count(**asked):
        raise ConfigError(f"{log.location} has no such episode; select less narrowly, or record some")
    num_episodes = num_failed = 0

    def episodes() -> Iterator[Episode]:
        nonlocal num_episodes, num_failed
        for episode in log.episodes(**asked):
            num_episodes += 1
            num_failed += episode.error is not None
            if episode.error is None or chosen.keeps_failed:
                yield episode

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".partial", dir=target.parent) as beside:
            partial = Path(beside) / target.name
            partial.mkdir()
            counts = _write(partial, chosen.rows(episodes(), log), chosen.columns)
            if not counts:
                raise ConfigError(f"the {num_episodes} episodes selected of {log.location} {chosen.lacking}")
            manifest = Manifest(
                format=format,
                log=log.id,
                selected={name: value for name, value in asked.items() if value is not None},
                episodes=num_episodes,
                failed=num_failed,
                rows=sum(counts.values()),
                files={name: _about(partial / name, rows) for name, rows in sorted(counts.items())},
            )
            (partial / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
            os.rename(partial, target)
    except OSError as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(
            f"cannot export to {target}: {error.strerror or error}; make room, or give another path"
        ) from error
    return manifest


def _write(folder: Path, rows: Rows, columns: dict[str, Any] | None) -> dict[str, int]:
    """Write rows to a file for each split; returns the number of rows of each file, by its name."""
    writers: dict[str, _Lines | _Parquet] = {}
    counts: dict[str, int] = {}
    try:
        for split, row in rows:
            if split not in FILES:
                raise ConfigError(f"an episode is of the split {split!r}, for which there is no file; name a --split")
            name = f"{FILES[split]}.{'jsonl' if columns is None else 'parquet'}"
            if name not in writers:
                writers[name] = _Lines(folder / name) if columns is None else _Parquet(folder / name, columns)
            writers[name].write(row)
            counts[name] = counts.get(name, 0) + 1
    finally:
        for writer in writers.values():
            writer.close()
    return counts


class _Lines:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(self, line: str) -> None:
        self._file.write(line + "\n")

    def close(self) -> None:
        self._file.close()


class _Parquet:
    def __init__(self, path: Path, columns: dict[str, Any]) -> None:
        import pyarrow
        import pyarrow.parquet

        self._table = pyarrow.Table.from_pylist
        self._schema = pyarrow.schema([(name, _type_of(kind)) for name, kind in columns.items()])
        self._file = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting: list[dict[str, Any]] = []

    def write(self, row: dict[str, Any]) -> None:
        self._waiting.append(row)
        if len(self._waiting) == ROWS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        try:
            self._flush()
        finally:
            self._file.close()

    def _flush(self) -> None:
        if self._waiting:
            self._file.write_table(self._table(self._waiting, schema=self._schema))
            self._waiting = []


def _type_of(kind: Any) -> Any:
    import pyarrow

    if isinstance(kind, dict):
        return pyarrow.struct([(name, _type_of(inner)) for name, inner in kind.items()])
    if isinstance(kind, list):
        return pyarrow.list_(_type_of(kind[0]))
    make: Callable[[], Any] = getattr(pyarrow, kind)
    return make()


def _about(path: Path, rows: int) -> File:
    with path.open("rb") as file:
        return File(rows=rows, bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
