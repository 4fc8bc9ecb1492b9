"""Experts on pages where one fills in fields and submits."""

from __future__ import annotations

import re
from itertools import pairwise

from agentkit.envs.web.elements import Element
from agentkit.envs.web.scene import ORDINALS, Scene, fill, solves

FIELDS = ("textbox", "textarea", "password", "spinbutton", "date", "time")
"""Roles of what can be filled in."""


@solves("enter-text", "enter-text-dynamic", "enter-password", most=3)
def enter_string(scene: Scene) -> str | None:
    for field in scene.of(*FIELDS):
        if gesture := fill(field, scene.strings[0]):
            return gesture
    return scene.click("Submit")


@solves("enter-text-2", most=2)
def enter_in_case(scene: Scene) -> str | None:
    text = scene.strings[0].upper() if "upper case" in scene.utterance else scene.strings[0].lower()
    return fill(scene.of("textbox")[0], text) or scene.click("Submit")


@solves("enter-date", most=2)
def enter_date(scene: Scene) -> str | None:
    month, day, year = scene.reading(r"(\d\d)/(\d\d)/(\d{4})").groups()
    return fill(scene.of("date")[0], f"{year}-{month}-{day}") or scene.click("Submit")


@solves("enter-time", most=2)
def enter_time(scene: Scene) -> str | None:
    hours, minutes, half = scene.reading(r"(\d+):(\d\d)\s?([AP])M").groups()
    return fill(scene.of("time")[0], f"{int(hours) % 12 + 12 * (half == 'P'):02}:{minutes}") or scene.click("Submit")


@solves("login-user", "login-user-popup", most=5)
def log_in(scene: Scene) -> str | None:
    if cancel := scene.find("Cancel"):
        return f"click {cancel.number}"
    for field, text in zip(scene.of("textbox", "password"), scene.strings, strict=True):
        if gesture := fill(field, text):
            return gesture
    return scene.click("Login") or scene.click("OK")


@solves("text-transform", most=2)
def copy_letters(scene: Scene) -> str | None:
    field = scene.of("textbox")[0]
    letters = "".join(one.name for one in scene.elements if one.role == "text" and one.number is not None)
    return fill(field, letters) or scene.click("Submit")


@solves("simple-arithmetic", most=2)
def calculate(scene: Scene) -> str | None:
    found = re.search(r"(-?\d+)\s*([-+*x×])\s*(-?\d+)", scene.elements[0].name)
    if found is None:
        return None
    left, right = int(found[1]), int(found[3])
    result = left + right if found[2] == "+" else left - right if found[2] == "-" else left * right
    return fill(scene.of(*FIELDS)[0], str(result)) or scene.click("Submit")


@solves("simple-algebra", most=2)
def solve_for_x(scene: Scene) -> str | None:
    found = re.search(r"(x|\d+) ([-+]) (x|\d+) = (-?\d+)", scene.elements[0].name)
    if found is None:
        return None
    left, sign, right, result = found[1], found[2], found[3], int(found[4])
    if left == "x":
        x = result - int(right) if sign == "+" else result + int(right)
    else:
        x = result - int(left) if sign == "+" else int(left) - result
    return fill(scene.of(*FIELDS)[0], str(x)) or scene.click("Submit")


@solves("find-word", most=2)
def find_word(scene: Scene) -> str | None:
    words = scene.elements[0].name.split()
    word = re.sub(r"[^A-Za-z0-9]", "", words[int(scene.reading(r"(\d+)(?:st|nd|rd|th) word")[1]) - 1])
    return fill(scene.of("textbox")[0], word) or scene.click("Submit")


@solves("scroll-text", most=2)
def enter_last_word(scene: Scene) -> str | None:
    text = scene.of("textarea")[0].value or ""
    return fill(scene.of("textbox")[0], text.split()[-1].rstrip(".")) or scene.click("Submit")


@solves("copy-paste", "copy-paste-2", most=6)
def copy_and_paste(scene: Scene) -> str | None:
    place = next((index for index, ordinal in enumerate(ORDINALS) if ordinal in scene.utterance), 0)
    source, goal = scene.of("textarea")[place].number, scene.of("textbox")[0].number
    keys = [f"click {source}", "press ctrl+a", "press ctrl+c", f"click {goal}", "press ctrl+v"]
    return keys[len(scene.played)] if len(scene.played) < len(keys) else scene.click("Submit")


