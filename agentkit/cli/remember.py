"""`agentkit memory`: build a memory store from an episode log, and look into it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentkit.cli.options import Embedder
from agentkit.cli.show import errors, say, show_table

memory_app = typer.Typer(no_args_is_help=True, help="Build a memory from recorded episodes, and search it.")


@memory_app.command(
    "build", epilog="Example: agentkit memory build runs/lake/episodes.sqlite --out runs/memory --embedder hash"
)
def build_memory(
    log: Annotated[str, typer.Argument(metavar="LOG", help="Episode log: a path or a database URL.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the memory; made, or brought up to date.")],
    embedder: Embedder = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make index and vectors anew: after damage, or for another embedder.")
    ] = False,
) -> None:
    """Remember the successes of an episode log."""
    from agentkit.cli.choices import open_log, open_memory

    with (
        open_log(log) as episodes,
        errors.status("remembering"),
        open_memory(out, embedder, make=True, rebuild=rebuild) as memory,
    ):
        new = memory.sync(episodes)
        say(f"{new} new memories, {len(memory)} in {out}")


@memory_app.command(
    "search", epilog='Example: agentkit memory search runs/memory "P _ O\\n_ _ G" --k 3 --embedder hash'
)
def search_memory(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the memory.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the situation looks like.")],
    k: Annotated[int, typer.Option("--k", min=1, help="Most memories to show.")] = 3,
    embedder: Embedder = None,
) -> None:
    """Show the memories whose situation is nearest to a text."""
    from agentkit.cli.choices import open_memory

    with errors.status("searching"), open_memory(folder, embedder) as memory:
        found = memory.recall(text, k)
    if not found:
        say(f"the memory in {folder} is empty")
        return
    for one in found:
        score = 0.0 if one.score is None else one.score
        show_table(("", ""), [(f"{score:.3f}", f"{one.id}  {one.env_id} ({one.split})")])
        say(one.text + "\n")
