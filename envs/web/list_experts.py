"""Experts on pages where one chooses among many: boxes, options, mails, posts."""

from __future__ import annotations

import re

from agentkit.envs.gestures import quote
from agentkit.envs.web.elements import Element
from agentkit.envs.web.scene import Scene, fill, solves


@solves("click-checkboxes", "click-checkboxes-large", "click-checkboxes-transfer", "click-option", most=13)
def check_boxes(scene: Scene) -> str | None:
    names = scene.reading("Select (.+) and click Submit")[1].split(", ")
    return scene.missing_click(names) or scene.click("Submit")


@solves("choose-list", most=2)
def choose_from_list(scene: Scene) -> str | None:
    name, field = scene.reading("Select (.+) from the list")[1], scene.of("select")[0]
    return f"select {field.number} {quote(name)}" if field.value != name else scene.click("Submit")


@solves("click-scroll-list", most=3)
def choose_several(scene: Scene) -> str | None:
    names, field = scene.reading("Select (.+) from the scroll list")[1].split(", "), scene.of("select")[0]
    if len(scene.played) < len(names):
        return f"select {field.number} {quote(names[len(scene.played)])}"
    return scene.click("Submit")


@solves("odd-or-even", most=4)
def tell_odd_from_even(scene: Scene) -> str | None:
    for index, element in enumerate(scene.elements):
        if element.role == "text" and re.fullmatch(r"-?\d+", element.name):
            button = scene.elements[index - 1 if int(element.name) % 2 else index + 1]
            if not scene.tried(button):
                return f"click {button.number}"
    return scene.click("Submit")


@solves("social-media-all", "social-media-some", most=13)
def act_on_posts(scene: Scene) -> str | None:
    action, user = scene.reading(r'"([^"]+)" button on .* by (\S+) and').groups()
    found = re.search(r"on (\d+) posts? by", scene.utterance)
    kind = {"Reply": "reply", "Retweet": "retweet", "Like": "like", "Share": "share"}[action]
    most, acted = int(found[1]) if found else len(scene.elements), 0
    owner = ""
    for element in scene.elements:
        if element.name.startswith("@"):
            owner = element.name
        if owner == user and element.classes.split()[:1] == [kind] and acted < most:
            acted += 1
            if "active" not in element.classes.split():
                return f"click {element.number}"
    return scene.click("Submit")


@solves(
    "email-inbox",
    "email-inbox-delete",
    "email-inbox-forward",
    "email-inbox-important",
    "email-inbox-noscroll",
    "email-inbox-reply",
    "email-inbox-star-reply",
    most=4,
)
def handle_mail(scene: Scene) -> str | None:
    sender = scene.reading(r"email by (\S+) and")[1]
    mail = scene.after(sender)
    if "trash icon" in scene.utterance:
        return f"click {_icon(mail, 'trash').number}"
    if "star icon" in scene.utterance:
        return f"click {_icon(mail, 'star').number}"
    forward = re.search(r"forward that email to ([^ .]+)", scene.utterance)
    match len(scene.played):
        case 0:
            return next(f"click {one.number}" for one in scene.elements if one.name == sender)
        case 1:
            return scene.click("Forward" if forward else "Reply")
        case 2:
            return fill(_field(scene), forward[1] if forward else scene.strings[0])
    return f"click {next(one for one in scene.elements if one.id in ('send-reply', 'send-forward')).number}"


def _icon(elements: list[Element], kind: str) -> Element:
    return next(element for element in elements if kind in element.classes.split())


def _field(scene: Scene) -> Element:
    return next(element for element in scene.elements if element.editable)
