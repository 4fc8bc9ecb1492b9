"""Advantages: GRPO by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.errors import ConfigError
from agentkit.training.advantages import GRPO, Outcomes, group_indices


def grpo_advantages(returns):
    """Those of one group, an episode of one turn for each return."""
    num = len(returns)
    outcomes = Outcomes(
        group_E=np.zeros(num, np.int64),
        return_E=np.array(returns, np.float64),
        success_E=np.ones(num, np.bool_),
        starts=np.arange(num + 1),
        reward_U=np.array(returns, np.float64),
        state_U=np.full(num, -1),
        tokens_U=np.ones(num, np.int64),
    )
    return GRPO().turns(outcomes)


RETURNS = st.lists(st.floats(-100, 100), min_size=1, max_size=20)


def test_one_success_among_four_stands_out_by_root_three():
    # mean 1/4, standard deviation sqrt(3)/4: (3/4) / (sqrt(3)/4) = sqrt(3), (−1/4) / (sqrt(3)/4) = −1/sqrt(3)
    expected = [3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)]
    assert grpo_advantages([1, 0, 0, 0]) == pytest.approx(expected, abs=1e-5)


def test_two_successes_among_eighteen_get_the_numbers_of_rlep():
    advantages = grpo_advantages([1.0] * 2 + [0.0] * 16)
    assert advantages[0].round(2) == 2.83
    assert advantages[-1].round(2) == -0.35


def test_a_single_attempt_has_no_advantage():
    assert grpo_advantages([7.5]).tolist() == [0.0]


def test_an_empty_group_is_refused():
    with pytest.raises(ConfigError, match="an empty group has no advantages"):
        Outcomes.of([])


@given(st.floats(-10, 10), st.integers(1, 40))
def test_equal_returns_give_exactly_zero(value, num):
    assert grpo_advantages([value] * num).tolist() == [0.0] * num


@given(st.permutations([0.1, 0.2, 0.3, -0.7, 1.1]), st.permutations([0.1, 0.2, 0.3, -0.7, 1.1]))
def test_returns_that_differ_in_the_order_of_their_sums_only_are_equal(one, other):
    assert grpo_advantages([sum(one), sum(other), sum(one)]).tolist() == [0.0] * 3


@given(RETURNS)
def test_advantages_sum_to_zero_and_keep_the_order_of_the_returns(returns):
    advantages = grpo_advantages(returns)
    assert abs(advantages.sum()) < 1e-6 * len(returns)
    better = np.greater.outer(advantages, advantages)
    assert not (better & np.less.outer(np.array(returns), np.array(returns))).any()


@given(RETURNS, st.floats(-10, 10))
def test_a_constant_added_to_all_returns_changes_nothing(returns, shift):
    moved = grpo_advantages([value + shift for value in returns])
    spread = float(np.std(returns))
    if spread > 1e-3:
        assert moved == pytest.approx(grpo_advantages(returns), abs=1e-6)


def test_groups_keep_the_order_of_first_appearance(parts):
    episodes = [parts.make_episode(name=str(i), group_id=group) for i, group in enumerate("baabc")]
    assert group_indices(episodes) == [[0, 3], [1, 2], [4]]


def test_each_invalid_turn_costs_the_format_penalty(parts):
    turns = [parts.make_turn([1], [2], valid=valid, reward=0.5) for valid in (True, False, False)]
    outcomes = Outcomes.of([parts.make_episode(turns), parts.make_episode()], 0.1)
    assert outcomes.return_E == pytest.approx([1.3, 0.0])
    assert outcomes.reward_U == pytest.approx([0.5, 0.4, 0.4])
