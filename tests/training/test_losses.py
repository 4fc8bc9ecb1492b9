"""Losses: every case of the clip by hand, gradients by autograd, an independent float64 reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkit.training.losses import (
    CISPO,
    DPPO,
    DRO,
    OPMD,
    SAPO,
    Clip,
    Now,
    Reduction,
    effective_sample_size,
    kl_tokens,
    scales,
)

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


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (2.9, -1.0, 2.9, 2.9),  # below the dual bound 3
        (3.1, -1.0, 3.0, 0.0),  # beyond it: at most 3
        (9.0, -2.0, 6.0, 0.0),
        (9.0, 1.0, -1.28, 0.0),  # good tokens know the upper bound only
        (0.5, -1.0, 0.8, 0.0),
    ],
)
def test_the_dual_clip_by_hand(ratio, advantage, value, gradient):
    clip = Clip(dual=3.0)
    assert token(clip, ratio, advantage) == pytest.approx((value, gradient), abs=1e-12)
    one = torch.ones(1, dtype=torch.float64)
    now = Now(math.log(ratio) * one, 0 * one, advantage * one, one)
    assert bool(clip.clipped(now)) == (gradient == 0)


def test_a_dual_bound_may_lie_within_the_clip_and_not_at_one():
    assert token(Clip(dual=1.2), 1.25, -1.0) == pytest.approx((1.2, 0.0), abs=1e-12)
    assert token(Clip(dual=1.2), 1.25, 1.0) == pytest.approx((-1.25, -1.25), abs=1e-12)
    with pytest.raises(ValidationError, match=r"dual\n.*greater than 1"):
        Clip(dual=1)


def token(loss, ratio, advantage, old=0.0):
    """(loss, gradient by log π) of one token of this ratio."""
    logp = torch.tensor([old + math.log(ratio)], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    value = loss.tokens(Now(logp, old * one, advantage * one, torch.zeros(1).long()))
    value.sum().backward()
    assert logp.grad is not None
    return value.item(), logp.grad.item()


LOG_HALF = math.log(0.5)
BY_HAND = {
    # −sg[ρ cut at 5]·Â·log π: at ρ = 2, log π = log ½ + log 2 = 0
    "cispo": (CISPO(), 2.0, 1.5, LOG_HALF, 0.0, -3.0),
    "cispo, cut above": (CISPO(most=1.5), 2.0, -1.0, -1.0, 1.5 * (math.log(2) - 1), 1.5),
    "cispo, cut below": (CISPO(least=0.8), 0.5, 1.0, 0.0, -0.8 * LOG_HALF, -0.8),
    # σ(0)·4 = 2, slope 1 at ρ = 1
    "sapo at one": (SAPO(), 1.0, 1.0, 0.0, -2.0, -1.0),
    "sapo, bad": (SAPO(bad=2.0), 1.0, -1.0, 0.0, 1.0, 1.0),
    "sapo beyond": (SAPO(), 1 + math.log(3), 1.0, 0.0, -3.0, -4 * 0.75 * 0.25 * (1 + math.log(3))),
    # π moves from 0.5 to 0.8: beyond 0.2 for a good token, not for a bad one
    "dppo, silenced": (DPPO(), 1.6, 1.0, LOG_HALF, 0.0, 0.0),
    "dppo, bad": (DPPO(), 1.6, -1.0, LOG_HALF, 1.6 * math.log(0.8), 1.6),
    "dppo, fallen": (DPPO(), 0.5, -1.0, LOG_HALF, 0.0, 0.0),
    "dppo, rare": (DPPO(), 30.0, 1.0, math.log(0.001), -20 * math.log(0.03), -20.0),
    # −Âx + (β/2)(x − old)²: 2·1 + 0.25·ln²2
    "dro": (DRO(beta=0.5), 0.5, 2.0, -1.0, -2 * (LOG_HALF - 1) + 0.25 * LOG_HALF**2, -2 + 0.5 * LOG_HALF),
    "opmd": (OPMD(), 0.5, 3.0, -1.0, -1.5 * (LOG_HALF - 1), -1.5),
    "opmd without damping": (OPMD(tau=0.0), 0.5, 3.0, -1.0, -3 * (LOG_HALF - 1), -3.0),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_token_losses_and_their_gradients_by_hand(case):
    loss, ratio, advantage, old, value, gradient = BY_HAND[case]
    assert token(loss, ratio, advantage, old) == pytest.approx((value, gradient), abs=1e-12)


def written_out(loss, p, q, a):
    """(loss, gradient by log π) of one token in plain floats; p = log π, q = log π_old."""
    r = math.exp(min(max(p - q, -20), 20))
    if isinstance(loss, CISPO):
        c = min(max(r, loss.least), loss.most)
        return -c * a * p, -c * a
    if isinstance(loss, SAPO):
        t = loss.good if a > 0 else loss.bad
        s = 1 / (1 + math.exp(-min(t * (r - 1), 700)))
        return -4 / t * s * a, -4 * s * (1 - s) * r * a
    if isinstance(loss, DPPO):
        moved = math.exp(p) - math.exp(q)
        inside = moved <= loss.high if a > 0 else moved >= -loss.low
        return (-min(r, 20) * a * p, -min(r, 20) * a) if inside else (0.0, 0.0)
    if isinstance(loss, DRO):
        return -(a * p - loss.beta / 2 * (p - q) ** 2), -a + loss.beta * (p - q)
    return -a * p / (1 + loss.tau), -a / (1 + loss.tau)


@pytest.mark.parametrize("loss", [CISPO(), CISPO(least=0.5, most=1.5), SAPO(), DPPO(), DRO(), OPMD()], ids=repr)
@settings(max_examples=40)
@given(TOKENS)
def test_token_losses_and_their_stopped_gradients_agree_with_the_formula(loss, tokens):
    logp, old, advantage, _ = columns(tokens)
    logp.requires_grad_()
    values = loss.tokens(Now(logp, old, advantage, torch.zeros(len(tokens)).long()))
    values.sum().backward()
    assert logp.grad is not None
    expected = [written_out(loss, p, q, a) for p, q, a, _ in tokens]
    assert values.tolist() == pytest.approx([value for value, _ in expected], rel=1e-9, abs=1e-9)
    assert logp.grad.tolist() == pytest.approx([gradient for _, gradient in expected], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("loss", [Clip(dual=3), CISPO(), SAPO(), DPPO(), OPMD()], ids=repr)
def test_without_an_advantage_there_is_no_gradient(loss):
    logp = torch.tensor([-0.1, -3.0], requires_grad=True)
    loss.tokens(Now(logp, torch.tensor([-1.0, -1.0]), torch.zeros(2), torch.zeros(2).long())).sum().backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == [0, 0]


def test_cispo_refuses_bounds_in_the_wrong_order():
    with pytest.raises(ValidationError, match="least = 6 must be below most = 5"):
        CISPO(least=6)


def reduced(name, losses, weights, sequences, horizon=8):
    """The reduction in plain floats."""
    total = sum(w * x for w, x in zip(weights, losses, strict=True))
    if name == "token-sum":
        return total
    if name == "token-mean":
        return total / max(sum(weights), 1e-8)
    each: dict[int, tuple[float, float]] = {}
    for w, x, s in zip(weights, losses, sequences, strict=True):
        numerator, denominator = each.get(s, (0.0, 0.0))
        each[s] = (numerator + w * x, denominator + w)
    taught = [pair for pair in each.values() if pair[1] > 0]
    if not taught:
        return 0.0
    if name == "seq-mean-token-mean":
        return sum(a / b for a, b in taught) / len(taught)
    return sum(a for a, _ in taught) / len(taught) / (horizon if name.endswith("norm") else 1)


REDUCTIONS: list[Reduction] = [
    "token-mean",
    "token-sum",
    "seq-mean-token-sum",
    "seq-mean-token-sum-norm",
    "seq-mean-token-mean",
]


@pytest.mark.parametrize("name", REDUCTIONS)
@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.floats(-3, 3), st.sampled_from([0.0, 0.1, 1.0, 1.7]), st.integers(0, 3)), min_size=1, max_size=20
    ),
    st.randoms(use_true_random=False),
)
def test_reductions_agree_with_the_formula_and_do_not_depend_on_order_or_split(name, tokens, random):
    """Sequence numbers come in any order, as those of an episode do whose rows are apart."""
    horizon = 8 if name.endswith("norm") else None

    def parts(tokens):
        losses, weights, sequences = zip(*tokens, strict=True)
        weight = torch.tensor(weights, dtype=torch.float64)
        scale = scales(name, weight, torch.tensor(sequences), horizon=horizon)
        return (scale * weight * torch.tensor(losses, dtype=torch.float64)).tolist()

    expected = reduced(name, *zip(*tokens, strict=True))
    assert sum(parts(tokens)) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    shuffled = random.sample(tokens, len(tokens))
    cut = random.randint(0, len(tokens))
    assert sum(parts(shuffled)[:cut]) + sum(parts(shuffled)[cut:]) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_reductions_by_hand_for_an_episode_of_several_rows():
    # Two episodes; the first has the tokens 1, 2 of one row and 6 of another, the second 5 alone.
    loss, sequence = torch.tensor([1.0, 2.0, 5.0, 6.0]), torch.tensor([0, 0, 1, 0])
    one = torch.ones(4)
    found = {
        name: float((scales(name, one, sequence, horizon=4 if name.endswith("norm") else None) * loss).sum())
        for name in REDUCTIONS
    }
    expected = [14 / 4, 14, (9 + 5) / 2, (9 + 5) / 2 / 4, (3 + 5) / 2]
    assert list(found.values()) == pytest.approx(expected)


def test_a_sequence_that_is_left_out_is_no_sequence():
    weight, sequence = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0, 0, 1])
    assert scales("seq-mean-token-sum", weight, sequence).tolist() == [1, 1, 1]
    assert scales("seq-mean-token-mean", weight, sequence)[:2].tolist() == [0.5, 0.5]


def test_no_ratio_overflows():
    zero, one = torch.zeros(1), torch.ones(1)
    worst = policy_loss(zero, torch.full((1,), -1e4), -one, one)
    assert worst.item() == pytest.approx(math.exp(20), rel=1e-5)
    assert policy_loss(torch.full((1,), -1e4), zero, one, one).item() == pytest.approx(0, abs=1e-8)
    assert torch.isfinite(kl_tokens(torch.full((1,), -1e4), zero))


def test_the_k3_estimate_by_hand():
    # π = 0.5, π_ref = 0.25: d = ln 0.5, e^d − d − 1 = 0.5 + ln 2 − 1
    loss = kl_tokens(torch.tensor([0.5]).log(), torch.tensor([0.25]).log())
    assert loss.item() == pytest.approx(math.log(2) - 0.5)
    assert kl_tokens(torch.tensor([-1.0]), torch.tensor([-1.0])).item() == 0.0


@given(TOKENS)
def test_the_k3_estimate_is_never_negative_and_agrees_with_the_formula(tokens):
    logp, reference, _, _ = columns(tokens)
    each = [math.exp(r - p) - (r - p) - 1 for p, r, _, _ in tokens]
    assert kl_tokens(logp, reference).sum().item() == pytest.approx(sum(each), rel=1e-9, abs=1e-9)
    assert kl_tokens(logp, reference).sum().item() >= -1e-12


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_the_kl_gradients_have_the_expectation_that_is_documented(name):
    """Over all tokens of a small vocabulary: k1 and k2 give the gradient of KL(π‖ref), k3 that of KL(ref‖π)."""
    logits = torch.tensor([0.3, -0.5, 1.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-0.2, 0.4, 0.1], dtype=torch.float64).log_softmax(0)

    def gradient(value):
        return torch.autograd.grad(value, logits)[0]

    logp = logits.log_softmax(0)
    estimate = sum(
        p.detach() * kl_tokens(x[None], r[None], name) for p, x, r in zip(logp.exp(), logp, reference, strict=True)
    )
    found = gradient(estimate)
    logp = logits.log_softmax(0)
    there, back = (logp.exp() * (logp - reference)).sum(), (reference.exp() * (reference - logp)).sum()
    expected = gradient(there) if name != "k3" else gradient(back)
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-12)
    if name != "k2":  # the value, too, is unbiased
        assert float(estimate.detach()) == pytest.approx(float(there.detach()), abs=1e-12)


def test_the_k3_estimate_has_the_expectation_of_the_kl():
    policy, reference = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.2, 0.3, 0.5]).double()
    expected = sum(p * kl_tokens(p.log()[None], r.log()[None]) for p, r in zip(policy, reference, strict=True))
    assert float(expected) == pytest.approx(float((policy * (policy / reference).log()).sum()))


def test_the_effective_sample_size_by_hand():
    assert effective_sample_size(torch.tensor([1.0, 0.0, 0.0, 0.0])) == 0.25
    assert effective_sample_size(torch.tensor([2.0, 1.0])) == pytest.approx(9 / 10)
