"""`agentkit envs`: which environments there are, which can be played here, and which keep the contract."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentkit.cli.options import Params
from agentkit.cli.show import errors, say, show_checks, show_table
from agentkit.errors import ConfigError

if TYPE_CHECKING:
    from agentkit.envs.check import Report

NEEDS_PARAMS = "it needs parameters that only you can name; check it by its id"


def list_environments() -> None:
    """List the bundled environments, what they can do, and what those need that cannot be played here."""
    from agentkit.envs import list_envs

    rows = [
        (
            row.id,
            "yes" if row.missing is None else "no",
            ", ".join(row.capabilities) or "-",
            row.description if row.missing is None else f"{row.description} Not here: {row.missing}",
        )
        for row in list_envs()
    ]
    show_table(("environment", "here", "capabilities", "description"), rows)


def check_environments(
    env: Annotated[
        str | None, typer.Argument(metavar="ID", help="Gymnasium id; module:id imports the module first.")
    ] = None,
    param: Params = None,
    every: Annotated[bool, typer.Option("--all", help="In place of an id: every bundled environment.")] = False,
    strict: Annotated[
        bool | None,
        typer.Option(
            "--strict/--no-strict",
            help="With --all: also fail if one cannot be played here. The default where the variable CI is set.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Instances that are played.")] = 8,
    resets: Annotated[
        int, typer.Option("--resets", min=4, help="Resets that show leaks; fewer where one takes long.")
    ] = 200,
    call_s: Annotated[float, typer.Option("--call-s", help="Seconds after which a call counts as hanging.")] = 60.0,
) -> None:
    """Check environments against the text-environment contract; exit code 1 if one breaks a rule."""
    options: dict[str, Any] = {"seeds": range(seeds), "resets": resets, "call_s": call_s}
    if every:
        if env is not None or param:
            raise ConfigError("--all checks every bundled environment with parameters of its own: no ID, no --param")
        sound = _check_all(bool(os.environ.get("CI")) if strict is None else strict, options)
    elif env is None:
        raise ConfigError("name an environment (ID), or --all for every bundled one")
    elif strict is not None:
        raise ConfigError("--strict is for --all")
    else:
        report = _check(env, param or (), options)
        show_checks(report)
        sound = report.ok
    if not sound:
        raise typer.Exit(1)


def _check(env: str, texts: Any, options: dict[str, Any]) -> Report:
    from agentkit.cli.choices import check_env
    from agentkit.cli.settings import parse_params
    from agentkit.envs import Task, check_text_env

    params = parse_params(texts) if not isinstance(texts, dict) else texts
    check_env(env, params)
    with errors.status(f"checking {env}"):
        return check_text_env(Task(env_id=env, seed=0, params=params), **options)


def _check_all(strict: bool, options: dict[str, Any]) -> bool:
    """Check the bundled environments, with the failed ones in full and a table of all; returns whether all is well."""
    from agentkit.envs import list_envs
    from agentkit.envs.registration import ENVIRONMENTS

    rows: list[tuple[str, ...]] = []
    sound = True
    for row in list_envs():
        params = ENVIRONMENTS[row.id].sample
        if row.missing is not None:
            rows.append((row.id, "not here", "", "", str(row.missing)))
            sound = sound and not strict
        elif params is None:
            rows.append((row.id, "left out", "", "", NEEDS_PARAMS))
        else:
            begun = time.perf_counter()
            report = _check(row.id, params, options)
            spoken = [check for check in report.rows if check.passed is not None]
            failed = [check for check in spoken if not check.passed]
            if failed:
                show_checks(report)
            sound = sound and not failed
            rows.append(
                (
                    row.id,
                    "FAIL" if failed else "ok",
                    f"{len(spoken) - len(failed)} of {len(spoken)}",
                    f"{time.perf_counter() - begun:.1f}",
                    failed[0].name if failed else ", ".join(f"{key}={value}" for key, value in params.items()),
                )
            )
    show_table(("environment", "result", "rules kept", "s", ""), rows)
    if any(result == "not here" for _, result, *_ in rows):
        say(
            "Those that are not here count as failed." if strict else "Those that are not here do not count (--strict)."
        )
    return sound
