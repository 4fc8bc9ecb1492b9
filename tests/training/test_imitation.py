"""Losses of replayed tokens: by hand, against the formulas of their papers, and where the gradient is stopped."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.gradients import imitation_gradient
from agentkit.training.losses import SIL, SPEAR, Now, Replayed, Shaped, Supervised
from agentkit.training.rows import build_rows
from agentkit.training.stream import flatten

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


TEMPERATURE, HORIZON = 0.8, 20


def log_probabilities(model, rows):
    """[N] log π of the sampled tokens, from all logits of one row after the other."""
    found = []
    for row in rows:
        ids, places = torch.from_numpy(row.ids), torch.from_numpy(np.flatnonzero(row.sampled))
        logp = (model(ids[None]).logits[0, places - 1] / TEMPERATURE).log_softmax(-1)
        found.append(logp[torch.arange(len(places)), ids[places]])
    return torch.cat(found)


@pytest.fixture
def replay(parts):
    """(a network in float64 that is sure of some tokens, the stream of three episodes in four rows).

    Ratios to μ go from 0.05 to 2.7; advantages, of either sign, weights and factors are of single tokens.
    """
    turns = [
        [parts.make_turn([5, 6], range(8, 16))],
        [parts.make_turn([9], [20, 21]), parts.make_turn([9, 20, 21, 30], range(40, 52))],
        [parts.make_turn([1, 2], [3, 4, 5]), parts.make_turn([7, 8], [9, 10])],
    ]
    rows, model = build_rows([parts.make_episode(each) for each in turns])[0], parts.make_policy().model
    rng = np.random.default_rng(0)
    with torch.no_grad():
        model.double().get_output_embeddings().weight.mul_(10)
        for row in rows:
            row.logprobs[row.sampled] = log_probabilities(model, [row]).numpy() - rng.uniform(-3, 1, row.num_sampled)
    num = sum(row.num_sampled for row in rows)
    stream = flatten(rows, torch.from_numpy(rng.normal(size=num)))
    weight_N, factor_N = (torch.from_numpy(rng.uniform(0.1, 2, num)).float() for _ in range(2))
    return model, dataclasses.replace(stream, weight_N=weight_N, factor_N=factor_N)


def clipped(ratio, advantage, high, dual=None):
    """S(r, A), with ε_l = 0.2."""
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - 0.2, 1 + high) * advantage)
    return gain if dual is None else torch.where(advantage < 0, torch.maximum(gain, dual * advantage), gain)


def repo(logp, mu, advantage, dual=None):
    return -clipped((logp - mu).exp(), advantage, 0.2, dual)


def rlep(logp, mu, advantage):
    return -clipped((logp - logp.detach()).exp(), advantage, 0.28)


def exgrpo(logp, mu, advantage):
    ratio = (logp - mu).exp()
    return -advantage * ratio / (ratio + 0.1)


def spear(logp, mu, advantage, least=math.inf, most=math.inf):
    """Every token in the band is dropped, where the share asked for is larger than the band."""
    ratio, now = (logp - mu).exp(), logp.detach()
    covariance = (advantage - advantage.mean()) * (now - now.mean())
    silent = (advantage > 0) & (ratio > 1.28)
    dropped = (covariance > least) & (covariance < most) & ~silent
    return torch.where(dropped, 0.0, -clipped(ratio, advantage, 0.28, dual=10))


def supervised(logp, mu, advantage):
    return -logp


WRITTEN_OUT: dict[str, tuple[Any, Any, Any]] = {
    # Each with the reduction of its source: RePO's mean of means, RLEP's token mean, a constant for ExGRPO and SPEAR.
    "repo": (Replayed(), "seq-mean-token-mean", repo),
    "repo, dual clip": (Replayed(dual=1.5), "seq-mean-token-mean", functools.partial(repo, dual=1.5)),
    "rlep": (Replayed(base="current"), "token-mean", rlep),
    "exgrpo": (Shaped(), "seq-mean-token-sum-norm", exgrpo),
    "spear, no token dropped": (SPEAR(dropped=0), "seq-mean-token-sum-norm", spear),
    "spear": (
        SPEAR(dropped=0.9, least=0.1, most=1.5),
        "seq-mean-token-sum-norm",
        functools.partial(spear, least=0.1, most=1.5),
    ),
    "supervised": (Supervised(), "token-mean", supervised),
}


def reduced(reduction, value, weight, episode):
    """The loss of a step whose tokens' losses times their factors are `value`."""
    total, divisor = (torch.zeros(3).double().index_add(0, episode, each) for each in (weight * value, weight))
    if reduction == "token-mean":
        return total.sum() / divisor.sum()
    return (total / divisor).mean() if reduction == "seq-mean-token-mean" else total.mean() / HORIZON


