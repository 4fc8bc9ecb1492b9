"""Chores in the file manager, PCManFM."""

from __future__ import annotations

from pathlib import Path
from random import Random

from agentkit.envs.desktop.chores import Chore, Values, draw_lines, draw_words, listing

_MANAGER = (("pcmanfm", "/home/user"),)


def _draw(rng: Random) -> Values:
    one, two, three, folder, new = draw_words(rng, 5)
    texts = draw_lines(rng, 3)
    return {
        "file": f"{one}.txt",
        "second": f"{two}.txt",
        "third": f"{three}.csv",
        "folder": folder,
        "new": new,
        **{f"text{number}": text for number, text in enumerate(texts)},
    }


def _files(values: Values) -> dict[str, str]:
    return {
        values["file"]: values["text0"],
        values["second"]: values["text1"],
        values["third"]: values["text2"],
        f"{values['folder']}/kept.txt": values["text1"],
    }


def _before(values: Values) -> dict[str, bytes | None]:
    contents: dict[str, bytes | None] = {path: text.encode() for path, text in _files(values).items()}
    return contents | {values["folder"]: None}


def _made(home: Path, values: Values) -> bool:
    return (home / values["new"]).is_dir() and listing(home) == _before(values) | {values["new"]: None}


def _moved_to(home: Path, values: Values, path: str) -> bool:
    due = _before(values)
    due[path] = due.pop(values["file"])
    return listing(home) == due


def _renamed(home: Path, values: Values) -> bool:
    return _moved_to(home, values, f"{values['new']}.txt")


def _moved(home: Path, values: Values) -> bool:
    return _moved_to(home, values, f"{values['folder']}/{values['file']}")


def _deleted(home: Path, values: Values) -> bool:
    due = _before(values)
    del due[values["file"]]
    return listing(home) == due


CHORES = (
    Chore(
        "make_folder",
        _MANAGER,
        "Make a folder named {new} in the home folder.",
        _draw,
        _files,
        _made,
        ("press ctrl+shift+n", "press ctrl+a", 'type "{new}"', "click <push button|OK>", "done"),
    ),
    Chore(
        "rename_file",
        _MANAGER,
        "Rename the file {file} to {new}.txt.",
        _draw,
        _files,
        _renamed,
        (
            "click <table cell|{file}>",
            "press F2",
            "press ctrl+a",
            'type "{new}.txt"',
            "click <push button|OK>",
            "done",
        ),
    ),
    Chore(
        "move_file",
        _MANAGER,
        "Move the file {file} into the folder {folder}.",
        _draw,
        _files,
        _moved,
        (
            "click <table cell|{file}>",
            "press ctrl+x",
            "double_click <table cell|{folder}>",
            "press ctrl+v",
            "done",
        ),
    ),
    Chore(
        "delete_file",
        _MANAGER,
        "Delete the file {file}; the trash can will do.",
        _draw,
        _files,
        _deleted,
        ("click <table cell|{file}>", "press Delete", "click <push button|Yes>", "done"),
    ),
)
