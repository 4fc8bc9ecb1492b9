"""Losses: every case of the clip by hand, gradients by autograd, an independent float64 reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentkit.training.losses import Clip, Now, effective_sample_size, imitation_loss, kl_loss

LOW, HIGH = 0.2, 0.28
TOKENS = st.lists(
    st.tuples(
        st.floats(-15, 0),
        st.floats(-15, 0),
        st.floats(-3, 3).filter(lambda advantage: advantage == 0 or abs(advantage) > 1e-6),
        st.floats(0, 2),
    ),
    min_size=1,
    max_size=30,
)


def policy_loss(logp, old, advantage, weight):
    """The weighted sum over tokens."""
    return (weight * Clip(low=LOW, high=HIGH).tokens(Now(logp, old, advantage, torch.zeros_like(logp)))).sum()


def columns(tokens):
    return (torch.tensor(column, dtype=torch.float64) for column in zip(*tokens, strict=True))


def loss_and_gradient(ratio, advantage):
    logp = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    loss = policy_loss(logp, zero, advantage * one, one)
    loss.backward()
    assert logp.grad is not None
    return loss.item(), logp.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),  # on policy: −Â, gradient −Â
        (1.27, 1.0, -1.27, -1.27),  # inside the upper bound 1.28, beyond 1 + ε_low
        (1.3, 1.0, -1.28, 0.0),  # good and already likelier: no further
        (0.5, 1.0, -0.5, -0.5),  # good but less likely: full pull back
        (0.81, -1.0, 0.81, 0.81),  # inside the lower bound 0.8
        (0.5, -1.0, 0.8, 0.0),  # bad and already less likely: no further
        (2.0, -1.0, 2.0, 2.0),  # bad but likelier: full push down
    ],
)
def test_the_clip_by_hand_on_both_sides_and_signs(ratio, advantage, loss, gradient):
    assert loss_and_gradient(ratio, advantage) == pytest.approx((loss, gradient), abs=1e-12)


@given(TOKENS)
def test_the_policy_loss_agrees_with_the_formula(tokens):
    logp, old, advantage, weight = columns(tokens)
    expected = 0.0
    for new, behaviour, a, w in tokens:
        ratio = math.exp(new - behaviour)
        expected -= w * min(ratio * a, min(max(ratio, 1 - LOW), 1 + HIGH) * a)
    assert policy_loss(logp, old, advantage, weight).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(TOKENS)
def test_a_token_counts_as_clipped_exactly_where_autograd_finds_no_gradient(tokens):
    logp, old, advantage, _ = columns(tokens)
    logp.requires_grad_()
    policy_loss(logp, old, advantage, torch.ones_like(logp)).backward()
    assert logp.grad is not None
    clipped = Clip(low=LOW, high=HIGH).clipped(Now(logp.detach(), old, advantage, old)).bool()
    dead = (logp.grad == 0) & (advantage != 0)
    assert torch.equal(clipped, dead)


@given(st.floats(0.01, 1), st.floats(0, 3), st.integers(1, 30), st.integers(1, 30), st.floats(-3, 3))
def test_credit_moves_the_gradient_but_not_the_scale_of_the_loss(alpha, beta, num_thought, num_action, advantage):
    """With ρ·Â the same for all tokens, the loss over Σw is −ρ·Â whatever the weights."""
    weight = torch.cat([torch.full((num_thought,), alpha), torch.full((num_action,), 1 + beta)]).double()
    ones = torch.ones_like(weight)
    loss = policy_loss(-0.5 * ones, -0.6 * ones, advantage * ones, weight) / weight.sum()
    assert loss.item() == pytest.approx(-math.exp(0.1) * advantage, abs=1e-9)


def test_no_ratio_overflows():
    zero, one = torch.zeros(1), torch.ones(1)
    worst = policy_loss(zero, torch.full((1,), -1e4), -one, one)
    assert worst.item() == pytest.approx(math.exp(20), rel=1e-5)
    assert policy_loss(torch.full((1,), -1e4), zero, one, one).item() == pytest.approx(0, abs=1e-8)
    assert torch.isfinite(kl_loss(torch.full((1,), -1e4), zero))
    assert imitation_loss(zero - 0.5, torch.full((1,), -1e4), one, one, 2.0).item() == pytest.approx(1.0)


@given(TOKENS, st.floats(0.1, 5))
def test_the_imitation_loss_agrees_with_the_formula_and_lets_no_gradient_through_the_ratio(tokens, truncation):
    logp, behaviour, advantage, weight = columns(tokens)
    logp.requires_grad_()
    loss = imitation_loss(logp, behaviour, advantage, weight, truncation)
    loss.backward()
    assert logp.grad is not None
    factor = np.array([w * min(math.exp(p - m), truncation) * min(max(a, 0), 1) for p, m, a, w in tokens])
    logps = np.array([token[0] for token in tokens])
    assert loss.item() == pytest.approx(-(factor * logps).sum(), rel=1e-9, abs=1e-9)
    assert logp.grad.numpy() == pytest.approx(-factor, rel=1e-9, abs=1e-12)


def test_imitation_by_hand():
    # π = 0.5, μ = 0.1: ratio 5 is cut at 2; advantage 0.4; weight 1.5: −1.5 · 2 · 0.4 · ln 0.5
    half, tenth = torch.tensor([0.5]).log(), torch.tensor([0.1]).log()
    loss = imitation_loss(half, tenth, torch.tensor([0.4]), torch.tensor([1.5]), 2.0)
    assert loss.item() == pytest.approx(1.2 * math.log(2))
    assert imitation_loss(half, tenth, torch.tensor([-0.4]), torch.ones(1), 2.0).item() == 0.0
    greatest = imitation_loss(half, tenth, torch.tensor([9.0]), torch.ones(1), 2.0)
    assert greatest.item() == pytest.approx(2 * math.log(2))


def test_the_k3_estimate_by_hand():
    # π = 0.5, π_ref = 0.25: d = ln 0.5, e^d − d − 1 = 0.5 + ln 2 − 1
    loss = kl_loss(torch.tensor([0.5]).log(), torch.tensor([0.25]).log())
    assert loss.item() == pytest.approx(math.log(2) - 0.5)
    assert kl_loss(torch.tensor([-1.0]), torch.tensor([-1.0])).item() == 0.0


@given(TOKENS)
def test_the_k3_estimate_is_never_negative_and_agrees_with_the_formula(tokens):
    logp, reference, _, _ = columns(tokens)
    each = [math.exp(r - p) - (r - p) - 1 for p, r, _, _ in tokens]
    assert kl_loss(logp, reference).item() == pytest.approx(sum(each), rel=1e-9, abs=1e-9)
    assert kl_loss(logp, reference).item() >= -1e-12


def test_the_k3_estimate_has_the_expectation_of_the_kl():
    policy, reference = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.2, 0.3, 0.5]).double()
    expected = sum(p * kl_loss(p.log()[None], r.log()[None]) for p, r in zip(policy, reference, strict=True))
    assert float(expected) == pytest.approx(float((policy * (policy / reference).log()).sum()))


def test_the_effective_sample_size_by_hand():
    assert effective_sample_size(torch.tensor([1.0, 0.0, 0.0, 0.0])) == 0.25
    assert effective_sample_size(torch.tensor([2.0, 1.0])) == pytest.approx(9 / 10)
