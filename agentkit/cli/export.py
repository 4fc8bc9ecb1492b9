"""`agentkit export`: a log's episodes as files that other trainers read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentkit.cli.show import say


def export_log(
    log: Annotated[str, typer.Argument(metavar="LOG", help="Episode log: a path or a database URL.")],
    to: Annotated[
        str,
        typer.Option("--to", metavar="FORMAT", help="jsonl, datasets, trl-sft, trl-preference, trl-unpaired or verl."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    success: Annotated[bool, typer.Option("--success", help="Only successes.")] = False,
    env: Annotated[str | None, typer.Option("--env", metavar="ID", help="Only of this environment.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="Only of this split: train or held_out.")] = None,
) -> None:
    """Write recorded episodes for another trainer to read."""
    from agentkit.cli.choices import open_log
    from agentkit.training.export import export_episodes

    with open_log(log) as recorded:
        manifest = export_episodes(recorded, out, format=to, env_id=env, split=split, success=True if success else None)
    left_out = f", {manifest.failed} failed attempts left out" if manifest.failed and to != "jsonl" else ""
    say(f"{manifest.rows} rows of {manifest.episodes} episodes{left_out}; {', '.join(manifest.files)} in {out}")
