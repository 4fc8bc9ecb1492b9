"""Whether a memory that was acknowledged survives: a writer is killed over and over, and each next one counts.

Run: python benchmarks/kills.py [--kills 500] [--chroma-every 5] [--threads 8] [--processes 8]. Every writer opens
the store, tells what it holds, then writes memories and new versions, in so many threads, and tells each when it is
acknowledged, until it is killed at a random moment (`kill -9`): while it opens, writes, applies to the index, or
rebuilds that. Then so many processes at once wait for their turns at one store, and half of them are killed too.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time

from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.store import MemoryStore

WRITER = """
import random, sqlite3, sys, threading
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.kinds import Draft, FactBody, Source
from agentkit.memory.store import MemoryStore

folder, number, index, threads, turn = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
telling = threading.Lock()

def tell(*words):
    with telling:
        sys.stdout.write(" ".join(map(str, words)) + "\\n")
        sys.stdout.flush()

options = {"embedder": HashEmbedder(32), "index": index, "gate": None, "rebuild": number % 10 == 3}
while turn:  # writes a little, then lets the others
    with MemoryStore.open(folder, **options, wait_s=600) as store:
        for count in range(20):
            body = FactBody(subject=f"{number}.{turn}.{count}", relation="is", value="so")
            source = Source(writer="environment", name="writer")
            draft = Draft(body=body, text=body.subject, keys={"state": body.subject}, env_id="e", source=source)
            tell("wrote", *(f"{one.id}:{one.version}" for one in store.write([draft])))
    turn -= 1
    if not turn:
        sys.exit()
store = MemoryStore.open(folder, **options)
journal = sqlite3.connect(folder + "/memory.sqlite")
held = journal.execute("SELECT id, version FROM versions WHERE ended IS NULL")
tell("held", *(f"{id}:{version}" for id, version in held))
journal.close()
if number % 25 == 0:
    problems = store.verify()
    tell("problems" if problems else "sound", *problems)

def write(thread):
    rng, count = random.Random(number * 1000 + thread), 0
    while True:
        count += 1
        subject = f"{number}.{thread}.{count}" if rng.random() < 0.8 else f"old {rng.randrange(20)}"
        body = FactBody(subject=subject, relation="is", value=str(rng.random()))
        source = Source(writer="environment", name="writer")
        draft = Draft(body=body, text=subject, keys={"state": subject}, env_id="e", source=source)
        [memory] = store.write([draft])
        tell("wrote", f"{memory.id}:{memory.version}")

for thread in range(threads):
    threading.Thread(target=write, args=(thread,)).start()
"""


def main() -> None:
    """Kill and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--chroma-every", type=int, default=5, help="every so manyth writer keeps a Chroma index")
    parser.add_argument("--threads", type=int, default=8, help="that write in each process")
    parser.add_argument("--processes", type=int, default=8, help="that take turns at the end")
    parser.add_argument("--turns", type=int, default=10, help="of each of these")
    options = parser.parse_args()
    rng = random.Random(0)
    expected: dict[str, int] = {}
    lost = unsound = acknowledged = silent = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.kills + 1):
            index = "chroma" if number % options.chroma_every == 0 else "exact"
            command = [sys.executable, "-c", WRITER, folder, str(number), index, str(options.threads), "0"]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert child.stdout is not None
            early = rng.random() < 0.1  # while it opens
            if early:
                time.sleep(rng.random() * 1.0)
                child.kill()
            for line in child.stdout:
                what, *rest = line.split()
                if not line.endswith("\n"):
                    break
                if what == "held":
                    held = {id: int(version) for id, version in (one.split(":") for one in rest)}
                    lost += sum(held.get(id, 0) < version for id, version in expected.items())
                    expected = held
                    deadline = time.monotonic() + rng.random() * 0.3
                elif what == "problems":
                    unsound += 1
                    print(line, file=sys.stderr)
                elif what == "wrote":
                    acknowledged += 1
                    id, version = rest[0].split(":")
                    expected[id] = max(int(version), expected.get(id, 0))  # told by several threads, in any order
                    if time.monotonic() > deadline:
                        child.kill()
            child.wait()
            silent += child.returncode not in (-9, 0)
        seconds = time.monotonic() - begun
        in_turn, missing = take_turns(folder, options.processes, options.turns, rng)
    print(f"{options.kills} kills of {options.threads} threads in {seconds:.0f} s: ", end="")
    print(f"{acknowledged} acknowledged writes, {lost} lost, ", end="")
    print(f"{unsound} stores found unsound, {silent} writers that could not open or write")
    print(f"{options.processes} processes in turn, half of them killed: {in_turn} acknowledged writes, {missing} lost")


def take_turns(folder: str, processes: int, turns: int, rng: random.Random) -> tuple[int, int]:
    """Writes acknowledged by processes that wait for each other, every second of them killed, and how many are lost."""
    command = [sys.executable, "-c", WRITER, folder]
    writers = [
        subprocess.Popen([*command, str(1001 + n), "exact", "1", str(turns)], stdout=subprocess.PIPE, text=True)
        for n in range(processes)
    ]
    doomed = writers[::2]
    for writer in doomed:
        threading.Timer(2 + rng.random() * 8, writer.kill).start()
    lines = [line for writer in writers for line in writer.communicate()[0].splitlines(keepends=True)]
    acknowledged = {line.split()[1].split(":")[0] for line in lines if line.endswith("\n")}
    with MemoryStore.open(folder, embedder=HashEmbedder(32), index="exact") as store:
        held = {one.id for one in store.held()}
    return len(acknowledged), len(acknowledged - held)


if __name__ == "__main__":
    main()
