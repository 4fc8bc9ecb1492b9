"""`agentkit sft`, `train` and `resume`: change a model's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentkit.cli.options import ConfigFile, Overrides, Seed
from agentkit.cli.show import progress, say, show_warning
from agentkit.errors import ConfigError


def fine_tune_model(
    model: Annotated[Path, typer.Option("--model", help="Folder of the model to begin with.")],
    log: Annotated[str, typer.Option("--log", help="Episode log: a path or a database URL.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the trained model.")],
    only_success: Annotated[
        bool, typer.Option("--only-success/--all", help="Imitate successes, or whatever was played to its end.")
    ] = True,
    steps: Annotated[int, typer.Option("--steps", help="Optimizer steps.")] = 200,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Peak learning rate.")] = 1e-3,
    rows_per_step: Annotated[int, typer.Option("--rows-per-step", help="Rows in one step.")] = 64,
    seed: Seed = 0,
) -> None:
    """Fine-tune a model on recorded responses."""
    from agentkit.cli.choices import load_folder, open_log
    from agentkit.cli.settings import validated
    from agentkit.training.sft import SftConfig, fine_tune

    given = {"steps": steps, "learning_rate": learning_rate, "rows_per_step": rows_per_step}
    config = validated(SftConfig, given)
    if (out / "config.json").exists():
        raise ConfigError(f"{str(out)!r} holds a model already; give another --out")
    with open_log(log) as recorded:
        episodes = [one for one in recorded.episodes(success=True if only_success else None) if one.error is None]
    if not episodes:
        kind, hint = ("successful ", "record some, or use --all") if only_success else ("", "record some")
        raise ConfigError(f"{recorded.location} has no {kind}episode to learn from; {hint}")
    policy = load_folder(model, training=True)
    with progress() as bars:
        bar = bars.add_task("fine-tune", total=steps, note="")
        losses = fine_tune(
            policy,
            episodes,
            config,
            seed=seed,
            on_step=lambda step, loss: bars.update(bar, completed=step + 1, note=f"loss {loss:.3f}"),
        )
    policy.save(out)
    say(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} nats a token on {len(episodes)} episodes; model in {out}")


def train_model(
    config: ConfigFile,
    override: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
) -> None:
    """Train a model as a TOML file says, and evaluate it at the end."""
    from agentkit.cli.config import read_config

    settings = read_config(config, override or ())
    if dry_run:
        from agentkit.cli.plan import plan_rows, show_plan

        show_plan(plan_rows(settings))
        return
    from agentkit.cli.run import begin_run

    try:
        begin_run(settings)
    except KeyboardInterrupt:
        _say_resume(settings.out)
        raise


def resume_training(
    folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="Folder that `agentkit train` wrote to.")],
    override: Overrides = None,
) -> None:
    """Go on with a run from its newest checkpoint, with the settings it was begun with."""
    from agentkit.cli.run import continue_run

    try:
        continue_run(folder, override or ())
    except KeyboardInterrupt:
        _say_resume(folder)
        raise


def _say_resume(folder: Path) -> None:
    show_warning(f"the iteration at hand is lost; go on with: agentkit resume {folder}")
