"""ActFocus against uniform credit on the quickstart: three seeds each, equal budgets, the same warm start for a seed.

Run: python benchmarks/credit.py [folder]. About three minutes a run on two cores; what is there is not run again.
Curves are training success (at temperature 1, on lakes never repeated), means of ten iterations; the last columns are
success on 512 held-out lakes with Wilson's 95 % interval.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from agentkit.cli.quickstart import run_quickstart
from agentkit.training.metrics import read_metrics

SEEDS = (0, 1, 2)
CREDITS = {"actfocus": (), "uniform": ('train.credit={name="uniform"}',)}
WINDOW = 10


def main() -> None:
    """Run what is missing and print the table."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/credit")
    for seed in SEEDS:
        for name, overrides in CREDITS.items():
            folder = root / f"{name}-{seed}"
            if not (folder / "summary.json").is_file():
                run_quickstart(folder, seed=seed, overrides=overrides)
    print("| credit | seed | warm start | training success, means of 10 iterations | after learning | gain | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name in CREDITS:
        for seed in SEEDS:
            folder = root / f"{name}-{seed}"
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            warm, after = summary["warm_start"], summary["after_rl"]
            success = np.array([line["success"] for line in read_metrics(folder / "metrics.jsonl")])
            curve = " ".join(f"{value:.2f}" for value in success.reshape(-1, WINDOW).mean(axis=1))
            shown = [f"{row['success']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in (warm, after)]
            gain = after["success"] - warm["success"]
            print(f"| {name} | {seed} | {shown[0]} | {curve} | {shown[1]} | {gain:+.3f} | {summary['seconds']:.0f} |")


if __name__ == "__main__":
    main()
