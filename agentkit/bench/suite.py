"""The tables by name, and how they are run one after the other, so that a run that was cut short goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TextIO

from agentkit import __version__
from agentkit.bench.table import Scale, Table
from agentkit.errors import RecordError, unknown_name

TABLES: tuple[str, ...] = (
    "uplift",
    "retrieval",
    "evidence",
    "poisoning",
    "benign",
    "utility",
    "regret",
    "harm",
    "eviction",
    "kills",
    "latency",
    "calm",
    "feedback",
    "isolation",
)
"""Each is a module of this package with a function `measure(scale)` that returns its `Table`."""
RESULTS = "tables.jsonl"


def run_tables(
    scale: Scale,
    names: Sequence[str] = TABLES,
    *,
    folder: Path | None = None,
    on_table: Callable[[Table], None] | None = None,
) -> list[Table]:
    """Measure the named tables, in order.

    Args:
        scale: How much.
        names: Which.
        folder: Each finished table is appended to `tables.jsonl` in it, and one that is there already, of the same
            scale and version, is not measured again.
        on_table: Called with each table as soon as there is one.

    Raises:
        UnknownNameError: There is no table of that name.
        RecordError: The results in `folder` cannot be read or written.
    """
    for name in names:
        if name not in TABLES:
            raise unknown_name("table", name, TABLES)
    known = {} if folder is None else _read(folder, scale)
    if folder is not None:
        _open_to_append(folder).close()  # found out before anything is measured for hours
    tables = []
    for name in dict.fromkeys(names):
        table = known.get(name)
        if table is None:
            begun = time.perf_counter()
            table = import_module(f"agentkit.bench.{name}").measure(scale)
            table = table.model_copy(update={"seconds": round(time.perf_counter() - begun, 1)})
            if folder is not None:
                _append(folder, scale, table)
        tables.append(table)
        if on_table is not None:
            on_table(table)
    return tables


def _settings(scale: Scale) -> dict[str, object]:
    return {"version": __version__, **scale.model_dump()}


def _read(folder: Path, scale: Scale) -> dict[str, Table]:
    """Tables of this scale by name; the last counts, and a line that was cut short is none."""
    found = {}
    try:
        lines = (folder / RESULTS).read_text().splitlines(keepends=True) if (folder / RESULTS).exists() else []
        for line in lines:
            if line.endswith("\n"):
                told = json.loads(line)
                if told["settings"] == _settings(scale):
                    table = Table.model_validate(told["table"])
                    found[table.name] = table
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{folder / RESULTS} holds no results of this benchmark ({error}); remove it") from error
    return found


def _append(folder: Path, scale: Scale, table: Table) -> None:
    try:
        path = folder / RESULTS
        cut = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        with _open_to_append(folder) as file:
            told = {"settings": _settings(scale), "table": table.model_dump(mode="json")}
            file.write(("\n" if cut else "") + json.dumps(told) + "\n")
    except OSError as error:
        raise _unwritable(folder, error) from error


def _open_to_append(folder: Path) -> TextIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / RESULTS).open("a")
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> RecordError:
    return RecordError(f"results cannot be written to {folder}: {error}; name another folder with --out")
