"""Mismatch of sampler and trainer: each factor and each rejection by hand, chains, and float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkit.training.mismatch import (
    K3RS,
    GeometricRS,
    IcePop,
    Mismatch,
    OffPolicy,
    SequenceIcePop,
    SequenceMIS,
    SequenceTIS,
    TokenTIS,
)


def factors(mismatch, ratios, sequence, advantages=None):
    log = torch.tensor(ratios, dtype=torch.float64).log()
    behaviour = torch.full_like(log, -1.0)
    advantage_N = -torch.ones_like(log) if advantages is None else torch.tensor(advantages)
    factor_N, stays_N, found = mismatch.factors(behaviour + log, behaviour, torch.tensor(sequence), advantage_N)
    return factor_N * stays_N, found


BY_HAND = {
    # ρ of five tokens; episode 4 has the first three, episode 9 the last two.
    "token-tis": (Mismatch(), [1.0, 2.0, 0.5, 2.0, 0.1]),
    "sequence-tis": (Mismatch(weigh=SequenceTIS(cap=1.2)), [1.0, 1.0, 1.0, 0.4, 0.4]),
    "sequence-tis, cut": (Mismatch(weigh=SequenceTIS(cap=0.7)), [0.7, 0.7, 0.7, 0.4, 0.4]),
    "icepop": (Mismatch(weigh=IcePop(low=0.4, high=3.0)), [1.0, 2.0, 0.5, 0.0, 0.0]),
    "sequence-icepop": (Mismatch(weigh=SequenceIcePop(high=0.9)), [0.0, 0.0, 0.0, 0.4, 0.4]),
    "sequence-icepop, low": (Mismatch(weigh=SequenceIcePop(low=0.5)), [1.0, 1.0, 1.0, 0.0, 0.0]),
    "seq-mis": (Mismatch(weigh=None, reject=(SequenceMIS(),)), [1.0, 1.0, 1.0, 0.0, 0.0]),
    "geo-rs": (Mismatch(weigh=None, reject=(GeometricRS(),)), [1.0, 1.0, 1.0, 0.0, 0.0]),
    # k3: (0 + 1 − ln 2 + −½ + ln 2)/3 = 1/6 and (3 − ln 4 + −0.9 + ln 10)/2 = 1.508
    "k3-rs": (Mismatch(weigh=None, reject=(K3RS(most=0.17),)), [1.0, 1.0, 1.0, 0.0, 0.0]),
    "k3-rs, stricter": (Mismatch(weigh=None, reject=(K3RS(most=0.16),)), [0.0] * 5),
    "chained": (Mismatch(weigh=TokenTIS(cap=1.5), reject=(SequenceMIS(), K3RS(most=0.17))), [1.0, 1.5, 0.5, 0.0, 0.0]),
    "chained, all out": (Mismatch(reject=(SequenceMIS(low=0.3, high=0.9), K3RS(most=0.17))), [0.0] * 5),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_factors_by_hand(case):
    mismatch, expected = BY_HAND[case]
    found, metrics = factors(mismatch, [1.0, 2.0, 0.5, 4.0, 0.1], [4, 4, 4, 9, 9])
    assert found.tolist() == pytest.approx(expected, abs=1e-7)
    rejected = expected.count(0.0) / 5
    popped = isinstance(mismatch.weigh, IcePop | SequenceIcePop)
    assert metrics["mismatch/rejected"] == pytest.approx(0.0 if popped else rejected)
    assert metrics["mismatch/zeroed"] == pytest.approx(rejected if popped else 0.0)
    total, squares = sum(expected), sum(x * x for x in expected)
    assert metrics["mismatch/ess"] == pytest.approx(total**2 / (5 * squares) if squares else 0.0)


def test_off_policy_sequences_teach_what_went_well_and_the_divisor_counts_all():
    """Means of log μ − log π_old: −ln ½ = 0.69 in episode 0, −ln(¼)/2 = 0.69 in 1, 0 in 2."""
    ratios, sequence = [0.5, 1.0, 0.25, 1.0], [0, 1, 1, 2]
    told = torch.tensor(ratios).log(), torch.zeros(4), torch.tensor(sequence)
    for most, advantages, expected in (
        (0.6, [-1.0, -1.0, -1.0, -1.0], [0, 0, 0, 1]),
        (0.6, [1.0, 0.0, -1.0, -1.0], [1, 1, 0, 1]),
        (0.7, [-1.0, -1.0, -1.0, -1.0], [1, 1, 1, 1]),
    ):
        mismatch = Mismatch(weigh=None, reject=(OffPolicy(most=most),))
        factor_N, stays_N, found = mismatch.factors(*told, torch.tensor(advantages))
        assert factor_N.tolist() == expected
        assert stays_N.all()
        assert found["mismatch/zeroed"] == expected.count(0) / 4
    weighed = factors(Mismatch(reject=(OffPolicy(most=0.6), SequenceMIS(low=0.3))), ratios, sequence)[0]
    assert weighed.tolist() == [0, 0, 0, 1]


def test_normalised_factors_have_mean_1_over_what_stays():
    """Of episodes 4 and 9 the latter is rejected; the factors 1, 2, 0.5 of the former have mean 7/6."""
    mismatch = Mismatch(weigh=TokenTIS(), reject=(SequenceMIS(),), normalise=True)
    found, _ = factors(mismatch, [1.0, 2.0, 0.5, 4.0, 0.1], [4, 4, 4, 9, 9])
    assert found.tolist() == pytest.approx([6 / 7, 12 / 7, 3 / 7, 0.0, 0.0])


def test_metrics_by_hand():
    metrics = factors(Mismatch(), [2.0, 0.5], [0, 0])[1]
    assert metrics["mismatch/max_ratio"] == pytest.approx(2.0)
    assert metrics["mismatch/kl_k1"] == pytest.approx(0.0, abs=1e-12)
    assert metrics["mismatch/kl_k3"] == pytest.approx((1 - math.log(2) - 0.5 + math.log(2)) / 2)


def test_the_same_policy_is_left_alone():
    for weigh in (TokenTIS(), SequenceTIS(), IcePop(), SequenceIcePop()):
        every = (SequenceMIS(), GeometricRS(), K3RS(), OffPolicy())
        found, metrics = factors(Mismatch(weigh=weigh, reject=every), [1.0] * 6, [0, 0, 1, 1, 1, 2])
        assert found.tolist() == [1.0] * 6
        assert (metrics["mismatch/ess"], metrics["mismatch/kl_k3"]) == (1.0, 0.0)


def test_no_factor_overflows_and_none_carries_a_gradient():
    old = torch.tensor([0.0, -1e4], requires_grad=True)
    behaviour = torch.tensor([-1e4, 0.0])
    for weigh in (TokenTIS(cap=1e9), SequenceTIS(cap=1e9), IcePop(high=1e9), SequenceIcePop(high=1e9)):
        found, _, _ = Mismatch(weigh=weigh).factors(old, behaviour, torch.tensor([0, 1]), torch.ones(2))
        assert found.isfinite().all()
        assert not found.requires_grad


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(-2, 2), st.integers(0, 3)), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_factors_agree_with_the_formulas_and_do_not_depend_on_order(tokens, random):
    mismatches = {
        "tis": Mismatch(),
        "sequence": Mismatch(weigh=SequenceTIS()),
        "pop": Mismatch(weigh=IcePop()),
        "out": Mismatch(
            weigh=None, reject=(SequenceMIS(low=0.3, high=4.0), GeometricRS(low=0.5, high=2.1), K3RS(most=0.4))
        ),
    }
    logs, sequence = zip(*tokens, strict=True)
    order = random.sample(range(len(tokens)), len(tokens))
    for name, mismatch in mismatches.items():
        expected = []
        for log, number in tokens:
            own = [x for x, s in tokens if s == number]
            total = sum(own)
            k3 = sum(math.exp(x) - 1 - x for x in own) / len(own)
            inside = 0.3 <= math.exp(total) <= 4 and 0.5 <= math.exp(total / len(own)) <= 2.1 and k3 <= 0.4
            expected.append(
                {
                    "tis": min(math.exp(log), 2),
                    "sequence": min(math.exp(total), 2),
                    "pop": math.exp(log) if 0.5 <= math.exp(log) <= 5 else 0.0,
                    "out": float(inside),
                }[name]
            )
        found = factors(mismatch, [math.exp(x) for x in logs], sequence)[0]
        assert found.tolist() == pytest.approx(expected, abs=1e-6)
        shuffled = factors(mismatch, [math.exp(logs[i]) for i in order], [sequence[i] for i in order])[0]
        assert shuffled.tolist() == pytest.approx([expected[i] for i in order], abs=1e-6)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Mismatch(weigh=None), "correct nothing; leave mismatch out"),
        (lambda: Mismatch(weigh=None, reject=(K3RS(),), normalise=True), "normalise needs factors"),
        (lambda: IcePop(low=6), "low = 6 must be below high = 5"),
        (lambda: SequenceIcePop(low=3), "low = 3 must be below high = 3"),
        (lambda: SequenceMIS(high=0.5), "low = 0.5 must be below high = 0.5"),
        (lambda: GeometricRS(low=1.1), "low = 1.1 must be below"),
        (lambda: Mismatch.model_validate({"weigh": {"name": "icepop", "cap": 3}}), "cap"),
    ],
)
def test_settings_that_contradict_each_other_or_would_be_ignored_are_refused(make, named):
    with pytest.raises(ValidationError, match=named):
        make()
