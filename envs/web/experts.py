"""Experts on pages where one clicks the right thing; importing this module also loads those on forms and lists."""

from __future__ import annotations

import re

from agentkit.envs.web import form_experts, list_experts  # noqa: F401 - they enter themselves into EXPERTS
from agentkit.envs.web.scene import EXPERTS, ORDINALS, Scene, quoted_strings, solves

__all__ = ["EXPERTS", "Scene", "quoted_strings"]

RGB = {
    "red": "rgb(255, 0, 0)",
    "blue": "rgb(0, 0, 255)",
    "olive": "rgb(128, 128, 0)",
    "lime": "rgb(0, 255, 0)",
    "black": "rgb(0, 0, 0)",
    "white": "rgb(255, 255, 255)",
    "grey": "rgb(128, 128, 128)",
    "purple": "rgb(128, 0, 128)",
    "orange": "rgb(255, 165, 0)",
    "yellow": "rgb(255, 255, 0)",
    "cyan": "rgb(0, 255, 255)",
    "pink": "rgb(255, 192, 203)",
    "magenta": "rgb(255, 0, 255)",
}
"""CSS's names of colours -> how a browser writes them."""
WIDGETS = {"radio": "radio", "checkbox": "checkbox", "text": "textbox", "textarea": "textarea", "button": "button"}


@solves("click-test", "click-test-2", "click-test-transfer", most=1)
def click_first_button(scene: Scene) -> str | None:
    return scene.click("ONE") or scene.click("Click Me!")


@solves("click-button", "unicode-test", "click-link", most=1)
def click_quoted(scene: Scene) -> str | None:
    return scene.click(scene.strings[0])


@solves("click-button-sequence", most=2)
def click_in_turn(scene: Scene) -> str | None:
    return scene.click("TWO" if scene.played else "ONE")


@solves("button-delay", most=5)
def click_wait_click(scene: Scene) -> str | None:
    # The first click and the hovering take half a second of the page's time each, a wait one.
    seconds = int(scene.reading(r"wait (\d+) seconds")[1])
    if not scene.played:
        return scene.click("ONE")
    if len(scene.played) <= seconds:
        return "hover at 1 1" if len(scene.played) == 1 else "wait"
    return scene.click("TWO")


@solves("focus-text", "focus-text-2", most=1)
def click_textbox(scene: Scene) -> str | None:
    place = next((index for index, ordinal in enumerate(ORDINALS) if ordinal in scene.utterance), 0)
    return f"click {scene.of('textbox')[place].number}"


@solves("click-dialog", "click-dialog-2", most=1)
def click_in_dialog(scene: Scene) -> str | None:
    return scene.click("Close" if scene.strings[0] == "x" else scene.strings[0])


@solves("click-tab", most=1)
def click_tab(scene: Scene) -> str | None:
    return scene.click(scene.reading(r"(Tab #\d+)")[1], "link")


@solves("click-tab-2", "click-tab-2-easy", "click-tab-2-medium", "click-tab-2-hard", most=8)
def search_tabs(scene: Scene) -> str | None:
    for element in scene.elements:
        if element.press and element.tag == "span" and element.name == scene.strings[0]:
            return f"click {element.number}"
    tabs = [tab for tab in scene.of("link") if not scene.tried(tab)]
    return f"click {tabs[1 if len(tabs) > 1 and not scene.played else 0].number}" if tabs else None


@solves("click-collapsible", "click-collapsible-nodelay", most=2)
def expand_and_submit(scene: Scene) -> str | None:
    return scene.click("Submit") if scene.played else f"click {scene.of('tab')[0].number}"


@solves("click-collapsible-2", "click-collapsible-2-nodelay", most=4)
def search_sections(scene: Scene) -> str | None:
    for element in scene.elements:
        if element.press and element.tag == "span" and element.name == scene.strings[0]:
            return f"click {element.number}"
    closed = [tab for tab in scene.of("tab") if not scene.tried(tab)]
    return f"click {closed[0].number}" if closed else None


