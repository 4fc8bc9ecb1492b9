from __future__ import annotations

import doctest
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.bench.effects import World
from agentkit.bench.utility import success_counters
from agentkit.errors import ConfigError
from agentkit.memory.exposure import Candidate, Exploration, Exposure, Outcome
from agentkit.memory.trials import BASELINE_COUNT
from agentkit.memory.utility import (
    UNKNOWN,
    Utility,
    as_factor,
    estimate_holdout,
    estimate_utility,
    t_quantile,
)

Coin = tuple[str, bool, float]


def expose(episode: str, *coins: Coin, task: str = "", version: int = 0, context: str = "") -> Exposure:
    """An exposure from (memory id, shown, propensity)."""
    candidates = tuple(
        Candidate(memory_id=name, score=1.0, propensity=chance, shown=shown, position=place if shown else None)
        for place, (name, shown, chance) in enumerate(coins)
    )
    return Exposure(
        id=episode,
        episode_key=episode,
        task_key=task,
        context=context,
        candidates=candidates,
        policy_version=version,
    )


def log_of(
    *rows: tuple[bool, float, float], version: int = 0, name: str = "m", prefix: str = ""
) -> tuple[list[Exposure], dict[str, Outcome]]:
    """A log of one memory from (shown, propensity, outcome), each episode of a task of its own."""
    exposures, outcomes = [], {}
    for number, (shown, chance, value) in enumerate(rows):
        key = f"{prefix}{version}-{number}"
        exposures.append(expose(key, (name, shown, chance), task=key, version=version))
        outcomes[key] = Outcome(value=value)
    return exposures, outcomes


def test_the_uplift_is_the_difference_of_residual_means_weighted_by_inverse_propensities() -> None:
    # Each episode is a task of its own, so its baseline comes from the other three by two levels of 2 imagined
    # episodes: overall b = (others + 2 * 0.5) / 5, in the one context (others + 2 b) / 5, for the task the same again.
    exposures, outcomes = log_of((True, 0.5, 1.0), (True, 0.8, 0.0), (False, 0.5, 0.0), (False, 0.8, 1.0))
    # outcomes 1: others 1, b = 2/5, (1 + 4/5)/5 = 0.36; outcomes 0: others 2, b = 3/5, (2 + 6/5)/5 = 0.64
    # residuals: 0.64, -0.64, -0.64, 0.64; weights shown 2, 1.25; hidden 2, 5
    shown = (2 * 0.64 - 1.25 * 0.64) / 3.25
    hidden = (-2 * 0.64 + 5 * 0.64) / 7
    found = estimate_utility(exposures, outcomes)["m"]
    assert found.uplift == pytest.approx(shown - hidden)
    assert found.mean_shown == pytest.approx(2 / 3.25)
    assert found.mean_hidden == pytest.approx(5 / 7)
    assert (found.num_shown, found.num_hidden) == (2, 2)


def test_evidence_of_harm_comes_from_baselines_that_only_earlier_episodes_make() -> None:
    # Tasks of their own: b is 1/2 at first; after the failure (0 + 1)/3 overall, (0 + 2/3)/3 in the context, the same
    # for the task, of which nothing is known. Scores (A - p)(Y - b) are -1/4 and -(1 - 2/9)/2 = -7/18.
    exposures, outcomes = log_of((True, 0.5, 0.0), (False, 0.5, 1.0))
    expected = sum((1 + min(s, 0.9 / 0.25) / 4) * (1 + min(s, 0.9 * 18 / 7) * 7 / 18) for s in (0.5, 1.0, 2.0, 4.0)) / 4
    assert estimate_utility(exposures, outcomes)["m"].harm == pytest.approx(expected)
    assert not estimate_utility(exposures, outcomes)["m"].harmful
    harmed, outcomes = log_of(*[(n % 2 == 0, 0.5, float(n % 2)) for n in range(30)])
    assert estimate_utility(harmed, outcomes)["m"].harmful
    helped, outcomes = log_of(*[(n % 2 == 0, 0.5, float(n % 2 == 0)) for n in range(30)])
    assert estimate_utility(helped, outcomes)["m"].harm < 0.2
    assert UNKNOWN.harm == 1.0


