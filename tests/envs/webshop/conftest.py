"""A shop of three products whose numbers are worked by hand."""

from __future__ import annotations

import pytest

from agentkit.envs.webshop.catalogue import Catalogue, Goal, Product, goals_of
from agentkit.envs.webshop.shop import Shop

LAMP = Product(
    asin="B0LAMP0001",
    title="Brass Table Lamp <script>alert(1)</script>",
    query="table lamps",
    product_category="Home › Lighting › Lamps",
    description="A lamp of solid brass & glass.",
    features=("Easy to clean shade", "Warm light"),
    pricing=(38.5,),
    options=(("size", ("small", "large")), ("color", ("black", "navy blue", "dark wood"))),
    attributes=("easy clean", "solid brass"),
    wish="Find me easy clean table lamps with solid brass",
    wished=("easy clean", "solid brass"),
)
OTHER_LAMP = LAMP._replace(
    asin="B0LAMP0002",
    title="Steel Table Lamp",
    description="Steel.",
    features=("Solid brass feet",),
    pricing=(20.0, 30.0),
    options=(),
    attributes=("dimmable",),
    wish="",
    wished=(),
)
SOAP = Product(
    asin="B0SOAP0001",
    title="Olive Soap Bar",
    query="soaps",
    product_category="Beauty › Bath › Soaps",
    description="",
    features=(),
    pricing=(4.0,),
    options=(),
    attributes=("handmade",),
)
GOAL = Goal(
    LAMP.asin, "Find me a lamp", ("easy clean", "solid brass"), (("color", "navy blue"), ("size", "large")), 50.0
)


@pytest.fixture
def shop() -> Shop:
    """A shop that sells two lamps and a soap, and whose customers want the first lamp."""
    products = (LAMP, OTHER_LAMP, SOAP)
    goals = tuple(goals_of(products))
    return Shop(Catalogue(products, {"train": goals[:3], "held_out": goals[3:]}))
