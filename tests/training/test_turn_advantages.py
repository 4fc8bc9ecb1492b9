"""Advantages of single turns: by hand, and against formulas written out turn by turn."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.errors import ConfigError
from agentkit.training.advantages import GRPO, UIS1, DrGRPO, GiGPO, TurnReturns
from agentkit.training.advantages.outcomes import discounted_sums

FEW = settings(max_examples=25, deadline=None)  # for each of many estimators
ESTIMATORS = {
    "turn-returns": TurnReturns(gamma=0.9),
    "turn-returns, std": TurnReturns(gamma=0.9, std=True),
    "ui-s1": UIS1(gamma=0.5, omega=0.7),
    "gigpo": GiGPO(gamma=0.95, omega=0.6),
    "gigpo, no std": GiGPO(std=False),
    "gigpo, episodes": GiGPO(episodes_over="episodes", omega=2.0),
}
TURN = st.tuples(st.integers(-10, 10).map(lambda number: number / 10), st.integers(-1, 3))
BATCHES = st.lists(st.tuples(st.integers(0, 2), st.lists(TURN, max_size=5)), min_size=1, max_size=12)
"""(group, (reward, state) of each turn) of each episode."""


def outcomes_of(parts, batch):
    names = dict.fromkeys(group for group, _ in batch)
    compact = {group: number for number, group in enumerate(names)}
    return parts.make_outcomes(
        [[reward for reward, _ in turns] for _, turns in batch],
        [compact[group] for group, _ in batch],
        state_U=[state + 10 * group if state >= 0 else -1 for group, turns in batch for _, state in turns],
    )


def standing(value, others, epsilon):
    """(value − mean) / (deviation + ε) among all of them; not divided where ε is None."""
    if max(others) - min(others) < 1e-9:
        return 0.0
    centred = value - statistics.fmean(others)
    return centred if epsilon is None else centred / (statistics.pstdev(others) + epsilon)


def written_out(estimator, batch):
    """Turn by turn, with the sums of the definitions."""
    flat = [
        {
            "group": group,
            "number": number,
            "state": state if state >= 0 else ("unknown", index, number),
            "earned": sum(reward for reward, _ in turns),
            "later": sum(estimator.gamma**k * turns[number + k][0] for k in range(len(turns) - number)),
        }
        for index, (group, turns) in enumerate(batch)
        for number, (_, state) in enumerate(turns)
    ]
    epsilon = estimator.epsilon if getattr(estimator, "std", True) else None
    found = []
    for turn in flat:
        mates = [other for other in flat if other["group"] == turn["group"]]
        earned = [sum(reward for reward, _ in turns) for group, turns in batch if group == turn["group"]]
        beside = "state" if isinstance(estimator, GiGPO) else "number"
        later = standing(turn["later"], [other["later"] for other in mates if other[beside] == turn[beside]], epsilon)
        if isinstance(estimator, TurnReturns):
            found.append(later)
        elif isinstance(estimator, UIS1):
            found.append(later + estimator.omega * standing(turn["earned"], earned, epsilon))
        else:
            if estimator.episodes_over == "turns":
                earned = [other["earned"] for other in mates]
            found.append(standing(turn["earned"], earned, epsilon) + estimator.omega * later)
    return found


def test_turn_returns_by_hand(parts):
    # γ = ½: returns to go 1 + ½·0 + ¼·4 = 2, 2, 4 and 0, 0; against the other attempt: ±1, ±1; the third turn is alone
    found = TurnReturns(gamma=0.5).turns(parts.make_outcomes([[1, 0, 4], [0, 0]]))
    assert found.tolist() == [1, 1, 0, -1, -1]


def test_ui_s1_by_hand(parts):
    # Returns to go with γ = ½ are 2, 2 and 1, 0; returns 3 and 1: everything is one deviation above or below.
    found = UIS1(gamma=0.5, omega=0.25).turns(parts.make_outcomes([[1, 2], [1, 0]]))
    assert found == pytest.approx([1.25, 1.25, -1.25, -1.25], abs=1e-5)


def test_gigpo_by_hand(parts):
    # Two attempts meet state 7: with γ = ½ what followed is 4 and 0, so ±2 within the state. Returns 4 and 0: over
    # the three turns their mean is 4/3, over the two episodes 2.
    outcomes = parts.make_outcomes([[4], [0, 0]], state_U=[7, 7, 8])
    over_turns = GiGPO(gamma=0.5, omega=0.5, std=False).turns(outcomes)
    assert over_turns == pytest.approx([8 / 3 + 1, -4 / 3 - 1, -4 / 3])
    over_episodes = GiGPO(gamma=0.5, omega=0.5, std=False, episodes_over="episodes").turns(outcomes)
    assert over_episodes == pytest.approx([2 + 1, -2 - 1, -2])


def test_a_state_met_again_in_the_same_attempt_is_an_anchor_too(parts):
    found = GiGPO(gamma=1.0, std=False).turns(parts.make_outcomes([[0, 2, 1]], state_U=[5, 6, 5]))
    assert found.tolist() == [1, 0, -1]  # 3 and 1 followed state 5


def test_equal_state_numbers_of_two_groups_are_two_states(parts):
    found = GiGPO(std=False).turns(parts.make_outcomes([[1], [0]], [0, 1], state_U=[3, 3]))
    assert found.tolist() == [0, 0]


def test_gigpo_without_any_state_key_is_refused(parts):
    with pytest.raises(ConfigError, match=r"omega = 1.0, but no turn has a state key"):
        GiGPO().turns(parts.make_outcomes([[1], [0]]))


def test_states_met_once_leave_the_advantage_of_the_episode(parts):
    outcomes = parts.make_outcomes([[1], [0], [0]], state_U=[0, 1, -1])
    assert GiGPO().turns(outcomes) == pytest.approx(GRPO().turns(outcomes))


@pytest.mark.parametrize("name", ESTIMATORS)
@FEW
@given(BATCHES)
def test_every_estimator_is_its_formula_written_out(parts, name, batch):
    outcomes = outcomes_of(parts, batch)
    if isinstance(ESTIMATORS[name], GiGPO) and len(outcomes.state_U) and outcomes.state_U.max() < 0:
        return
    assert ESTIMATORS[name].turns(outcomes) == pytest.approx(written_out(ESTIMATORS[name], batch), abs=1e-6)


@pytest.mark.parametrize("name", ESTIMATORS)
@FEW
@given(BATCHES, st.randoms())
def test_the_order_of_episodes_does_not_matter(parts, name, batch, random):
    batch = [(group, [(reward, abs(state)) for reward, state in turns]) for group, turns in batch]
    order = list(range(len(batch)))
    random.shuffle(order)
    outcomes, mixed = outcomes_of(parts, batch), outcomes_of(parts, [batch[place] for place in order])
    places = np.concatenate([np.arange(*outcomes.starts[place : place + 2]) for place in order])
    found = ESTIMATORS[name].turns(mixed)
    assert found == pytest.approx(ESTIMATORS[name].turns(outcomes)[places], abs=1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
@FEW
@given(BATCHES)
def test_a_group_knows_nothing_of_the_others(parts, name, batch):
    batch = [(group, [(reward, abs(state)) for reward, state in turns]) for group, turns in batch]
    outcomes = outcomes_of(parts, batch)
    found = ESTIMATORS[name].turns(outcomes)
    for group in {group for group, _ in batch}:
        inside = [place for place, (other, _) in enumerate(batch) if other == group]
        alone = ESTIMATORS[name].turns(outcomes_of(parts, [batch[place] for place in inside]))
        places = np.concatenate([np.arange(*outcomes.starts[place : place + 2]) for place in inside])
        assert alone == pytest.approx(found[places], abs=1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
@FEW
@given(st.lists(TURN, min_size=1, max_size=5), st.integers(2, 5))
def test_attempts_that_earned_the_same_at_every_turn_give_zeros(parts, name, turns, num):
    different_states = [(reward, place) for place, (reward, _) in enumerate(turns)]
    outcomes = outcomes_of(parts, [(0, different_states)] * num)
    assert not ESTIMATORS[name].turns(outcomes).any()


@FEW
@given(BATCHES)
def test_without_discount_the_first_turn_of_turn_returns_has_the_advantage_of_the_episode(parts, batch):
    batch = [(group, turns) for group, turns in batch if turns]
    if batch:
        outcomes = outcomes_of(parts, batch)
        first = outcomes.starts[:-1]
        found = TurnReturns(gamma=1.0).turns(outcomes)[first]
        assert found == pytest.approx(DrGRPO().turns(outcomes)[first], abs=1e-9)


@FEW
@given(st.lists(st.lists(st.floats(-10, 10), max_size=6), min_size=1, max_size=8), st.floats(0, 1))
def test_discounted_sums_are_the_sums_of_their_definition(segments, discount):
    starts = np.cumsum([0, *map(len, segments)])
    values = np.array([value for segment in segments for value in segment])
    expected = [
        sum(discount**k * segment[place + k] for k in range(len(segment) - place))
        for segment in segments
        for place in range(len(segment))
    ]
    assert discounted_sums(values, starts, discount) == pytest.approx(expected, abs=1e-9)
