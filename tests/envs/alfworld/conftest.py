"""A cache folder of the test run's own, so that the user's stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `$XDG_CACHE_HOME` names in these tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)


@pytest.fixture
def generated(own_cache: None) -> Path:
    """The folder of generated games, made once."""
    from agentkit.envs.alfworld.generated import generated_folder

    return generated_folder()
