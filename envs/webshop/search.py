"""Search over a catalogue: BM25 with the settings of the original's Lucene index, on bm25s.

Texts are cut as Lucene's English analyser cuts them, except that words are reduced by the three rules of
Harman's S stemmer (1991) where Lucene uses Porter's: plurals meet singulars, and no further package is needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from agentkit.envs.webshop.catalogue import Product
from agentkit.errors import require

MOST_RESULTS = 50
K1, B = 0.9, 0.4
"""BM25's constants in Pyserini, which the original searches with."""
_STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
    "this to was will with"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Lucene's English stop words."""
_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """The words that search compares, in order.

    >>> words_of("Women's Console Tables for the Lobbies")
    ['women', 'console', 'table', 'lobby']
    """
    words = _WORD.findall(text.lower().replace("’", "'").replace("'s", ""))
    return [_singular(word) for word in words if word not in STOP_WORDS]


def _singular(word: str) -> str:
    """Harman's S stemmer; only the first rule whose ending fits is asked, and it may say no."""
    if len(word) < 4 or not word.endswith("s"):
        return word
    if word.endswith("ies"):
        return word if word.endswith(("eies", "aies")) else word[:-3] + "y"
    if word.endswith("es"):
        return word if word.endswith(("aes", "ees", "oes")) else word[:-1]
    return word if word.endswith(("us", "ss")) else word[:-1]


class Search:
    """An index over products; the same query always gives the same products in the same order."""

    def __init__(self, products: Sequence[Product]) -> None:
        """Index title, description, first feature and options, as the original does.

        Raises:
            MissingExtraError: bm25s is not installed.
        """
        bm25s = require("bm25s")
        self._asins = [product.asin for product in products]
        self._index = bm25s.BM25(k1=K1, b=B, method="lucene")
        self._index.index([words_of(_document(product)) for product in products], show_progress=False)
        self.find = lru_cache(maxsize=4096)(self._find)
        """`find(keywords)`: ids of at most 50 products that share a word with the keywords, best first."""

    def _find(self, keywords: str) -> tuple[str, ...]:
        words = [word for word in words_of(keywords) if word in self._index.vocab_dict]
        if not words:
            return ()
        scores = self._index.get_scores(words)
        found = np.flatnonzero(scores > 0)
        if len(found) > MOST_RESULTS:
            least = np.partition(scores[found], -MOST_RESULTS)[-MOST_RESULTS]
            found = found[scores[found] >= least]
        # Stable: equal scores stay in the order of the catalogue.
        best = found[np.argsort(-scores[found], kind="stable")][:MOST_RESULTS]
        return tuple(self._asins[number] for number in best)


def _document(product: Product) -> str:
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options)
    return " ".join([product.title, product.description, *product.features[:1], options])
