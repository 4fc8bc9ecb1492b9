"""What a shop sells and what its customers want, as immutable records.

Goals are made from the products as in WebShop without human instructions (`human_goals=False`): one for every
combination of a product's options, with a price bound above its price. What the original draws from a global
generator is drawn here from the product's own name, so that a catalogue is the same in every process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product as combinations
from random import Random
from typing import NamedTuple

from agentkit.envs.puzzle import split_of

PRICE_BOUNDS = tuple(10.0 * tens for tens in range(1, 100))
"""Dollars that a goal may name as its limit."""
NO_BOUND = 1_000_000.0
"""Price limit of a goal that names none, in dollars."""
SHUFFLE_SEED = 233
"""Seed of the order of goals in the original."""
NUM_TEST, NUM_VALIDATION = 500, 1000
"""Goals of the original's test and validation splits, which come first in its order."""
Options = tuple[tuple[str, str], ...]
"""(name, value) of chosen options, sorted by name."""


class Product(NamedTuple):
    """A thing for sale."""

    asin: str
    """Id, upper case."""
    title: str
    query: str
    """Lower-case words that customers look for it by, e.g. `console tables`."""
    product_category: str
    """Path of categories separated by `›`."""
    description: str
    features: tuple[str, ...]
    """Bullet points."""
    pricing: tuple[float, ...]
    """Dollars: one price, or the lowest and the highest."""
    options: tuple[tuple[str, tuple[str, ...]], ...]
    """(name, values) of what has to be chosen, all lower case."""
    attributes: tuple[str, ...]
    """Properties that the reward compares, lower case."""
    wish: str = ""
    """Instruction without options and price; '' if nobody is sent to buy it."""
    wished: tuple[str, ...] = ()
    """Attributes that `wish` names."""
    human: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = ()
    """(instruction, attributes, option values) of the instructions that people wrote."""

    @property
    def price_tag(self) -> str:
        """The price as pages show it, e.g. `$19.99 to $27.99`."""
        return " to ".join(f"${price}" for price in self.pricing)

    @property
    def price(self) -> float:
        """Dollars that buying costs; where the tag names two prices, some fixed amount between them."""
        if len(self.pricing) == 1:
            return self.pricing[0]
        low, high = self.pricing
        return low + (high - low) * Random(f"WebShop|price|{self.asin}").random()


class Goal(NamedTuple):
    """What a customer wants."""

    asin: str
    """The product it was made from."""
    instruction: str
    attributes: tuple[str, ...]
    options: Options
    """Names are '' in goals that people wrote: they name values only."""
    price_upper: float
    """Dollars that buying may cost."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """A shop's products and its goals by split."""

    products: tuple[Product, ...]
    goals: dict[str, tuple[Goal, ...]]
    """Split -> goals; no instruction is in two splits."""
    num_skipped: int = 0
    """Entries of the files that were left out because they lack what a product needs."""
    by_asin: dict[str, Product] = field(init=False)
    """Id -> product."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_asin", {product.asin: product for product in self.products})


def goals_of(products: Iterable[Product], human: bool = False) -> list[Goal]:
    """The goals of products, in their order: one a combination of options, or those that people wrote.

    Options are combined in the order of their names and the price bound is one a product, as in the original.
    """
    goals = []
    for product in products:
        if not (product.human if human else product.wish):
            continue
        price_upper = _price_bound(product)
        limit = f", and price lower than {price_upper:.2f} dollars" if price_upper < NO_BOUND else ""
        if human:
            for instruction, attributes, values in product.human:
                options = tuple(("", value) for value in values)
                goals.append(Goal(product.asin, instruction.strip(".") + limit, attributes, options, price_upper))
            continue
        groups = sorted(product.options)
        for values in combinations(*(values for _, values in groups)):
            options = tuple((name, value) for (name, _), value in zip(groups, values, strict=True))
            chosen = ", and ".join(f"{name}: {value}" for name, value in options)
            instruction = product.wish + (f" with {chosen}" if chosen else "") + limit
            goals.append(Goal(product.asin, instruction, product.wished, options, price_upper))
    return goals


def _price_bound(product: Product) -> float:
    """The larger of two of the next four multiples of ten dollars above the price; `NO_BOUND` near the top."""
    above = [bound for bound in PRICE_BOUNDS if bound > product.price][:4]
    if len(above) < 2:
        return NO_BOUND
    rng = Random(f"WebShop|bound|{product.asin}")
    first = int(rng.random() * len(above))
    second = (first + 1 + int(rng.random() * (len(above) - 1))) % len(above)
    return above[max(first, second)]


def split_by_wish(products: Sequence[Product], goals: Iterable[Goal]) -> dict[str, tuple[Goal, ...]]:
    """Goals by split, shuffled; goals whose products share a wish share a split, so that none is half known."""
    wishes = {product.asin: product.wish for product in products}
    splits: dict[str, list[Goal]] = {"train": [], "held_out": []}
    for goal in goals:
        splits[split_of(wishes[goal.asin] or goal.instruction)].append(goal)
    rng = Random(SHUFFLE_SEED)
    return {split: tuple(sorted(chosen, key=lambda _: rng.random())) for split, chosen in splits.items()}


def split_by_order(goals: Sequence[Goal]) -> dict[str, tuple[Goal, ...]]:
    """Goals by split as in the original: shuffled with its seed, 500 test, 1,000 validation, the rest train.

    Test goals are our `held_out`; validation goals are left out of both. Training goals that repeat a test
    instruction, which option values given twice lead to, are left out as well.
    """
    order = list(goals)
    Random(SHUFFLE_SEED).shuffle(order)  # the original's own call, so that goal N is its goal N
    held_out = order[:NUM_TEST]
    known = {goal.instruction for goal in held_out}
    train = [goal for goal in order[NUM_TEST + NUM_VALIDATION :] if goal.instruction not in known]
    return {"train": tuple(train), "held_out": tuple(held_out)}
