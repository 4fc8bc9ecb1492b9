"""Losses of replayed tokens: by hand, against the formulas, and where the gradient is stopped."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkit.training.losses import SIL, SPEAR, Now, Replayed, Shaped, Supervised

TOKENS = st.lists(
    st.tuples(st.floats(-15, 0), st.floats(-15, 0), st.floats(-3, 3), st.floats(0, 2)), min_size=1, max_size=20
)


def run(loss, tokens):
    """(loss of each token, its gradient by log π, what the loss says it multiplies ∇log π by)."""
    logp, behaviour, advantage, weight = (torch.tensor(x, dtype=torch.float64) for x in zip(*tokens, strict=True))
    logp.requires_grad_()
    now = Now(logp, behaviour, advantage, torch.zeros(len(tokens)).long())
    values = loss.weighted(now, weight)
    values.sum().backward()
    assert logp.grad is not None
    return values.tolist(), logp.grad.tolist(), loss.factor(now._replace(logp_N=logp.detach())).tolist()


HALF, TENTH = math.log(0.5), math.log(0.1)
BY_HAND = {
    # π = 0.5, μ = 0.1: ratio 5
    "sil, cut at 2": (SIL(), (HALF, TENTH, 0.4, 1.5), 1.5 * 2 * 0.4 * -HALF, -1.2),
    "sil, worse than expected": (SIL(), (HALF, TENTH, -0.4, 1.0), 0.0, 0.0),
    "sil, advantage at most 1": (SIL(), (HALF, TENTH, 9.0, 1.0), 2 * -HALF, -2.0),
    "shaped": (Shaped(beta=0.1), (HALF, TENTH, 2.0, 1.0), -2 * 5 / 5.1, -2 * 0.1 * 5 / 5.1**2),
    "shaped at the ratio β": (Shaped(beta=0.1), (math.log(0.05), HALF, 1.0, 1.0), -0.5, -0.25),
    "surrogate, clipped": (Replayed(), (HALF, TENTH, 2.0, 1.0), -2.4, 0.0),
    "surrogate": (Replayed(), (TENTH, HALF, 2.0, 3.0), -1.2, -1.2),
    "surrogate, current": (Replayed(base="current"), (HALF, TENTH, 2.0, 1.0), -2.0, -2.0),
    "spear": (SPEAR(), (HALF, math.log(0.4), 2.0, 1.0), -2.5, -2.5),
    "spear, clipped": (SPEAR(), (HALF, TENTH, 2.0, 1.0), -2.56, 0.0),
    "supervised": (Supervised(), (HALF, TENTH, -7.0, 1.5), -1.5 * HALF, -1.5),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_replayed_tokens_by_hand(case):
    loss, token, value, gradient = BY_HAND[case]
    values, gradients, _ = run(loss, [token])
    assert (values[0], gradients[0]) == pytest.approx((value, gradient), abs=1e-12)


@settings(max_examples=40)
@given(TOKENS, st.floats(0.1, 5))
def test_self_imitation_agrees_with_the_formula_and_lets_no_gradient_through_the_ratio(tokens, truncation):
    values, gradients, _ = run(SIL(truncation=truncation), tokens)
    factors = [w * min(math.exp(p - m), truncation) * min(max(a, 0), 1) for p, m, a, w in tokens]
    assert values == pytest.approx([-f * token[0] for f, token in zip(factors, tokens, strict=True)], abs=1e-9)
    assert gradients == pytest.approx([-f for f in factors], abs=1e-9)


@pytest.mark.parametrize(
    "loss", [SIL(), Shaped(), Replayed(), Replayed(base="current"), SPEAR(), Supervised()], ids=repr
)
@settings(max_examples=40)
@given(TOKENS)
def test_the_factor_is_what_autograd_finds(loss, tokens):
    """For advantages in [0, 1], where SIL bounds nothing; supervised tokens have no advantage."""
    tokens = [(p, m, min(abs(a), 1.0), w) for p, m, a, w in tokens]
    _, gradients, factors = run(loss, tokens)
    advantages = [1.0 if isinstance(loss, Supervised) else token[2] for token in tokens]
    expected = [-f * a * t[3] for f, a, t in zip(factors, advantages, tokens, strict=True)]
    assert gradients == pytest.approx(expected, rel=1e-6, abs=1e-9)


def many(num=100):
    """Tokens whose covariances go from −45 to 60; the last ten are beyond the clip."""
    advantage = torch.tensor([1.0] * 50 + [11.0] * 50, dtype=torch.float64)
    logp = -torch.arange(num, 0, -1, dtype=torch.float64) / 5
    old = logp.clone()
    old[-10:] -= 1.0
    return Now(logp, old, advantage, torch.zeros(num).long())


def test_covariance_clipping_drops_a_share_of_the_tokens_within_its_bounds():
    now = many()
    covariance = (now.advantage_N - 6) * (now.logp_N - now.logp_N.mean())
    loss = SPEAR(dropped=0.05, least=2.0, most=30.0)
    dropped = ~loss.kept(now, np.random.default_rng(0))
    assert dropped.sum() == 5
    assert ((covariance > 2) & (covariance < 30))[dropped].all()
    assert not dropped[-10:].any(), "what the clip silences is no candidate"
    assert torch.equal(dropped, ~loss.kept(now, np.random.default_rng(0))), "the generator decides"
    picks = torch.stack([~loss.kept(now, np.random.default_rng(seed)) for seed in range(300)]).float().mean(0)
    able = (covariance > 2) & (covariance < 30) & (torch.arange(100) < 90)
    assert picks[~able].sum() == 0
    assert picks[able].min() > 0, "each candidate has its turn"


def test_covariance_clipping_with_few_or_no_candidates():
    now = many()
    assert SPEAR(least=1e5, most=1e6).kept(now, np.random.default_rng(0)).all()
    assert (~SPEAR(dropped=0.9).kept(now, np.random.default_rng(0))).sum() < 90, "only candidates are dropped"
    assert (~SPEAR(dropped=1e-9).kept(now, np.random.default_rng(0))).sum() == 1, "at least one"
    assert not SPEAR(dropped=0).needs_batch


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: SPEAR(least=60), "least = 60 must be below most = 60"),
        (lambda: Replayed(base="current", high=0.3), "which nothing clips: leave out low, high and dual"),
        (lambda: Replayed(dual=1.1), "dual = 1.1 must exceed 1 \\+ high = 1.2"),
        (lambda: Shaped(beta=0), "beta"),
    ],
)
def test_settings_that_contradict_each_other_or_would_be_ignored_are_refused(make, named):
    with pytest.raises(ValidationError, match=named):
        make()
