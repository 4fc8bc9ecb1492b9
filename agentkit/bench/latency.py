"""How long the store takes as it grows: to write, recall, read, rebuild and open; on the wall and in CPU time.

Everything is done to one store of each size, in an order that leaves it as large as it is said to be for as long as
possible: what writes comes last.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from agentkit.bench.clock import Stopwatch, Times, beside, cuts, time_calls
from agentkit.bench.opening import measure_import, measure_opening
from agentkit.bench.table import Cell, Check, Scale, Table
from agentkit.bench.topics import BATCH, fill, open_topics, topic_draft, topic_query, topic_situation
from agentkit.memory.reader import Reader
from agentkit.memory.store import MemoryStore

_MOST_MS = ((1_000, 10.0), (100_000, 30.0), (1_000_000, 100.0))
"""Up to so many memories, the 95th percentile of a recall or a read may take so long."""
COLUMNS = {
    "p50": "p50, ms",
    "p95": "p95, ms",
    "cpu_p95": "CPU p95, ms",
    "rate": "a second",
    "cpu_rate": "a CPU second",
    "amount": "amount",
}


def measure(scale: Scale) -> Table:
    """A row for each size and each kind of work."""
    sizes = scale.pick((300,), (1_000,), (1_000, 100_000)) + ((1_000_000,) if scale.million else ())
    repeats = scale.pick(5, 100, 200)
    busy = os.getloadavg()[0]
    imported = measure_import(scale.pick(1, 5, 5))
    rows: list[dict[str, Cell]] = []
    checks = [Check(what="import agentkit.memory, s", value=imported, bar=0.2, at="most")]
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="agentkit-bench-") as folder:
            sized = Sized(Path(folder), size, repeats)
            sized.measure()
        rows += sized.rows
        checks += sized.checks
    return Table(
        name="latency",
        title=f"milliseconds of one call, of {repeats}, and how many a second; an embedding takes microseconds here",
        rows=tuple(rows),
        checks=tuple(checks),
        notes=(
            "read: the whole Reader, all arms; gate: what judges each memory before it is written, by default there.",
            "CPU time is that of all threads of the process, so none is given beside other work.",
            "open: in a new process; `resident` is all of that process, the interpreter and libraries included.",
            f"{busy:.1f} processes on {os.cpu_count()} cores were busy at the start: beyond the cores, wall times mean "
            "little and CPU times more.",
        ),
    )


class Sized:
    """The rows and checks of a store of one size, made in `folder`."""

    def __init__(self, folder: Path, size: int, repeats: int) -> None:
        self.folder, self.size, self.repeats = folder, size, repeats
        self.rows: list[dict[str, Cell]] = []
        self.checks: list[Check] = []
        self.most_ms = next(limit for upto, limit in _MOST_MS if size <= upto)
        self.written = size

    def measure(self) -> None:
        """Fill the store and time it."""
        with open_topics(self.folder) as store:
            self._fill(store)
            self._recall(store)
            self._rebuild(store)
        self._open()
        with open_topics(self.folder, index="exact") as store:
            store.recall(topic_query(0), 10)
            few = min(self.repeats, 50)
            self._time("recall 10, all compared, no index", lambda one: store.recall(topic_query(one), 10), few)
        with open_topics(self.folder) as store:
            self._write(store, "")
            _catch_up(store)
            self._recall_beside_writer(store, "all")
            self._recall_beside_writer(store, "1 %", "1 %")
        with open_topics(self.folder, gate=None) as store:
            self._write(store, ", no gate")
            watch, more = Stopwatch(), min(self.size, 10 * BATCH)
            fill(store, more, self.written)
            self._rate(f"write, {BATCH:,} at once, no gate", more, watch)

    def _fill(self, store: MemoryStore) -> None:
        watch = Stopwatch()
        fill(store, self.size)
        rate = self._rate(f"write, {BATCH:,} at once", self.size, watch)
        self._check("memories written a second", rate, 1000, "least")
        lag, watch = store.index_lag, Stopwatch()
        _catch_up(store)
        self._row("index lag behind the last write, vectors", amount=lag, p50=1000 * watch.wall_s)
        self._check("the index catches up, s", watch.wall_s, 2)

    def _recall(self, store: MemoryStore) -> None:
        reader = Reader(store)
        situations = [topic_situation(number, self.size) for number in range(self.repeats)]
        reader.read(situations[0])  # counts words once for all
        works: dict[str, Callable[[int], object]] = {
            "recall 10, all in scope": lambda one: store.recall(topic_query(one), 10),
            "recall 10, 1 % in scope": lambda one: store.recall(topic_query(one), 10, env_id="1 %"),
            "read, all in scope": lambda one: reader.read(situations[one]),
            "read, 1 % in scope": lambda one: reader.read(situations[one], env_id="1 %"),
        }
        for call, work in works.items():
            work(0)
            self._check(f"{call}, p95, ms", self._time(call, work).p95, self.most_ms)

    def _rebuild(self, store: MemoryStore) -> None:
        watch = Stopwatch()
        with beside(lambda one: store.recall(topic_query(one), 10), pause_s=0.02) as asked:
            store.rebuild()
            rate = self._rate("rebuild of the index", self.size, watch)
        if self.size >= 100_000:
            self._check("vectors rebuilt a second", rate, 3000, "least")
        self._row("recall 10, all in scope, beside the rebuild", **cuts(asked))

    def _open(self) -> None:
        disk = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()) / 1e6
        self._row("on disk, MB", amount=round(disk))
        opening = measure_opening(self.folder)
        self._row("open", p50=1000 * opening.open_s)
        self._row("open and recall", p50=1000 * opening.first_s)
        self._row("resident, MB", amount=round(opening.resident_mb))
        if self.size <= 100_000:
            self._check("opening, s", opening.open_s, 2)

    def _write(self, store: MemoryStore, gate: str) -> None:
        def write(_: int) -> None:
            self._write_one(store)

        call = f"write one{gate}"
        self._check(f"{call}, p95, ms", self._time(call, write).p95, 5)

    def _recall_beside_writer(self, store: MemoryStore, scope: str, env_id: str | None = None) -> None:
        watch = Stopwatch()
        with beside(lambda _: self._write_one(store)) as writes:
            times = time_calls(lambda one: store.recall(topic_query(one), 10, env_id=env_id), self.repeats)
            rate = len(writes) / watch.wall_s
        self._row(f"recall 10, {scope} in scope, beside a writer", p50=times.p50, p95=times.p95)
        self._row(f"  the writer beside {scope}", rate=round(rate), **cuts(writes))

    def _write_one(self, store: MemoryStore) -> None:
        store.write([topic_draft(self.written)])
        self.written += 1

    def _time(self, call: str, work: Callable[[int], object], repeats: int | None = None) -> Times:
        times = time_calls(work, repeats or self.repeats)
        self._row(call, **times._asdict())
        return times

    def _rate(self, call: str, num: int, watch: Stopwatch) -> float:
        rate = num / watch.wall_s
        self._row(call, rate=round(rate), cpu_rate=round(num / watch.cpu_s))
        return rate

    def _row(self, call: str, **cells: float | None) -> None:
        given = {column: cells.get(name) for name, column in COLUMNS.items()}
        self.rows.append({"memories": self.size, "call": call, **given})

    def _check(self, what: str, value: float, bar: float, at: Literal["least", "most"] = "most") -> None:
        self.checks.append(Check(what=f"{self.size:,}: {what}", value=value, bar=bar, at=at))


def _catch_up(store: MemoryStore) -> None:
    """Wait until the index has been told of everything, or for a minute."""
    watch = Stopwatch()
    while store.index_lag and watch.wall_s < 60:
        time.sleep(0.01)
