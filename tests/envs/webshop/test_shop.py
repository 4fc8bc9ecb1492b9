"""The state machine: where every click leads, as in the original."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.envs.webshop.catalogue import Catalogue
from agentkit.envs.webshop.shop import Session, Shop

from .conftest import GOAL, LAMP, OTHER_LAMP, SOAP

pytestmark = pytest.mark.family("agentkit/WebShop-v0")


def walk(shop: Shop, *steps: str, session: Session | None = None) -> Session:
    """The session after steps such as `?lamp` (search) and `Buy Now` (click)."""
    session = session or Session()
    for step in steps:
        verb, argument = ("search", step[1:]) if step.startswith("?") else ("click", step)
        session = shop.act(session, GOAL, verb, argument)
    return session


def test_search_leads_to_the_first_page_of_results(shop: Shop) -> None:
    session = walk(shop, "?Table LAMP")
    assert session == Session("results", "table lamp", 1)
    assert set(shop.shown(session)) == {LAMP.asin, OTHER_LAMP.asin}


def test_a_product_is_looked_at_whatever_the_case_of_its_id(shop: Shop) -> None:
    for asin in (LAMP.asin, LAMP.asin.lower()):
        assert walk(shop, "?lamp", asin) == Session("item", "lamp", 1, LAMP.asin, (), (LAMP.asin,))


def test_options_are_chosen_changed_and_kept_on_the_detail_pages(shop: Shop) -> None:
    session = walk(shop, "?lamp", LAMP.asin, "Large", "black", "Navy Blue", "Features", "< Prev", "description")
    assert session.options == (("color", "navy blue"), ("size", "large"))
    assert session.page == "description"


def test_going_back_to_the_results_forgets_the_options(shop: Shop) -> None:
    session = walk(shop, "?lamp", LAMP.asin, "large", "< prev")
    assert session == Session("results", "lamp", 1, "", (), (LAMP.asin,))


def test_going_back_to_the_search_page_forgets_everything(shop: Shop) -> None:
    for steps in (("?lamp",), ("?lamp", LAMP.asin, "large"), ("?lamp", LAMP.asin, "reviews")):
        assert walk(shop, *steps, "Back to Search") == Session()


def test_search_works_on_every_page(shop: Shop) -> None:
    for steps in ((), ("?soap",), ("?lamp", LAMP.asin, "large"), ("?lamp", LAMP.asin, "features")):
        session = walk(shop, *steps, "?soap")
        assert (session.page, session.keywords, session.options) == ("results", "soap", ())


def test_a_new_search_remembers_what_was_looked_at() -> None:
    shop = Shop(Catalogue((LAMP, SOAP), {"train": (GOAL,), "held_out": ()}))
    session = walk(shop, "?lamp", LAMP.asin, "?soap", SOAP.asin, "< prev", SOAP.asin)
    assert session.visited == (LAMP.asin, SOAP.asin)


def test_buying_ends_the_session_with_its_reward(shop: Shop) -> None:
    session = walk(shop, "?lamp", LAMP.asin, "large", "navy blue", "Buy Now")
    assert (session.page, session.reward) == ("done", 1.0)
    assert shop.clickables(session) == []
    assert walk(shop, "?soap", "back to search", session=session) == session


@pytest.mark.parametrize(
    ("steps", "click"),
    [
        ((), "buy now"),
        ((), "search"),
        ((), LAMP.asin),
        (("?soap",), LAMP.asin),  # not among the results
        (("?lamp",), "< prev"),  # no page before the first
        (("?lamp", LAMP.asin), "next >"),
        (("?lamp", LAMP.asin), "medium"),
        (("?lamp", LAMP.asin, "features"), "buy now"),
        (("?lamp", LAMP.asin, "features"), "reviews"),
    ],
)
def test_an_impossible_click_changes_nothing(shop: Shop, steps: tuple[str, ...], click: str) -> None:
    before = walk(shop, *steps)
    assert walk(shop, click, session=before) == before


def test_results_have_pages_of_ten_and_go_on_behind_the_last() -> None:
    products = tuple(LAMP._replace(asin=f"B{number:02}") for number in range(25))
    shop = Shop(Catalogue(products, {"train": (GOAL,), "held_out": ()}))
    pages = [walk(shop, "?lamp", *["next >"] * turns) for turns in range(4)]
    assert [len(shop.shown(page)) for page in pages] == [10, 10, 5, 0]
    assert shop.shown(pages[1]) == tuple(f"B{number}" for number in range(10, 20))
    assert walk(shop, "< Prev", session=pages[3]) == pages[2]
    assert shop.clickables(pages[3]) == ["back to search", "< prev", "next >"]


def test_a_value_that_two_options_share_is_set_in_the_last_of_them() -> None:
    product = LAMP._replace(options=(("shade", ("black", "white")), ("foot", ("black",))))
    shop = Shop(Catalogue((product,), {"train": (), "held_out": ()}))
    session = walk(shop, "?lamp", product.asin, "black")
    assert session.options == (("foot", "black"),)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(min_value=0, max_value=30), max_size=12))
def test_what_can_be_clicked_has_an_effect_and_keeps_the_session_sound(numbers: list[int]) -> None:
    products = (LAMP, OTHER_LAMP, SOAP)
    shop = Shop(Catalogue(products, {"train": (GOAL,), "held_out": ()}))
    session = walk(shop, "?lamp soap")
    for number in numbers:
        clickables = [one for one in shop.clickables(session) if one != "search"]
        if not clickables:
            break
        target = clickables[number % len(clickables)]
        after = walk(shop, target, session=session)
        assert after != session or (session.page == "item" and target in dict(session.options).values())
        assert (after.asin != "") == (after.page not in ("search", "results"))
        assert (after.reward is not None) == (after.page == "done")
        session = after
