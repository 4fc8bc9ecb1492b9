"""Search: BM25 held against a few lines of it, ties, limits."""

from __future__ import annotations

from math import log
from random import Random

import pytest

from agentkit.envs.webshop.catalogue import Product
from agentkit.envs.webshop.search import Search, words_of

from .conftest import SOAP

pytestmark = pytest.mark.family("agentkit/WebShop-v0")


def shelf(*titles: str) -> list[Product]:
    """Products of nothing but a title."""
    return [SOAP._replace(asin=f"A{number}", title=title) for number, title in enumerate(titles)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Men’s T-Shirts & dresses", ["men", "t", "shirt", "dresse"]),
        ("glass bus class", ["glass", "bus", "class"]),
        ("batteries, gas; IS", ["battery", "gas"]),
        ("4 ounce (pack_of 3)", ["4", "ounce", "pack", "3"]),
        ("", []),
    ],
)
def test_words_are_cut_and_made_singular(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def bm25(titles: list[str], query: str) -> list[int]:
    """Numbers of the titles that share a word with the query, best first: the formula as it is printed."""
    documents = [words_of(title) for title in titles]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in words_of(query):
            having = sum(word in other for other in documents)
            weight = log(1 + (len(documents) - having + 0.5) / (having + 0.5))
            count = document.count(word)
            score += weight * count / (count + 0.9 * (1 - 0.4 + 0.4 * len(document) / mean))
        scores.append(score)
    return sorted((n for n, score in enumerate(scores) if score), key=lambda n: (-round(scores[n], 5), n))


def test_the_order_is_that_of_the_formula() -> None:
    rng = Random(0)
    vocabulary = ("oak", "brass", "lamp", "table", "chair", "shade", "light", "rug")
    titles = [" ".join(vocabulary[int(rng.random() * 8)] for _ in range(2 + int(rng.random() * 6))) for _ in range(40)]
    search = Search(shelf(*titles))
    for query in ("oak lamp", "brass brass chair", "rug", "light table shade oak"):
        assert search.find(query) == tuple(f"A{number}" for number in bm25(titles, query))


def test_equal_scores_keep_the_order_of_the_catalogue_and_fifty_are_the_limit() -> None:
    search = Search(shelf(*["oak lamp"] * 80, "brass lamp"))
    assert search.find("oak") == tuple(f"A{number}" for number in range(50))
    assert search.find("brass lamp")[0] == "A80"


def test_description_first_feature_and_options_are_searched_and_later_features_not() -> None:
    product = SOAP._replace(description="lavender", features=("foaming", "hidden"), options=(("scent", ("sage",)),))
    search = Search([product, SOAP._replace(asin="OTHER")])
    for word in ("lavender", "foaming", "sage", "scent"):
        assert search.find(word) == (product.asin,)
    assert search.find("hidden") == ()


@pytest.mark.parametrize("query", ["zzz", "", "the", "!?", "世界"])
def test_what_nothing_matches_finds_nothing(query: str) -> None:
    assert Search(shelf("oak lamp")).find(query) == ()
