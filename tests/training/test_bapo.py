"""BAPO: where the search for clip bounds stops, by hand and against an exhaustive float64 search."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkit.training.losses import BAPO, Now


def fit(loss, tokens, weight=None):
    ratio, advantage = (torch.tensor(column, dtype=torch.float64) for column in zip(*tokens, strict=True))
    zero = torch.zeros(len(tokens), dtype=torch.float64)
    weight = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    clip = loss.fitted(Now(ratio.log(), zero, advantage, zero.long(), weight))
    return round(1 - clip.low, 6), round(1 + clip.high, 6)


def test_balanced_tokens_keep_the_tightest_bounds():
    assert fit(BAPO(), [(1.0, 1.0), (1.0, -1.0)]) == (0.6, 1.2)
    assert fit(BAPO(), [(1.0, 0.0)]) == (0.6, 1.2), "without any advantage there is nothing to balance"


def test_the_lower_bound_rises_until_unlikely_bad_tokens_are_silent():
    # P = 1; N = 1 + 0.68: the token at 0.68 must go, which the bound 0.7 does.
    assert fit(BAPO(), [(1.0, 1.0), (1.0, -1.0), (0.68, -1.0)]) == (0.7, 1.2)


def test_then_the_upper_bound_rises_until_likely_good_tokens_speak():
    # No lower bound silences the bad token at 1; the good one at 1.5 is clipped until the bound is 1.5.
    assert fit(BAPO(), [(1.5, 1.0), (1.0, -1.0)]) == (0.9, 1.5)


def test_where_nothing_helps_the_bounds_end_at_their_widest():
    assert fit(BAPO(low_most=0.83), [(1.0, -1.0)]) == (0.83, 3.0)


def test_the_dual_clip_silences_likely_bad_tokens_in_search_and_loss():
    # Without it the bad token at 3.5 outweighs the good one whatever the bounds are, N = 3.5; with c = 3 it is silent.
    tokens = [(1.0, 1.0), (3.5, -1.0)]
    assert fit(BAPO(), tokens) == (0.9, 3.0)
    assert fit(BAPO(dual=3.0), tokens) == (0.6, 1.2)
    # The widest bounds, (0.9, 3), with c = 3 and with c = 2 inside them: P = 0 < N = 1 + 2.5 + 0.95 or less.
    logp_N = torch.tensor([1.0, 2.5, 3.5, 0.95, 0.8], dtype=torch.float64).log().requires_grad_()
    now = Now(logp_N, torch.zeros(5), -torch.ones(5), torch.zeros(5).long())
    for dual, values, gradient in (
        (3.0, [1, 2.5, 3, 0.95, 0.9], [1, 2.5, 0, 0.95, 0]),
        (2.0, [1, 2, 2, 0.95, 0.9], [1, 0, 0, 0.95, 0]),
    ):
        clip = BAPO(dual=dual).fitted(now)
        assert (round(1 - clip.low, 6), round(1 + clip.high, 6)) == (0.9, 3.0)
        loss_N = clip.tokens(now)
        assert loss_N.tolist() == pytest.approx(values)
        assert torch.autograd.grad(loss_N.sum(), logp_N)[0].tolist() == pytest.approx(gradient)
        assert clip.clipped(now).tolist() == [slope == 0 for slope in gradient]
    good = Now(torch.tensor([2.5, 3.5]).log(), torch.zeros(2), torch.ones(2), torch.zeros(2).long())
    assert BAPO(dual=2.0).fitted(good).tokens(good).tolist() == pytest.approx([-1.2, -1.2]), "good tokens have no part"


def test_tokens_count_by_their_credit():
    tokens = [(1.0, 1.0), (1.0, -1.0), (0.68, -1.0)]
    assert fit(BAPO(), tokens, [1, 1, 0]) == (0.6, 1.2), "a token without weight carries no gradient"


def exhaustive(tokens, share, low_range, high_range, step):
    lows = [low_range[0] + step * i for i in range(round((low_range[1] - low_range[0]) / step) + 1)]
    highs = [high_range[0] + step * i for i in range(round((high_range[1] - high_range[0]) / step) + 1)]
    for low, high in [(low, highs[0]) for low in lows] + [(lows[-1], high) for high in highs[1:]]:
        good = sum(r * a for r, a in tokens if a > 0 and r <= high)
        bad = sum(-r * a for r, a in tokens if a < 0 and r >= low)
        if good >= share * (good + bad):
            break
    return round(low, 6), round(high, 6)


TOKEN = st.tuples(
    # Ratios that are not on the grid of bounds, so that rounding decides nothing.
    st.integers(21, 400).map(lambda n: n / 100 + 0.0037),
    st.sampled_from([-1.3, -0.41, 0.7, 2.2]),
)


@settings(max_examples=60)
@given(st.lists(TOKEN, min_size=1, max_size=20), st.sampled_from([0.31, 0.5001, 0.77]))
def test_the_search_agrees_with_an_exhaustive_one(tokens, share):
    assert fit(BAPO(share=share), tokens) == exhaustive(tokens, share, (0.6, 0.9), (1.2, 3.0), 0.05)


def test_the_fitted_loss_is_the_clip_with_those_bounds():
    logp = torch.tensor([math.log(1.5), 0.0])
    now = Now(logp, torch.zeros(2), torch.tensor([1.0, -1.0]), torch.zeros(2).long())
    assert BAPO().fitted(now).tokens(now).tolist() == pytest.approx([-1.5, 1.0])


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"low_least": 0.95}, "low_least = 0.95 exceeds low_most = 0.9"),
        ({"high_most": 1.1}, "high_least = 1.2 exceeds high_most = 1.1"),
        ({"dual": 1.0}, "dual\n.*greater than 1"),
    ],
)
def test_bounds_that_contradict_each_other_are_refused(wrong, named):
    with pytest.raises(ValidationError, match=named):
        BAPO(**wrong)
