"""The shop's own solution: search for the goal's product by its title, choose the options asked for, buy.

It knows the goal's product, so that what it shows is a purchase that succeeds, not how to find out which does.
"""

from __future__ import annotations

from functools import lru_cache

from agentkit.envs.webshop.catalogue import Goal, Options, Product
from agentkit.envs.webshop.reward import SIMILAR, first_color, similarity
from agentkit.envs.webshop.shop import (
    BUY,
    DETAILS,
    DONE,
    ITEM,
    NEXT,
    PAGE_SIZE,
    PREVIOUS,
    RESULTS,
    Session,
    Shop,
)

LONGEST = 40
"""Actions after which a plan is given up; none is nearly as long."""


def next_action(shop: Shop, session: Session, goal: Goal) -> tuple[str, str]:
    """(verb, argument) of the next step towards buying the goal's product with its options."""
    product = shop.catalogue.by_asin[goal.asin]
    if session.asin == goal.asin and session.page in DETAILS:
        return "click", PREVIOUS
    if session.asin == goal.asin and session.page == ITEM:
        chosen = dict(session.options)
        missing = [value for _, value in choice_of(product, goal) if value not in chosen.values()]
        return "click", missing[0] if missing else BUY
    if session.page == RESULTS and goal.asin in shop.shown(session):
        return "click", goal.asin.lower()
    query, number = best_query(shop, product)
    if session.page == RESULTS and session.keywords == query and session.number < number:
        return "click", NEXT
    return "search", query


def plan(shop: Shop, session: Session, goal: Goal, longest: int = LONGEST) -> tuple[list[tuple[str, str]], Session]:
    """The expert's next actions, at most `longest`, and the session they lead to."""
    actions: list[tuple[str, str]] = []
    while session.page != DONE and len(actions) < longest:
        actions.append(next_action(shop, session, goal))
        session = shop.act(session, goal, *actions[-1])
    return actions, session


@lru_cache(maxsize=4096)
def best_query(shop: Shop, product: Product) -> tuple[str, int]:
    """Words that find a product and the page of results it is on, from 1; the first page if nothing finds it."""
    best = ("", 1 + LONGEST)
    for query in (product.title, f"{product.title} {product.description}", product.query):
        found = shop.search.find(query.lower())
        if product.asin in found:
            best = min(best, (query.lower(), 1 + found.index(product.asin) // PAGE_SIZE), key=lambda one: one[1])
        if best[1] == 1:
            break
    return best if best[0] else (product.title.lower(), 1)


@lru_cache(maxsize=4096)
def choice_of(product: Product, goal: Goal) -> Options:
    """The options of the goal's product to choose; for goals that people wrote, those that meet their values."""
    if all(name for name, _ in goal.options):
        return goal.options
    chosen: dict[str, str] = {}
    for _, wanted in goal.options:
        for name, values in product.options:
            meeting = [value for value in values if similarity(first_color(value), first_color(wanted)) > SIMILAR]
            if meeting and name not in chosen:
                chosen[name] = wanted if wanted in meeting else meeting[0]
                break
    return tuple(chosen.items())
