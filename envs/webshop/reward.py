"""The reward of a purchase (Yao et al. 2022, arXiv 2207.01206, section 3; formulas as in WebShop's code).

reward = r_type · (attributes met + options met + price met) / (attributes + options + 1)

One part is ours: the type term compares the nouns of two titles, which the original finds with a spaCy model.
Here every word is a noun that is no function word and holds no digit; see `nouns_of`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from agentkit.envs.webshop.catalogue import Goal, Options, Product
from agentkit.errors import require

SIMILAR = 85
"""Two phrases match above this `token_set_ratio`, of 100."""
_COLORS = (
    "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo "
    "caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream "
    "crystal dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather "
    "indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha "
    "multicolor mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal "
    "rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise "
    "violet walnut wheat white wine yellow"
)
COLORS = tuple(_COLORS.split())
"""What counts as a colour in the original, in its order, which decides where a value holds two."""
_FUNCTION_WORDS = (
    "a about above after against all an and any are as at be before both but by can do each for from get has have if "
    "in into is it its just like made make more most my no not of off on one only or other our out over own per so "
    "some such than that the their them then these they this three through to two under up use used very via was we "
    "well what when which while will with without you your"
)
NOT_NOUNS = frozenset(_FUNCTION_WORDS.split())
"""Words of titles that are no nouns."""
_WORD = re.compile(r"[^\W_]+")
_LATIN = dict.fromkeys(range(128, 256))


class Score(NamedTuple):
    """How far a purchase meets a goal."""

    r_type: float
    """1 the right kind of thing, 0.5 or 0.1 hardly, 0 something else."""
    attributes: tuple[str, ...]
    """The goal's attributes that are met."""
    options: Options
    """The goal's options that are met."""
    in_budget: bool
    """Whether the price is at most the goal's."""
    reward: float
    """In [0, 1]; 1 is success."""


def score_of(bought: Product, chosen: Options, goal: Goal, wanted: Product) -> Score:
    """What buying a product with some options is worth.

    Args:
        bought: the product that was bought.
        chosen: its options that were chosen.
        goal: what the customer asked for.
        wanted: the product that the goal was made from.
    """
    attributes = tuple(wish for wish in goal.attributes if has_attribute(bought, wish))
    values = [first_color(value) for _, value in chosen]
    options = tuple(
        (name, value)
        for name, value in goal.options
        if any(similarity(mine, first_color(value)) > SIMILAR for mine in values)
    )
    in_budget = bought.price <= goal.price_upper
    r_type = type_reward(bought, wanted)
    share = (len(attributes) + len(options) + in_budget) / (len(goal.attributes) + len(goal.options) + 1)
    return Score(r_type, attributes, options, in_budget, r_type * share)


def type_reward(bought: Product, wanted: Product) -> float:
    """Whether two products are the same kind of thing: 1, 0.5, 0.1 or 0."""
    likeness = title_score(bought.title, wanted.title)
    if likeness == 0:
        return 0.0
    if likeness < 0.1:
        return 0.1
    parts = _category_parts(bought.product_category) & _category_parts(wanted.product_category)
    return 1.0 if bought.query == wanted.query or len(parts) >= 2 or likeness > 0.2 else 0.5


def title_score(bought: str, wanted: str) -> float:
    """Different nouns that two titles share, over all nouns of the wanted one; 0.2 if that has none.

    >>> title_score("Oak Console Table", "Narrow Console Table with Drawers")
    0.5
    """
    nouns = nouns_of(wanted)
    return len(set(nouns_of(bought)).intersection(nouns)) / len(nouns) if nouns else 0.2


@lru_cache(maxsize=65536)
def nouns_of(title: str) -> tuple[str, ...]:
    """The words of a title that count as nouns, lower case, repetitions included.

    Every word without a digit that is not in `NOT_NOUNS`: in titles, which are capitalised throughout, spaCy's
    tagger takes adjectives for names, too.

    >>> nouns_of("Vintage Sofa-Tables for 2 Men's Rooms")
    ('vintage', 'sofa', 'tables', 'men', 'rooms')
    """
    words = _WORD.findall(title.lower().replace("’", "'").replace("'s", ""))
    return tuple(word for word in words if word not in NOT_NOUNS and not any(letter.isdigit() for letter in word))


def has_attribute(product: Product, wish: str) -> bool:
    """Whether an attribute is among a product's or stands in its title, features or description."""
    if any(similarity(attribute, wish) > SIMILAR for attribute in product.attributes):
        return True
    return any(wish in text for text in _lower_texts(product))


@lru_cache(maxsize=4096)
def _lower_texts(product: Product) -> tuple[str, str, str]:
    return product.title.lower(), " ".join(product.features).lower(), product.description.lower()


@lru_cache(maxsize=4096)
def _category_parts(path: str) -> frozenset[str]:
    return frozenset(part.strip() for part in path.split("›"))


def first_color(value: str) -> str:
    """The first colour of `COLORS` that occurs in an option's value, or the value itself.

    >>> first_color("army green"), first_color("x-large"), first_color("dark blue")
    ('green', 'x-large', 'blue')
    """
    return next((color for color in COLORS if color in value), value)


@lru_cache(maxsize=65536)
def similarity(first: str, second: str) -> int:
    """thefuzz's `token_set_ratio` of two phrases, 0 to 100, computed with rapidfuzz.

    Raises:
        MissingExtraError: rapidfuzz is not installed.
    """
    fuzz, default_process = require("rapidfuzz.fuzz"), require("rapidfuzz.utils").default_process
    ready = [default_process(text.translate(_LATIN)) for text in (first, second)]
    return round(fuzz.token_set_ratio(*ready))
