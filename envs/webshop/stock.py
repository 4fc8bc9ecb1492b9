"""The built-in shop: invented products from `wares.toml`, the same in every process, as many as are asked for.

Product N is drawn from a generator of its own, so that a larger shop begins with the products of a smaller one.
Titles tell some of a product's attributes, features all of them: titles help, reading decides.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from itertools import zip_longest
from random import Random
from typing import Any, TypeVar

from agentkit.envs.webshop.catalogue import Catalogue, Product, goals_of, split_by_wish

Thing = TypeVar("Thing")

NUM_PRODUCTS = 1000
WISHED_SHARE = 0.6
"""Share of the products that somebody is sent to buy."""
RANGE_SHARE = 0.1
"""Share of the products whose price tag names two prices."""
SYLLABLES = ("bel", "cor", "dan", "fir", "gal", "hol", "jun", "kel", "lor", "mar", "nor", "pel", "quin", "ros", "tam")
ENDINGS = ("ano", "by", "dale", "ex", "ford", "ia", "mont", "ora", "ova", "wick", "vale", "zen")
SERIES = ("Atlas", "Breeze", "Comet", "Delta", "Ember", "Fable", "Grove", "Harbor", "Iris", "Juno", "Lumen", "Maple",
          "Nova", "Orbit", "Prism", "Quartz", "Ridge", "Summit", "Tundra", "Vista")  # fmt: skip
SENTENCES = (
    "{}: what our customers praise most",
    "{}, tested in our own workshop",
    "You asked for {}; here it is",
    "Think of {} and you think of us",
)
"""Frames of the feature that tells an attribute; the phrase itself stays as it is, for the reward looks for it."""
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"


def stock_catalogue(num_products: int = NUM_PRODUCTS) -> Catalogue:
    """The built-in shop with its goals, one a combination of options of every wished-for product."""
    kinds = _kinds()
    products: list[Product] = []
    taken: set[str] = set()
    for number in range(num_products):
        department, kind = kinds[number % len(kinds)]
        rng = Random(f"WebShop|stock|{number}")
        product = _product(rng, department, kind)
        while product.asin in taken or product.title in taken:
            product = _product(rng, department, kind)
        taken.update((product.asin, product.title))
        products.append(product)
    return Catalogue(tuple(products), split_by_wish(products, goals_of(products)))


def _kinds() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(department, kind of thing), departments taking turns, so that a small shop sells something of each."""
    text = files("agentkit.envs.webshop").joinpath("wares.toml").read_text(encoding="utf-8")
    departments = tomllib.loads(text)["department"]
    rows = zip_longest(*([(department, kind) for kind in department["kinds"]] for department in departments))
    return [pair for row in rows for pair in row if pair is not None]


def _pick(rng: Random, things: Sequence[Thing], num: int) -> list[Thing]:
    """`num` different things in their own order."""
    chosen = sorted(sorted(range(len(things)), key=lambda _: rng.random())[:num])
    return [things[number] for number in chosen]


def _product(rng: Random, department: dict[str, Any], kind: dict[str, Any]) -> Product:
    before = _pick(rng, department["before"], 2 + int(rng.random() * 2))
    others = _pick(rng, department["with"], 1 + int(rng.random() * 2)), _pick(rng, department["for"], 1)
    title, brand = _title(rng, kind, before, *others)
    attributes = (*before, *others[0], *others[1])
    wish, wished = _wish(rng, kind["query"], before, *others)
    features = [_sentence(SENTENCES[number % len(SENTENCES)], phrase) for number, phrase in enumerate(attributes)]
    return Product(
        asin="B0" + "".join(LETTERS[int(rng.random() * len(LETTERS))] for _ in range(8)),
        title=title,
        query=kind["query"],
        product_category=f"{department['name']} › {kind['path']}",
        description=f"{brand} makes {kind['query']} in small series. " + ". ".join(_pick(rng, features, 2)) + ".",
        features=tuple(sorted(features, key=lambda _: rng.random())),
        pricing=_pricing(rng, *kind["prices"]),
        options=_options(rng, department["options"]),
        attributes=attributes,
        wish=wish,
        wished=wished,
    )


def _sentence(frame: str, phrase: str) -> str:
    words = frame.format(phrase)
    return words[0].upper() + words[1:]


def _title(rng: Random, kind: dict[str, Any], before: list[str], having: list[str], use: list[str]) -> tuple[str, str]:
    """(title, brand)"""
    brand = (SYLLABLES[int(rng.random() * len(SYLLABLES))] + ENDINGS[int(rng.random() * len(ENDINGS))]).capitalize()
    series = SERIES[int(rng.random() * len(SERIES))]
    name = kind["names"][int(rng.random() * len(kind["names"]))]
    words = [brand, series, *(phrase.title() for phrase in before[:1]), name]
    if rng.random() < 0.5:
        words += ["with", having[0].title()]
    if rng.random() < 0.3:
        words += ["for", use[0].title()]
    return " ".join(words), brand


def _wish(rng: Random, query: str, before: list[str], having: list[str], use: list[str]) -> tuple[str, tuple[str, ...]]:
    """An instruction without options and price, and the attributes it names; ('', ()) if nobody wants the product."""
    if rng.random() >= WISHED_SHARE:
        return "", ()
    first = _pick(rng, before, 1 + int(rng.random() * 2))
    text = f"Find me {', '.join(first)} {query}"
    wished = list(first)
    for word, phrases, chance in (("with", having, 0.5), ("for", use, 0.3)):
        if rng.random() < chance:
            wished.append(phrases[-1])
            text += f" {word} {phrases[-1]}"
    return text, tuple(wished)


def _pricing(rng: Random, least: float, most: float) -> tuple[float, ...]:
    """One price, or now and then two; cheap things are more frequent, as on a logarithmic scale."""
    price = int(least * (most / least) ** rng.random()) + 0.99
    if rng.random() >= RANGE_SHARE:
        return (price,)
    return price, round(price * (1.2 + rng.random()), 2)


def _options(rng: Random, offered: dict[str, list[str]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Most products leave a choice of 2 to 5 values in every option; some leave none."""
    return tuple(
        (name, tuple(_pick(rng, values, 2 + int(rng.random() * 4))))
        for name, values in offered.items()
        if rng.random() < 0.8
    )
