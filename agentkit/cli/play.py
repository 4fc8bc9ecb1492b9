"""`agentkit collect` and `agentkit eval`: play, record, measure."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentkit.cli.options import (
    BaseUrl,
    ChatModel,
    Embedder,
    EnvMemory,
    Isolate,
    Noise,
    Overrides,
    Params,
    PolicyName,
    Seed,
)
from agentkit.cli.show import progress, say, show_report
from agentkit.errors import ConfigError

if TYPE_CHECKING:
    from agentkit.memory.records import Episode


def collect_episodes(
    env: Annotated[str, typer.Option("--env", help="Gymnasium id; module:id imports the module first.")],
    policy: PolicyName,
    out: Annotated[str, typer.Option("--out", help="Episode log to append to: a path or a database URL.")],
    tasks: Annotated[int, typer.Option("--tasks", min=1, help="Number of tasks.")] = 16,
    attempts: Annotated[int, typer.Option("--attempts", min=1, help="Attempts at each task.")] = 1,
    split: Annotated[str, typer.Option("--split", help="Split of the tasks: train or held_out.")] = "train",
    param: Params = None,
    model: ChatModel = None,
    base_url: BaseUrl = None,
    noise: Noise = None,
    temperature: Annotated[float, typer.Option("--temperature", help="Sampling temperature; 0 is greedy.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Most tokens of one response.")] = 256,
    env_step_s: Annotated[
        float, typer.Option("--env-step-s", help="Seconds one call of the environment may take.")
    ] = 60.0,
    isolate: Isolate = False,
    env_memory_mb: EnvMemory = None,
    memory: Annotated[Path | None, typer.Option("--memory", help="Folder of a memory to recall from.")] = None,
    embedder: Embedder = None,
    seed: Seed = 0,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Most attempts in flight.")] = 128,
) -> None:
    """Play tasks and record every attempt in an episode log."""
    from agentkit.attempt import Limits
    from agentkit.cli.choices import check_env, first_error, open_memory, open_policy
    from agentkit.cli.settings import parse_params, validated
    from agentkit.evaluation import wilson
    from agentkit.memory.log import EpisodeLog
    from agentkit.policies.policy import Sampling
    from agentkit.rollout import collect
    from agentkit.task import make_tasks

    params = parse_params(param or ())
    panel = make_tasks(env, split, tasks, params=params)
    sampling = validated(Sampling, {"temperature": temperature, "max_new_tokens": max_new_tokens})
    limits = validated(Limits, {"env_step_s": env_step_s, "isolate": isolate, "env_memory_mb": env_memory_mb})
    if embedder is not None and memory is None:
        raise ConfigError("--embedder is for --memory, and there is none")
    actor = open_policy(policy, check_env(env, params, limits), model=model, base_url=base_url, noise=noise)
    with ExitStack() as stack:
        recall = None
        if memory is not None:
            from agentkit.recall import MemoryRecall

            recall = MemoryRecall(stack.enter_context(open_memory(memory, embedder)))
        log = stack.enter_context(EpisodeLog.open(out))
        before = len(log)
        bars = stack.enter_context(progress())
        bar = bars.add_task("collect", total=tasks * attempts, note="")
        wins = 0

        def on_episode(episode: Episode) -> None:
            nonlocal wins
            wins += episode.success
            bars.update(bar, advance=1, note=f"{wins} successes")

        episodes = collect(
            actor,
            panel,
            group_size=attempts,
            sampling=sampling,
            limits=limits,
            recall=recall,
            log=log,
            seed=seed,
            concurrency=concurrency,
            on_episode=on_episode,
        )
        new = len(log) - before
    failed = [episode.error for episode in episodes if episode.error is not None]
    success = wilson(wins, len(episodes))
    say(f"success {success}  episodes {len(episodes)}, {new} new in {log.location}  failed {len(failed)}")
    if failed:
        raise first_error(failed, len(episodes))


def evaluate_config(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG.toml", help="The run's settings.")] = None,
    override: Overrides = None,
    policy: Annotated[
        str | None, typer.Option("--policy", help="In place of model.path: random, expert, chat, or a model folder.")
    ] = None,
    model: ChatModel = None,
    base_url: BaseUrl = None,
    noise: Noise = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the report as JSON to this file.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="In place of a configuration: every bundled environment, in one table.")
    ] = False,
    tasks: Annotated[int | None, typer.Option("--tasks", min=1, help="For --all: tasks of each (default 32).")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="For --all: seed of everything random.")] = None,
    isolate: Isolate = False,
) -> None:
    """Measure success and return, with intervals: on the panel of a configuration, or on every environment.

    A configuration's panel is measured beside random and optimal play.
    """
    from agentkit.cli.choices import check_env, first_error, load_folder, open_policy
    from agentkit.cli.config import read_config
    from agentkit.cli.run import measure, open_recall

    if policy is None and (model or base_url or noise is not None):
        raise ConfigError("--model, --base-url and --noise need --policy; without it, model.path is evaluated")
    if every:
        if config is not None or override or dry_run or policy is None:
            raise ConfigError("--all needs --policy, and no configuration, --set or --dry-run")
        from agentkit.cli.families import evaluate_families

        evaluate_families(
            cache(lambda actions: open_policy(policy, actions, model=model, base_url=base_url, noise=noise)),
            expert=policy == "expert",
            tasks=tasks or 32,
            seed=seed or 0,
            out=out,
            isolate=isolate,
        )
        return
    if config is None:
        raise ConfigError("name a configuration (CONFIG.toml), or --all for every bundled environment")
    if tasks is not None or seed is not None:
        raise ConfigError("--tasks and --seed are for --all; a configuration says them itself (--set eval.tasks=64)")
    settings = read_config(config, [*(override or ()), *(["limits.isolate=true"] if isolate else ())])
    if dry_run:
        from agentkit.cli.plan import evaluation_rows, show_plan

        show_plan(evaluation_rows(settings, policy))
        return
    actions = check_env(settings.env.id, settings.env.params, settings.limits)
    actor = (
        load_folder(settings.model.path, threads=settings.model.threads)
        if policy is None
        else open_policy(policy, actions, model=model, base_url=base_url, noise=noise)
    )
    failed: list[str] = []
    with open_recall(settings) as recall:
        report = measure(settings, actor, recall, failed)
    show_report(report)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if failed:
        raise first_error(failed, report.episodes)
