"""Whether a recall stays within its scope, whatever the scope, and gives the same every time.

Memories with all that a scope can ask for are drawn at random and recalled with scopes drawn at random; what belongs in
the answer is told by a few plain conditions here. The index is asked, and compared with one by one.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from agentkit.bench.table import Cell, Check, Scale, Table
from agentkit.errors import RecordError
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.kinds import Body, Draft, FactBody, FailureBody, Kind, Memory, Source, Status
from agentkit.memory.store import MemoryStore

NAMESPACES = ("", "ours", "theirs")
ENVS = ("e0", "e1")
SPLITS = ("train", "held_out")
TASKS = ("", "t0", "t1", "t2")
KINDS: tuple[Kind, ...] = ("fact", "failure")
STATUSES: tuple[Status, ...] = ("active", "probation", "quarantine", "disputed", "retired")
WORDS = ("red", "blue", "door", "key", "lamp", "north", "open", "box")
K = 50


@dataclass
class Asked:
    """A scope, and what a store must give for it."""

    query: str
    scope: dict[str, Any] = field(default_factory=dict)

    def admits(self, memory: Memory) -> bool:
        """Whether the memory may be in the answer."""
        scope, at_s = self.scope, self.scope.get("at_s")
        return (
            memory.status in ("active", "probation")
            and memory.namespace in scope.get("namespaces", ("",))
            and scope.get("env_id") in (None, memory.env_id)
            and scope.get("split") in (None, memory.split)
            and (scope.get("kinds") is None or memory.kind in scope["kinds"])
            and memory.task_key not in scope.get("exclude_tasks", ())
            and (at_s is None or memory.valid_from is None or memory.valid_from <= at_s)
            and (at_s is None or memory.valid_to is None or memory.valid_to > at_s)
        )


def measure(scale: Scale) -> Table:
    """A row for each way of searching."""
    number, size = scale.pick(20, 400, 5000), scale.pick(60, 300, 600)
    rows: list[dict[str, Cell]] = []
    for way, options in (("compared one by one", {"index": "exact"}), ("through the index", {"exact_limit": 0})):
        with tempfile.TemporaryDirectory(prefix="agentkit-bench-") as folder:
            rows.append({"way": way, **fuzz(Path(folder), number, size, options)})
    same = repeats(scale.pick(60, 300, 600), scale.pick(10, 50, 200))
    total = {key: sum(int(row[key] or 0) for row in rows) for key in ("leaks", "missed", "not refused")}
    return Table(
        name="isolation",
        title=f"{number} recalls with scopes drawn at random, from {size} memories in three writes",
        rows=tuple(rows),
        checks=(
            Check(what="memories given that are out of scope", value=total["leaks"], bar=0, at="most"),
            Check(what="memories in scope not given, one by one", value=int(rows[0]["missed"] or 0), bar=0, at="most"),
            Check(what="namespaces not granted and not refused", value=total["not refused"], bar=0, at="most"),
            Check(what="recalls with the same ids: snapshot, reopening, process", value=same, bar=1, at="least"),
        ),
    )


def fuzz(folder: Path, number: int, size: int, options: dict[str, Any]) -> dict[str, Cell]:
    """Recall `number` times and count what is given out of scope, what is left out, and what is not refused."""
    rng = Random(0)
    drafts = [random_draft(rng, place) for place in range(size)]
    leaks = missed = refused = tried = 0
    with MemoryStore.open(folder, embedder=HashEmbedder(64), **options) as store:
        snapshots = []
        for part in range(3):
            store.write(drafts[part * size // 3 : (part + 1) * size // 3])
            snapshots.append(store.snapshot())
        store.write([random_draft(rng, place) for place in range(0, size, 3)])  # new versions
        held = {id: _held(store, id) for id in (*snapshots, None)}
        for _ in range(number):
            asked = random_scope(rng, snapshots)
            given = store.recall(asked.query, K, **asked.scope)
            known = held[asked.scope.get("snapshot")]
            allowed = {(memory.id, memory.version) for memory in known if asked.admits(memory)}
            seen = {(memory.id, memory.version) for memory in given}
            leaks += len(seen - allowed)
            missed += len(given) < min(K, len(allowed))
    with MemoryStore.open(folder, embedder=HashEmbedder(64), grants=["ours"], **options) as store:
        for namespaces in ([""], ["theirs"], ["ours", "theirs"]):
            tried += 1
            try:
                store.recall("red", namespaces=namespaces)
            except RecordError:
                refused += 1
        leaks += sum(memory.namespace != "ours" for memory in store.held())
    return {"recalls": number, "leaks": leaks, "missed": missed, "not refused": tried - refused}


def repeats(size: int, queries: int) -> float:
    """Share of recalls that give the same ids in order: at a snapshot later on, reopened, and in another process."""
    with tempfile.TemporaryDirectory(prefix="agentkit-bench-") as folder:
        with MemoryStore.open(Path(folder) / "one", embedder=HashEmbedder(64)) as store:
            rng = Random(1)
            store.write([random_draft(rng, place) for place in range(size)])
            snapshot = store.snapshot()
            first = answers(store, queries, snapshot)
            store.write([random_draft(rng, place) for place in range(size, size + size // 2)])
            later = answers(store, queries, snapshot)
        with MemoryStore.open(Path(folder) / "one", embedder=HashEmbedder(64)) as store:
            store.rebuild()
            reopened = answers(store, queries, snapshot)
        elsewhere = _elsewhere(Path(folder) / "two", size, queries)
    tries = [later, reopened, elsewhere]
    same = [one == other for found in tries for one, other in zip(first, found, strict=True)]
    return sum(same) / len(same)


def answers(store: MemoryStore, queries: int, snapshot: str | None) -> list[str]:
    """A hash of the ids, in order, that each query gives."""
    rng = Random(2)
    found = []
    for _ in range(queries):
        memories = store.recall(" ".join(rng.choices(WORDS, k=4)), 10, namespaces=NAMESPACES, snapshot=snapshot)
        found.append(hashlib.blake2b(" ".join(memory.id for memory in memories).encode(), digest_size=8).hexdigest())
    return found


def tell_answers(folder: str, size: int, queries: int) -> None:
    """Fill a store as `repeats` does and print its answers; for another process."""
    rng = Random(1)
    with MemoryStore.open(folder, embedder=HashEmbedder(64)) as store:
        store.write([random_draft(rng, place) for place in range(size)])
        print(" ".join(answers(store, queries, None)))


def random_draft(rng: Random, number: int) -> Draft:
    """Memory `number` with everything else about it drawn."""
    text = " ".join(rng.choices(WORDS, k=5))
    body: Body = FactBody(subject=f"thing {number}", relation="is", value=text)
    if number % 2:
        body = FailureBody(signature=f"loop {number}", cause="loop", action=text)
    begins = rng.choice([None, 10.0, 20.0])
    return Draft(
        body=body,
        text=text,
        keys={"state": text},
        namespace=NAMESPACES[number % 7 % 3],
        env_id=ENVS[number % 5 % 2],
        task_key=rng.choice(TASKS),
        split=rng.choice(SPLITS),
        source=Source(writer="environment", name="fuzz"),
        status=rng.choice(STATUSES),
        valid_from=begins,
        valid_to=None if begins is None else rng.choice([None, begins + 5, begins + 20]),
    )


def random_scope(rng: Random, snapshots: list[str]) -> Asked:
    """A query, and each condition of a scope or not."""
    scope: dict[str, Any] = {"namespaces": rng.sample(NAMESPACES, rng.randint(1, 3))}
    chosen = {
        "env_id": rng.choice(ENVS),
        "split": rng.choice(SPLITS),
        "kinds": rng.sample(KINDS, rng.randint(1, 2)),
        "exclude_tasks": rng.sample(TASKS[1:], rng.randint(1, 3)),
        "at_s": rng.uniform(0, 50),
        "snapshot": rng.choice(snapshots),
    }
    scope |= {name: value for name, value in chosen.items() if rng.random() < 0.4}
    return Asked(" ".join(rng.choices(WORDS, k=4)), scope)


def _held(store: MemoryStore, snapshot: str | None) -> list[Memory]:
    return store.held(snapshot=snapshot)


def _elsewhere(folder: Path, size: int, queries: int) -> list[str]:
    """The answers of another process, where strings hash otherwise."""
    code = f"from agentkit.bench.isolation import tell_answers; tell_answers({str(folder)!r}, {size}, {queries})"
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()
