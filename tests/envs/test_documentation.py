"""The examples of docs/environments.md and of the families' pages are run."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
FAMILIES = {
    "alfworld.md": "agentkit/ALFWorld-v0",
    "desktop.md": "agentkit/Desktop-v0",
    "web.md": "agentkit/MiniWoB-v0",
    "webshop.md": "agentkit/WebShop-v0",
}
"""Page -> the family that has to be playable for its examples to run."""


def pages() -> list[Any]:
    """Every page on environments, marked with what it needs."""
    found = [DOCS / "environments.md", *sorted((DOCS / "environments").glob("*.md"))]
    return [
        pytest.param(
            page, id=page.stem, marks=[pytest.mark.family(FAMILIES[page.name])] if page.name in FAMILIES else []
        )
        for page in found
    ]


@pytest.mark.parametrize("page", pages())
def test_every_example_of_a_page_runs_as_printed(page: Path) -> None:
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, attempted = doctest.testfile(str(page), module_relative=False, encoding="utf-8", optionflags=flags)
    assert attempted >= 5
    assert failed == 0
