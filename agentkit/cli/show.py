"""What commands show: results on stdout; errors, warnings and progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.progress import Progress

    from agentkit.envs.check import Report as CheckReport
    from agentkit.evaluation import Report

output = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def say(text: str, style: str = "") -> None:
    """Print text as it is: no markup, no wrapping."""
    output.print(Text(text, style=style), soft_wrap=True)


def show_error(text: str, prefix: str = "error: ") -> None:
    """Print `error: …` in red on stderr, one line for each line of `text`."""
    for line in text.splitlines() or [""]:
        errors.print(Text(prefix + line, style="red"), soft_wrap=True)


def show_warning(text: str) -> None:
    """Print `warning: …` in yellow on stderr."""
    errors.print(Text(f"warning: {text}", style="yellow"), soft_wrap=True)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print a table; cells are shown as their text. Where there is no terminal, lines are as long as they need be."""
    table = Table(*columns, title=title, title_justify="left", show_header=any(columns), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*[cell if isinstance(cell, Text) else Text(str(cell)) for cell in row])
    # A pipe has no width: folding cells at 80 columns would only break what reads them.
    console = output if output.is_terminal else Console(width=10_000, highlight=False)
    console.print(table)


def show_report(report: Report) -> None:
    """Print an evaluation."""

    def number(value: object) -> str:
        return "unknown" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    rows = [
        ("success", number(report.success)),
        ("return", number(report.episode_return)),
        ("random", number(report.random)),
        ("optimal", number(report.optimal)),
        ("normalised", number(report.normalised)),
        ("valid turns", number(report.valid_turns)),
        ("turns", number(report.turns)),
        ("episodes", f"{report.episodes} of {report.tasks} tasks, {report.failed} failed"),
        ("panel", f"{report.env_id} {report.panel}"),
    ]
    show_table(("", ""), rows, title=f"{report.policy} (version {report.policy_version}), 95 % intervals")


def show_checks(report: CheckReport) -> None:
    """Print the rules of the environment contract and whether they hold."""
    mark = {True: Text("ok", "green"), False: Text("FAIL", "red"), None: Text("-", "dim")}
    show_table(("", "rule", "seen"), [(mark[row.passed], row.name, row.detail) for row in report.rows], report.env)


def iteration_line(iteration: int, iterations: int, values: Mapping[str, float | None]) -> str:
    """One line on an iteration of training.

    >>> iteration_line(3, 10, {"success": 0.25, "return": 0.2, "seconds/collect": 1.0, "seconds/learn": 0.5})
    'iteration  3/10  success 0.250  return  0.200  entropy     -  1.5 s'
    """

    def number(name: str) -> str:
        value = values.get(name)
        return "-" if value is None else f"{value:.3f}"

    seconds = (values.get("seconds/collect") or 0.0) + (values.get("seconds/learn") or 0.0)
    place = f"{iteration:>{len(str(iterations))}}/{iterations}"
    return (
        f"iteration {place}  success {number('success')}  return {number('return'):>6}  "
        f"entropy {number('entropy'):>5}  {seconds:.1f} s"
    )


def progress() -> Progress:
    """Progress bars on stderr; nothing where stderr is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=errors,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # results that go to a file must not end up on the terminal
        disable=not errors.is_terminal,
    )
