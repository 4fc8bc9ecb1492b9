"""A run: from a configuration to a trained model, with everything that a later resume needs in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agentkit.agent import build_agent
from agentkit.cli.choices import check_env, first_error, load_folder, open_memory
from agentkit.cli.config import RunConfig, load_config, save_config
from agentkit.cli.show import iteration_line, progress, say, show_report
from agentkit.errors import ConfigError
from agentkit.evaluation import Report, evaluate
from agentkit.memory.records import Episode
from agentkit.policies.policy import Policy, Sampling
from agentkit.recall import MemoryRecall
from agentkit.task import make_tasks

if TYPE_CHECKING:
    from agentkit.policies.local import LocalPolicy


def begin_run(config: RunConfig) -> Report:
    """Train in a new folder; returns the evaluation at the end.

    Raises:
        ConfigError: The folder holds a run already.
    """
    if has_checkpoints(config.out):
        raise ConfigError(
            f"{str(config.out)!r} holds a run already; go on with it: agentkit resume {config.out}, "
            "or choose another folder: --set out=FOLDER"
        )
    check_env(config.env.id, config.env.params, config.limits)
    policy = load_folder(config.model.path, training=True, threads=config.model.threads)
    with open_recall(config) as recall:
        return _train(pinned(config, recall), policy, recall, restore=False)


def continue_run(folder: Path, overrides: Sequence[str] = ()) -> Report:
    """Go on with a run from its newest checkpoint; returns the evaluation at the end.

    The initial model is loaded again: it is the reference, as it was at the beginning.

    Raises:
        CheckpointError: There is no run, or its checkpoint or the initial model is not what it was.
    """
    from agentkit.training.checkpoint import latest_checkpoint

    config = load_config(folder, overrides)
    latest_checkpoint(folder / "checkpoints")
    check_env(config.env.id, config.env.params, config.limits)
    policy = load_folder(config.model.path, training=True, threads=config.model.threads)
    with open_recall(config) as recall:
        return _train(config, policy, recall, restore=True)


def has_checkpoints(folder: Path) -> bool:
    """Whether a run has got as far as a checkpoint here, sound or not."""
    return any((folder / "checkpoints").glob("[0-9]*"))


@contextmanager
def open_recall(config: RunConfig) -> Iterator[MemoryRecall | None]:
    """The memory of a configuration for the length of a block; None if it has none."""
    settings = config.memory
    if settings.folder is None:
        yield None
        return
    with open_memory(settings.folder, settings.embedder) as memory:
        yield MemoryRecall(memory, settings.k, snapshot=settings.snapshot)


def pinned(config: RunConfig, recall: MemoryRecall | None) -> RunConfig:
    """The configuration with everything it refers to nailed down, so that a resume finds the same."""
    config = config.replace("model", path=config.model.path.resolve())
    retention = config.train.retention
    if retention is not None:
        retention = retention.model_copy(update={"log": str(Path(retention.log).resolve())})
        config = config.replace("train", retention=retention)
    if config.memory.folder is None or recall is None:
        return config
    return config.replace("memory", folder=config.memory.folder.resolve(), snapshot=recall.snapshot_id)


def measure(
    config: RunConfig, policy: Policy, recall: MemoryRecall | None, failed: list[str], *, baselines: bool = True
) -> Report:
    """Evaluate a policy on the configuration's panel; the errors of failed attempts are added to `failed`."""
    settings = config.eval
    tasks = make_tasks(config.env.id, settings.split, settings.tasks, params=config.env.params)
    with progress() as bars:
        bar = bars.add_task("evaluate", total=len(tasks) * settings.attempts, note="")

        def on_episode(episode: Episode) -> None:
            bars.advance(bar)
            if episode.error is not None:
                failed.append(episode.error)

        return evaluate(
            policy,
            tasks,
            attempts=settings.attempts,
            baselines=baselines,
            agent=build_agent(config.agent),
            sampling=Sampling(temperature=settings.temperature, max_new_tokens=config.sampling.max_new_tokens),
            limits=config.limits,
            recall=recall,
            seed=config.seed,
            on_episode=on_episode,
        )


def _train(config: RunConfig, policy: LocalPolicy, recall: MemoryRecall | None, *, restore: bool) -> Report:
    from agentkit.training.trainer import Trainer

    settings = config.train
    trainer = Trainer(
        policy,
        config.env.id,
        config.out,
        settings,
        params=config.env.params,
        agent=build_agent(config.agent),
        sampling=config.sampling,
        limits=config.limits,
        recall=recall,
        seed=config.seed,
    )
    try:
        if restore:
            trainer.restore()
        save_config(config, config.out)
        if restore:
            say(f"going on after iteration {trainer.iteration} of {settings.iterations}")
        with progress() as bars:
            whole = bars.add_task("train", total=settings.iterations, completed=trainer.iteration, note="")
            round_ = bars.add_task("collect", total=settings.tasks_per_iteration * settings.group_size, note="")

            def on_iteration(iteration: int, values: Mapping[str, float | None]) -> None:
                say(iteration_line(iteration, settings.iterations, values))
                bars.update(whole, completed=iteration)
                bars.reset(round_)

            trainer.train(on_iteration, lambda episode: bars.advance(round_))
    finally:
        trainer.close()
    return _finish(config, policy, recall)


def _finish(config: RunConfig, policy: LocalPolicy, recall: MemoryRecall | None) -> Report:
    """Write the model, the picture and the evaluation."""
    from agentkit.training.curve import draw_curve

    out = config.out
    policy.save(out / "model")
    failed: list[str] = []
    report = measure(config, policy, recall, failed)
    (out / "eval.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    show_report(report)
    levels = {"random": report.random, f"trained, {config.eval.split}": report.success.value, "optimal": report.optimal}
    draw_curve(out, {name: level for name, level in levels.items() if level is not None})
    say(f"written: {out}/model, {out}/eval.json, {out}/curve.png")
    if failed:
        raise first_error(failed, report.episodes)
    return report
