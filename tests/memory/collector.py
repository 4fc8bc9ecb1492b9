"""A process that, for each line on stdin, forks one that collects episodes until it is killed.

The fork comes before any log is open, so each child is a fresh process without paying for the imports again.
Prints the child's pid, then every acknowledged id.
"""

import os
import sys
from pathlib import Path

from agentkit.memory.log import EpisodeLog


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    from factory import make_episode  # type: ignore[import-not-found]  # run as a script, beside factory.py

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            log = EpisodeLog.open(sys.argv[1])
            for number in range(100_000):
                name = f"{line.strip()}-{number}"
                log.append(make_episode(name, ids=300))
                os.write(1, f"ack {name}\n".encode())
        os.write(1, f"pid {child}\n".encode())
        os.waitpid(child, 0)
        os.write(1, b"dead\n")


if __name__ == "__main__":
    main()
