"""Whether a memory that was acknowledged survives `kill -9`: a writer is killed over and over, and the next one counts.

Each writer is killed in one phase: opening, writing, applying to the index, rebuilding it, forgetting, or taking a
snapshot. It tells what it holds, then each thing that the store has acknowledged; the next writer must hold it all.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkit.bench.table import Cell, Check, Scale, Table
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.journal import memory_id, snapshots
from agentkit.memory.kinds import Draft, FactBody, Source
from agentkit.memory.store import MemoryStore

Counts = Counter[tuple[str, str]]
"""(phase, what) -> how many."""
PHASES = ("opening", "writing", "applying", "rebuilding", "forgetting", "snapshot")
MOST_S = {"opening": 1.5}
"""A writer is killed at a random moment within so many seconds of its phase, 0.3 where nothing is said."""
_STUCK_S = 120.0
_VERIFY_EVERY = 10


@dataclass
class Expected:
    """What the store must hold, as far as it was acknowledged."""

    versions: dict[str, int] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)
    snapshots: dict[str, str] = field(default_factory=dict)
    writing: str = ""
    """Id of the memory that was being written when the last writer died: it may be there."""
    forgetting: str = ""
    """Id of the one that was being forgotten: it may be gone."""

    def lost(self, versions: dict[str, int], snapshots: dict[str, str]) -> int:
        """Number of acknowledged things that are not as acknowledged in what a new writer holds."""
        missing = [id for id, version in self.versions.items() if versions.get(id, 0) < version]
        returned = self.forgotten & set(versions) - {self.writing}
        unnamed = [name for name, id in self.snapshots.items() if snapshots.get(name) != id]
        return len(missing) - (self.forgetting in missing) + len(returned) + len(unnamed)

    def note(self, told: dict[str, Any]) -> bool:
        """Take in what a writer tells; returns whether it is an acknowledgement."""
        match told["what"]:
            case "writes":
                self.writing = told["id"]
            case "forgets":
                self.forgetting = told["id"]
            case "wrote":
                self.versions[told["id"]] = told["version"]
                self.forgotten.discard(told["id"])
                self.writing = ""
            case "forgot":
                self.versions.pop(told["id"], None)
                self.forgotten.add(told["id"])
                self.forgetting = ""
            case "named":
                self.snapshots[told["name"]] = told["id"]
        return told["what"] in ("wrote", "forgot", "named")


def measure(scale: Scale) -> Table:
    """A row for each phase."""
    kills = scale.kills or scale.pick(6, 18, 500)
    counts = Counts()
    with tempfile.TemporaryDirectory(prefix="agentkit-bench-") as folder:
        run_writers(Path(folder), kills, counts)
    rows: list[dict[str, Cell]] = [
        {
            "phase": phase,
            **{what: counts[phase, what] for what in ("kills", "acknowledged", "lost", "unsound", "silent")},
        }
        for phase in PHASES
    ]
    return Table(
        name="kills",
        title=f"{kills} writers killed; lost: acknowledged and gone; silent: could not open or write",
        rows=tuple(rows),
        checks=tuple(
            Check(what=what, value=sum(counts[phase, key] for phase in PHASES), bar=0, at="most")
            for what, key in (
                ("acknowledged losses", "lost"),
                ("stores found unsound", "unsound"),
                ("writers that failed by themselves", "silent"),
            )
        ),
        notes=(f"Every {_VERIFY_EVERY}th writer verifies the store before it goes on.",),
    )


def run_writers(folder: Path, kills: int, counts: Counts) -> None:
    """Kill `kills` writers of the store in `folder`, phases in turn, then let one more look; adds to `counts`."""
    rng = random.Random(0)
    expected = Expected()
    blamed = PHASES[0]
    for number in range(kills + 1):
        phase = PHASES[number % len(PHASES)]
        last = number == kills
        for told in _writer(folder, number, phase, rng, last=last):
            if told["what"] == "held":
                counts[blamed, "lost"] += expected.lost(told["versions"], told["snapshots"])
                gone = expected.forgotten - set(told["versions"])
                expected = Expected(told["versions"], gone, told["snapshots"])
            elif told["what"] == "unsound":
                counts[blamed, "unsound"] += 1
            elif told["what"] == "ended":
                counts[phase, "kills"] += not last
                counts[phase, "silent"] += told["status"] != (0 if last else -9)
            else:
                counts[phase, "acknowledged"] += expected.note(told)
        blamed = phase


def _writer(folder: Path, number: int, phase: str, rng: random.Random, *, last: bool) -> Iterator[dict[str, Any]]:
    """What one writer tells until it is killed, and how it ended."""
    settings = {"folder": str(folder), "number": number, "phase": "look" if last else phase}
    command = [sys.executable, "-c", f"from agentkit.bench.kills import write; write({json.dumps(settings)!r})"]
    delay = rng.random() * MOST_S.get(phase, 0.3)
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    stuck = threading.Timer(_STUCK_S, child.kill)
    stuck.start()
    killer: threading.Timer | None = None
    try:
        for line in child.stdout:
            if not line.endswith("\n"):
                break  # killed while it told this: not acknowledged
            told = json.loads(line)
            if told["what"] == "phase" and not last:
                killer = threading.Timer(delay, child.kill)
                killer.start()
            yield told
        yield {"what": "ended", "status": child.wait()}
    finally:
        for timer in (stuck, killer):
            if timer is not None:
                timer.cancel()
        child.kill()
        child.wait()
        child.stdout.close()


def write(told: str) -> None:
    """Be a writer: tell what is held, then work in the phase until killed. Runs in a process of its own."""
    settings = json.loads(told)
    folder, number, phase = Path(settings["folder"]), settings["number"], settings["phase"]
    if phase == "opening":
        _tell("phase")
    store = MemoryStore.open(folder, embedder=HashEmbedder(32), exact_limit=0 if phase == "applying" else 20_000)
    _tell(
        "held",
        versions={memory.id: memory.version for memory in store.held()},
        snapshots=_snapshots(store),
    )
    if phase == "look" or number % _VERIFY_EVERY == 0:
        problems = store.verify()
        if problems:
            _tell("unsound", problems=problems)
    if phase == "look":
        store.close()
        return
    work = _Work(store, number)
    if phase != "opening":
        _tell("phase")
    while True:
        work.step(phase)


class _Work:
    """What a writer does, one step at a time."""

    def __init__(self, store: MemoryStore, number: int) -> None:
        self.store, self.number = store, number
        self.rng, self.count = random.Random(number), 0

    def step(self, phase: str) -> None:
        """Write a memory or a new version of an old one, then what the phase is about."""
        self.count += 1
        subject = f"{self.number}.{self.count}" if self.rng.random() < 0.8 else f"old {self.rng.randrange(20)}"
        draft = _draft(subject, self.rng)
        _tell("writes", id=memory_id(draft))
        [memory] = self.store.write([draft])
        _tell("wrote", id=memory.id, version=memory.version)
        if phase == "applying":
            self.store.recall(subject, 3)  # asks the index, which is brought up to date first
        elif phase == "rebuilding":
            self.store.rebuild()
        elif phase == "forgetting":
            _tell("forgets", id=memory.id)
            self.store.forget(id=memory.id)
            _tell("forgot", id=memory.id)
        elif phase == "snapshot":
            name = f"{self.number}.{self.count}"
            _tell("named", name=name, id=self.store.snapshot(name))


def _snapshots(store: MemoryStore) -> dict[str, str]:
    """Named snapshots; one is read to see that they can be."""
    with store.database.reading() as connection:
        found = {row.name: row.snapshot for row in connection.execute(snapshots.select())}
    for name in list(found)[-1:]:
        store.held(snapshot=name)
    return found


def _draft(subject: str, rng: random.Random) -> Draft:
    return Draft(
        body=FactBody(subject=subject, relation="is", value=str(rng.random())),
        text=subject,
        keys={"state": subject},
        env_id="e",
        source=Source(writer="environment", name="writer"),
    )


def _tell(what: str, **more: object) -> None:
    sys.stdout.write(json.dumps({"what": what, **more}) + "\n")
    sys.stdout.flush()
