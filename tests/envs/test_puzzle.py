"""Splits by content, snapshots and state keys, over all families."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.envs import Puzzle, make_env
from agentkit.envs.puzzle import draw_level, split_of
from agentkit.errors import ConfigError

VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("agentkit/FrozenLake-v0", {}),
    ("agentkit/FrozenLake-v0", {"slip": 0.5, "text": "coords", "size": 5, "p": 0.8}),
    ("agentkit/Sokoban-v0", {}),
    ("agentkit/Sokoban-v0", {"size": 7, "num_boxes": 2}),
    ("agentkit/Sudoku-v0", {}),
    ("agentkit/Sudoku-v0", {"num_empty": 10}),
)
variants = pytest.mark.parametrize(("env_id", "params"), VARIANTS)


def puzzle(env_id: str, params: dict[str, Any]) -> Puzzle:
    env = make_env(env_id, **params)
    assert isinstance(env, Puzzle)
    return env


def random_turn(info: dict[str, Any], rng: Random) -> str:
    return " || ".join(rng.choice(info["admissible_actions"]) for _ in range(2))


def test_about_one_text_in_five_is_held_out() -> None:
    share = sum(split_of(f"level {number}") == "held_out" for number in range(5000)) / 5000
    assert 0.18 < share < 0.22


def test_drawing_skips_rejections_and_the_other_split() -> None:
    def proposals(rng: Random) -> Iterator[str | None]:
        for number in range(20):
            yield None if number % 2 else f"level {number}"

    assert [split_of(f"level {number}") for number in (0, 2, 4, 6)] == ["train"] * 3 + ["held_out"]
    assert draw_level("test", proposals, str, "held_out", 0) == "level 6"
    assert draw_level("test", proposals, str, "train", 0) == "level 0"


def test_a_level_that_cannot_be_drawn_is_a_clear_error() -> None:
    def nothing(rng: Random) -> Iterator[str | None]:
        while True:
            yield None

    with pytest.raises(ConfigError, match="test found no train level in 20000 tries"):
        draw_level("test", nothing, str, "train", 0)


@variants
def test_splits_are_disjoint_by_content(env_id: str, params: dict[str, Any]) -> None:
    env = puzzle(env_id, params)
    levels: dict[str, set[Any]] = {}
    for split in ("train", "held_out"):
        levels[split] = set()
        for seed in range(300):
            env.reset(seed=seed, options={"split": split})
            levels[split].add(env.level)
        assert len(levels[split]) > 150
    assert not levels["train"] & levels["held_out"]


def test_held_out_sudokus_share_no_solution_with_training() -> None:
    env = puzzle("agentkit/Sudoku-v0", {})
    solutions: dict[str, set[Any]] = {}
    for split in ("train", "held_out"):
        solutions[split] = set()
        for seed in range(600):
            env.reset(seed=seed, options={"split": split})
            solutions[split].add(env.level.solution)
    assert not solutions["train"] & solutions["held_out"]
    assert len(solutions["train"]) > 150
    assert len(solutions["held_out"]) > 30


@variants
def test_levels_do_not_depend_on_what_was_played_before(env_id: str, params: dict[str, Any]) -> None:
    env = puzzle(env_id, params)
    first = [env.reset(seed=seed)[0] for seed in range(20)]
    assert [puzzle(env_id, params).reset(seed=seed)[0] for seed in reversed(range(20))] == first[::-1]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(VARIANTS),
    st.integers(0, 10_000),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 99),
)
def test_play_after_restore_repeats_exactly(
    variant: tuple[str, dict[str, Any]], seed: int, attempt: int, turns: int, choice: int
) -> None:
    env, other, rng = puzzle(*variant), puzzle(*variant), Random(choice)
    _, info = env.reset(seed=seed, options={"attempt": attempt})
    for _ in range(turns):
        _, _, terminated, truncated, info = env.step(random_turn(info, rng))
        if terminated or truncated:
            return
    saved = env.snapshot()
    assert pickle.loads(pickle.dumps(saved)) == saved  # noqa: S301 - our own bytes
    hash(saved)
    texts = [random_turn(info, rng), "nonsense", random_turn(info, rng)]
    played = [replay(env, texts)]
    for copy in (env, other):
        copy.restore(saved)
        played.append(replay(copy, texts))
    assert played[0] == played[1] == played[2]


def replay(env: Puzzle, texts: list[str]) -> list[Any]:
    answers: list[Any] = []
    for text in texts:
        answers.append(env.step(text))
        if answers[-1][2] or answers[-1][3]:
            break
    return answers


def test_restoring_something_else_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="needs what snapshot\\(\\) returned, got str"):
        puzzle("agentkit/Sokoban-v0", {}).restore("state")


@variants
def test_state_keys_hold_no_counters_and_tell_levels_apart(env_id: str, params: dict[str, Any]) -> None:
    env = puzzle(env_id, params)
    _, info = env.reset(seed=0)
    assert env.step("nonsense")[4]["state_key"] == info["state_key"]
    assert env.reset(seed=1)[1]["state_key"] != info["state_key"]
    assert env.reset(seed=0, options={"attempt": 3})[1]["state_key"] == info["state_key"]


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(VARIANTS), st.integers(0, 5000), st.sampled_from(["train", "held_out"]))
def test_the_expert_wins_whenever_it_is_certain(variant: tuple[str, dict[str, Any]], seed: int, split: str) -> None:
    env: Any = puzzle(*variant)
    env.reset(seed=seed, options={"split": split})
    certain = env.expert_success() == 1.0
    assert certain or variant[1].get("slip")
    over = False
    while not over:
        _, _, terminated, truncated, info = env.step(env.expert_action())
        assert info["valid"]
        over = terminated or truncated
    assert info["success"] or not certain
