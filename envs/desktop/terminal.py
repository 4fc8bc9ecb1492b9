"""Chores in a terminal, LXTerminal with bash."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

from agentkit.envs.desktop.chores import Chore, Values, draw_lines, draw_words, pick, read

_TERMINAL = (("lxterminal",),)


def _draw(rng: Random) -> Values:
    name, other, script = draw_words(rng, 3)
    lines = draw_lines(rng, 6)
    word = pick(rng, lines).split()[0]
    # The word stands in some more of the lines, so that its number is not always one.
    lines = [line if word in line or rng.random() < 0.6 else f"{line} {word}" for line in lines]
    return {
        "file": f"{name}.txt",
        "other": f"{other}-2.txt",
        "tool": f"{script}.sh",
        "word": word,
        "text": "\n".join(lines),
    }


def _files(values: Values) -> dict[str, str]:
    return {values["file"]: values["text"] + "\n", values["tool"]: f"#!/bin/sh\necho {values['word']}\n"}


def _sorted(home: Path, values: Values) -> bool:
    due = "\n".join(sorted(values["text"].split("\n")))
    return read(home, values["other"]) == due and read(home, values["file"]) == values["text"]


def _counted(home: Path, values: Values) -> bool:
    due = sum(values["word"] in line for line in values["text"].split("\n"))
    return (read(home, values["other"]) or "").strip() == str(due)


def _runnable(home: Path, values: Values) -> bool:
    tool = home / values["tool"]
    unchanged = read(home, values["tool"]) == _files(values)[values["tool"]].rstrip("\n")
    return unchanged and tool.is_file() and bool(os.stat(tool).st_mode & 0o100)


CHORES = (
    Chore(
        "sort_lines",
        _TERMINAL,
        "Sort the lines of {file} alphabetically into a new file {other}. Leave {file} as it is.",
        _draw,
        _files,
        _sorted,
        ('type "sort {file} > {other}\\n"', "done"),
    ),
    Chore(
        "count_lines",
        _TERMINAL,
        'Count the lines of {file} that contain "{word}" and write the number into {other}.',
        _draw,
        _files,
        _counted,
        ('type "grep -c {word} {file} > {other}\\n"', "done"),
    ),
    Chore(
        "make_runnable",
        _TERMINAL,
        "Let the owner run {tool} as a program, without changing what is in it.",
        _draw,
        _files,
        _runnable,
        ('type "chmod u+x {tool}\\n"', "done"),
    ),
)
