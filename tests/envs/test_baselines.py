"""Optimal and random scores."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest

from agentkit.envs import TextEnv, make_tasks, optimal_success, random_success
from agentkit.errors import ConfigError


class Coin(TextEnv):
    """One flip: `heads` wins."""

    example = "heads"

    def __init__(self) -> None:
        super().__init__(max_turns=1, max_actions=1, max_actions_per_turn=1)

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        self.shown: str | None = None

    def _parse(self, text: str) -> str:
        return text

    def _act(self, action: str) -> tuple[float, str]:
        self.shown = action
        return 0.0, ""

    def _observe(self) -> str:
        return str(self.shown)

    def _outcome(self) -> bool | None:
        return None if self.shown is None else self.shown == "heads"

    def _state_key(self) -> str:
        return str(self.shown)

    def _admissible(self) -> list[str]:
        return ["heads", "tails"]


@pytest.fixture(autouse=True)
def coin() -> Any:
    gymnasium.register("test/Coin-v0", entry_point=lambda **_: Coin())
    yield
    del gymnasium.registry["test/Coin-v0"]


def test_a_fair_coin_is_won_half_the_time() -> None:
    shares = random_success(make_tasks("test/Coin-v0", num=4), attempts=400)
    assert sum(shares) / 4 == pytest.approx(0.5, abs=4 * 0.5 / 1600**0.5)


def test_random_play_repeats_by_seed() -> None:
    tasks = make_tasks("test/Coin-v0", num=6)
    assert random_success(tasks, seed=1) == random_success(tasks, seed=1)
    assert random_success(tasks, seed=1) != random_success(tasks, seed=2)


def test_a_tasks_score_does_not_depend_on_the_other_tasks() -> None:
    tasks = make_tasks("agentkit/FrozenLake-v0", num=6)
    assert random_success(tasks)[3:] == random_success(tasks[3:])


def test_the_optimum_of_slippery_lakes_is_below_one_and_above_chance() -> None:
    tasks = make_tasks("agentkit/FrozenLake-v0", "held_out", 20, params={"slip": 0.3})
    optimal, random = optimal_success(tasks), random_success(tasks, attempts=4)
    assert sum(random) < sum(optimal) < 20


def test_without_an_expert_there_is_no_optimum() -> None:
    with pytest.raises(ConfigError, match="'test/Coin-v0' has no expert"):
        optimal_success(make_tasks("test/Coin-v0"))


def test_attempts_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="attempts must be a whole number of at least 1, got 0"):
        random_success(make_tasks("test/Coin-v0"), attempts=0)
