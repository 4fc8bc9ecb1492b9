"""What a program waits for before its first memory: the import, opening a store, the first recall; in a new process.

Run in a process of its own by `agentkit.bench.latency`: python -m agentkit.bench.opening FOLDER RECALLS
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from agentkit.bench.topics import open_topics, topic_query

PACKAGE = "agentkit.memory"


class Opening(NamedTuple):
    """Of a store that a new process opens."""

    open_s: float
    first_s: float
    """From the beginning of opening until the first recall is answered."""
    resident_mb: float
    """At most, after some recalls from all and from a part."""


def measure_opening(folder: Path, recalls: int = 20) -> Opening:
    """Open the store in `folder` in a new process."""
    command = [sys.executable, "-m", "agentkit.bench.opening", str(folder), str(recalls)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Opening(*json.loads(done.stdout))


def measure_import(repeats: int) -> float:
    """Seconds of `import agentkit.memory` in a new process, the median of so many."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {PACKAGE}"]
    return median(
        _import_s(subprocess.run(command, capture_output=True, text=True, check=True).stderr) for _ in range(repeats)
    )


def _import_s(told: str) -> float:
    """Seconds from what `-X importtime` tells: of the module itself and with its own imports, in µs, and its name.

    >>> _import_s("import time:   20 |     50000 |   agentkit\\nimport time:   10 |     60000 | agentkit.memory")
    0.06
    """
    found = (line.split("|") for line in told.splitlines())
    return next(int(cumulative) / 1e6 for _, cumulative, name in found if name.strip() == PACKAGE)


def tell_opening(folder: Path, recalls: int) -> Opening:
    """Open the store in `folder` in this process, recall, and say how long it took."""
    begun = time.perf_counter()
    with open_topics(folder) as store:
        opened = time.perf_counter() - begun
        store.recall(topic_query(0), 10)
        first = time.perf_counter() - begun
        for one in range(recalls):
            store.recall(topic_query(one), 10)
            store.recall(topic_query(one), 10, env_id="1 %")
    return Opening(opened, first, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MAXRSS_A_MB)


_MAXRSS_A_MB = 1_000_000 if sys.platform == "darwin" else 1_000_000 / 1024
"""In `ru_maxrss`, which counts bytes on macOS and kibibytes elsewhere."""


if __name__ == "__main__":
    print(json.dumps(tell_opening(Path(sys.argv[1]), int(sys.argv[2]))))
