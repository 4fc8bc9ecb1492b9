"""The learning curve of a run as a picture, drawn from its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from agentkit.training.metrics import read_metrics

WINDOW = 5
"""Iterations averaged for the thick line."""


def draw_curve(folder: str | Path, levels: Mapping[str, float] | None = None) -> Path | None:
    """Draw success over iterations into `folder/curve.png`; returns its path, None without metrics.

    Args:
        folder: Run folder with `metrics.jsonl`.
        levels: Horizontal lines by name, e.g. random and optimal success.
    """
    from matplotlib.figure import Figure

    folder = Path(folder)
    lines = read_metrics(folder / "metrics.jsonl")
    if not lines:
        return None
    iteration = np.array([line["iteration"] for line in lines])
    success = np.array([line["success"] for line in lines])
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(iteration, success, color="tab:blue", alpha=0.3, linewidth=1)
    width = min(WINDOW, len(success))
    smooth = np.convolve(success, np.ones(width) / width, mode="valid")
    axes.plot(iteration[width - 1 :], smooth, color="tab:blue", label=f"training success, mean of {width}")
    for number, (name, value) in enumerate((levels or {}).items()):
        axes.axhline(value, linestyle="--", linewidth=1, color=f"C{number + 1}", label=f"{name} {value:.2f}")
    axes.set(xlabel="iteration", ylabel="success", ylim=(0, 1.02), title=folder.name)
    axes.legend(loc="lower right", fontsize="small")
    path = folder / "curve.png"
    figure.savefig(path, dpi=120)
    return path