def test_evidence_of_harm_is_rarely_found_where_there_is_none_however_often_one_looks() -> None:
    harmless = alarms = 0
    for run in range(25):
        world = World(run, num_tasks=10, num_memories=8, share=0.0)
        world.run_many(Exploration(seed=run, holdout=0.0, dropout=0.5), 400)
        found: set[str] = set()
        for end in range(20, 401, 20):
            looked = estimate_utility(world.exposures[:end], world.outcomes)
            found |= {memory_id for memory_id, utility in looked.items() if utility.harmful}
        harmless += len(looked)
        alarms += len(found)
    assert harmless > 150
    assert alarms / harmless <= 0.05


def test_ranking_weighs_by_overlap_and_shrinks_towards_zero() -> None:
    exposures, outcomes = log_of((True, 0.5, 1.0), (True, 0.8, 0.0), (False, 0.5, 0.0), (False, 0.6, 1.0))
    shown = (0.5 * 0.64 - 0.2 * 0.64) / 0.7
    hidden = (-0.5 * 0.64 + 0.6 * 0.64) / 1.1
    weak = estimate_utility(exposures, outcomes, prior_sd=0.1)["m"]
    assert estimate_utility(exposures, outcomes, prior_sd=1e6)["m"].shrunk == pytest.approx(shown - hidden)
    assert 0 < weak.shrunk < shown - hidden
    assert 0.5 < weak.chance < 1
    assert as_factor(weak) == 0.5 + weak.shrunk / 2


def test_the_interval_is_welchs_with_three_imagined_episodes_in_each_arm() -> None:
    # 8 shown, 6 of them successes; 8 hidden, 2 of them. A success sees 7 of the 15 others succeed, a failure 8.
    exposures, outcomes = log_of(*[(n < 8, 0.5, float(n < 6 or n >= 14)) for n in range(16)])
    success, failure = (y - (8 - y + 2 * (8 - y + 1) / 17) / 17 for y in (1.0, 0.0))
    step = success - failure
    spread = (8 * success**2 + 8 * failure**2 + 3 / 4) / (16 + 3)
    variance = (6 * 2 / 8 * step**2 + 3 * spread) / (8 * (8 - 1 + 3))  # of the mean of either arm
    width = 2.086 * (2 * variance) ** 0.5  # t of 10 + 10 degrees of freedom
    found = estimate_utility(exposures, outcomes)["m"]
    assert found.uplift == pytest.approx(step / 2)
    assert found.low == pytest.approx(step / 2 - width, abs=1e-4)
    assert found.high == pytest.approx(min(step / 2 + width, 1.0), abs=1e-4)


def test_a_baseline_takes_the_easiness_of_tasks_away() -> None:
    exposures, outcomes = [], {}
    for number in range(200):
        easy, shown = number % 2 == 0, number % 20 < 11
        exposures.append(expose(str(number), ("m", shown, 0.5), task="easy" if easy else "hard"))
        outcomes[str(number)] = Outcome(value=float(easy))
    known = estimate_utility(exposures, outcomes)["m"]
    unknown = estimate_utility([e.model_copy(update={"task_key": ""}) for e in exposures], outcomes)["m"]
    assert unknown.uplift == pytest.approx(6 / 11 - 4 / 9, abs=0.002)  # what it happened to be shown in
    assert abs(known.uplift) < 0.005
    assert known.high - known.low < 0.2 * (unknown.high - unknown.low)


def test_nothing_is_said_where_one_arm_is_empty() -> None:
    for shown in (True, False):
        exposures, outcomes = log_of(*[(shown, 0.5, 1.0)] * 30)
        found = estimate_utility(exposures, outcomes)["m"]
        assert (found.uplift, found.low, found.high, found.shrunk, found.chance) == (0.0, -1.0, 1.0, 0.0, 0.5)
        assert (found.mean_shown, found.mean_hidden) == ((1.0, None) if shown else (None, 1.0))
        assert found.num_shown + found.num_hidden == 30
    assert as_factor(UNKNOWN) == 0.5
    assert estimate_utility([], {}) == {}


