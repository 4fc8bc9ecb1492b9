"""The shop as a web site on 127.0.0.1, for agents and people with a browser.

It serves the same elements that the text modes show. Every visitor has a session of their own behind an address
that cannot be guessed; clicks and searches are posted to that address and answered with a redirect to it, so that
a reload repeats nothing. Pages hold no scripts, and the policy sent with them would let none run.
"""

from __future__ import annotations

import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from agentkit.envs.contract import whole_number
from agentkit.envs.webshop.catalogue import Goal
from agentkit.envs.webshop.env import WebShop, goal_of, open_shop
from agentkit.envs.webshop.pages import STYLE, as_html, page_of
from agentkit.envs.webshop.shop import Session, Shop
from agentkit.errors import ConfigError, UnknownNameError, unknown_name

HOST = "127.0.0.1"
MOST_SESSIONS = 10_000
"""Sessions kept; beyond, the oldest is forgotten."""
LONGEST_BODY = 16_384
"""Bytes of a form."""
PATIENCE_S = 5.0
"""Seconds that a connection may say nothing."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class WebShopSite:
    """A running shop; a context manager.

    Example: `with WebShopSite() as site: print(site.open(split="held_out", seed=3))`
    """

    def __init__(
        self, shop: Shop | None = None, *, catalogue: str | None = None, num_products: int | None = None, port: int = 0
    ) -> None:
        """Start serving on a thread of its own.

        Args:
            shop: what is sold; None opens the shop of `catalogue` and `num_products` (see `WebShop`).
            catalogue, num_products: as for `WebShop`.
            port: where to listen on 127.0.0.1; 0 is any free port.

        Raises:
            ConfigError: the port is taken, or a setting is wrong.
            MissingPartError, MissingExtraError: see `WebShop`.
        """
        if (missing := WebShop.unavailable()) is not None:
            raise missing
        whole_number("port", port, least=0, most=65535)
        self.shop = shop or open_shop(catalogue, num_products)
        self._sessions: dict[str, tuple[Goal, Session]] = {}
        self._lock = threading.Lock()
        self._visits = 0
        try:
            self._server = _Server((HOST, port), self)
        except OSError as error:
            raise ConfigError(f"cannot listen on {HOST}:{port} ({error}); choose another port, or 0") from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="agentkit-webshop", args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        """Address of the entrance, where every visitor is given the next training goal."""
        return f"http://{HOST}:{self._server.server_port}/"

    def open(self, split: str = "train", seed: int = 0) -> str:
        """Address of a new session with the goal that the environment has for a split and a seed.

        Raises:
            UnknownNameError: no such split.
        """
        if split not in self.shop.catalogue.goals:
            raise unknown_name("split", split, self.shop.catalogue.goals)
        name = secrets.token_urlsafe(12)
        with self._lock:
            self._sessions[name] = goal_of(self.shop, split, seed), Session()
            if len(self._sessions) > MOST_SESSIONS:
                self._sessions.pop(next(iter(self._sessions)))
        return f"{self.url}{name}/"

    def session(self, url: str) -> tuple[Goal, Session]:
        """(goal, session) at an address from `open`; the session's `reward` tells how a purchase went.

        Raises:
            UnknownNameError: no such session, or it was forgotten.
        """
        name = urlsplit(url).path.strip("/")
        with self._lock:
            if name not in self._sessions:
                raise UnknownNameError(f"no session at {url!r}: it was not opened here, or is forgotten")
            return self._sessions[name]

    def close(self) -> None:
        """Stop serving and wait until no thread is left; closing again does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _enter(self) -> str:
        """The path of a new session with the next training goal."""
        with self._lock:
            seed, self._visits = self._visits, self._visits + 1
        return urlsplit(self.open("train", seed)).path

    def _page(self, name: str) -> str | None:
        """The markup of a session's page; None if there is no such session."""
        with self._lock:
            found = self._sessions.get(name)
        return as_html(page_of(self.shop, found[1], found[0])) if found else None

    def _play(self, name: str, verb: str, argument: str) -> bool:
        """Play one action in a session; False if there is no such session."""
        with self._lock:
            if name not in self._sessions:
                return False
            goal, session = self._sessions[name]
            self._sessions[name] = goal, self.shop.act(session, goal, verb, argument)
        return True


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for the requests under way, which end within PATIENCE_S
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], site: WebShopSite) -> None:
        self.site = site
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a visitor who hangs up is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "WebShop"
    sys_version = ""
    timeout = PATIENCE_S

    def do_GET(self) -> None:
        if not self._is_ours():
            return
        path = urlsplit(self.path).path
        if path == "/":
            self._redirect(self.server.site._enter())
        elif path == "/style.css":
            self._answer(HTTPStatus.OK, STYLE, "text/css")
        elif path.count("/") == 2 and path.endswith("/") and (page := self.server.site._page(path.strip("/"))):
            self._answer(HTTPStatus.OK, page, "text/html")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such page.")

    def do_POST(self) -> None:
        if not self._is_ours():
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return self._refuse(HTTPStatus.LENGTH_REQUIRED, "Say how long the form is.")
        if int(length) > LONGEST_BODY:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The form is too long.")
        try:
            form = parse_qs(self.rfile.read(int(length)).decode("utf-8"), max_num_fields=8)
        except (ValueError, TimeoutError):
            return self._refuse(HTTPStatus.BAD_REQUEST, "The form cannot be read.")
        name = urlsplit(self.path).path.strip("/")
        for verb in ("search", "click"):
            if argument := form.get(verb, [""])[0].strip():
                if self.server.site._play(name, verb, argument):
                    return self._redirect(f"/{name}/")
                return self._refuse(HTTPStatus.NOT_FOUND, "There is no such page.")
        self._refuse(HTTPStatus.BAD_REQUEST, "Nothing was searched for or clicked.")

    def _is_ours(self) -> bool:
        """Whether the request names this server; a page elsewhere that points its own name here is refused."""
        port = self.server.server_port
        if self.headers.get("Host") in (f"{HOST}:{port}", f"localhost:{port}"):
            return True
        self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "This is another site.")
        return False

    def _redirect(self, path: str) -> None:
        self._answer(HTTPStatus.SEE_OTHER, "", "text/plain", {"Location": path})

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        self._answer(status, f"{sentence}\n", "text/plain")

    def _answer(self, status: HTTPStatus, text: str, kind: str, more: dict[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {**HEADERS, **(more or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""
