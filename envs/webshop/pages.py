"""A session's page as a list of elements, and the three ways of showing it: `text`, `text_rich` and `html`.

The first two are the original's formats to the letter. The markup is our own; it keeps the original's ids and
classes, shows what the texts show, and every click is a form, so that it needs no scripts.
"""

from __future__ import annotations

import json
from html import escape
from typing import NamedTuple

from agentkit.envs.webshop.catalogue import Goal
from agentkit.envs.webshop.shop import DETAILS, DONE, ITEM, RESULTS, SEARCH, Session, Shop

RATING = "N.A."
"""The published WebShop comes without ratings and reviews."""


class Element(NamedTuple):
    """A piece of a page."""

    kind: str
    """`heading`, `text`, `hidden` (text a browser does not show), `button`, `search` (field and button), `product`
    or `option`."""
    text: str
    """What it says; what is clickable is clicked by this text."""
    clicked: bool = False
    """Whether it is a product looked at before, or an option that is chosen."""


def page_of(shop: Shop, session: Session, goal: Goal) -> list[Element]:
    """The elements of a session's page from top to bottom; empty texts are left out."""
    if session.page == DONE:
        return _done(session)
    if session.page == SEARCH:
        found = [Element("heading", "WebShop"), Element("text", "Instruction: "), Element("text", goal.instruction)]
        return [*found, Element("search", "Search")]
    found = [Element("text", "Instruction:"), Element("text", goal.instruction), Element("button", "Back to Search")]
    if session.page == RESULTS:
        found += _results(shop, session)
    elif session.page == ITEM:
        found += _item(shop, session)
    else:
        product = shop.product(session)
        texts = {"description": (product.description,), "features": tuple(f" {one}" for one in product.features)}
        found.append(Element("button", "< Prev"))
        found += [Element("text", text) for text in texts.get(session.page, ()) if text.strip()]
    return found


def _results(shop: Shop, session: Session) -> list[Element]:
    found = [Element("text", f"Page {session.number} (Total results: {len(shop.results(session))})")]
    if session.number > 1:
        found.append(Element("button", "< Prev"))
    found.append(Element("button", "Next >"))
    for asin in shop.shown(session):
        product = shop.catalogue.by_asin[asin]
        found += [
            Element("product", asin, asin in session.visited),
            Element("text", product.title),
            Element("text", product.price_tag),
        ]
    return found


def _item(shop: Shop, session: Session) -> list[Element]:
    product, chosen = shop.product(session), dict(session.options)
    found = [Element("button", "< Prev")]
    for name, values in product.options:
        found.append(Element("text", name))
        found += [Element("option", value, chosen.get(name) == value) for value in values if value]
    texts = (product.title, f"Price: {product.price_tag}", f"Rating: {RATING}")
    found += [Element("text", text) for text in texts]
    return found + [Element("button", name.capitalize()) for name in DETAILS] + [Element("button", "Buy Now")]


def _done(session: Session) -> list[Element]:
    """The original's last page, with the blanks that it fills in only for people."""
    shown = ["Thank you for shopping with us!", "Your code: ", "None", " (Paste it in your MTurk interface.)"]
    hidden = ["Purchased", "asin", session.asin, "options", json.dumps(dict(session.options))]
    hidden += ["attrs", "None", "category", "None", "query", "None", "product category", "None"]
    hidden += ["Target", "asin", "options", "attrs", "price upper", "instuction text", "category"]
    hidden += ["product category", "query", "Goal ", "None", "Reward"]
    score = ["Your score (min 0.0, max 1.0)", str(session.reward)]
    return [
        *(Element("text", text) for text in shown),
        *(Element("hidden", text) for text in hidden),
        *(Element("text", text) for text in score),
        *(Element("hidden", text) for text in ("Reward Details ", "None")),
    ]


def as_text(elements: list[Element]) -> str:
    """Texts in a row, separated by `[SEP]`: the original's `text` mode."""
    return " [SEP] ".join(element.text.strip() for element in elements)


def as_rich_text(elements: list[Element]) -> str:
    """A line an element, clickable ones marked: the original's `text_rich` mode."""
    lines: list[str] = []
    news: list[str] = []
    for kind, text, clicked in elements:
        if kind in ("button", "search"):
            lines.append(f"[button] {text} [button_]")
        elif kind in ("option", "product"):
            mark = "clicked button" if clicked else "button"
            lines.append(f"{'  ' if kind == 'option' else chr(10)}[{mark}] {text} [{mark}_]")
            if clicked and kind == "option":
                news.insert(0, f"You have clicked {text}.")
        else:
            lines.append(text)
    return "".join(f"{line}\n" for line in news + lines)


def as_html(elements: list[Element]) -> str:
    """A whole page of markup in which every text is escaped; clicks and searches are posted to the page itself."""
    body = "\n".join(_markup(element) for element in elements)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>WebShop</title>\n'
        f'<link rel="stylesheet" href="/style.css">\n</head>\n<body>\n{body}\n</body>\n</html>\n'
    )


def _markup(element: Element) -> str:
    kind, text, clicked = element
    shown = escape(text)
    if kind == "heading":
        return f"<h1>{shown}</h1>"
    if kind == "text":
        return f"<p>{shown}</p>"
    if kind == "hidden":
        return f"<p hidden>{shown}</p>"
    if kind == "search":
        return (
            '<form method="post"><input id="search_input" name="search" placeholder="Search..." required>\n'
            f'<button class="btn" type="submit">{shown}</button></form>'
        )
    names = {"button": "btn", "product": "product-link", "option": "option"}
    pressed = ' aria-pressed="true"' if clicked else ""
    button = f'<button class="{names[kind]}" name="click" value="{shown}"{pressed}>{shown}</button>'
    return f'<form method="post">{button}</form>'


STYLE = """\
body { font: 16px/1.4 sans-serif; max-width: 60rem; margin: 1rem auto; padding: 0 1rem; }
form { display: inline-block; margin: 0.1rem; }
p { margin: 0.4rem 0; }
.option[aria-pressed="true"] { background: #245; color: #fff; }
.product-link { display: block; margin-top: 1rem; font-weight: bold; }
"""
"""Style sheet of the markup."""
