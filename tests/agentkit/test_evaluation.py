"""Success rates with intervals, their baselines, and the panel they are of."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.envs import Task, TextEnv, make_tasks, optimal_success, random_success
from agentkit.errors import ConfigError
from agentkit.evaluation import Interval, bootstrap, evaluate, evaluate_async, panel_fingerprint, summarise, wilson
from agentkit.memory import Episode, EpisodeLog, Turn
from agentkit.policies import ExpertPolicy, RandomPolicy, ScriptedPolicy, as_response

TasksOf = Callable[..., list[Task]]
WAIT = ScriptedPolicy(lambda request: as_response("wait"))


class Coin(TextEnv):
    """One turn; succeeds at even seeds, and at odd ones in the first attempt only. Names no actions."""

    metadata = {"render_modes": [], "inline": True}  # noqa: RUF012 - Gymnasium's own convention

    def __init__(self) -> None:
        super().__init__(max_turns=1, max_actions=1, max_actions_per_turn=1)
        self.wins = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        assert seed is not None
        assert options is not None
        self.wins = seed % 2 == 0 or options.get("attempt", 0) == 0
        return f"coin {seed}", {"state_key": "start"}

    def step(self, action: str) -> Any:
        return "over", 2.0 * self.wins, True, False, {"success": self.wins, "valid": action == "wait"}


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29; and all of 20.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_gives_the_published_intervals(successes: int, trials: int, low: float, high: float) -> None:
    interval = wilson(successes, trials)
    assert interval.value == successes / trials
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_ends_are_where_the_score_test_just_rejects(counts: tuple[int, int]) -> None:
    successes, trials = counts
    interval = wilson(successes, trials)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    for end in (interval.low, interval.high):
        if 0 < end < 1:
            score = (successes / trials - end) / math.sqrt(end * (1 - end) / trials)
            assert abs(score) == pytest.approx(1.959964, abs=1e-4)


def test_the_bootstrap_of_equal_values_has_no_width_and_of_two_values_the_binomial_one() -> None:
    rng = np.random.default_rng(0)
    equal = bootstrap(np.full(8, 0.25), rng)
    assert equal == Interval(value=0.25, low=0.25, high=0.25)
    # The mean of 100 draws of 0 or 1: 2.5 % and 97.5 % of Binomial(100, 1/2) are 40 and 60.
    interval = bootstrap(np.repeat([0.0, 1.0], 50), rng)
    assert interval.value == 0.5
    assert (interval.low, interval.high) == pytest.approx((0.40, 0.60), abs=0.011)


def test_a_report_says_what_was_played(tasks_of: TasksOf) -> None:
    tasks = tasks_of(Coin, 8)
    report = evaluate(WAIT, tasks)
    assert (report.policy, report.policy_version, report.env_id) == ("scripted", 0, tasks[0].env_id)
    assert (report.tasks, report.episodes, report.failed) == (8, 8, 0)
    assert report.success == wilson(8, 8)
    assert report.episode_return.value == 2.0
    assert (report.valid_turns, report.turns) == (1.0, 1.0)
    assert str(report.success) == "1.000 [0.676, 1.000]"


def test_several_attempts_are_resampled_by_task(tasks_of: TasksOf) -> None:
    report = evaluate(WAIT, tasks_of(Coin, 40), attempts=4)
    # Even tasks always succeed, odd ones once in four: task means 1 and 1/4, spread 3/8 over 40 tasks.
    assert (report.tasks, report.episodes) == (40, 160)
    assert report.success.value == pytest.approx(0.625)
    half = 1.96 * 0.375 / math.sqrt(40)
    assert (report.success.low, report.success.high) == pytest.approx((0.625 - half, 0.625 + half), abs=0.02)
    assert report.episode_return.value == pytest.approx(1.25)


def test_the_same_seed_reports_the_same(tasks_of: TasksOf) -> None:
    tasks = tasks_of(Coin, 10)
    assert evaluate(WAIT, tasks, attempts=2, seed=3) == evaluate(WAIT, tasks, attempts=2, seed=3)


def test_baselines_normalise_the_result() -> None:
    tasks = make_tasks("agentkit/FrozenLake-v0", "held_out", num=30)
    report = evaluate(ExpertPolicy(), tasks)
    assert report.random == pytest.approx(np.mean(random_success(tasks)))
    assert report.optimal == np.mean(optimal_success(tasks)) == 1.0
    assert report.random is not None
    assert report.normalised is not None
    assert report.normalised.value == pytest.approx(1.0)
    assert report.normalised.low == pytest.approx((wilson(30, 30).low - report.random) / (1 - report.random))
    floor = evaluate(RandomPolicy(actions_per_turn=2), tasks)
    assert floor.normalised is not None
    assert abs(floor.normalised.value) < 0.3
    assert evaluate(ExpertPolicy(), tasks, baselines=False).normalised is None


def test_an_environment_without_known_actions_and_expert_has_no_baselines(tasks_of: TasksOf) -> None:
    tasks = tasks_of(Coin, 3)
    with pytest.raises(ConfigError, match="has no expert"):
        optimal_success(tasks)
    with pytest.raises(ConfigError, match="names no admissible actions"):
        random_success(tasks)
    report = evaluate(WAIT, tasks)
    assert (report.random, report.optimal, report.normalised) == (None, None, None)


def test_a_panel_is_known_by_its_tasks_and_what_they_show(tasks_of: TasksOf) -> None:
    tasks = tasks_of(Coin, 4)
    report = evaluate(WAIT, tasks)
    assert (
        report.panel == evaluate(WAIT, tasks, attempts=3).panel == evaluate(ScriptedPolicy(lambda r: ""), tasks).panel
    )
    assert report.panel != evaluate(WAIT, tasks[:3]).panel
    assert report.panel != evaluate(WAIT, tasks[::-1]).panel
    shown = Turn(observation="coin 0", response="")
    redrawn = shown.model_copy(update={"observation": "another coin"})
    episodes = [Episode(id="", task=tasks[0], turns=(turn,)) for turn in (shown, redrawn)]
    assert panel_fingerprint(tasks[:1], episodes[:1]) != panel_fingerprint(tasks[:1], episodes[1:])


def test_failed_episodes_count_as_unsuccessful_and_are_counted(tasks_of: TasksOf) -> None:
    class Trap(Coin):
        def step(self, action: str) -> Any:
            if not self.wins:
                raise OSError("gone")
            return super().step(action)

    report = evaluate(WAIT, tasks_of(Trap, 4), attempts=2)
    assert (report.episodes, report.failed) == (8, 2)
    assert report.success.value == 0.75


def test_a_panel_that_mixes_environments_or_is_empty_is_refused(tasks_of: TasksOf) -> None:
    with pytest.raises(ConfigError, match="a panel is of one environment, this one of none"):
        evaluate(WAIT, [])
    with pytest.raises(ConfigError, match=r"this one of \['agentkit/FrozenLake-v0', 'tests/Coin"):
        evaluate(WAIT, [*tasks_of(Coin), *make_tasks("agentkit/FrozenLake-v0")])


def test_an_evaluation_is_logged_where_asked_and_can_be_summarised_again(tasks_of: TasksOf, tmp_path: Path) -> None:
    tasks = tasks_of(Coin, 4)
    with EpisodeLog.open(tmp_path / "log.sqlite") as log:
        report = evaluate(WAIT, tasks, log=log)
        assert summarise(WAIT, tasks, list(log.episodes())) == report


def test_an_evaluation_can_be_awaited(tasks_of: TasksOf) -> None:
    tasks = tasks_of(Coin, 4)
    assert asyncio.run(evaluate_async(WAIT, tasks)) == evaluate(WAIT, tasks)
