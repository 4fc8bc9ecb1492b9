"""How long the store takes as it grows: to write, to recall with all or 1 % in scope, to open; wall milliseconds."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from agentkit.bench.table import Cell, Check, Scale, Table
from agentkit.bench.topics import fill, open_topics, topic_draft, topic_query

_MOST_MS = ((1_000, 10.0), (100_000, 30.0), (1_000_000, 100.0))
"""Up to so many memories, the 95th percentile of a recall may take so long."""
COLUMNS = {"p50": "p50, ms", "p95": "p95, ms", "cpu": "CPU, ms", "rate": "a second"}


def measure(scale: Scale) -> Table:
    """A row for each size and each kind of work."""
    sizes = scale.pick((300,), (1_000,), (1_000, 100_000)) + ((1_000_000,) if scale.million else ())
    repeats = scale.pick(5, 100, 200)
    busy = os.getloadavg()[0]
    rows: list[dict[str, Cell]] = []
    checks: list[Check] = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="agentkit-bench-") as folder:
            some_rows, some_checks = measure_size(Path(folder), size, repeats)
        rows += some_rows
        checks += some_checks
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Table(
        name="latency",
        title=f"wall milliseconds of one call, {repeats} calls; an embedding takes microseconds here",
        rows=tuple(rows),
        checks=tuple(checks),
        notes=(
            f"Resident at most {most:.0f} MB in this process, tables before this one included.",
            f"{busy:.1f} processes on {os.cpu_count()} cores were busy at the start: beyond the cores, wall times mean "
            "little and CPU times more.",
        ),
    )


def measure_size(folder: Path, size: int, repeats: int) -> tuple[list[dict[str, Cell]], list[Check]]:
    """Fill a store in `folder` with `size` memories and time it."""
    rows: list[dict[str, Cell]] = []
    checks = []

    def check(what: str, value: float, bar: float, at: str = "most") -> None:
        checks.append(Check.model_validate({"what": f"{size:,}: {what}", "value": value, "bar": bar, "at": at}))

    def row(call: str, **cells: float) -> None:
        rows.append({"memories": size, "call": call, **{column: cells.get(name) for name, column in COLUMNS.items()}})

    def timed(call: str, work: Callable[[int], object]) -> float:
        begun = time.process_time()
        p50, p95 = np.percentile(milliseconds(work, repeats), [50, 95])
        row(call, p50=p50, p95=p95, cpu=1000 * (time.process_time() - begun) / repeats)
        return float(p95)

    with open_topics(folder) as store:
        begun = time.perf_counter()
        fill(store, size)
        rate = size / (time.perf_counter() - begun)
        row("write, 1,000 at once", rate=rate)
        check("memories written a second", rate, 1000, "least")
        check("p95 of a write, ms", timed("write one", lambda one: store.write([topic_draft(size + one)])), 5)
        most = next(limit for upto, limit in _MOST_MS if size <= upto)
        store.recall(topic_query(0), 10)
        everything = timed("recall 10, all in scope", lambda one: store.recall(topic_query(one), 10))
        part = timed("recall 10, 1 % in scope", lambda one: store.recall(topic_query(one), 10, env_id="1 %"))
        check("p95 of a recall, ms", max(everything, part), most)
    begun = time.perf_counter()
    store = open_topics(folder)
    opened = time.perf_counter() - begun
    store.recall(topic_query(0), 10)
    first = time.perf_counter() - begun
    store.close()
    row("open", p50=1000 * opened)
    row("open and recall", p50=1000 * first)
    if size <= 100_000:
        check("opening, s", opened, 2)
    return rows, checks


def milliseconds(work: Callable[[int], object], repeats: int) -> list[float]:
    """How long each of `work(0)`, `work(1)` ... took."""
    times = []
    for one in range(repeats):
        begun = time.perf_counter()
        work(one)
        times.append(1000 * (time.perf_counter() - begun))
    return times
