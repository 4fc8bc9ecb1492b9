"""Pages: the original's texts to the letter, and markup in which a product cannot break out of its text."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from agentkit.envs.webshop.pages import as_html, as_rich_text, as_text, page_of
from agentkit.envs.webshop.shop import Session, Shop

from .conftest import GOAL, LAMP, OTHER_LAMP

pytestmark = pytest.mark.family("agentkit/WebShop-v0")
RESULTS = Session("results", "table lamp")
ITEM = Session("item", "table lamp", 1, LAMP.asin, (("color", "navy blue"),), (LAMP.asin,))
HEAD = "Instruction: [SEP] Find me a lamp [SEP] Back to Search"


def text(shop: Shop, session: Session) -> str:
    return as_text(page_of(shop, session, GOAL))


def test_the_search_page(shop: Shop) -> None:
    assert text(shop, Session()) == "WebShop [SEP] Instruction: [SEP] Find me a lamp [SEP] Search"


def test_the_results_page(shop: Shop) -> None:
    first, second = (
        f"{lamp.asin} [SEP] {lamp.title} [SEP] {lamp.price_tag}"
        for lamp in (shop.catalogue.by_asin[asin] for asin in shop.shown(RESULTS))
    )
    assert text(shop, RESULTS) == f"{HEAD} [SEP] Page 1 (Total results: 2) [SEP] Next > [SEP] {first} [SEP] {second}"
    assert text(shop, RESULTS._replace(number=2)) == f"{HEAD} [SEP] Page 2 (Total results: 2) [SEP] < Prev [SEP] Next >"


def test_the_item_page(shop: Shop) -> None:
    assert text(shop, ITEM) == (
        f"{HEAD} [SEP] < Prev [SEP] size [SEP] small [SEP] large [SEP] color [SEP] black [SEP] navy blue"
        " [SEP] dark wood [SEP] Brass Table Lamp <script>alert(1)</script> [SEP] Price: $38.5 [SEP] Rating: N.A."
        " [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
    )


@pytest.mark.parametrize(
    ("page", "rest"),
    [
        ("description", " [SEP] A lamp of solid brass & glass."),
        ("features", " [SEP] Easy to clean shade [SEP] Warm light"),
        ("reviews", ""),
    ],
)
def test_the_detail_pages(shop: Shop, page: str, rest: str) -> None:
    assert text(shop, ITEM._replace(page=page)) == f"{HEAD} [SEP] < Prev{rest}"


def test_the_last_page_is_the_originals(shop: Shop) -> None:
    done = ITEM._replace(page="done", reward=0.8)
    assert text(shop, done) == (
        "Thank you for shopping with us! [SEP] Your code: [SEP] None [SEP] (Paste it in your MTurk interface.) [SEP] "
        'Purchased [SEP] asin [SEP] B0LAMP0001 [SEP] options [SEP] {"color": "navy blue"} [SEP] attrs [SEP] None [SEP] '
        "category [SEP] None [SEP] query [SEP] None [SEP] product category [SEP] None [SEP] Target [SEP] asin [SEP] "
        "options [SEP] attrs [SEP] price upper [SEP] instuction text [SEP] category [SEP] product category [SEP] query "
        "[SEP] Goal [SEP] None [SEP] Reward [SEP] Your score (min 0.0, max 1.0) [SEP] 0.8 [SEP] Reward Details "
        "[SEP] None"
    )


def test_rich_text_marks_buttons_and_what_was_clicked(shop: Shop) -> None:
    assert as_rich_text(page_of(shop, ITEM._replace(options=(("color", "black"), ("size", "large"))), GOAL)) == (
        "You have clicked black.\nYou have clicked large.\nInstruction:\nFind me a lamp\n"
        "[button] Back to Search [button_]\n[button] < Prev [button_]\nsize\n  [button] small [button_]\n"
        "  [clicked button] large [clicked button_]\ncolor\n  [clicked button] black [clicked button_]\n"
        "  [button] navy blue [button_]\n  [button] dark wood [button_]\n"
        "Brass Table Lamp <script>alert(1)</script>\nPrice: $38.5\nRating: N.A.\n[button] Description [button_]\n"
        "[button] Features [button_]\n[button] Reviews [button_]\n[button] Buy Now [button_]\n"
    )


def test_rich_text_marks_products_looked_at_before(shop: Shop) -> None:
    page = as_rich_text(page_of(shop, RESULTS._replace(visited=(LAMP.asin,)), GOAL))
    assert f"\n\n[clicked button] {LAMP.asin} [clicked button_]\nBrass" in page
    assert f"\n\n[button] {OTHER_LAMP.asin} [button_]\nSteel" in page


class Texts(HTMLParser):
    """Collects what markup says and which tags and addresses it holds."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())


@pytest.mark.parametrize(
    "session", [Session(), RESULTS, ITEM, ITEM._replace(page="features"), ITEM._replace(page="done")]
)
def test_the_markup_says_what_the_text_says_and_nothing_a_product_says_is_markup(shop: Shop, session: Session) -> None:
    page = page_of(shop, session, GOAL)
    seen = Texts(as_html(page))
    assert " [SEP] ".join(seen.texts) == "WebShop [SEP] " + as_text(page)  # the page's title comes first
    assert "script" not in seen.tags
    assert seen.tags <= {"html", "head", "meta", "title", "link", "body", "h1", "p", "form", "input", "button"}


def test_quotes_in_a_value_stay_in_it(shop: Shop) -> None:
    product = LAMP._replace(options=(("size", ('28" x 28" <b>',)),))
    shop.catalogue.by_asin[LAMP.asin] = product
    assert 'value="28&quot; x 28&quot; &lt;b&gt;"' in as_html(page_of(shop, ITEM, GOAL))
