"""The web site: a purchase by plain HTTP and by a real browser, its manners, and its end."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from agentkit.envs.webshop.catalogue import Catalogue
from agentkit.envs.webshop.env import WebShop
from agentkit.envs.webshop.shop import Shop
from agentkit.envs.webshop.site import LONGEST_BODY, WebShopSite
from agentkit.errors import ConfigError, UnknownNameError

from .conftest import GOAL, LAMP, OTHER_LAMP, SOAP

pytestmark = pytest.mark.family("agentkit/WebShop-v0")


@pytest.fixture(scope="module")
def site() -> Iterator[WebShopSite]:
    """A site that sells two lamps and a soap."""
    shop = Shop(Catalogue((LAMP, OTHER_LAMP, SOAP), {"train": (GOAL,), "held_out": (GOAL,)}))
    with WebShopSite(shop) as running:
        yield running


def get(url: str) -> str:
    with urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def post(url: str, **form: str) -> str:
    """The page after a form, redirect followed."""
    with urlopen(Request(url, urlencode(form).encode()), timeout=10) as answer:
        assert answer.url == url
        return answer.read().decode()


def status(site: WebShopSite, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """(status, headers) of a request that follows no redirect."""
    connection = HTTPConnection("127.0.0.1", int(site.url.rsplit(":", 1)[1].strip("/")), timeout=10)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers
    finally:
        connection.close()


def test_a_purchase_by_plain_http(site: WebShopSite) -> None:
    url = site.open()
    assert "Find me a lamp" in get(url)
    assert LAMP.asin in post(url, search="table lamp")
    post(url, click=LAMP.asin)
    post(url, click="large")
    page = post(url, click="navy blue")
    assert 'value="navy blue" aria-pressed="true"' in page
    assert "Thank you for shopping with us!" in post(url, click="Buy Now")
    goal, session = site.session(url)
    assert (goal, session.reward) == (GOAL, 1.0)


def test_the_site_shows_what_the_html_mode_shows() -> None:
    env = WebShop(num_products=60, observation="html")
    with WebShopSite(env.shop) as site:
        observation, _ = env.reset(seed=4)
        url = site.open(seed=4)
        assert get(url) == observation
        while env.state.reward is None:
            action = env.expert_action()
            verb, argument = action[:-1].split("[", 1)
            assert post(url, **{verb: argument}) == env.step(action)[0]
        assert site.session(url)[1].reward == 1.0


def test_visitors_do_not_share_a_session(site: WebShopSite) -> None:
    with urlopen(site.url, timeout=10) as first, urlopen(site.url, timeout=10) as second:
        assert first.url != second.url
        post(first.url, search="lamp")
        assert site.session(second.url)[1].page == "search"


def test_every_answer_forbids_scripts_and_framing(site: WebShopSite) -> None:
    for path in ("/", "/style.css", "/nowhere", site.open().removeprefix(site.url[:-1])):
        _, headers = status(site, "GET", path)
        assert headers["Content-Security-Policy"] == (
            "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


def test_a_product_cannot_break_out_of_its_text(site: WebShopSite) -> None:
    page = post(site.open(), search="brass lamp")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "expected"),
    [
        ("GET", "/nowhere/", None, {}, 404),
        ("GET", "/../../etc/passwd", None, {}, 404),
        ("POST", "/nowhere/", b"click=search", {}, 404),
        ("POST", "/nowhere/", b"", {}, 400),
        ("POST", "/nowhere/", b"\xff=\xff", {}, 400),
        ("POST", "/nowhere/", b"a=1" * LONGEST_BODY, {}, 413),
        ("POST", "/nowhere/", None, {"Transfer-Encoding": "chunked"}, 411),
        ("GET", "/", None, {"Host": "evil.example"}, 421),
        ("POST", "/nowhere/", b"click=a", {"Host": "evil.example"}, 421),
        ("PUT", "/", b"", {}, 501),
    ],
)
def test_odd_requests_are_refused(
    site: WebShopSite, method: str, path: str, body: bytes | None, headers: dict[str, str], expected: int
) -> None:
    assert status(site, method, path, body, **headers)[0] == expected


def test_a_redirect_stays_on_the_site(site: WebShopSite) -> None:
    name = site.open().rsplit("/", 2)[1]
    code, headers = status(site, "POST", f"//{name}//", b"search=lamp")
    assert (code, headers["Location"]) == (303, f"/{name}/")


def test_old_sessions_are_forgotten(site: WebShopSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkit.envs.webshop.site.MOST_SESSIONS", 2)
    first, *_ = [site.open() for _ in range(20)]
    with pytest.raises(UnknownNameError, match=r"no session at .* forgotten"):
        site.session(first)
    with pytest.raises(HTTPError, match="404"):
        get(first)


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*choose another port, or 0"):
            WebShopSite(num_products=60, port=port)


def test_closing_leaves_no_thread_and_no_listener() -> None:
    before = set(threading.enumerate())
    site = WebShopSite(num_products=60)
    url = site.open()
    idle = socket.create_connection(("127.0.0.1", int(site.url.rsplit(":", 1)[1].strip("/"))))
    get(url)
    idle.close()
    site.close()
    site.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(OSError, match="refused"):
        get(url)


@pytest.mark.family("agentkit/MiniWoB-v0")
def test_a_real_browser_buys_a_lamp(site: WebShopSite) -> None:
    from playwright.sync_api import sync_playwright

    url = site.open(split="held_out", seed=0)
    alerts: list[str] = []

    def dismiss(dialog: Any) -> None:
        alerts.append(dialog.message)
        dialog.dismiss()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), headless=True)
        page = browser.new_page()
        page.on("dialog", dismiss)
        page.goto(url)
        page.fill("#search_input", "table lamp")
        page.click("text=Search")
        page.click(f"text={LAMP.asin}")
        assert page.inner_text("p:has-text('Brass')") == LAMP.title
        page.click("text=Features")
        assert "Warm light" in page.inner_text("body")
        page.click("text=< Prev")
        page.click("text=large")
        page.click("text=navy blue")
        color = page.eval_on_selector(".option[aria-pressed='true']", "one => getComputedStyle(one).color")
        page.reload()  # repeats no click
        page.click("text=Buy Now")
        last = page.inner_text("body")
        browser.close()
    assert "Thank you for shopping with us!" in last
    assert "Purchased" not in last  # hidden, as in the original
    assert color == "rgb(255, 255, 255)"  # the style sheet came through
    assert alerts == []
    assert site.session(url)[1].reward == 1.0
