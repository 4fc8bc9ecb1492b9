"""Scores of memories: worked by hand, monotone in every signal, and the same one by one as all at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkit.errors import ConfigError
from agentkit.memory.kinds import Trust
from agentkit.memory.ranking import (
    DAY_S,
    HALF_LIFE_S,
    KINDS,
    Columns,
    RankWeights,
    Scored,
    Signals,
    explain,
    recency,
    score,
    score_many,
)

shares = st.floats(0.0, 1.0)
maybe = st.none() | shares
ages = st.floats(0.0, 1e10)
signals = st.builds(
    Signals,
    relevance=shares,
    utility=maybe,
    age_s=st.none() | ages,
    importance=maybe,
    trust=st.sampled_from(Trust),
    kind=st.sampled_from(KINDS),
)
weights = st.builds(RankWeights, floor=shares, utility=shares, recency=shares, importance=shares)


def test_a_score_is_the_product_worked_by_hand():
    given_weights = RankWeights(floor=0.2, utility=0.4, recency=0.2, importance=0.6, trust=(0.5, 0.9, 1.0, 1.0))
    one = Signals(0.8, utility=0.75, age_s=60 * DAY_S, importance=0.0, trust=Trust.OBSERVED, kind="episode")
    found = score(one, given_weights)
    # utility 1 + 0.4·0.25; two half-lives of 30 days leave 1/4, so 1 + 0.2/4; importance 1 - 0.6/2
    by_hand = {"relevance": 0.8, "utility": 1.1, "recency": 1.05, "importance": 0.7, "trust": 0.9}
    assert found.factors == pytest.approx(by_hand)
    assert found.value == pytest.approx(0.58212)
    assert explain(found) == (
        "0.582 = relevance 0.800 × utility 1.100 × recency 1.050 × importance 0.700 × trust 0.900"
    )


def test_what_is_unknown_changes_nothing():
    assert score(Signals(0.7)) == Scored(
        0.7, {"relevance": 0.7, "utility": 1.0, "recency": 1.0, "importance": 1.0, "trust": 1.0}
    )
    assert score(Signals(0.7, utility=0.5, importance=0.5)).value == 0.7
    assert explain(score(Signals(0.7))) == "0.700 = relevance 0.700"


def test_a_proven_memory_off_the_topic_cannot_win():
    proven = Signals(0.19, utility=1.0, age_s=0.0, importance=1.0, trust=Trust.TRUSTED)
    doubtful = Signals(0.2, utility=0.0, importance=0.0, trust=Trust.UNTRUSTED)
    assert score(proven).value == 0.0
    assert score(doubtful).value > 0.0
    assert explain(score(proven)) == "0.000: not relevant enough, whatever else speaks for it"


@given(one=signals, other=signals)
def test_the_other_factors_never_overturn_more_than_the_stated_ratio(one, other):
    one, other = one._replace(trust=Trust.OBSERVED), other._replace(trust=Trust.OBSERVED)
    if min(one.relevance, other.relevance) >= 0.2 and one.relevance > 1.65 / 0.675 * other.relevance:
        assert score(one).value > score(other).value


def test_an_untrusted_memory_at_its_best_is_below_one_of_our_own_at_its_worst():
    best = Signals(0.6, utility=1.0, age_s=0.0, importance=1.0, trust=Trust.UNTRUSTED)
    worst = Signals(0.6, utility=0.0, age_s=None, importance=0.0, trust=Trust.OBSERVED)
    assert score(best).value == pytest.approx(0.6 * 1.25 * 1.2 * 1.1 * 0.4)  # 0.396
    assert score(worst).value == pytest.approx(0.6 * 0.75 * 0.9)  # 0.405


@given(low=signals, trusted=signals)
def test_an_untrusted_memory_never_overtakes_an_equally_relevant_one_of_our_own(low, trusted):
    low = low._replace(trust=Trust.UNTRUSTED, relevance=0.6)
    trusted = trusted._replace(trust=Trust.OBSERVED, relevance=0.6)
    assert score(low).value < score(trusted).value


@given(
    one=signals,
    given_weights=weights,
    first=shares,
    second=shares,
    name=st.sampled_from(["relevance", "utility", "importance"]),
)
def test_a_score_never_falls_as_a_signal_rises(one, given_weights, first, second, name):
    low, high = sorted((first, second))
    assert (
        score(one._replace(**{name: low}), given_weights).value
        <= score(one._replace(**{name: high}), given_weights).value
    )


@given(one=signals, given_weights=weights, first=ages, second=ages)
def test_a_score_never_rises_with_age(one, given_weights, first, second):
    young, old = sorted((first, second))
    assert score(one._replace(age_s=young), given_weights).value >= score(one._replace(age_s=old), given_weights).value


@given(one=signals, given_weights=weights)
def test_a_score_never_falls_as_trust_rises(one, given_weights):
    values = [score(one._replace(trust=trust), given_weights).value for trust in Trust]
    assert values == sorted(values)


@given(one=signals, given_weights=weights)
def test_every_factor_is_bounded(one, given_weights):
    factors = score(one, given_weights).factors
    assert factors["relevance"] in (0.0, one.relevance)
    for name in ("utility", "importance"):
        reach = getattr(given_weights, name) / 2
        assert 1 - reach <= factors[name] <= 1 + reach
    assert 1.0 <= factors["recency"] <= 1 + given_weights.recency


@given(age_s=ages, first=st.floats(1.0, 1e9), second=st.floats(1.0, 1e9))
def test_what_lasts_longer_fades_more_slowly(age_s, first, second):
    short, long = sorted((first, second))
    fresh = recency(np.array([age_s, age_s]), np.array([short, long]))
    assert fresh[0] <= fresh[1]


def test_recency_halves_with_every_half_life_of_its_kind():
    for kind in KINDS:
        at = [score(Signals(1.0, age_s=n * HALF_LIFE_S[kind], kind=kind), RankWeights(recency=1.0)) for n in range(4)]
        assert [one.factors["recency"] for one in at] == [2.0, 1.5, 1.25, 1.125]
    assert score(Signals(1.0, age_s=-5.0)) == score(Signals(1.0, age_s=0.0))


@given(rows=st.lists(shares, min_size=2, max_size=30), shared=signals)
def test_equal_signals_leave_the_order_to_relevance(rows, shared):
    shared = shared._replace(relevance=0.0)
    values = score_many(
        Columns.of([shared._replace(relevance=relevance) for relevance in rows]), RankWeights(floor=0.0)
    )
    by_score = sorted(range(len(rows)), key=lambda row: values[row])
    assert [rows[row] for row in by_score] == pytest.approx(sorted(rows), abs=1e-300)


@given(rows=st.lists(signals, max_size=40), given_weights=weights)
def test_all_at_once_are_scored_as_one_by_one_and_as_by_the_formula(rows, given_weights):
    many = score_many(Columns.of(rows), given_weights)
    assert many.tolist() == [score(row, given_weights).value for row in rows]
    for row, value in zip(rows, many, strict=True):
        expected = 0.0
        if row.relevance >= given_weights.floor:
            expected = row.relevance * given_weights.trust[row.trust]
            if row.utility is not None:
                expected *= 1 + given_weights.utility * (row.utility - 0.5)
            if row.age_s is not None:
                expected *= 1 + given_weights.recency * 0.5 ** (row.age_s / HALF_LIFE_S[row.kind])
            if row.importance is not None:
                expected *= 1 + given_weights.importance * (row.importance - 0.5)
        assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Signals(1.2), "relevance 1.2 is outside"),
        (Signals(-0.1), "relevance -0.1 is outside"),
        (Signals(math.nan), "a relevance is not a number; leave out"),
        (Signals(0.5, utility=2.0), "utility 2 is outside"),
        (Signals(0.5, importance=-1.0), "importance -1 is outside"),
        (Signals(0.5, kind="idea"), "kind 'idea' cannot be ranked; it must be one of episode, step"),  # type: ignore[arg-type]
        (Signals(0.5, trust=7), "trust 7 is none of 0 to 3"),  # type: ignore[arg-type]
    ],
)
def test_a_signal_out_of_its_range_is_named(bad, message):
    with pytest.raises(ConfigError, match=message):
        score(bad)


def test_the_rounding_of_a_cosine_is_forgiven():
    assert score(Signals(1.0 + 1e-7)).value == 1.0


def test_columns_of_different_lengths_are_refused():
    columns = Columns.of([Signals(0.5), Signals(0.6)])
    with pytest.raises(ConfigError, match="columns differ in length"):
        score_many(columns._replace(age_s=columns.age_s[:1]))


def test_weights_that_contradict_themselves_are_refused():
    with pytest.raises(ValidationError, match="fall as trust rises"):
        RankWeights(trust=(1.0, 0.5, 1.0, 1.0))
    with pytest.raises(ValidationError, match="half_life_s lacks episode"):
        RankWeights(half_life_s={"step": 1.0})
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        RankWeights(utility=3.0)
    assert RankWeights(half_life_s={**HALF_LIFE_S, "skill": 5.0}).half_life_s["skill"] == 5.0
