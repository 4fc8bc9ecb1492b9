"""The command line. Heavy libraries load inside the commands, so that help comes at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentkit import __version__
from agentkit.cli.bench import bench_memory
from agentkit.cli.export import export_log
from agentkit.cli.failures import GuardedGroup
from agentkit.cli.learn import fine_tune_model, resume_training, train_model
from agentkit.cli.options import Overrides, Seed
from agentkit.cli.play import collect_episodes, evaluate_config
from agentkit.cli.remember import memory_app
from agentkit.cli.show import say
from agentkit.cli.worlds import check_environments, list_environments

app = typer.Typer(
    cls=GuardedGroup, no_args_is_help=True, pretty_exceptions_enable=False, context_settings={"max_content_width": 100}
)
envs_app = typer.Typer(no_args_is_help=True, help="List environments, and check one against the contract.")


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"agentkit {__version__}")
        raise typer.Exit


@app.callback()
def agentkit(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """LLM agents with memory and experience replay: act, record, remember, train, evaluate."""


@app.command(epilog="Example: agentkit quickstart --out runs/quickstart")
def quickstart(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything it makes.")] = Path("runs/quickstart"),
    seed: Seed = 0,
    override: Overrides = None,
) -> None:
    """Train a tiny agent from nothing on this computer's CPU, in minutes."""
    from agentkit.cli.quickstart import run_quickstart

    run_quickstart(out, seed=seed, overrides=override or ())


envs_app.command("list", epilog="Example: agentkit envs list")(list_environments)
envs_app.command("check", epilog="Example: agentkit envs check agentkit/FrozenLake-v0 --param slip=0.2")(
    check_environments
)
app.command(
    "collect",
    epilog="Example: agentkit collect --env agentkit/FrozenLake-v0 --policy expert --tasks 64 --out runs/expert.sqlite",
)(collect_episodes)
app.command(
    "sft", epilog="Example: agentkit sft --model models/tiny --log runs/expert.sqlite --out models/warm --steps 200"
)(fine_tune_model)
app.command(
    "export", epilog="Example: agentkit export runs/lake/episodes.sqlite --to trl-preference --out exports/pairs"
)(export_log)
app.command("train", epilog="Example: agentkit train lake.toml --set train.learning_rate=1e-4 --dry-run")(train_model)
app.command("resume", epilog="Example: agentkit resume runs/lake --set train.iterations=200")(resume_training)
app.command("eval", epilog="Example: agentkit eval lake.toml --policy runs/lake/model --out runs/lake/again.json")(
    evaluate_config
)
app.add_typer(envs_app, name="envs")
memory_app.command("bench", epilog="Example: agentkit memory bench --quick --only retrieval")(bench_memory)
app.add_typer(memory_app, name="memory")


def main() -> None:
    """Entry point of the `agentkit` command."""
    app()
