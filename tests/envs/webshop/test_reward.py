"""The reward: every term worked by hand, and rapidfuzz held against thefuzz's own numbers."""

from __future__ import annotations

import pytest

from agentkit.envs.webshop.catalogue import Options
from agentkit.envs.webshop.reward import (
    first_color,
    has_attribute,
    nouns_of,
    score_of,
    similarity,
    title_score,
    type_reward,
)

from .conftest import GOAL, LAMP, OTHER_LAMP, SOAP

pytestmark = pytest.mark.family("agentkit/WebShop-v0")
ALL: Options = (("color", "navy blue"), ("size", "large"))


def test_the_right_purchase_is_worth_one() -> None:
    score = score_of(LAMP, ALL, GOAL, LAMP)
    assert score == (1.0, ("easy clean", "solid brass"), ALL, True, 1.0)


@pytest.mark.parametrize(
    ("chosen", "met"),
    [
        ((), 0),
        ((("color", "navy blue"),), 1),
        ((("color", "black"), ("size", "large")), 1),
        ((("color", "black"), ("size", "small")), 0),
        ((("fabric", "large"), ("trim", "sky blue")), 2),  # only values count, and sky blue is blue, too
        ((("size", "large size"), ("color", "navy blue")), 2),  # one set of words holds the other
    ],
)
def test_each_option_is_worth_a_fifth_of_this_goal(chosen: Options, met: int) -> None:
    score = score_of(LAMP, chosen, GOAL, LAMP)
    assert len(score.options) == met
    assert score.reward == pytest.approx((2 + met + 1) / 5)


def test_a_price_above_the_limit_costs_its_share_and_one_at_the_limit_does_not() -> None:
    assert score_of(LAMP, ALL, GOAL._replace(price_upper=38.49), LAMP).reward == pytest.approx(4 / 5)
    assert score_of(LAMP, ALL, GOAL._replace(price_upper=38.5), LAMP).reward == 1.0


def test_attributes_are_found_in_lists_titles_features_and_descriptions() -> None:
    assert has_attribute(LAMP, "clean easy")  # the order of words does not matter
    assert has_attribute(OTHER_LAMP, "solid brass")  # stands in a feature
    assert has_attribute(OTHER_LAMP, "steel table")  # in the title
    assert has_attribute(LAMP, "brass & glass")  # in the description
    assert not has_attribute(OTHER_LAMP, "easy clean")
    assert not has_attribute(SOAP, "solid brass")


def test_phrases_match_above_85() -> None:
    assert has_attribute(LAMP._replace(attributes=("machine wash",)), "machine washable")  # 86
    assert similarity("abcdefghijklmnopqrst", "abcdefghijklmnopqxyz") == 85  # 17 of 20 letters
    assert not has_attribute(LAMP._replace(attributes=("abcdefghijklmnopqrst",)), "abcdefghijklmnopqxyz")


def test_another_product_of_the_kind_is_worth_what_it_meets() -> None:
    # type 1 (same query); solid brass, no option, price: 2 of 5
    score = score_of(OTHER_LAMP, (), GOAL, LAMP)
    assert (score.r_type, score.attributes, score.in_budget) == (1.0, ("solid brass",), True)
    assert score.reward == pytest.approx(2 / 5)


def test_another_kind_of_thing_is_worth_nothing() -> None:
    assert score_of(SOAP, (), GOAL, LAMP).reward == 0.0


WANTED = LAMP._replace(
    title="one two three four five six seven eight nine ten eleven lamp", query="q", product_category="a › b › c"
)
# nouns: without "one", "two" and "three", which are function words: nine


@pytest.mark.parametrize(
    ("title", "query", "category", "worth"),
    [
        ("something else", "q", "a › b › c", 0.0),  # no noun in common, whatever else fits
        ("lamp", "other", "x", 0.5),  # 1/9: alike enough not to be nothing
        ("lamp", "q", "x", 1.0),
        ("lamp", "other", "c › b", 1.0),  # two parts of the category, in any order
        ("lamp", "other", "a › x", 0.5),
        ("lamp four", "other", "x", 1.0),  # 2/9 > 0.2
    ],
)
def test_the_type_term(title: str, query: str, category: str, worth: float) -> None:
    bought = SOAP._replace(title=title, query=query, product_category=category)
    assert type_reward(bought, WANTED) == worth


def test_hardly_alike_titles_are_worth_a_tenth_even_for_the_same_query() -> None:
    wanted = WANTED._replace(title=WANTED.title + " shade stand cord")  # 1 of 12 nouns
    assert type_reward(SOAP._replace(title="lamp", query="q"), wanted) == 0.1


def test_titles_are_compared_by_nouns() -> None:
    assert nouns_of("The 2-Pack Men's T-Shirt, x3 for YOU") == ("pack", "men", "t", "shirt")
    assert title_score("lamp lamp", "lamp shade lamp") == pytest.approx(1 / 3)  # different shared over all wanted
    assert title_score("lamp", "for the 3") == 0.2
    assert title_score("for the 3", "lamp") == 0.0


@pytest.mark.parametrize(
    ("value", "color"),
    [
        ("black forest", "black"),
        ("navy blue", "blue"),
        ("steelivy fuchsia", "fuchsia"),
        ("x-large", "x-large"),
        ("", ""),
    ],
)
def test_the_first_colour_of_the_list_stands_for_a_value(value: str, color: str) -> None:
    assert first_color(value) == color


@pytest.mark.parametrize(
    ("first", "second", "ratio"),
    [
        ("machine wash", "machine washable", 86),
        ("easy clean", "easy to clean", 100),
        ("long lasting", "lasting", 100),
        ("non slip", "anti slip", 71),
        ("size 9", "size 10", 80),
        ("café crème", "cafe creme", 89),
        ("", "", 0),
        ("6 ounce (pack of 1)", "6 ounce", 100),
        ("tea tree", "green tea", 82),
        ("1 | 2", "1 2", 100),
    ],
)
def test_similarity_is_the_number_of_thefuzz(first: str, second: str, ratio: int) -> None:
    assert similarity(first, second) == ratio
