"""`agentkit eval --all`: one policy on a panel of every bundled family, in one table."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agentkit.cli.show import errors, say, show_table, show_warning

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentkit.envs.registration import EnvRow
    from agentkit.evaluation import Report
    from agentkit.policies.policy import Policy

COLUMNS = ("environment", "success, 95 %", "return", "turns", "valid", "failed", "s an episode")


def evaluate_families(
    open_actor: Callable[[int], Policy], *, expert: bool, tasks: int, seed: int, out: Path | None, isolate: bool
) -> None:
    """Play `tasks` held-out tasks of every family that can be played here, and print the table.

    Baselines are left out: the table for the random policy is the floor, that for the expert the ceiling.

    Args:
        open_actor: The policy, given the number of actions that a turn of the family may hold.
        expert: Whether the policy is the environments' own, so that those without one are left out.
        tasks: Tasks of each family.
        seed: Seed of all sampling.
        out: Where the reports go as JSON, or None.
        isolate: Whether to play in worker processes.

    Raises:
        AgentkitError: Some attempts failed; the table is printed all the same.
    """
    from agentkit.attempt import Limits
    from agentkit.cli.choices import check_env, first_error
    from agentkit.envs import make_tasks
    from agentkit.envs.registration import ENVIRONMENTS, list_envs
    from agentkit.evaluation import evaluate

    limits = Limits(isolate=isolate)
    rows: list[tuple[str, ...]] = []
    reports: dict[str, Report] = {}
    failed: list[str] = []
    episodes = 0
    for row in list_envs():
        params = ENVIRONMENTS[row.id].sample
        if (reason := _left_out(row, expert=expert)) is not None or params is None:
            show_warning(f"{row.id} is left out: {reason}")
            continue
        actor = open_actor(check_env(row.id, params, limits))
        panel = make_tasks(row.id, "held_out", tasks, params=params)
        begun = time.perf_counter()
        with errors.status(row.id):
            report = evaluate(
                actor,
                panel,
                baselines=False,
                limits=limits,
                seed=seed,
                on_episode=lambda episode: failed.append(episode.error) if episode.error else None,
            )
        seconds = (time.perf_counter() - begun) / report.episodes
        episodes += report.episodes
        reports[row.id] = report
        rows.append(_cells(report, seconds))
    say(f"{tasks} held-out tasks a family")
    show_table(COLUMNS, rows)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        content = {env_id: report.model_dump(mode="json") for env_id, report in reports.items()}
        out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if failed:
        raise first_error(failed, episodes)


def _left_out(row: EnvRow, *, expert: bool) -> str | None:
    """Why a family is not played; None if it is."""
    from agentkit.envs.registration import ENVIRONMENTS

    if row.missing is not None:
        return str(row.missing)
    if ENVIRONMENTS[row.id].sample is None:
        return "it needs parameters of yours"
    return "it has no expert" if expert and "Expert" not in row.capabilities else None


def _cells(report: Report, seconds: float) -> tuple[str, ...]:
    return (
        report.env_id,
        str(report.success),
        f"{report.episode_return.value:.2f}",
        f"{report.turns:.1f}",
        f"{report.valid_turns:.3f}",
        str(report.failed),
        f"{seconds:.3f}",
    )
