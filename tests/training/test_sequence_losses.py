"""GSPO and VESPO: one number a sequence, by hand and against float64, however its rows are split."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.training.config import TrainConfig
from agentkit.training.losses import GSPO, VESPO, Now

LN2 = math.log(2)


def run(loss, tokens, cuts=()):
    """(loss of each token, its gradient by log π), in parts that are computed one after the other."""
    logp, old, advantage, sequence = (torch.tensor(x, dtype=torch.float64) for x in zip(*tokens, strict=True))
    logp.requires_grad_()
    now = Now(logp, old, advantage, sequence.long())
    fitted = loss.fitted(now)
    parts = [torch.from_numpy(part) for part in np.split(np.arange(len(tokens)), cuts) if len(part)]
    values = torch.cat([fitted.tokens(now.at(part, logp[part])) for part in parts])
    values.sum().backward()
    assert logp.grad is not None
    return values.tolist(), logp.grad.tolist()


def test_gspo_by_hand():
    # Log ratios ln 2 and 0: s = √2, clipped at 1.25 for the good one; the bad one is at s = 1/√2, clipped at 0.75.
    logp, old = [LN2 - 3, -3.0, -3 - LN2, -3.0], [-3.0] * 4
    values, gradient = run(GSPO(low=0.25, high=0.25), list(zip(logp, old, [1, 1, -1, -1], [0, 0, 1, 1], strict=True)))
    assert values == pytest.approx([-1.25, -1.25, 0.75, 0.75])
    assert gradient == pytest.approx([0, 0, 0, 0])
    values, gradient = run(GSPO(low=0.5, high=0.5), list(zip(logp, old, [1, 1, -1, -1], [0, 0, 1, 1], strict=True)))
    assert values == pytest.approx([-math.sqrt(2)] * 2 + [math.sqrt(0.5)] * 2)
    assert gradient == pytest.approx(values), "every token of the sequence pulls with its ratio"


def test_the_token_form_of_gspo_has_the_gradient_of_the_sequence_form():
    generator = torch.Generator().manual_seed(0)
    logp = (-2 * torch.rand(9, generator=generator, dtype=torch.float64)).requires_grad_()
    old = logp.detach() + 0.3 * torch.randn(9, generator=generator, dtype=torch.float64)
    sequence = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    advantage = torch.tensor([-1.0, -0.5, 0.3], dtype=torch.float64)
    whole = torch.zeros(1, dtype=torch.float64)
    for number in range(3):
        inside = sequence == number
        s = (logp[inside] - old[inside]).mean().exp()
        whole = whole - torch.minimum(s * advantage[number], s.clamp(0.98, 1.02) * advantage[number]) / 3
    expected = torch.autograd.grad(whole, logp)[0]
    now = Now(logp, old, advantage[sequence], sequence)
    count = torch.bincount(sequence)[sequence]
    found = torch.autograd.grad((GSPO(low=0.02, high=0.02).fitted(now).tokens(now) / count / 3).sum(), logp)[0]
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-12)
    assert 0 < (expected == 0).sum() < 9, "the case must reach the clip"


def test_vespo_by_hand():
    # w = 2 for the good one: φ = e³·2²·e⁻⁶; w = ½ for the bad one: φ = e²·2⁻³·e⁻¹
    logp, old = [LN2 - 1, -1.0, -1 - LN2], [-1.0, -1.0, -1.0]
    good, bad = 4 * math.exp(-3), math.e / 8
    values, gradient = run(VESPO(), list(zip(logp, old, [2, 2, -1], [0, 0, 1], strict=True)))
    assert values == pytest.approx([-2 * good * (LN2 - 1), 2 * good, bad * (-1 - LN2)])
    assert gradient == pytest.approx([-2 * good, -2 * good, bad])
    assert run(VESPO(), [(-1.0, -1.0, 1, 0)])[1] == pytest.approx([-1.0]), "φ(1) = 1"


TOKENS = st.lists(st.tuples(st.floats(-5, 0), st.floats(-5, 0), st.integers(0, 3)), min_size=1, max_size=14)


@pytest.mark.parametrize("loss", [GSPO(low=0.3, high=0.3), VESPO()], ids=lambda loss: loss.name)
@settings(max_examples=40)
@given(TOKENS, st.lists(st.floats(-2, 2), min_size=4, max_size=4), st.randoms(use_true_random=False))
def test_neither_order_nor_split_changes_a_sequence_loss(loss, tokens, advantages, random):
    sequence = np.unique([token[2] for token in tokens], return_inverse=True)[1]
    tokens = [(p, q, advantages[s], int(s)) for (p, q, _), s in zip(tokens, sequence, strict=True)]
    values, gradient = run(loss, tokens)
    for (p, _, a, s), value, slope in zip(tokens, values, gradient, strict=True):
        ratios = [x - y for x, y, _, number in tokens if number == s]
        if loss.name == "gspo":
            ratio = math.exp(sum(ratios) / len(ratios))
            assert value == pytest.approx(-min(ratio * a, min(max(ratio, 0.7), 1.3) * a), abs=1e-9)
        else:
            k, rate = (2, 3) if a >= 0 else (3, 2)
            w = min(max(sum(ratios), math.log(1e-8)), 20)
            phi = math.exp(rate + k * w - rate * math.exp(w))
            assert (value, slope) == pytest.approx((-phi * a * p, -phi * a), abs=1e-9)
    order = random.sample(range(len(tokens)), len(tokens))
    cuts = sorted(random.choices(range(len(tokens) + 1), k=2))
    again, slopes = run(loss, [tokens[i] for i in order], cuts)
    assert again == pytest.approx([values[i] for i in order], abs=1e-9)
    assert slopes == pytest.approx([gradient[i] for i in order], abs=1e-9)


def test_a_loss_of_sequences_refuses_a_mean_of_tokens():
    with pytest.raises(ValueError, match="loss = 'gspo' and reduction = 'token-mean'") as raised:
        TrainConfig(loss=GSPO())
    assert "set reduction = 'seq-mean-token-mean'" in str(raised.value)
    TrainConfig(loss=GSPO(), reduction="seq-mean-token-mean")
