"""Abstention: thresholds by hand, and the promise kept over many draws, and not by showing nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.errors import ConfigError
from agentkit.memory.abstention import Abstention

labels = st.lists(st.tuples(st.integers(0, 10).map(lambda tenth: tenth / 10), st.booleans()), max_size=60)


def test_thresholds_worked_by_hand():
    nine = [(0.9, True), (0.8, False), (0.7, True), (0.6, False), (0.5, False)] + [(0.4, True)] * 4
    assert Abstention.fit(nine, alpha=0.1).threshold == 0.8  # floor(0.1 · 10) - 1 = 0 may pass
    assert Abstention.fit(nine, alpha=0.2).threshold == 0.6  # 1 may pass
    assert Abstention.fit(nine, alpha=0.3).threshold == 0.5  # 2 may pass
    fit = Abstention.fit(nine, alpha=0.4)  # all 3 may pass
    assert (fit.threshold, fit.num_labels, fit.num_unhelpful) == (0.0, 9, 3)
    assert fit.shows(0.01)


def test_what_is_just_as_relevant_as_the_threshold_is_not_shown():
    fit = Abstention.fit([(0.8, False)] * 19, alpha=0.1)
    assert fit.threshold == 0.8
    assert not fit.shows(0.8)
    assert fit.shows(0.81)


def test_too_few_labels_show_nothing():
    assert Abstention.fit([], alpha=0.1).threshold == 1.0
    eight = Abstention.fit([(0.9, True)] * 8, alpha=0.1)
    assert not eight.shows(1.0)
    assert Abstention.fit([(0.9, True)] * 9, alpha=0.1).shows(0.01)  # 1/0.1 - 1 = 9 are enough


def test_a_share_that_floats_cannot_hold_is_rounded_as_it_was_meant():
    assert 0.29 * 100 < 29
    ranked = [(place / 100, False) for place in range(99)]
    assert Abstention.fit(ranked, alpha=0.29).threshold == 0.70  # floor(29) - 1 = 28 pass: 0.71 to 0.98


@pytest.mark.parametrize(("number", "alpha"), [(20, 0.1), (50, 0.05), (199, 0.1), (37, 0.3)])
def test_the_promise_holds_over_many_draws_and_is_not_kept_by_hiding_all(number, alpha):
    random = np.random.default_rng(number)
    draws, failed = 4000, 0
    for _ in range(draws):
        relevance = random.uniform(size=number + 1)
        helped = random.uniform(size=number + 1) < relevance  # the more relevant, the more often of help
        fit = Abstention.fit(list(zip(relevance[:-1].tolist(), helped[:-1].tolist(), strict=True)), alpha)
        failed += fit.shows(relevance[-1]) and not helped[-1]
    # without ties the probability is exactly floor(alpha (n + 1)) / (n + 1), wherever there are unhelpful ones enough
    exact = math.floor(alpha * (number + 1) + 1e-9) / (number + 1)
    assert exact <= alpha + 1e-9
    assert failed / draws == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / draws))


def test_the_promise_holds_with_ties_and_where_relevance_says_nothing():
    random = np.random.default_rng(0)
    draws, failed = 4000, 0
    for _ in range(draws):
        relevance = random.integers(0, 4, size=40) / 4
        helped = random.uniform(size=40) < 0.3
        fit = Abstention.fit(list(zip(relevance[:-1].tolist(), helped[:-1].tolist(), strict=True)), 0.1)
        failed += fit.shows(relevance[-1]) and not helped[-1]
    assert failed / draws <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / draws)


@given(labels=labels, first=st.floats(0.01, 0.99), second=st.floats(0.01, 0.99))
def test_who_allows_more_is_shown_no_less(labels, first, second):
    strict, lenient = sorted((first, second))
    assert Abstention.fit(labels, lenient).threshold <= Abstention.fit(labels, strict).threshold


@given(labels=labels, alpha=st.floats(0.01, 0.99))
def test_among_the_labels_no_more_are_shown_in_vain_than_allowed_and_no_lower_threshold_would_do(labels, alpha):
    fit = Abstention.fit(labels, alpha)
    allowed = math.floor(alpha * (len(labels) + 1) + 1e-9) - 1
    assert sum(fit.shows(relevance) and not helped for relevance, helped in labels) <= max(0, allowed)
    if allowed >= 0 and fit.threshold > 0:
        lower = fit.threshold - 0.05
        assert sum(relevance > lower and not helped for relevance, helped in labels) > allowed


def test_a_fit_survives_as_json():
    for fit in (Abstention.fit([], 0.1), Abstention.fit([(0.5, False)] * 30, 0.1)):
        assert Abstention.model_validate_json(fit.model_dump_json()) == fit


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="alpha 1 must be between 0 and 1"):
        Abstention.fit([], alpha=1.0)
    with pytest.raises(ConfigError, match=r"relevance 1.2 is outside \[0, 1\]"):
        Abstention.fit([(1.2, True)])
