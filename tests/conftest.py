"""What tests need that may not be installed: they skip with the reason, and in CI, which installs all, they fail."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NoReturn

import pytest

SHARED = Path(os.environ.get("AGENTKIT_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""Folder with the real games and the real catalogue; not part of the project."""


signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background, shells have it ignored, by children too


def _lack(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"CI must not skip: {reason}", pytrace=False)
    pytest.skip(reason)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `family(id)` where the family cannot be played."""
    from agentkit.envs.registration import bundled_family

    for mark in item.iter_markers("family"):
        missing = bundled_family(mark.args[0]).unavailable()
        if missing is not None:
            _lack(str(missing))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with `alfworld/` and `webshop/`, the real data that are used in tests only."""
    if not SHARED.is_dir():
        _lack(f"the real games and products are not in {SHARED}; set AGENTKIT_TEST_DATA to their folder")
    return SHARED
