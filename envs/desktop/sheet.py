"""Chores in the spreadsheet, Gnumeric, and how to read the workbooks that it writes."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from random import Random
from xml.etree import ElementTree

from agentkit.envs.desktop.chores import Chore, Values, draw_words, listing

NAMESPACE = "http://www.gnumeric.org/v10.dtd"
ROWS = 5
"""Rows of data under the heading; the amounts are in column B, rows 2 to 6."""
LARGEST = 1_000_000
"""Bytes of XML beyond which a workbook is not read: ours have a few thousand."""
_SHEET = (("gnumeric", "--no-splash", "{file}"),)
_REFERENCES = r"[A-Z]\d{1,4}(?::[A-Z]\d{1,4})?"
_TERM = re.compile(rf"SUM\(({_REFERENCES}(?:[,;]{_REFERENCES})*)\)|([A-Z]\d{{1,4}})")
Cells = dict[str, str]
"""Cell, such as `B4`, -> what was entered in it."""


def workbook(cells: Mapping[str, str]) -> str:
    """A workbook with one sheet, as XML that Gnumeric opens."""
    rows = []
    for cell, text in cells.items():
        column, row = ord(cell[0]) - ord("A"), int(cell[1:]) - 1
        kind = 40 if text.isdigit() else 60
        rows.append(f'<gnm:Cell Row="{row}" Col="{column}" ValueType="{kind}">{text}</gnm:Cell>')
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><gnm:Workbook xmlns:gnm="{NAMESPACE}">'
        "<gnm:SheetNameIndex><gnm:SheetName>Sheet1</gnm:SheetName></gnm:SheetNameIndex><gnm:Sheets><gnm:Sheet>"
        f"<gnm:Name>Sheet1</gnm:Name><gnm:Cells>{''.join(rows)}</gnm:Cells>"
        "</gnm:Sheet></gnm:Sheets></gnm:Workbook>"
    )


def read_cells(raw: bytes | None) -> Cells:
    """The cells of a workbook's first sheet; empty if `raw` is no workbook."""
    if raw is None:
        return {}
    try:
        text = _unpack(raw) if raw.startswith(b"\x1f\x8b") else raw
        if len(text) > LARGEST or b"<!DOCTYPE" in text:
            return {}
        sheet = ElementTree.fromstring(text).find(f".//{{{NAMESPACE}}}Sheet")
    except (zlib.error, ElementTree.ParseError):
        return {}
    cells = sheet.iter(f"{{{NAMESPACE}}}Cell") if sheet is not None else ()
    return {f"{chr(ord('A') + int(one.get('Col', 0)))}{int(one.get('Row', 0)) + 1}": one.text or "" for one in cells}


def evaluate(entry: str, cells: Cells) -> float | None:
    """The value of a number, or of a formula that adds up cells and ranges of one column; None for anything else.

    >>> evaluate("=sum(B2:B3)+B5", {"B2": "1", "B3": "20", "B5": "300"}), evaluate("=B2*2", {"B2": "1"})
    (321.0, None)
    """
    if not entry.startswith("="):
        return _number(entry)
    total = 0.0
    for term in entry[1:].replace(" ", "").upper().split("+"):
        found = _TERM.fullmatch(term)
        if found is None:
            return None
        for reference in re.split("[,;]", found[1] or found[2]):
            first, _, last = reference.partition(":")
            if last and last[0] != first[0]:
                return None
            rows = range(int(first[1:]), int((last or first)[1:]) + 1)
            total += sum(_number(cells.get(f"{first[0]}{row}", "")) or 0.0 for row in rows)
    return total


def _unpack(raw: bytes) -> bytes:
    """The beginning of a compressed file, so that nothing small can unpack into something huge."""
    return zlib.decompressobj(wbits=31).decompress(raw, LARGEST + 1)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _draw(rng: Random) -> Values:
    words = draw_words(rng, ROWS + 1)
    amounts = [str(10 + int(rng.random() * 90)) for _ in range(ROWS)]
    row = 2 + int(rng.random() * ROWS)
    return {
        "file": f"{words[ROWS]}.gnumeric",
        "cell": f"C{row}",
        "value": str(100 + int(rng.random() * 900)),
        "items": " ".join(words[:ROWS]),
        "amounts": " ".join(amounts),
        "total": str(sum(map(int, amounts))),
        "below": f"B{ROWS + 2}",
    }


def _cells(values: Values) -> Cells:
    cells = {"A1": "item", "B1": "amount"}
    for row, (item, amount) in enumerate(zip(values["items"].split(), values["amounts"].split(), strict=True), 2):
        cells[f"A{row}"], cells[f"B{row}"] = item, amount
    return cells


def _files(values: Values) -> dict[str, str]:
    return {values["file"]: workbook(_cells(values))}


def _filled(home: Path, values: Values) -> bool:
    return read_cells(listing(home).get(values["file"])) == _cells(values) | {values["cell"]: values["value"]}


def _summed(home: Path, values: Values) -> bool:
    cells = read_cells(listing(home).get(values["file"]))
    total = cells.pop(values["below"], "")
    return cells == _cells(values) and evaluate(total, cells) == float(values["total"])


_GO_TO = ("click <text|A1>", "press ctrl+a")
"""The box that names the current cell goes to the one that is typed into it."""

CHORES = (
    Chore(
        "fill_cell",
        _SHEET,
        "Put the number {value} into cell {cell} of {file} and save it.",
        _draw,
        _files,
        _filled,
        (*_GO_TO, 'type "{cell}\\n"', 'type "{value}\\n"', "press ctrl+s", "done"),
    ),
    Chore(
        "sum_column",
        _SHEET,
        "Put the sum of the amounts in B2 to B6 into cell {below} of {file} and save it.",
        _draw,
        _files,
        _summed,
        (*_GO_TO, 'type "{below}\\n"', 'type "=sum(B2:B6)\\n"', "press ctrl+s", "done"),
    ),
)
