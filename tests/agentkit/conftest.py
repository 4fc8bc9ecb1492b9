"""Fixtures of the middle layer's tests: a tiny real model and tokenizer, and environments registered for one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import gymnasium
import pytest
import torch

from agentkit.envs import Task, make_tasks
from agentkit.policies import LocalPolicy
from agentkit.training.tiny import build_model, build_tokenizer

torch.set_num_threads(1)
_numbers = count()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return build_tokenizer(["Up Down Left Right", "<think>I go up.</think><answer>Up</answer>"], vocab_size=300)


@pytest.fixture(scope="session")
def model(tokenizer: Any) -> Any:
    """Small, and with weights large enough that its distributions are far from uniform."""
    network = build_model(tokenizer, hidden=32, layers=2, heads=2, window=2048, seed=1)
    with torch.no_grad():
        network.get_input_embeddings().weight.mul_(4.0)
    return network


@pytest.fixture
def policy(model: Any, tokenizer: Any) -> LocalPolicy:
    return LocalPolicy(model, tokenizer)


@pytest.fixture
def tasks_of() -> Iterator[Callable[..., list[Task]]]:
    """Registers an environment class for the test and names tasks of it."""
    names = []

    def tasks_of(family: Any, num: int = 1) -> list[Task]:
        names.append(f"tests/{family.__name__}{next(_numbers)}-v0")
        gymnasium.register(names[-1], entry_point=family, disable_env_checker=True)
        return make_tasks(names[-1], num=num)

    yield tasks_of
    for name in names:
        del gymnasium.registry[name]
