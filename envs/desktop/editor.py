"""Chores in the text editor, Mousepad."""

from __future__ import annotations

import configparser
from pathlib import Path
from random import Random

from agentkit.envs.desktop.chores import Chore, Values, draw_lines, draw_words, pick, read

_EDITOR = (("mousepad", "{file}"),)
_SAVE = ("press ctrl+s", "done")
_PREFERENCES = (
    ("line numbers", "alt+v", "Line Numbers", "show-line-numbers"),
    ("word wrap", "alt+d", "Word Wrap", "word-wrap"),
    ("auto indent", "alt+d", "Auto Indent", "auto-indent"),
)
"""What is switched on, the keys of its menu, its item, and its key in the settings."""


def _draw(rng: Random) -> Values:
    first, second, name, other = draw_words(rng, 4)
    lines = draw_lines(rng, 3)
    values = {"file": f"{name}.txt", "other": f"{other}.txt", "line": f"{first} {second}", "text": "\n".join(lines)}
    values["old"] = pick(rng, lines).split()[int(rng.random() * 3)]
    values["new"] = pick(rng, [word for word in draw_words(rng, 8) if word not in values["text"]])
    # One word comes twice, so that replacing it means replacing all of it.
    values["text"] += f"\n{values['old']} {draw_words(rng, 1)[0]}"
    what, menu, item, key = pick(rng, _PREFERENCES)
    return {**values, "preference": what, "menu": menu, "item": item, "key": key}


def _files(values: Values) -> dict[str, str]:
    return {values["file"]: values["text"] + "\n"}


def _appended(home: Path, values: Values) -> bool:
    return read(home, values["file"]) == f"{values['text']}\n{values['line']}"


def _replaced(home: Path, values: Values) -> bool:
    return read(home, values["file"]) == values["text"].replace(values["old"], values["new"])


def _saved_as(home: Path, values: Values) -> bool:
    return read(home, values["other"]) == read(home, values["file"]) == values["text"]


def _upper(home: Path, values: Values) -> bool:
    return read(home, values["file"]) == values["text"].upper()


def _preferred(home: Path, values: Values) -> bool:
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read(home / ".config/glib-2.0/settings/keyfile")
    except (configparser.Error, UnicodeDecodeError):
        return False
    unspoilt = read(home, values["file"]) == values["text"]
    return unspoilt and settings.get("org/xfce/mousepad/preferences/view", values["key"], fallback="") == "true"


CHORES = (
    Chore(
        "append_line",
        _EDITOR,
        'Add the line "{line}" at the end of {file} and save it.',
        _draw,
        _files,
        _appended,
        ("press ctrl+End", 'type "{line}"', *_SAVE),
    ),
    Chore(
        "replace_word",
        _EDITOR,
        'Replace every "{old}" in {file} by "{new}" and save it.',
        _draw,
        _files,
        _replaced,
        (
            "press ctrl+r",
            'type "{old}"',
            "press Tab",
            'type "{new}"',
            "click <check box|Replace all in:>",
            "click <push button|Replace All>",
            "press Escape",
            *_SAVE,
        ),
    ),
    Chore(
        "save_as",
        _EDITOR,
        "Save the text of {file} a second time, under the name {other} in the same folder.",
        _draw,
        _files,
        _saved_as,
        ("press ctrl+shift+s", "press ctrl+a", 'type "{other}"', "click <push button|Save>", "done"),
    ),
    Chore(
        "upper_case",
        _EDITOR,
        "Turn all of {file} into capital letters and save it.",
        _draw,
        _files,
        _upper,
        ("press ctrl+a", "press alt+e", "press r", "press u", *_SAVE),
    ),
    Chore(
        "preference",
        _EDITOR,
        "Switch on {preference} in the text editor. Leave {file} as it is.",
        _draw,
        _files,
        _preferred,
        ("press {menu}", "click <menu item|{item}>", "done"),
    ),
)