@pytest.mark.parametrize("micro_batch_tokens", [1, 10_000])
@pytest.mark.parametrize("case", WRITTEN_OUT)
def test_loss_and_gradient_of_replay_are_those_of_the_paper_written_out(replay, case, micro_batch_tokens):
    (model, stream), (loss, reduction, written_out) = replay, WRITTEN_OUT[case]
    if isinstance(loss, SPEAR):  # (R − P50)₊
        stream = dataclasses.replace(stream, advantage_N=stream.advantage_N.clamp(min=0))
    of_run: dict[str, Any] = {"reduction": reduction, "horizon": HORIZON} if reduction.endswith("norm") else {}
    settings = ImitationConfig(loss=loss, reduction=reduction)
    config = TrainConfig(imitation=settings, micro_batch_tokens=micro_batch_tokens, **of_run)
    plain = copy.deepcopy(model)
    found = imitation_gradient(model, stream, 0.7, config, TEMPERATURE, reduction=reduction)

    logp, mu, advantage = log_probabilities(plain, stream.rows), stream.behaviour_logp_N.double(), stream.advantage_N
    losses = written_out(logp, mu, advantage.double())
    expected = reduced(reduction, stream.factor_N.double() * losses, stream.weight_N.double(), stream.episode_N)
    (0.7 * expected).backward()
    assert found["loss/imitation"] == pytest.approx(expected.item(), rel=1e-6)
    for (name, parameter), other in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert (other.grad - parameter.grad).norm() <= 1e-6 * parameter.grad.norm(), name
    if isinstance(loss, SPEAR):
        share = float((losses == 0)[advantage > 0].double().mean())
        assert 0.1 < share < 0.9 if loss.dropped else share == 0
    if isinstance(loss, Replayed) and loss.base == "recorded":
        ratio = (logp - mu).exp()
        reached = [(advantage > 0) & (ratio > 1.2), (advantage < 0) & (ratio < 0.8), (advantage < 0) & (ratio > 1.5)]
        assert all(bool(each.any()) for each in reached), "the case must reach every bound"


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


def test_covariance_clipping_leaves_out_of_its_means_what_weighs_nothing():
    """Of the first three the means are −2 and ½, so the covariances ½, 0, ½; the fourth would move them to −9 and ⅜."""
    logp = torch.tensor([-1.0, -2.0, -3.0, -30.0], dtype=torch.float64)
    advantage, loss = torch.tensor([1.0, 0.5, 0.0, 0.0]).double(), SPEAR(dropped=0.9, least=0.2)
    now = Now(logp, logp, advantage, torch.zeros(4).long(), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert loss.kept(now, np.random.default_rng(0)).tolist() == [False, True, False, True]
    assert loss.kept(now._replace(weight_N=None), np.random.default_rng(0)).tolist() == [False, False, True, False]


def test_a_loss_that_chooses_among_tokens_is_told_what_they_weigh(parts, monkeypatch):
    told = []
    honest = SPEAR.kept

    def kept(self, now, rng):
        told.append(now.weight_N)
        return honest(self, now, rng)

    monkeypatch.setattr(SPEAR, "kept", kept)
    config = TrainConfig(imitation=ImitationConfig(loss=SPEAR()))
    rows = build_rows([parts.make_episode([parts.make_turn([1], [20, 21, 30])])])[0]
    stream = dataclasses.replace(
        flatten(rows, torch.ones(3)), weight_N=torch.tensor([1.0, 0.0, 0.5]), factor_N=torch.tensor([1.0, 1.0, 0.0])
    )
    imitation_gradient(parts.make_policy().model, stream, 1.0, config, 1.0)
    assert [weight_N.tolist() for weight_N in told] == [[1.0, 0.0, 0.0]]


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
        (lambda: Replayed(dual=1), "dual\n.*greater than 1"),
        (lambda: Shaped(beta=0), "beta"),
    ],
)
def test_settings_that_contradict_each_other_or_would_be_ignored_are_refused(make, named):
    with pytest.raises(ValidationError, match=named):
        make()
