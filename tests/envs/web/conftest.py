"""Pages of our own, and a server that counts who knocks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agentkit.envs.web.page import WebPage


class Server:
    """An HTTP server on every address of this computer that answers each path with the same page."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.pages: dict[str, str] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.paths.append(self.path)
                body = outer.pages.get(self.path, "<p>hello</p>").encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Access-Control-Allow-Origin", "*")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server for one test."""
    serving = Server()
    yield serving
    serving.close()


@pytest.fixture
def show(tmp_path: Path) -> Iterator[Callable[[str], WebPage]]:
    """Opens a page with the given body, and looks at it once."""
    pages: list[WebPage] = []

    def open_page(body: str, *, step_s: float = 15.0) -> WebPage:
        (tmp_path / "page.html").write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{body}</body>", encoding="utf-8")
        page = WebPage(tmp_path.as_uri() + "/", width=300, height=200, step_s=step_s)
        pages.append(page)
        page.goto((tmp_path / "page.html").as_uri())
        page.observe()  # gives the elements their numbers
        return page

    yield open_page
    for page in pages:
        page.close()
