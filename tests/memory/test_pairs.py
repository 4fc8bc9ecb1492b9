"""Pairs with and without a memory, and the wagers against harmless ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.memory.harm import STAKES, wager
from agentkit.memory.pairs import Pair, estimate_pairs


def test_the_uplift_is_the_mean_difference_with_students_interval() -> None:
    pairs = [Pair("m", 0.0, 1.0)] * 2 + [Pair("m", 1.0, 1.0)] * 2 + [Pair("n", 1.0, 0.0)]
    found = estimate_pairs(pairs)
    assert found["m"].uplift == -0.5
    # squares around the mean: 4 * 0.25, and 3 imagined halves; 4 - 1 + 3 degrees of freedom, t = 2.447
    width = 2.447 * ((1.0 + 1.5) / 6 / 4) ** 0.5
    assert (found["m"].low, found["m"].high) == (-1.0, pytest.approx(-0.5 + width, abs=5e-3))
    assert found["m"].num_pairs == 4
    # variances: shown 1/4, hidden 0, difference 1/4, each with half an imagined pair
    assert found["m"].factor == pytest.approx((4 * 0.25 + 0.5) / (4 * 0.25 + 0.5))
    assert found["n"].uplift == 1.0
    assert estimate_pairs([]) == {}


def test_pairs_that_share_their_luck_tell_more() -> None:
    rng = np.random.default_rng(0)
    luck = rng.random(200)
    shared = estimate_pairs([Pair("m", float(u < 0.4), float(u < 0.6)) for u in luck])["m"]
    apart = estimate_pairs(
        [Pair("m", float(u < 0.4), float(v < 0.6)) for u, v in zip(luck, rng.random(200), strict=True)]
    )
    assert shared.factor > 2
    assert apart["m"].factor < 1.5
    assert shared.high - shared.low < 0.75 * (apart["m"].high - apart["m"].low)
    assert shared.low < -0.2 < shared.high


def test_seven_losses_and_no_win_prove_harm_and_a_win_takes_evidence_away() -> None:
    lost = [Pair("m", 0.0, 1.0)] * 7
    evidence = [estimate_pairs(lost[:num])["m"].harm for num in range(1, 8)]
    assert evidence == sorted(evidence)
    assert evidence[5] > 20 > evidence[3]
    assert estimate_pairs([*lost, Pair("m", 1.0, 0.0)])["m"].harm < evidence[-1]
    assert estimate_pairs([*lost, Pair("m", 1.0, 1.0)])["m"].harm == pytest.approx(evidence[-1])


@settings(max_examples=50, deadline=None)
@given(odds=st.floats(0.02, 0.98), num=st.integers(1, 6))
def test_a_wager_wins_nothing_on_average_where_there_is_no_harm(odds: float, num: int) -> None:
    # Scores that are 1 - odds with probability odds, and -odds otherwise, have mean 0: all the ways they can fall.
    mean = 0.0
    for falls in range(2**num):
        up = [bool(falls >> place & 1) for place in range(num)]
        chance = float(np.prod([odds if one else 1 - odds for one in up]))
        scores = np.array([1 - odds if one else -odds for one in up])
        mean += chance * float(wager(np.zeros(num, np.int64), 1, scores, np.full(num, 1 - odds))[0])
    assert mean == pytest.approx(1.0, abs=1e-9)


def test_a_wager_never_loses_everything_nor_overflows() -> None:
    many = np.zeros(5000, np.int64)
    assert 0 < wager(many[:20], 1, np.ones(20), np.ones(20))[0] < 1e-3
    assert np.isfinite(wager(many, 1, -np.ones(5000), np.ones(5000))[0])
    assert wager(np.zeros(0, np.int64), 2, np.zeros(0), np.zeros(0)).tolist() == [1.0, 1.0]
    assert len(STAKES) == 4
