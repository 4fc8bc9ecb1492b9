"""The expert: it buys what was asked for, from wherever it is, and knows when it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkit.envs.webshop.catalogue import Catalogue, Goal
from agentkit.envs.webshop.env import WebShop
from agentkit.envs.webshop.expert import best_query, plan
from agentkit.envs.webshop.shop import Session, Shop

from .conftest import GOAL, LAMP, SOAP

pytestmark = pytest.mark.family("agentkit/WebShop-v0")


def actions(shop: Shop, session: Session, goal: Goal = GOAL) -> list[str]:
    return [f"{verb}[{argument}]" for verb, argument in plan(shop, session, goal)[0]]


def test_a_purchase_from_the_start(shop: Shop) -> None:
    assert actions(shop, Session()) == [
        f"search[{LAMP.title.lower()}]",
        f"click[{LAMP.asin.lower()}]",
        "click[navy blue]",
        "click[large]",
        "click[buy now]",
    ]


def test_it_goes_on_from_where_it_is(shop: Shop) -> None:
    item = Session("item", "lamp", 1, LAMP.asin, (("size", "large"),))
    assert actions(shop, item) == ["click[navy blue]", "click[buy now]"]
    assert actions(shop, item._replace(page="reviews"))[:1] == ["click[< prev]"]
    assert actions(shop, Session("results", "lamp"))[:1] == [f"click[{LAMP.asin.lower()}]"]
    assert actions(shop, Session("item", "soap", 1, SOAP.asin))[:1] == [f"search[{LAMP.title.lower()}]"]


def test_it_turns_pages_where_many_products_have_one_title() -> None:
    products = tuple(LAMP._replace(asin=f"B{number:02}") for number in range(25))
    shop = Shop(Catalogue(products, {"train": (), "held_out": ()}))
    goal = GOAL._replace(asin="B22")
    assert best_query(shop, products[22])[1] == 3
    assert actions(shop, Session(), goal)[1:4] == ["click[next >]", "click[next >]", "click[b22]"]


def test_goals_that_people_wrote_are_met_by_values(shop: Shop) -> None:
    goal = GOAL._replace(options=(("", "large"), ("", "blue")))
    assert actions(shop, Session(), goal)[2:] == ["click[large]", "click[navy blue]", "click[buy now]"]


def test_it_does_not_claim_what_it_cannot_do(shop: Shop) -> None:
    goal = GOAL._replace(options=(("", "colossal"),))
    env = WebShop(num_products=60)
    env.reset(seed=0)
    env.shop, env.level = shop, goal
    assert env.expert_success() == 0.0
    env.step(env.expert_action())
    while env.turns_left and env.state.reward is None:
        env.step(env.expert_action())
    assert env.state.reward == pytest.approx(3 / 4)  # two attributes and the price of four


def test_a_product_that_no_search_finds_is_not_claimed(shop: Shop) -> None:
    unfindable = SOAP._replace(asin="B0NOTHING1", title="!", query="?")
    shop = Shop(Catalogue((LAMP, unfindable), {"train": (), "held_out": ()}))
    steps, end = plan(shop, Session(), GOAL._replace(asin=unfindable.asin))
    assert end.reward is None
    assert len(set(steps)) == 1


def test_every_goal_of_the_built_in_shop_is_reached() -> None:
    env = WebShop()
    for split in ("train", "held_out"):
        for goal in env.shop.catalogue.goals[split][:600]:
            steps, end = plan(env.shop, Session(), goal)
            assert end.reward == 1.0, goal
            assert len(steps) <= 6


def test_every_test_goal_of_ragens_files_is_reached(real_data: Path) -> None:
    env = WebShop(catalogue=str(real_data / "webshop"))
    assert all(plan(env.shop, Session(), goal)[1].reward == 1.0 for goal in env.shop.catalogue.goals["held_out"])
