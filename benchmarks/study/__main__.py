"""Where learning presses: uniform credit against ActFocus, with and without self-imitation, and their controls.

Run from the repository's root: python -m benchmarks.study [--out FOLDER] [--budget NAME] [--only PATTERN ...]
[--processes N] [--report]. Everything is played by a tiny model cloned from noisy demonstrations and then trained, the
arms of a world and a seed from the same clone with the same number of attempts. What is finished is not run again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from agentkit.errors import AgentkitError
from benchmarks.study.report import write_report
from benchmarks.study.runs import BUDGETS, Study


def main() -> int:
    """Run what is missing, or write the report; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of the lines")
    parser.add_argument("--budget", choices=[*BUDGETS], default="full", help="`quick` takes a few minutes")
    parser.add_argument("--only", action="append", help="world/arm, as in 'sokoban/*'; may be given again")
    parser.add_argument("--processes", type=int, default=1, help="how many share the work")
    parser.add_argument("--report", action="store_true", help="write docs/study.md from the lines, and run nothing")
    arguments = parser.parse_args()
    if arguments.report:
        write_report(arguments.out)
        return 0
    torch.set_num_threads(1)  # the network is tiny: more threads only slow it down
    same = [sys.executable, "-m", "benchmarks.study", *sys.argv[1:], "--processes", "1"]
    others = [subprocess.Popen(same) for _ in range(arguments.processes - 1)]
    budget = BUDGETS[arguments.budget]
    try:
        Study(arguments.out, budget).run(arguments.only or budget.only)
    except AgentkitError as error:
        print(error, file=sys.stderr)
        for other in others:
            other.terminate()
        return 1
    finally:
        statuses = [other.wait() for other in others]
    return max(statuses, default=0)


if __name__ == "__main__":
    sys.exit(main())
