"""Whether a memory that was acknowledged survives: a writer is killed over and over, and each next one counts.

Run: python benchmarks/kills.py [--kills 500] [--chroma-every 5]. Every writer opens the store, tells
what it holds, then writes memories and new versions one after the other and tells each when it is acknowledged, until
it is killed at a random moment (`kill -9`): while it opens, writes, applies to the index, or rebuilds that.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time

WRITER = """
import random, sqlite3, sys
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.kinds import Draft, FactBody, Source
from agentkit.memory.store import MemoryStore

folder, number, index = sys.argv[1], int(sys.argv[2]), sys.argv[3]
rng = random.Random(number)

def tell(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

store = MemoryStore.open(folder, embedder=HashEmbedder(32), index=index, rebuild=number % 10 == 3)
journal = sqlite3.connect(folder + "/memory.sqlite")
held = journal.execute("SELECT id, version FROM versions WHERE ended IS NULL")
tell("held", *(f"{id}:{version}" for id, version in held))
journal.close()
if number % 25 == 0:
    problems = store.verify()
    tell("problems" if problems else "sound", *problems)
count = 0
while True:
    count += 1
    subject = f"{number}.{count}" if rng.random() < 0.8 else f"old {rng.randrange(20)}"
    body = FactBody(subject=subject, relation="is", value=str(rng.random()))
    source = Source(writer="environment", name="writer")
    draft = Draft(body=body, text=subject, keys={"state": subject}, env_id="e", source=source)
    [memory] = store.write([draft])
    tell("wrote", f"{memory.id}:{memory.version}")
"""


def main() -> None:
    """Kill and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--chroma-every", type=int, default=5, help="every so manyth writer keeps a Chroma index")
    options = parser.parse_args()
    rng = random.Random(0)
    expected: dict[str, int] = {}
    lost = unsound = acknowledged = silent = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.kills + 1):
            index = "chroma" if number % options.chroma_every == 0 else "exact"
            command = [sys.executable, "-c", WRITER, folder, str(number), index]
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
                    expected[id] = int(version)
                    if time.monotonic() > deadline:
                        child.kill()
            child.wait()
            silent += child.returncode not in (-9, 0)
    seconds = time.monotonic() - begun
    print(f"{options.kills} kills in {seconds:.0f} s: {acknowledged} acknowledged writes, {lost} lost, ", end="")
    print(f"{unsound} stores found unsound, {silent} writers that could not open or write")


if __name__ == "__main__":
    main()