@solves("read-table", most=2)
def enter_cell(scene: Scene) -> str | None:
    wanted = scene.reading("value of (.+) into")[1]
    return fill(scene.of("textbox")[0], _cell(scene, wanted)) or scene.click("Submit")


@solves("read-table-2", most=3)
def enter_cells(scene: Scene) -> str | None:
    for label, field in pairwise(scene.elements):
        if field.role == "textbox" and (gesture := fill(field, _cell(scene, label.name.rstrip(":")))):
            return gesture
    return scene.click("Submit")


@solves("multi-layouts", "multi-orderings", most=4)
def search_movies(scene: Scene) -> str | None:
    genre, director, year = scene.reading(r"for (.+) movies directed by (.+) from year (\d+)").groups()
    wanted = {"genre": genre, "director": director, "year": year, "date": year}
    labels = [one for one in scene.elements if any(word in one.name.lower().split(":")[0] for word in wanted)]
    for label, field in zip(labels, scene.of("textbox"), strict=False):
        text = next(text for word, text in wanted.items() if word in label.name.lower())
        if gesture := fill(field, text):
            return gesture
    return next(filter(None, map(scene.click, ("Submit", "Search", "Go!"))), None)


@solves("guess-number", most=8)
def guess(scene: Scene) -> str | None:
    # Bisection: what was submitted last says whether the number is higher or lower; earlier guesses are in the play.
    low, high = 0, 9
    field, said = scene.of("spinbutton")[0], scene.elements[0].name
    guesses = [int(gesture.text) for gesture in scene.played if gesture.kind == "fill"]
    middle = 0
    for index, made in enumerate(guesses):
        middle = made
        later = guesses[index + 1] if index + 1 < len(guesses) else None
        if later is None and (not scene.played or scene.played[-1].kind == "fill"):
            return scene.click("Submit")
        higher = later > made if later is not None else "higher" in said
        low, high = (made + 1, high) if higher else (low, made - 1)
    middle = (low + high) // 2
    return f'fill {field.number} "{middle}"'


@solves("form-sequence-2", most=3)
def fill_form(scene: Scene) -> str | None:
    radio, text, box = scene.reading(r'Check the (\w+) radio .* number "(-?\d+)" into the (\w+) textbox').groups()
    button = scene.of("radio")[ORDINALS.index(radio)]
    if "checked" not in button.states:
        return f"click {button.number}"
    return fill(scene.of("textbox")[ORDINALS.index(box)], text) or scene.click("Submit")


@solves("use-spinner", most=13)
def press_spinner(scene: Scene) -> str | None:
    wanted, field = int(scene.reading(r"Select (-?\d+) with")[1]), scene.of("spinbutton")[0]
    held = int(field.value or 0)
    up, down = (one for one in scene.of("button") if "ui-spinner-button" in one.classes)
    if held == wanted:
        return scene.click("Submit")
    return f"click {(up if wanted > held else down).number}"


@solves("search-engine", most=6)
def search_and_pick(scene: Scene) -> str | None:
    place = int(scene.reading(r"the (\d+)\w\w search result")[1]) - 1
    if len(scene.played) < 2:
        return fill(scene.of("textbox")[0], scene.strings[0]) or scene.click("Search")
    if len(scene.played) - 2 < place // 3:
        return scene.click(">", "link")
    results = [link for link in scene.of("link") if link.classes == "search-title"]
    return f"click {results[place % 3].number}"


@solves("scroll-text-2", most=3)
def scroll_to_end(scene: Scene) -> str | None:
    key = "ctrl+end" if "bottom" in scene.utterance else "ctrl+home"
    gestures = [f"click {scene.of('textarea')[0].number}", f"press {key}"]
    return gestures[len(scene.played)] if len(scene.played) < 2 else scene.click("Submit")


def _cell(scene: Scene, row: str) -> str:
    """What the table holds beside `row`."""
    cells: list[Element] = scene.of("cell")
    return next(value.name for name, value in pairwise(cells) if name.name == row)