def test_one_episode_in_each_arm_proves_nothing_and_equal_outcomes_are_not_certainty() -> None:
    exposures, outcomes = log_of((True, 0.5, 1.0), (False, 0.5, 0.0))
    found = estimate_utility(exposures, outcomes)["m"]
    assert found.low < -0.5
    assert found.high == 1.0
    exposures, outcomes = log_of(*[(True, 0.5, 1.0)] * 2, *[(False, 0.5, 1.0)] * 2)
    found = estimate_utility(exposures, outcomes)["m"]
    assert found.low < -0.3
    assert found.high > 0.3


def test_a_coin_that_could_fall_one_way_only_and_an_untossed_one_count_for_nothing() -> None:
    exposures = [expose("a", ("m", True, 1.0)), expose("b", ("m", False, 0.0))]
    found = estimate_utility(exposures, {"a": Outcome(value=1.0), "b": Outcome(value=0.0)})
    assert found == {"m": UNKNOWN}


def test_an_episode_counts_once_however_often_it_recalls() -> None:
    exposures, outcomes = log_of((True, 0.5, 1.0), (False, 0.5, 0.0), (True, 0.7, 1.0))
    assert estimate_utility([e for e in exposures for _ in range(4)], outcomes) == estimate_utility(exposures, outcomes)


def test_what_a_model_judged_is_refused() -> None:
    exposures, outcomes = log_of((True, 0.5, 1.0), (False, 0.5, 0.0))
    outcomes["0-1"] = Outcome(value=1.0, judge="model")
    with pytest.raises(ConfigError, match="episode '0-1' was judged by a model"):
        estimate_utility(exposures, outcomes)
    held = [e.model_copy(update={"holdout": 0.1}) for e in exposures]
    with pytest.raises(ConfigError, match="judged by a model"):
        estimate_holdout(held, outcomes)


def test_episodes_without_an_outcome_are_left_out_and_outcomes_without_exposure_too() -> None:
    exposures, outcomes = log_of((True, 0.5, 1.0), (False, 0.5, 0.0), (True, 0.5, 0.0))
    fewer = {key: outcomes[key] for key in ("0-0", "0-1")}
    assert estimate_utility(exposures, fewer) == estimate_utility(exposures[:2], outcomes)
    more = {**fewer, "elsewhere": Outcome(value=1.0)}
    assert estimate_utility(exposures, more) == estimate_utility(exposures[:2], outcomes)
    assert estimate_utility(exposures, {"elsewhere": Outcome(value=1.0)}) == {}
    assert estimate_holdout(exposures, {"elsewhere": Outcome(value=1.0)}) == UNKNOWN


def test_settings_out_of_range_are_refused() -> None:
    exposures, outcomes = log_of((True, 0.5, 1.0))
    with pytest.raises(ConfigError, match="half_life is 0"):
        estimate_utility(exposures, outcomes, half_life=0)
    with pytest.raises(ConfigError, match="prior_sd is 0"):
        estimate_utility(exposures, outcomes, prior_sd=0)


def test_old_policies_count_half_a_half_life_later_and_fade_into_the_unknown() -> None:
    helped, first = log_of(*[(True, 0.5, 1.0)] * 50, *[(False, 0.5, 0.0)] * 50, version=0)
    harmed, second = log_of(*[(True, 0.5, 0.0)] * 50, *[(False, 0.5, 1.0)] * 50, version=4)
    everything, outcomes = helped + harmed, first | second
    assert estimate_utility(everything, outcomes)["m"].uplift == pytest.approx(0.0, abs=1e-9)
    # weights 1/4 and 1: success of the shown (1/4) / (5/4) = 0.2, of the hidden 0.8
    faded = estimate_utility(everything, outcomes, half_life=2)["m"]
    assert (faded.mean_shown, faded.mean_hidden) == (pytest.approx(0.2), pytest.approx(0.8))
    widths = [
        found.high - found.low
        for age in (0, 4, 8, 12, 100)
        for found in [estimate_utility(helped, first, half_life=2, policy_version=age)["m"]]
    ]
    assert widths == sorted(widths)
    assert widths[0] < 0.5
    assert widths[-1] == 2.0
    assert estimate_utility(helped, first, half_life=2, policy_version=10_000)["m"].chance == 0.5


