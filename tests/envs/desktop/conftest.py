"""One desktop for all tests that do not break theirs: it is clean again after every `clear` and `reset`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentkit.envs.desktop.display import Display
from agentkit.envs.desktop.env import Desktop


@pytest.fixture(scope="session")
def shared_display() -> Iterator[Display]:
    """A running display without applications."""
    display = Display(confined=True)
    yield display
    display.close()


@pytest.fixture(scope="session")
def shared_env() -> Iterator[Desktop]:
    """An environment with all chores."""
    env = Desktop()
    yield env
    env.close()
