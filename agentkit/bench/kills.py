"""Whether a memory that was acknowledged survives `kill -9`: a writer is killed over and over, and the next one counts.

Each writer works in several threads and is killed in one phase: opening, writing, applying to the index, rebuilding
it, forgetting, or taking a snapshot. It tells what it holds, then each thing that the store has acknowledged; the next
writer must hold it all. Then several processes take turns at the store, and every second one is killed.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkit.bench.killed import LOOK, PHASES, TURNS, VERIFY_EVERY, WRITES_A_TURN, subject_of
from agentkit.bench.table import Check, Scale, Table
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.store import MemoryStore

Counts = Counter[tuple[str, str]]
"""(phase, what) -> how many."""
COLUMNS = ("kills", "acknowledged", "lost", "unsound", "silent")
MOST_S = {"opening": 1.5}
"""A writer is killed at a random moment within so many seconds of its phase, 0.3 where nothing is said."""
_STUCK_S = 600.0


@dataclass
class Expected:
    """What the store must hold, as far as it was acknowledged."""

    versions: dict[str, int] = field(default_factory=dict)
    """Subject -> latest version."""
    forgotten: set[str] = field(default_factory=set)
    snapshots: dict[str, str] = field(default_factory=dict)
    writing: set[str] = field(default_factory=set)
    """Subjects that were being written when the last writer died: they may be there."""
    forgetting: set[str] = field(default_factory=set)
    """Those that were being forgotten: they may be gone."""

    def lost(self, versions: Mapping[str, int], snapshots: Mapping[str, str]) -> int:
        """Number of acknowledged things that are not as acknowledged in what a new writer holds."""
        missing = {subject for subject, version in self.versions.items() if versions.get(subject, 0) < version}
        returned = self.forgotten & set(versions) - self.writing
        unnamed = [name for name, id in self.snapshots.items() if snapshots.get(name) != id]
        return len(missing - self.forgetting) + len(returned) + len(unnamed)

    def note(self, told: Mapping[str, Any]) -> bool:
        """Take in what a writer tells; returns whether it is an acknowledgement."""
        match told["what"]:
            case "writes":
                self.writing.add(told["subject"])
            case "forgets":
                self.forgetting.add(told["subject"])
            case "wrote":
                known = self.versions.get(told["subject"], 0)
                self.versions[told["subject"]] = max(known, told["version"])  # threads tell in any order
                self.forgotten.discard(told["subject"])
                self.writing.discard(told["subject"])
            case "forgot":
                self.versions.pop(told["subject"], None)
                self.forgotten.add(told["subject"])
                self.forgetting.discard(told["subject"])
            case "named":
                self.snapshots[told["name"]] = told["id"]
        return told["what"] in ("wrote", "forgot", "named")


def measure(scale: Scale) -> Table:
    """A row for each phase, and one for the processes that take turns."""
    kills = scale.kills or scale.pick(6, 18, 500)
    threads, processes, turns = scale.pick((2, 2, 1), (8, 4, 2), (8, 8, 10))
    counts = Counts()
    with tempfile.TemporaryDirectory(prefix="agentkit-bench-") as folder:
        run_writers(Path(folder), kills, threads, counts)
        run_turns(Path(folder), processes, turns, counts)
    phases = (*PHASES, TURNS)
    return Table(
        name="kills",
        title=f"{kills} writers of {threads} threads killed; lost: acknowledged and gone; silent: failed by itself",
        rows=tuple({"phase": phase, **{what: counts[phase, what] for what in COLUMNS}} for phase in phases),
        checks=tuple(
            Check(what=what, value=sum(counts[phase, key] for phase in phases), bar=0, at="most")
            for what, key in (
                ("acknowledged losses", "lost"),
                ("stores found unsound", "unsound"),
                ("writers that failed by themselves", "silent"),
            )
        ),
        notes=(
            f"Every {VERIFY_EVERY}th writer verifies the store before it goes on.",
            f"{TURNS}: {processes} processes open the store {turns} times each, one after the other.",
        ),
    )


def run_writers(folder: Path, kills: int, threads: int, counts: Counts) -> None:
    """Kill `kills` writers of the store in `folder`, phases in turn, then let one more look; adds to `counts`."""
    rng = random.Random(0)
    expected = Expected()
    blamed = PHASES[0]
    for number in range(kills + 1):
        phase = PHASES[number % len(PHASES)]
        last = number == kills
        delay = rng.random() * MOST_S.get(phase, 0.3)
        with _writer(folder, number, LOOK if last else phase, threads) as child:
            for told in _lines(child):
                match told["what"]:
                    case "phase":
                        _kill_after(child, delay)
                    case "held":
                        counts[blamed, "lost"] += expected.lost(told["versions"], told["snapshots"])
                        gone = expected.forgotten - set(told["versions"])
                        expected = Expected(told["versions"], gone, told["snapshots"])
                    case "unsound":
                        counts[blamed, "unsound"] += 1
                    case _:
                        counts[phase, "acknowledged"] += expected.note(told)
            counts[phase, "kills"] += not last
            counts[phase, "silent"] += child.wait() != (0 if last else -9)
        blamed = phase


def run_turns(folder: Path, processes: int, turns: int, counts: Counts) -> None:
    """Let processes take turns, kill every second one at a random write, and look what the store holds then."""
    rng = random.Random(0)
    fatal = [rng.randrange(turns * WRITES_A_TURN) if not number % 2 else -1 for number in range(processes)]
    told: list[dict[str, int]] = [{} for _ in fatal]
    statuses = [0] * processes

    def follow(number: int) -> None:
        with _writer(folder, number, TURNS, turns) as child:
            for count, line in enumerate(_lines(child)):
                told[number][line["subject"]] = line["version"]
                if count == fatal[number]:
                    _kill_after(child, 0.001 * number)
            statuses[number] = child.wait()

    followers = [threading.Thread(target=follow, args=(number,)) for number in range(processes)]
    for follower in followers:
        follower.start()
    for follower in followers:
        follower.join()
    with MemoryStore.open(folder, embedder=HashEmbedder(32)) as store:
        held = {subject_of(memory): memory.version for memory in store.held()}
        counts[TURNS, "unsound"] += bool(store.verify())
    for acknowledged, status in zip(told, statuses, strict=True):
        counts[TURNS, "kills"] += status == -9
        counts[TURNS, "acknowledged"] += len(acknowledged)
        counts[TURNS, "lost"] += Expected(acknowledged).lost(held, {})
        counts[TURNS, "silent"] += status not in (0, -9)


@contextmanager
def _writer(folder: Path, number: int, phase: str, many: int) -> Iterator[subprocess.Popen[str]]:
    """A writer at work, dead at the end of the block; one that is stuck is killed too."""
    command = [sys.executable, "-m", "agentkit.bench.killed", str(folder), str(number), phase, str(many)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    stuck = threading.Timer(_STUCK_S, child.kill)
    stuck.start()
    try:
        yield child
    finally:
        stuck.cancel()
        child.kill()
        child.wait()
        child.stdout.close()


def _lines(child: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """What a writer tells until it ends; a line that was cut short was not acknowledged."""
    assert child.stdout is not None
    for line in child.stdout:
        if not line.endswith("\n"):
            return
        yield json.loads(line)


def _kill_after(child: subprocess.Popen[str], seconds: float) -> None:
    timer = threading.Timer(seconds, child.kill)
    timer.daemon = True
    timer.start()
