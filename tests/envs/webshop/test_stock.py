"""The built-in shop: size, variety, and the same in every process."""

from __future__ import annotations

import hashlib

from agentkit.envs.webshop.catalogue import Catalogue
from agentkit.envs.webshop.reward import has_attribute
from agentkit.envs.webshop.stock import stock_catalogue


def fingerprint(catalogue: Catalogue) -> str:
    return hashlib.blake2b(repr((catalogue.products, catalogue.goals)).encode(), digest_size=8).hexdigest()


def test_the_shop_is_large_and_varied() -> None:
    catalogue = stock_catalogue()
    products = catalogue.products
    assert len(products) == len({p.asin for p in products}) == len({p.title for p in products}) == 1000
    assert len({product.query for product in products}) == 46
    assert len(catalogue.goals["train"]) > 500
    assert len(catalogue.goals["held_out"]) > 500
    assert len({goal.asin for goal in catalogue.goals["held_out"]}) == 100


def test_no_instruction_is_in_both_splits() -> None:
    goals = stock_catalogue().goals
    assert not {g.instruction for g in goals["train"]} & {g.instruction for g in goals["held_out"]}


def test_the_shop_is_the_same_in_every_process() -> None:
    assert fingerprint(stock_catalogue()) == PINNED


PINNED = "3a940f27ff39652c"


def test_a_larger_shop_begins_with_a_smaller_one() -> None:
    assert stock_catalogue(120).products[:50] == stock_catalogue(50).products


def test_products_have_what_they_claim() -> None:
    for product in stock_catalogue().products:
        assert set(product.wished) <= set(product.attributes)
        bare = product._replace(attributes=())
        assert all(has_attribute(bare, attribute) for attribute in product.attributes), product
        assert all(len(values) > 1 for _, values in product.options)
        assert product.pricing[0] <= product.price <= product.pricing[-1]


def test_something_wanted_is_not_told_by_its_title_alone() -> None:
    products = [product for product in stock_catalogue().products if product.wish]
    hidden = [p for p in products if not all(wish in p.title.lower() for wish in p.wished)]
    assert len(hidden) > len(products) / 2
