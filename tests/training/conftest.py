"""`parts` as a fixture: tests are no package, so shared functions travel this way."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="session")
def parts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("training_parts", Path(__file__).with_name("parts.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The networks are tiny: more threads only slow them down."""
    torch.set_num_threads(1)


@pytest.fixture
def make_trainer(parts):
    """Trainers that are closed at the end."""
    made = []

    def make(*args, **changes):
        made.append(parts.make_trainer(*args, **changes))
        return made[-1]

    yield make
    for trainer in made:
        trainer.close()
