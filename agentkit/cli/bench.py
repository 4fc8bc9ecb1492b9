"""`agentkit memory bench`: what the memory is worth and what it withstands, each figure beside its bar."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentkit.cli.show import errors, say, show_table
from agentkit.errors import RecordError

if TYPE_CHECKING:
    from agentkit.bench.table import Table


def bench_memory(
    quick: Annotated[bool, typer.Option("--quick", help="A look in minutes instead of figures to report.")] = False,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="NAME", help="A table; repeatable.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Seeds of what is random.")] = None,
    kills: Annotated[int | None, typer.Option("--kills", min=1, help="Writers to kill.")] = None,
    million: Annotated[bool, typer.Option("--million", help="Latency with 1,000,000 memories too.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for results as JSON lines; what is in it is not done again.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all tables to this file.")] = None,
) -> None:
    """Measure the memory: worth, retrieval, poisoning, utility, eviction, durability, latency, isolation."""
    import json

    from agentkit.bench.suite import TABLES, run_tables
    from agentkit.bench.table import Scale

    scale = Scale(size="quick" if quick else "full", seeds=seeds, kills=kills, million=million)
    if json_file is not None and not json_file.parent.is_dir():
        raise RecordError(f"there is no folder {json_file.parent} for {json_file.name}; make it first")
    with errors.status("measuring"):
        tables = run_tables(scale, only or TABLES, folder=out, on_table=show_bench)
    checks = [check for table in tables for check in table.checks]
    say(f"{sum(check.met for check in checks)} of {len(checks)} bars met, {sum(t.seconds for t in tables):.0f} s")
    if json_file is not None:
        told = {"scale": scale.model_dump(), "tables": [table.model_dump(mode="json") for table in tables]}
        json_file.write_text(json.dumps(told, indent=1) + "\n")


def show_bench(table: Table) -> None:
    """Print a table, its bars and its notes."""
    from agentkit.bench.table import shown

    rows = [[shown(row.get(column)) for column in table.columns] for row in table.rows]
    say(f"{table.name}: {table.title} ({table.seconds:.0f} s)", style="bold")
    show_table(table.columns, rows)
    for check in table.checks:
        say(f"  {check}", style="" if check.met else "red")
    for note in table.notes:
        say(f"  {note}")
    say("")