@solves("click-color", most=1)
def click_colour(scene: Scene) -> str | None:
    wanted = RGB[scene.reading(r"the (\w+) colored")[1]]
    return next((f"click {one.number}" for one in scene.elements if one.press and one.colour == wanted), None)


@solves("click-shades", most=13)
def click_shades(scene: Scene) -> str | None:
    wanted = ("red", "green", "blue").index(scene.reading(r"shades of (\w+)")[1])
    for element in scene.elements:
        channels = [int(number) for number in re.findall(r"\d+", element.colour)]
        if element.tag == "span" and channels and not scene.tried(element) and channels[wanted] == max(channels):
            return f"click {element.number}"
    return scene.click("Submit")


@solves("click-widget", most=1)
def click_widget(scene: Scene) -> str | None:
    return f"click {scene.of(WIDGETS[scene.strings[0]])[0].number}"


@solves("identify-shape", most=1)
def name_shape(scene: Scene) -> str | None:
    shape = scene.elements[0]
    if shape.tag == "text":
        return scene.click("Number" if shape.name.isdigit() else "Letter")
    return scene.click({"rect": "Rectangle", "circle": "Circle"}.get(shape.tag, "Triangle"))


@solves("grid-coordinate", most=1)
def click_coordinate(scene: Scene) -> str | None:
    across, up = (int(number) for number in scene.reading(r"\((-?\d+),(-?\d+)\)").groups())
    points = scene.of("circle")
    xs, ys = sorted({point.x for point in points}), sorted({point.y for point in points})
    place = (xs[2 + across], ys[2 - up])
    return next((f"click {point.number}" for point in points if (point.x, point.y) == place), None)


@solves("ascending-numbers", most=5)
def click_ascending(scene: Scene) -> str | None:
    # The first click hides the numbers; the covers lie in the numbers' order.
    if not scene.played:
        return scene.click("1")
    covers = scene.of("rect")
    return f"click {covers[0].number}" if covers else None


@solves("navigate-tree", most=12)
def open_folders(scene: Scene) -> str | None:
    found = scene.find(scene.strings[0])
    if found is not None:
        return f"click {found.number}"
    folders = [one for one in scene.elements if "expandable" in one.classes and not scene.tried(one)]
    return f"click {folders[0].number}" if folders else None


@solves("phone-book", most=6)
def search_contacts(scene: Scene) -> str | None:
    name, detail = scene.reading(r"Find (.+) in the contact book and click on their (\w+)").groups()
    if scene.find(name, "heading"):
        return f"click {scene.after(detail.capitalize() + ':')[0].number}"
    return scene.click(">", "link")


@solves("social-media", most=2)
def act_on_post(scene: Scene) -> str | None:
    user, action = scene.reading(r'user (\S+), click on the "([^"]+)" button').groups()
    post = scene.after(user)
    if action in ("Reply", "Retweet", "Like"):
        return next(f"click {icon.number}" for icon in post if icon.classes == action.lower())
    for entry in post[: 1 if not scene.played else 14]:
        if entry.name.startswith(action):
            return f"click {entry.number}"
    return next(f"click {icon.number}" for icon in post if icon.classes == "more")


@solves("buy-ticket", most=1)
def buy_ticket(scene: Scene) -> str | None:
    wish = scene.reading(r"with the (.+)\.")[1]
    offers = []
    for index, element in enumerate(scene.elements):
        if element.role == "button":
            hours, minutes = (int(number) for number in re.findall(r"\d+", scene.elements[index - 1].name))
            price = int(re.sub(r"\D", "", element.name))
            offers.append((price if "cost" in wish else 60 * hours + minutes, element.number))
    return f"click {(min if wish.startswith(('cheapest', 'shortest')) else max)(offers)[1]}"
