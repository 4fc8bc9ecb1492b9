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
    top_share: Annotated[
        float | None, typer.Option("--top-share", help="Imitate this part of each task's attempts, by return.")
    ] = None,
    best_of: Annotated[
        int | None, typer.Option("--best-of", help="Imitate at most so many different successes of each task.")
    ] = None,
    mask_invalid: Annotated[
        bool, typer.Option("--mask-invalid", help="Show turns that were malformed, and do not imitate them.")
    ] = False,
    advantage_beta: Annotated[
        float | None, typer.Option("--advantage-beta", help="Weigh attempts by exp(A/this); failures are the baseline.")
    ] = None,
    lora_rank: Annotated[int | None, typer.Option("--lora-rank", help="Learn adapters of this rank only.")] = None,
    precision: Annotated[str, typer.Option("--precision", help="float32 or bfloat16.")] = "float32",
    seed: Seed = 0,
) -> None:
    """Fine-tune a model on recorded responses."""
    from agentkit.cli.choices import load_folder, open_log
    from agentkit.cli.settings import validated
    from agentkit.training.sft import SftConfig, fine_tune

    if best_of is not None and (top_share is not None or not only_success):
        raise ConfigError("--best-of keeps different successes: leave out --top-share and --all")
    if top_share is not None and advantage_beta is not None and only_success:
        raise ConfigError("--advantage-beta compares with failures, of which --top-share then keeps some: add --all")
    select: dict[str, object] = {"name": "success" if only_success else "given"}
    if best_of is not None:
        select = {"name": "best", "num": best_of}
    if top_share is not None:
        select = {"name": "top", "share": top_share}
    given = {
        "steps": steps,
        "learning_rate": learning_rate,
        "rows_per_step": rows_per_step,
        "select": select,
        "mask_invalid": mask_invalid,
        "advantage_beta": advantage_beta,
        "network": {"precision": precision, "lora": None if lora_rank is None else {"rank": lora_rank}},
    }
    config = validated(SftConfig, given)
    if (out / "config.json").exists():
        raise ConfigError(f"{str(out)!r} holds a model already; give another --out")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{str(out)!r} is no folder; give another --out")
    wanted = True if only_success and advantage_beta is None else None
    with open_log(log) as recorded:
        episodes = [one for one in recorded.episodes(success=wanted) if one.error is None]
    num = len(config.select.choose(episodes))
    if num == 0:
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
    say(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} nats a token on {num} episodes; model in {out}")


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
