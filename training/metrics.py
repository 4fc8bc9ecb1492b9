"""Metrics: JSON lines, always, and TensorBoard beside them. The lines are the truth; pictures are made from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIMINGS = "seconds/"
"""Names of metrics that differ between two runs from the same seed begin with this."""


class Metrics:
    """Writes one mapping of numbers an iteration.

    Args:
        folder: Run folder; gets `metrics.jsonl` and `tensorboard/`.
        after: Lines of later iterations are removed first: a resumed run writes them again.
    """

    def __init__(self, folder: Path, after: int = 0) -> None:
        from tensorboardX import SummaryWriter

        self.path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["iteration"] <= after]
        aside = self.path.with_suffix(".partial")
        aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        aside.replace(self.path)
        self._lines = self.path.open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1)

    def write(self, iteration: int, values: Mapping[str, float | None]) -> None:
        """Append the values of an iteration."""
        self._lines.write(json.dumps({"iteration": iteration, **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Flush and close both."""
        self._lines.close()
        self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines written so far; a last line cut off by a kill is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
