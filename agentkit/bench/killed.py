"""The writer that is killed: tells what its store holds, then each thing that the store has acknowledged.

Run in a process of its own by `agentkit.bench.kills`: python -m agentkit.bench.killed FOLDER NUMBER PHASE THREADS
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
from pathlib import Path

from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.kinds import Draft, FactBody, Memory, Source
from agentkit.memory.layout import snapshots
from agentkit.memory.store import MemoryStore

PHASES = ("opening", "writing", "applying", "rebuilding", "forgetting", "snapshot")
LOOK, TURNS = "look", "turns"
"""To tell what is held and end; to write a little, let the others have their turn, and begin again."""
VERIFY_EVERY = 10
WRITES_A_TURN = 20
_telling = threading.Lock()


def tell(what: str, **more: object) -> None:
    """Print a line of JSON; what is not told to its end was not told."""
    with _telling:
        sys.stdout.write(json.dumps({"what": what, **more}) + "\n")
        sys.stdout.flush()


def work_until_killed(folder: Path, number: int, phase: str, threads: int) -> None:
    """Tell what is held, then work in a phase, in so many threads."""
    if phase == "opening":
        tell("phase")
    store = MemoryStore.open(folder, embedder=HashEmbedder(32), exact_limit=0 if phase == "applying" else 20_000)
    held = store.held()
    tell("held", versions={subject_of(memory): memory.version for memory in held}, snapshots=named_snapshots(store))
    if phase == LOOK or number % VERIFY_EVERY == 0:
        problems = store.verify()
        if problems:
            tell("unsound", problems=problems)
    if phase == LOOK:
        store.close()
        return
    if phase != "opening":
        tell("phase")
    threading.excepthook = _end_all
    for thread in range(threads):
        threading.Thread(target=_Work(store, number, thread, phase).go_on).start()


def _end_all(failure: threading.ExceptHookArgs) -> None:
    """End the process with a thread that failed, or it would go on without it and nobody would know."""
    threading.__excepthook__(failure)
    os._exit(1)


def take_turns(folder: Path, number: int, turns: int) -> None:
    """Open the store when nobody else has it, write a little, close it; so many times."""
    for turn in range(turns):
        with MemoryStore.open(folder, embedder=HashEmbedder(32), wait_s=600) as store:
            for count in range(WRITES_A_TURN):
                [memory] = store.write([_draft(f"turn {number}.{turn}.{count}", "so")])
                tell("wrote", subject=subject_of(memory), version=memory.version)


class _Work:
    """What a thread of a writer does, one step at a time."""

    def __init__(self, store: MemoryStore, number: int, thread: int, phase: str) -> None:
        self.store, self.thread, self.phase = store, thread, phase
        self.name = f"{number}.{thread}"
        self.rng, self.count = random.Random(self.name), 0

    def go_on(self) -> None:
        while True:
            self.step()

    def step(self) -> None:
        """Write a memory or a new version of an old one, then what the phase is about."""
        self.count += 1
        # What is forgotten is one thread's own, or nobody could say whether it was written before or after.
        old = f"old {self.thread}." if self.phase == "forgetting" else "old "
        subject = f"{self.name}.{self.count}" if self.rng.random() < 0.8 else f"{old}{self.rng.randrange(20)}"
        tell("writes", subject=subject)
        [memory] = self.store.write([_draft(subject, str(self.rng.random()))])
        tell("wrote", subject=subject, version=memory.version)
        if self.phase == "applying":
            self.store.recall(subject, 3)  # asks the index, which is brought up to date first
        elif self.phase == "rebuilding" and self.thread == 0:
            self.store.rebuild()
        elif self.phase == "forgetting":
            tell("forgets", subject=subject)
            self.store.forget(id=memory.id)
            tell("forgot", subject=subject)
        elif self.phase == "snapshot":
            name = f"{self.name}.{self.count}"
            tell("named", name=name, id=self.store.snapshot(name))


def named_snapshots(store: MemoryStore) -> dict[str, str]:
    """Name -> snapshot; one is read to see that they can be."""
    with store.database.reading() as connection:
        found = {row.name: row.snapshot for row in connection.execute(snapshots.select())}
    for name in list(found)[-1:]:
        store.held(snapshot=name)
    return found


def subject_of(memory: Memory) -> str:
    """What a memory is about; those of a writer have one version after the other of the same subject."""
    assert isinstance(memory.body, FactBody)
    return memory.body.subject


def _draft(subject: str, value: str) -> Draft:
    return Draft(
        body=FactBody(subject=subject, relation="is", value=value),
        text=subject,
        keys={"state": subject},
        env_id="e",
        source=Source(writer="environment", name="writer"),
    )


def main() -> None:
    """Work in a phase, or take turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("number", type=int, help="of this writer; names what it writes")
    parser.add_argument("phase", choices=(*PHASES, LOOK, TURNS))
    parser.add_argument("many", type=int, help="threads, or turns")
    options = parser.parse_args()
    if options.phase == TURNS:
        take_turns(options.folder, options.number, options.many)
    else:
        work_until_killed(options.folder, options.number, options.phase, options.many)


if __name__ == "__main__":
    main()
