"""Catalogues from WebShop's own files, as its setup script and RAGEN's data distribute them."""

from __future__ import annotations

import gzip
import json
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

from agentkit.envs.webshop.catalogue import (
    NUM_TEST,
    NUM_VALIDATION,
    Catalogue,
    Product,
    goals_of,
    split_by_order,
    split_by_wish,
)
from agentkit.errors import ConfigError, MissingPartError

PRODUCT_FILES = ("products", "items_shuffle", "items_shuffle_1000")
ATTRIBUTE_FILES = ("items_ins", "items_ins_v2", "items_ins_v2_1000")
HUMAN_FILES = ("items_human_ins",)
"""Names looked for, without `.json` or `.json.gz`; the first that is there is read."""
SMALL = 1000
"""Up to so many products, the original's small files are preferred."""
UNKNOWN_PRICE = 100.0
"""Dollars that a product without a price costs in the original."""
NO_ATTRIBUTE = "DUMMY_ATTR"
"""Stands for the attributes of a product that has none."""


def load_catalogue(folder: Path, num_products: int | None = None, human_goals: bool = False) -> Catalogue:
    """The catalogue in a folder.

    Args:
        folder: holds `items_shuffle*.json` and `items_ins_v2*.json` (original) or `products.json` and
            `items_ins.json` (RAGEN), each also with `.gz`; for human goals also `items_human_ins.json`, unless
            the products hold their instructions themselves.
        num_products: how many of the first products; None for all.
        human_goals: whether goals are those that people wrote.

    Raises:
        MissingPartError: the folder or a file in it is not there.
        ConfigError: a file is damaged, or holds no usable product or goal.
    """
    if not folder.is_dir():
        raise MissingPartError(f"no folder {str(folder)!r}; {_WAY_OUT}")
    small = num_products is not None and num_products <= SMALL
    entries = _read(_find(folder, PRODUCT_FILES, small), list)
    attributes = _read(_find(folder, ATTRIBUTE_FILES, small), dict)
    human: dict[str, Any] = {}
    if human_goals and any(_paths(folder, HUMAN_FILES)):
        human = _read(_find(folder, HUMAN_FILES, small), dict)
    products, num_skipped = _products(entries[:num_products], attributes, human)
    if not products:
        raise ConfigError(f"{folder} holds no usable product: {num_skipped} of {len(entries)} lack what they need")
    goals = goals_of(products, human_goals)
    ordered = len(goals) > NUM_TEST + NUM_VALIDATION
    splits = split_by_order(goals) if ordered else split_by_wish(products, goals)
    return Catalogue(products, splits, num_skipped)


_WAY_OUT = (
    "get WebShop's files with the setup script of github.com/princeton-nlp/WebShop, or leave `catalogue` out to "
    "play the built-in shop"
)


def _paths(folder: Path, names: tuple[str, ...]) -> list[Path]:
    tried = [folder / f"{name}{suffix}" for name in names for suffix in (".json", ".json.gz")]
    return [path for path in tried if path.is_file()]


def _find(folder: Path, names: tuple[str, ...], small: bool) -> Path:
    found = _paths(folder, tuple(sorted(names, key=lambda name: not name.endswith("_1000"))) if small else names)
    if not found:
        wanted = " or ".join(f"{name}.json[.gz]" for name in names)
        raise MissingPartError(f"{str(folder)!r} has no {wanted}; {_WAY_OUT}")
    return found[0]


def _read(path: Path, kind: type) -> Any:
    """The JSON in a file, compressed or not."""
    try:
        data = path.read_bytes()
        found = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({type(error).__name__}: {error}); fetch it again") from error
    if not isinstance(found, kind):
        raise ConfigError(f"{path} holds a {type(found).__name__}, needed a {kind.__name__}; fetch it again")
    return found


def _products(entries: list[Any], attributes: dict[str, Any], human: dict[str, Any]) -> tuple[tuple[Product, ...], int]:
    """The usable products, each id once, and how many entries were of no use."""
    products: dict[str, Product] = {}
    num_skipped = 0
    for entry in entries:
        try:
            product = _product(entry, attributes, human)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            num_skipped += 1
            continue
        if product.asin != "NAN" and len(product.asin) <= 10:  # the original's own filter
            products.setdefault(product.asin, product)
    if num_skipped:
        warnings.warn(f"{num_skipped} of {len(entries)} products lack what they need: left out", stacklevel=4)
    return tuple(products.values()), num_skipped


def _product(entry: dict[str, Any], attributes: dict[str, Any], human: dict[str, Any]) -> Product:
    asin = entry["asin"]
    if entry["name"] is None:
        raise ValueError("a product needs a name")
    known = attributes.get(asin, {})
    instructions = human.get(asin) or entry.get("instructions") or []
    features = entry["BulletPoints"] if "BulletPoints" in entry else entry["small_description"]
    return Product(
        asin=asin.upper(),
        title=_text(entry["name"]),
        query=entry["query"].lower().strip(),
        product_category=_text(entry["product_category"]),
        description=_text(entry["Description"] if "Description" in entry else entry["full_description"]),
        features=_texts(features) if isinstance(features, list) else (_text(features),),
        pricing=_pricing(entry.get("pricing")),
        options=_options(entry),
        attributes=_texts(known.get("attributes") or entry.get("Attributes") or [NO_ATTRIBUTE]),
        wish=_text(known.get("instruction")) if known.get("instruction_attributes") else "",
        wished=_texts(known.get("instruction_attributes") or []),
        human=tuple(
            (_text(one["instruction"]), _texts(one["instruction_attributes"]), _texts(one["instruction_options"]))
            for one in instructions
            if one["instruction_attributes"]
        ),
    )


def _text(value: Any) -> str:
    """A text, '' for null; whatever else stands there is no product's."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"needed a text, got {value!r}")
    return value


def _texts(values: list[Any]) -> tuple[str, ...]:
    return tuple(_text(value) for value in values)


def _pricing(given: Any) -> tuple[float, ...]:
    """Dollars from `$19.99 to $27.99` (original) or `[19.99, 27.99]` (RAGEN)."""
    if not given:
        return (UNKNOWN_PRICE,)
    if isinstance(given, str):
        given = [re.sub(r"[^\d.]", "", part) for part in given.split("$")[1:]]
    return tuple(float(price) for price in given[:2]) or (UNKNOWN_PRICE,)


def _options(entry: dict[str, Any]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Names and values, cleaned as the original does it."""
    if "options" in entry:
        groups = {name: list(values) for name, values in entry["options"].items()}
    else:
        given = entry["customization_options"] or {}
        groups = {
            name: [one["value"].replace("/", " | ") for one in contents]
            for name, contents in given.items()
            if contents is not None
        }
    return tuple((name.lower(), tuple(value.strip().lower() for value in values)) for name, values in groups.items())