def test_a_context_sees_its_own_exposures_only() -> None:
    exposures, outcomes = [], {}
    for number in range(80):
        context, shown = ("kitchen", "garden")[number % 2], number % 4 < 2
        exposures.append(expose(str(number), ("m", shown, 0.5), context=context))
        outcomes[str(number)] = Outcome(value=float(shown == (context == "kitchen")))
    assert estimate_utility(exposures, outcomes, context="kitchen")["m"].low > 0.5
    assert estimate_utility(exposures, outcomes, context="garden")["m"].high < -0.5
    assert estimate_utility(exposures, outcomes, context="attic") == {}


def test_the_holdout_measures_memory_as_a_whole() -> None:
    exploration, exposures, outcomes = Exploration(holdout=0.3, dropout=0.0), [], {}
    for number in range(400):
        exposure = exploration.draw(str(number), [("m", 1.0)], 1)
        exposures.append(exposure)
        outcomes[str(number)] = Outcome(value=float(number % 10 < (4 if exposure.held_out else 7)))
    found = estimate_holdout(exposures, outcomes)
    assert found.low < 0.3 < found.high
    assert found.low > 0.1
    assert found.num_hidden == sum(e.held_out for e in exposures)
    assert estimate_holdout([], {}) == UNKNOWN


def test_episodes_held_out_are_no_evidence_about_a_single_memory() -> None:
    # With the help of "good" missing too, success is lower in held-out episodes whatever "idle" does.
    exploration, rng, exposures, outcomes = Exploration(holdout=0.3, dropout=0.3), np.random.default_rng(0), [], {}
    for number in range(6000):
        exposure = exploration.draw(str(number), [("good", 1.0), ("idle", 0.9)], 2)
        exposures.append(exposure)
        outcomes[str(number)] = Outcome(value=float(rng.random() < 0.3 + 0.5 * ("good" in exposure.shown_ids)))
    found = estimate_utility(exposures, outcomes)
    assert found["good"].uplift == pytest.approx(0.5, abs=0.04)
    assert found["idle"].uplift == pytest.approx(0.0, abs=0.04)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.booleans(), st.floats(0.05, 0.95), st.sampled_from([0.0, 0.25, 1.0])), min_size=1, max_size=30
    )
)
def test_every_utility_is_in_range_and_swapping_the_arms_turns_its_sign(rows: list[tuple[bool, float, float]]) -> None:
    found = estimate_utility(*log_of(*rows))["m"]
    turned = estimate_utility(*log_of(*[(not shown, 1 - chance, value) for shown, chance, value in rows]))["m"]
    assert -1 <= found.low <= found.uplift <= found.high <= 1
    assert abs(found.shrunk) <= 1
    assert 0 <= found.chance <= 1
    assert turned.uplift == pytest.approx(-found.uplift, abs=1e-9)
    assert turned.low == pytest.approx(-found.high, abs=1e-9)
    assert turned.chance == pytest.approx(1 - found.chance, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(which=st.integers(0, 19), values=st.lists(st.floats(0.0, 1.0), min_size=20, max_size=20))
def test_a_better_outcome_with_the_memory_never_lowers_its_uplift(which: int, values: list[float]) -> None:
    def uplift(outcomes: list[float]) -> float:
        return estimate_utility(*log_of(*[(n % 2 == 0, 0.5, value) for n, value in enumerate(outcomes)]))["m"].uplift

    better = [*values[:which], 1.0, *values[which + 1 :]]
    change = uplift(better) - uplift(values)
    assert change >= -1e-9 if which % 2 == 0 else change <= 1e-9


def test_more_evidence_of_the_same_narrows_the_interval_and_shrinks_less() -> None:
    found: list[Utility] = []
    for times in (1, 4, 16):
        rows = [(True, 0.5, 1.0), (True, 0.5, 1.0), (True, 0.5, 0.0), (False, 0.5, 0.0), (False, 0.5, 1.0)] * times
        found.append(estimate_utility(*log_of(*rows))["m"])
    widths = [utility.high - utility.low for utility in found]
    assert widths == sorted(widths, reverse=True)
    assert [utility.shrunk for utility in found] == sorted(utility.shrunk for utility in found)
    assert [utility.chance for utility in found] == sorted(utility.chance for utility in found)


def test_the_quantiles_of_t_are_those_of_the_tables() -> None:
    table = {3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042, 120: 1.980}
    assert t_quantile(np.array([float(n) for n in table])) == pytest.approx(list(table.values()), rel=0.01)
    assert t_quantile(np.array([2.0])) == pytest.approx([4.303], rel=0.035)


@pytest.mark.parametrize("thompson", [False, True])
def test_known_effects_are_found_without_bias_and_covered_where_counters_fail(thompson: bool) -> None:
    errors, covered, counted = [], [], []
    for run in range(8):
        world = World(run)
        world.run_many(Exploration(seed=run, dropout=0.2), 1000, thompson=thompson)
        for memory_id, found in world.estimate().items():
            errors.append(found.uplift - world.effects[memory_id])
            covered.append(found.low <= world.effects[memory_id] <= found.high)
        counters = success_counters(world)
        counted += [abs(counters[memory_id] - world.effects[memory_id]) for memory_id in counters]
    # 240 pairs: three standard errors of the mean are about 0.025, of the coverage 0.042
    assert len(errors) > 220
    assert abs(np.mean(errors)) < 0.025
    assert 0.908 < np.mean(covered) < 0.992
    assert np.mean(np.abs(errors)) < 0.85 * np.mean(counted)


def plain_uplift(exposures: Sequence[Exposure], outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """The uplift as `estimate_utility` has it, in plain loops and without intervals."""
    level = BASELINE_COUNT
    episodes: dict[str, tuple[str, float]] = {}
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for exposure in exposures:
        value = outcomes[exposure.episode_key].value
        episodes[exposure.episode_key] = (exposure.task_key, value)
        totals[exposure.task_key][0] += value
        totals[exposure.task_key][1] += 1
    everything, number = sum(value for _, value in episodes.values()), len(episodes)
    arms: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    seen = set()
    for exposure in exposures:
        task, value = episodes[exposure.episode_key]
        overall = (everything - value + level * 0.5) / (number - 1 + level)
        overall = (everything - value + level * overall) / (number - 1 + level)  # the one context
        baseline = (totals[task][0] - value + level * overall) / (totals[task][1] - 1 + level)
        for candidate in exposure.candidates:
            unit = (exposure.episode_key, candidate.memory_id)
            if 0 < candidate.propensity < 1 and unit not in seen:
                seen.add(unit)
                arm = arms[candidate.memory_id]
                place = 0 if candidate.shown else 2
                weight = 1 / (candidate.propensity if candidate.shown else 1 - candidate.propensity)
                arm[place] += weight * (value - baseline)
                arm[place + 1] += weight
    return {m: arm[0] / arm[1] - arm[2] / arm[3] for m, arm in arms.items() if arm[1] and arm[3]}


def test_the_arrays_give_what_plain_loops_give() -> None:
    world = World(5)
    world.run_many(Exploration(dropout=0.3), 500, thompson=True)
    found, plain = world.estimate(), plain_uplift(world.exposures, world.outcomes)
    assert len(plain) > 20
    assert {memory_id: found[memory_id].uplift for memory_id in plain} == pytest.approx(plain, abs=1e-12)


def test_the_page_on_utility_runs_as_printed() -> None:
    page = Path(__file__).parents[2] / "docs" / "memory" / "utility.md"
    failed, attempted = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert attempted >= 8
    assert failed == 0
