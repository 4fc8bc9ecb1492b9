"""Chores: judges say yes to work done by hand and no to everything else; scripts can be resolved."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from agentkit.envs.desktop.chores import WORDS, Values, all_chores, listing, resolve
from agentkit.envs.desktop.sheet import evaluate, read_cells, workbook
from agentkit.envs.desktop.view import Element, View, Window

Work = Callable[[Path, Values], object]


def write(home: Path, path: str, text: str) -> None:
    (home / path).parent.mkdir(parents=True, exist_ok=True)
    (home / path).write_text(text)


def enter(home: Path, values: Values, cell: str, text: str) -> None:
    cells = read_cells((home / values["file"]).read_bytes())
    (home / values["file"]).write_bytes(gzip.compress(workbook({**cells, cell: text}).encode()))


def prefer(home: Path, values: Values) -> None:
    settings = home / ".config/glib-2.0/settings/keyfile"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"[org/xfce/mousepad/preferences/view]\n{values['key']}=true\n")


BY_HAND: dict[str, Work] = {
    "append_line": lambda home, v: write(home, v["file"], f"{v['text']}\n{v['line']}\n"),
    "replace_word": lambda home, v: write(home, v["file"], v["text"].replace(v["old"], v["new"])),
    "save_as": lambda home, v: write(home, v["other"], v["text"] + "\n"),
    "upper_case": lambda home, v: write(home, v["file"], v["text"].upper()),
    "preference": prefer,
    "calculate": lambda home, v: write(home, v["file"], v["result"]),
    "make_folder": lambda home, v: (home / v["new"]).mkdir(),
    "rename_file": lambda home, v: (home / v["file"]).rename(home / f"{v['new']}.txt"),
    "move_file": lambda home, v: (home / v["file"]).rename(home / v["folder"] / v["file"]),
    "delete_file": lambda home, v: (home / v["file"]).unlink(),
    "sort_lines": lambda home, v: write(home, v["other"], "\n".join(sorted(v["text"].split("\n")))),
    "count_lines": lambda home, v: write(home, v["other"], str(sum(v["word"] in one for one in v["text"].split("\n")))),
    "make_runnable": lambda home, v: (home / v["tool"]).chmod(0o755),
    "fill_cell": lambda home, v: enter(home, v, v["cell"], v["value"]),
    "sum_column": lambda home, v: enter(home, v, v["below"], "=SUM(B2:B6)"),
}


def lay_out(name: str, home: Path, seed: int = 0) -> Values:
    chore = all_chores()[name]
    values = chore.draw(Random(seed))
    for path, text in chore.files(values).items():
        write(home, path, text)
    return values


def test_every_chore_is_tested_here() -> None:
    assert BY_HAND.keys() == all_chores().keys()
    assert len({chore.applications[0][0] for chore in all_chores().values()}) == 5


@pytest.mark.parametrize("name", BY_HAND)
def test_a_judge_wants_exactly_the_chore(name: str, tmp_path: Path) -> None:
    chore = all_chores()[name]
    values = lay_out(name, tmp_path)
    assert not chore.judge(tmp_path, values)
    BY_HAND[name](tmp_path, values)
    assert chore.judge(tmp_path, values)
    spoilt = {"make_runnable": "tool", "count_lines": "other"}.get(name, "file")
    write(tmp_path, values[spoilt], "something else")
    assert not chore.judge(tmp_path, values)


@pytest.mark.parametrize("name", BY_HAND)
def test_a_judge_survives_a_home_that_is_gone_or_full_of_rubbish(name: str, tmp_path: Path) -> None:
    chore = all_chores()[name]
    values = lay_out(name, tmp_path)
    assert not chore.judge(tmp_path / "nowhere", values)
    rubbish = tmp_path / "rubbish"
    for key in ("file", "other", "tool"):
        if key in values:
            rubbish.mkdir(exist_ok=True)
            (rubbish / values[key]).write_bytes(b"\xff\xfe\x00rubbish")
    assert not chore.judge(rubbish, values)


@pytest.mark.parametrize("name", BY_HAND)
def test_every_level_of_a_chore_has_work_to_do(name: str, tmp_path: Path) -> None:
    for seed in range(20):
        home = tmp_path / str(seed)
        home.mkdir()
        values = lay_out(name, home, seed)
        assert not all_chores()[name].judge(home, values)
        assert "{" not in all_chores()[name].goal.format(**values)


def test_no_word_is_part_of_another() -> None:
    words = WORDS.split()
    assert len(words) == len(set(words)) == 48
    assert not [(one, other) for one in words for other in words if one != other and one in other]


def test_formulas_add_up_cells_and_nothing_else() -> None:
    cells = {"B2": "1", "B3": "20", "B4": "300", "A1": "item"}
    assert evaluate("=SUM(B2:B4)", cells) == 321
    assert evaluate("= B2 + B3 + sum(b4)", cells) == 321
    assert evaluate("321", cells) == 321
    assert evaluate("=SUM(B2,B4)", cells) == 301
    for entry in ("", "=", "=B2*B3", "=B2-B3", "=SUM(A1:B4)", "item", "=SUM(B2:B4", "=SUM()"):
        assert evaluate(entry, cells) is None


def test_workbooks_are_read_packed_and_plain_and_never_beyond_their_size() -> None:
    cells = {"A1": "item", "B2": "12"}
    plain = workbook(cells).encode()
    assert read_cells(plain) == read_cells(gzip.compress(plain)) == cells
    bomb = gzip.compress(b"<a>" + b" " * 50_000_000)
    entities = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'
    for raw in (None, b"", b"rubbish", gzip.compress(plain)[:40], bomb, entities):
        assert read_cells(raw) == {}


def test_a_listing_leaves_out_what_is_hidden_and_follows_no_links(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "A")
    write(tmp_path, "folder/b.txt", "B")
    write(tmp_path, ".cache/c", "C")
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert listing(tmp_path) == {"a.txt": b"A", "folder": None, "folder/b.txt": b"B", "link": None}


def test_a_script_finds_elements_by_role_and_label() -> None:
    texts = (Element(4, "text", "", "hello", (), (1, 1)), Element(5, "push button", "Save", None, (), (2, 2)))
    view = View((Window("window", "Editor", True, texts),))
    assert resolve("click <push button|Save>", view) == "click 5"
    assert resolve('type "<text of text>"', view) == 'type "hello"'
    assert resolve("click <text|hello>", view) == "click 4"
    assert resolve("click <menu|File>", view) is None
    assert resolve("press ctrl+s", view) == "press ctrl+s"
