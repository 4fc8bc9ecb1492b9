"""A chore in two applications: the calculator, Galculator, and the text editor."""

from __future__ import annotations

from pathlib import Path
from random import Random

from agentkit.envs.desktop.chores import Chore, Values, draw_words, read


def _draw(rng: Random) -> Values:
    a, b, c = 100 + int(rng.random() * 900), 12 + int(rng.random() * 88), 100 + int(rng.random() * 900)
    return {"sum": f"{a}*{b}+{c}", "result": str(a * b + c), "file": f"{draw_words(rng, 1)[0]}.txt"}


def _files(values: Values) -> dict[str, str]:
    return {values["file"]: ""}


def _noted(home: Path, values: Values) -> bool:
    return (read(home, values["file"]) or "").strip() == values["result"]


CHORES = (
    Chore(
        "calculate",
        (("galculator",), ("mousepad", "{file}")),
        "Work out {sum} and write the result, just the number, into {file}. Save it.",
        _draw,
        _files,
        _noted,
        # The display is the first text on the screen; the editor has the left two thirds of it.
        ("click <text>", 'type "{sum}="', "click at 300 300", 'type "<text of text>"', "press ctrl+s", "done"),
    ),
)
