"""Advantages of whole episodes: by hand, against formulas written out one by one, and what all of them must keep."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from agentkit.errors import ConfigError, EnvironmentFault
from agentkit.training.advantages import (
    GAE,
    GRPO,
    MCGRPO,
    RLOO,
    Advantage,
    ArCHer,
    DrGRPO,
    GiGPO,
    Outcomes,
    ReinforcePlusPlus,
    TurnBonus,
    TurnReturns,
    group_indices,
)
from agentkit.training.binding import scheduled
from agentkit.training.config import TrainConfig
from agentkit.training.schedule import Cosine

FEW = settings(max_examples=25, deadline=None)  # for each of many estimators
GROUPED = {
    "grpo": GRPO(),
    "dr-grpo": DrGRPO(),
    "rloo": RLOO(),
    "mc-grpo": MCGRPO(),
    "reinforce++, group": ReinforcePlusPlus(baseline="group"),
    "reinforce++, group, over episodes": ReinforcePlusPlus(baseline="group", over="episodes"),
}
"""Those with a baseline of the group."""
ALL = GROUPED | {
    "reinforce++": ReinforcePlusPlus(),
    "reinforce++, over episodes": ReinforcePlusPlus(over="episodes"),
}
RETURNS = st.lists(st.floats(-100, 100), min_size=1, max_size=20)
TENTHS = st.integers(-20, 20).map(lambda number: number / 10)
BATCHES = st.lists(st.tuples(st.integers(0, 3), TENTHS, st.integers(1, 9)), min_size=1, max_size=24)
"""(group, return, tokens) of each episode."""


def advantages(parts, estimator, returns, groups=None, tokens=None):
    """One for each episode of one turn."""
    groups = groups if groups is not None else [0] * len(returns)
    compact = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    outcomes = parts.make_outcomes(
        [[value] for value in returns],
        [compact[group] for group in groups],
        tokens_U=tokens if tokens is not None else [1] * len(returns),
    )
    return estimator.turns(outcomes)


def written_out(name, batch):
    """The formula of each, attempt by attempt."""
    returns = [value for _, value, _ in batch]
    equal = max(returns) - min(returns) < 1e-9
    over_tokens = [value for _, value, tokens in batch for _ in range(tokens)]
    found = []
    for index, (group, value, _) in enumerate(batch):
        same = [other for place, (g, other, _) in enumerate(batch) if g == group and place != index]
        together = [value, *same]
        spread = max(together) - min(together) > 1e-9
        mean, deviation = statistics.fmean(together), statistics.pstdev(together)
        if name == "grpo":
            found.append((value - mean) / (deviation + 1e-6) if spread else 0)
        elif name == "dr-grpo":
            found.append(value - mean)
        elif name == "rloo":
            found.append(value - statistics.fmean(same) if same else 0)
        elif name == "mc-grpo":
            found.append((value - statistics.median(together)) / (deviation + 1e-6) if spread else 0)
        elif name.startswith("reinforce++, group"):
            centred = []
            for g, other, tokens in batch:
                rest = [r for h, r, _ in batch if h == g]
                centred += [other - statistics.fmean(rest)] * (1 if "episodes" in name else tokens)
            whole = statistics.pstdev(centred)
            found.append((value - mean) / (whole + 1e-8) if max(centred) - min(centred) > 1e-9 else 0)
        else:
            whole = returns if "episodes" in name else over_tokens
            found.append(0 if equal else (value - statistics.fmean(whole)) / (statistics.pstdev(whole) + 1e-8))
    return found


def test_one_success_among_four_stands_out_by_root_three(parts):
    # mean 1/4, standard deviation sqrt(3)/4: (3/4) / (sqrt(3)/4) = sqrt(3), (−1/4) / (sqrt(3)/4) = −1/sqrt(3)
    expected = [3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)]
    assert advantages(parts, GRPO(), [1, 0, 0, 0]) == pytest.approx(expected, abs=1e-5)


def test_two_successes_among_eighteen_get_the_numbers_of_rlep(parts):
    found = advantages(parts, GRPO(), [1.0] * 2 + [0.0] * 16)
    assert found[0].round(2) == 2.83
    assert found[-1].round(2) == -0.35


def test_dr_grpo_and_rloo_by_hand(parts):
    assert advantages(parts, DrGRPO(), [1, 0, 0, 0]).tolist() == [0.75, -0.25, -0.25, -0.25]
    # 1 − 0, and 0 − 1/3
    assert advantages(parts, RLOO(), [1, 0, 0, 0]) == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])


def test_the_attempt_at_the_median_of_an_odd_group_is_left_out(parts):
    # median 1, mean 4/3, variance (25 + 1 + 16)/27 = 14/9
    found = advantages(parts, MCGRPO(), [3, 0, 1])
    assert found == pytest.approx([2 / math.sqrt(14 / 9), -1 / math.sqrt(14 / 9), 0], abs=1e-5)
    assert found[2] == 0
    assert advantages(parts, MCGRPO(), [1, 0, 0, 0, 0])[1:].tolist() == [0] * 4
    # an even group has nobody at its median, 1/2
    assert advantages(parts, MCGRPO(), [1, 0]) == pytest.approx([1, -1], abs=1e-5)


def test_reinforce_plus_plus_by_hand(parts):
    # Over tokens 1, 1, 1, 0: mean 3/4, deviation sqrt(3)/4. Over episodes 1, 0: mean and deviation 1/2.
    assert advantages(parts, ReinforcePlusPlus(), [1, 0], [0, 1], [3, 1]) == pytest.approx([3**-0.5, -(3**0.5)])
    assert advantages(parts, ReinforcePlusPlus(over="episodes"), [1, 0], [0, 1], [3, 1]) == pytest.approx([1, -1])
    # With group baselines 5 − 4, 3 − 4 and 0: deviation sqrt(2/3); the equal group stays at zero.
    found = advantages(parts, ReinforcePlusPlus(baseline="group"), [5, 3, 9], [0, 0, 1])
    assert found == pytest.approx([1.5**0.5, -(1.5**0.5), 0])
    assert found[2] == 0


@pytest.mark.parametrize("name", ALL)
@FEW
@given(BATCHES)
def test_every_estimator_is_its_formula_written_out(parts, name, batch):
    groups, returns, tokens = zip(*batch, strict=True)
    found = advantages(parts, ALL[name], returns, groups, tokens)
    assert found == pytest.approx(written_out(name, batch), abs=1e-6)


@pytest.mark.parametrize("name", GROUPED)
@FEW
@given(st.floats(-10, 10), st.integers(1, 40))
def test_equal_returns_give_exactly_zero(parts, name, value, num):
    assert advantages(parts, GROUPED[name], [value] * num).tolist() == [0.0] * num


@pytest.mark.parametrize("name", ALL)
@FEW
@given(st.permutations([0.1, 0.2, 0.3, -0.7, 1.1]), st.permutations([0.1, 0.2, 0.3, -0.7, 1.1]))
def test_returns_that_differ_in_the_order_of_their_sums_only_are_equal(parts, name, one, other):
    assert advantages(parts, ALL[name], [sum(one), sum(other), sum(one)]).tolist() == [0.0] * 3


@pytest.mark.parametrize("name", GROUPED)
def test_a_group_of_equal_returns_stays_at_zero_beside_others(parts, name):
    assert advantages(parts, GROUPED[name], [1, 1, 5, 2], [0, 0, 1, 1])[:2].tolist() == [0, 0]


def test_a_single_attempt_has_no_advantage(parts):
    for estimator in ALL.values():
        assert advantages(parts, estimator, [7.5]).tolist() == [0.0]


@FEW
@given(RETURNS)
def test_advantages_sum_to_zero_and_keep_the_order_of_the_returns(parts, returns):
    found = advantages(parts, GRPO(), returns)
    assert abs(found.sum()) < 1e-6 * len(returns)
    better = np.greater.outer(found, found)
    assert not (better & np.less.outer(np.array(returns), np.array(returns))).any()


@pytest.mark.parametrize("name", ALL)
@FEW
@given(BATCHES, st.floats(-10, 10))
def test_a_constant_added_to_all_returns_changes_nothing(parts, name, batch, shift):
    groups, returns, tokens = zip(*batch, strict=True)
    moved = advantages(parts, ALL[name], [value + shift for value in returns], groups, tokens)
    assert moved == pytest.approx(advantages(parts, ALL[name], returns, groups, tokens), abs=1e-6)


@pytest.mark.parametrize("name", ALL)
@FEW
@given(BATCHES, st.floats(0.5, 20))
def test_a_factor_of_all_returns_scales_what_is_not_divided_by_the_spread(parts, name, batch, factor):
    groups, returns, tokens = zip(*batch, strict=True)
    before = advantages(parts, ALL[name], returns, groups, tokens)
    after = advantages(parts, ALL[name], [value * factor for value in returns], groups, tokens)
    linear = name in ("dr-grpo", "rloo")
    assert after == pytest.approx(before * factor if linear else before, abs=2e-4)


@pytest.mark.parametrize("name", ALL)
@FEW
@given(BATCHES, st.randoms())
def test_the_order_of_episodes_does_not_matter(parts, name, batch, random):
    order = list(range(len(batch)))
    random.shuffle(order)
    groups, returns, tokens = zip(*batch, strict=True)
    straight = advantages(parts, ALL[name], returns, groups, tokens)
    mixed = [batch[place] for place in order]
    groups, returns, tokens = zip(*mixed, strict=True)
    found = advantages(parts, ALL[name], returns, groups, tokens)
    assert found == pytest.approx(straight[order], abs=1e-9)


@pytest.mark.parametrize("name", ["grpo", "dr-grpo", "rloo", "mc-grpo"])
@FEW
@given(BATCHES)
def test_a_group_knows_nothing_of_the_others(parts, name, batch):
    groups, returns, tokens = zip(*batch, strict=True)
    found = advantages(parts, ALL[name], returns, groups, tokens)
    for group in set(groups):
        inside = [place for place, other in enumerate(groups) if other == group]
        alone = advantages(parts, ALL[name], [returns[place] for place in inside])
        assert alone == pytest.approx(found[inside], abs=1e-12)


def test_every_turn_of_an_episode_has_its_advantage(parts):
    outcomes = parts.make_outcomes([[1, 0, 1], [], [1]])
    assert DrGRPO().turns(outcomes) == pytest.approx([1, 1, 1, 0])  # mean (2 + 0 + 1)/3 = 1


def test_an_empty_group_is_refused():
    with pytest.raises(ConfigError, match="an empty group has no advantages"):
        Outcomes.of([])


def test_groups_keep_the_order_of_first_appearance(parts):
    episodes = [parts.make_episode(name=str(i), group_id=group) for i, group in enumerate("baabc")]
    assert group_indices(episodes) == [[0, 3], [1, 2], [4]]


def test_outcomes_are_what_the_episodes_hold(parts):
    turns = [
        parts.make_turn([1], [2, 5], valid=valid, reward=0.5, state_key=key)
        for valid, key in ((True, "a"), (False, "b"), (False, ""))
    ]
    twice = [parts.make_episode(turns), parts.make_episode(success=False), parts.make_episode(turns[:1])]
    outcomes = Outcomes.of([*twice, parts.make_episode(turns[:1], group_id="other")], 0.1)
    assert outcomes.return_E == pytest.approx([1.3, 0.0, 0.5, 0.5])
    assert outcomes.reward_U == pytest.approx([0.5, 0.4, 0.4, 0.5, 0.5])
    assert outcomes.group_E.tolist() == [0, 0, 0, 1]
    assert outcomes.success_E.tolist() == [True, False, True, True]
    # the same key is the same state within a group only, no key is no state
    first, second, unknown, again, elsewhere = outcomes.state_U.tolist()
    assert first == again
    assert len({first, second, elsewhere}) == 3
    assert unknown == -1
    assert outcomes.tokens_U.tolist() == [2] * 5
    assert outcomes.logp_U == pytest.approx([-0.07] * 5)
    assert outcomes.number_U.tolist() == [0, 1, 2, 0, 0]


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_reward_that_is_no_number_names_episode_and_turn(parts, reward):
    turns = [parts.make_turn([1], [2]), parts.make_turn([1], [2], reward=reward)]
    good = parts.make_episode(turns[:1], "good")
    with pytest.raises(EnvironmentFault, match=r"turn 1 of episode 'bad' \(test/Env-v0\) is (nan|inf)"):
        Outcomes.of([good, parts.make_episode((), "empty"), parts.make_episode(turns, "bad")])


def test_a_reward_outside_the_declared_range_names_episode_and_turn(parts):
    turns = [parts.make_turn([1], [2], reward=1.0), parts.make_turn([1], [2], reward=1.5)]
    with pytest.raises(
        EnvironmentFault, match=r"turn 1 of episode 'bad' .* is 1.5, outside .*reward_range \[0.0, 1.0\]"
    ):
        Outcomes.of([parts.make_episode(turns, "bad")], reward_range=(0.0, 1.0))
    # the penalty is ours, not the environment's
    invalid = parts.make_turn([1], [2], reward=0.0, valid=False)
    assert Outcomes.of([parts.make_episode([invalid])], 0.5, reward_range=(0.0, 1.0)).reward_U.tolist() == [-0.5]


def test_an_estimator_that_needs_values_says_so_where_there_are_none(parts):
    with pytest.raises(ConfigError, match="ArCHer needs a critic's value of each turn"):
        ArCHer().turns(parts.make_outcomes([[1.0]]))
    with pytest.raises(ConfigError, match="GAE needs a critic's value of each token"):
        GAE().turns(parts.make_outcomes([[1.0]]))


def test_a_reward_range_that_is_empty_is_refused():
    with pytest.raises(ValidationError, match="the least reward exceeds the greatest"):
        TrainConfig(reward_range=(1.0, 0.0))


def test_an_estimator_is_chosen_by_its_name_and_survives_json():
    adapter: TypeAdapter = TypeAdapter(Advantage)
    for estimator in (*ALL.values(), TurnReturns(), GiGPO(omega=0.5)):
        assert adapter.validate_json(adapter.dump_json(estimator)) == estimator
    for wrong in ({"name": "grpo", "gamma": 0.9}, {"name": "gigpo", "omega": 0.0}, {"name": "reinforce"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


def test_turns_that_act_are_paid_up_to_a_most(parts):
    """Two attempts: an action, a malformed answer, a turn not acted on, two actions; and three actions."""
    acted: dict[str, Any] = {"action": "Up"}
    malformed: dict[str, Any] = {"action": None, "valid": False}
    silent: dict[str, Any] = {"action": None}
    kinds = [[acted, malformed, silent, acted, acted], [acted, acted, acted]]
    turns = [[parts.make_turn([5], [8], reward=1.0, **kind) for kind in each] for each in kinds]
    episodes = [parts.make_episode(each, str(number)) for number, each in enumerate(turns)]
    found = Outcomes.of(episodes, 0.5, turn_bonus=TurnBonus(coef=2.0, per_turn=0.1, most=0.25))
    assert found.reward_U == pytest.approx([1.2, 0.5, 1, 1.2, 1.1, 1.2, 1.2, 1.1])
    assert found.return_E == pytest.approx([5 - 0.5 + 2 * 0.25, 3 + 2 * 0.25])
    many = TurnBonus().of(np.ones(30, bool), np.array([0, 7, 30]))
    assert (many[:7].sum(), many[7:].sum()) == pytest.approx((0.7, 1.0))  # min(1, 0.1 · turns)


def test_a_bonus_for_turns_falls_with_its_schedule_and_one_of_nothing_is_refused():
    falls = Cosine(start=1, end=0, length=4)
    config = TrainConfig(turn_bonus=TurnBonus(coef=0.8), schedules={"turn_bonus.coef": falls})
    later: list[Any] = [scheduled(config, {"turn_bonus.coef": falls.factor(at)}).turn_bonus for at in (0, 2, 4)]
    assert [bonus.coef for bonus in later] == pytest.approx([0.8, 0.4, 0])
    with pytest.raises(ValidationError, match=r"turn_bonus\.coef = 0: no turn would earn anything"):
        TrainConfig(turn_bonus=TurnBonus(coef=0))
