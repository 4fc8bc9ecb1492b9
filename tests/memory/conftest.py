"""`make_episode` as a fixture: tests are no package, so a shared function travels this way."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from agentkit.memory.records import Episode


@pytest.fixture(scope="session")
def make_episode() -> Callable[..., Episode]:
    spec = importlib.util.spec_from_file_location("memory_factory", Path(__file__).with_name("factory.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_episode
