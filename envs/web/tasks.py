"""MiniWoB's pages, as the `miniwob` package brings them."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from agentkit.errors import missing_extra


@cache
def html_folder() -> Path:
    """Folder of all that the pages load; found without importing the package, which loads Selenium.

    Raises:
        MissingExtraError: the package is not installed.
    """
    spec = importlib.util.find_spec("miniwob")
    if spec is None or spec.origin is None:
        raise missing_extra("miniwob")
    return Path(spec.origin).parent / "html"


@cache
def page_names() -> tuple[str, ...]:
    """Names of all pages, e.g. `click-test`, in alphabetical order."""
    return tuple(sorted(page.stem for page in (html_folder() / "miniwob").glob("*.html")))


def page_url(name: str) -> str:
    """Address of a page."""
    return (html_folder() / "miniwob" / f"{name}.html").as_uri()
