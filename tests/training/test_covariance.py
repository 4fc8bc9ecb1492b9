"""Clip-Cov and KL-Cov: which tokens are picked, by hand and by lot, and what is made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from agentkit.training.losses import SPEAR, Clip, ClipCov, KLCov, Now
from agentkit.training.losses.covariance import covariance
from agentkit.training.trainer import Trainer


def made(logp, advantage, old=None, weight=None):
    logp_N, advantage_N = (torch.tensor(each, dtype=torch.float64) for each in (logp, advantage))
    old_N = logp_N.clone() if old is None else torch.tensor(old, dtype=torch.float64)
    weight_N = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    return Now(logp_N, old_N, advantage_N, torch.zeros(len(logp)).long(), weight_N)


LOGP, ADVANTAGE = [-1.0, -9.0, -1.0, -5.0], [3.0, -1.0, -1.0, -1.0]
# Means −4 and 0: (3)(3), (−1)(−5), (−1)(3), (−1)(−1)
COVARIANCE = [9.0, 5.0, -3.0, 1.0]


def test_covariances_by_hand():
    assert covariance(made(LOGP, ADVANTAGE)).tolist() == COVARIANCE


def test_tokens_without_weight_are_in_no_mean_and_never_picked():
    more = made([*LOGP, 0.0], [*ADVANTAGE, 50.0], weight=[0.1, 1, 1, 1, 0])
    assert covariance(more).tolist() == [*COVARIANCE, -math.inf]
    assert KLCov(share=0.9).fitted(more).picked(more).tolist() == [True] * 4 + [False]
    assert ClipCov(dropped=0.9, least=-99).fitted(more).picked(more).tolist() == [True] * 4 + [False]


def test_a_dropped_token_has_no_loss_and_a_clipped_one_is_never_drawn():
    old = [-1.0, -9.0, -1.0, -5.0]
    now = made(LOGP, ADVANTAGE, old=[-2.0, *old[1:]])  # the first has ratio e and is clipped
    loss = ClipCov(dropped=0.9, least=0.0, most=10.0).fitted(now)
    assert loss.picked(now).tolist() == [False, True, False, True], "the third is outside the band"
    assert not ClipCov(dropped=0.9, least=0.0, most=5.0).fitted(now).picked(now)[1], "nor is the bound in it"
    plain = Clip().tokens(now)
    assert loss.tokens(now).tolist() == [plain[0], 0, plain[2], 0]
    assert loss.clipped(now).tolist() == [True, True, False, True]


def test_a_share_is_drawn_by_lot_and_replay_draws_alike():
    generator = np.random.default_rng(0)
    now = made(generator.uniform(-9, 0, 400), generator.choice([-2.0, 2.0], 400))
    loss = ClipCov(dropped=0.02, least=1.0, most=40.0)
    candidates = (covariance(now) > 1) & (covariance(now) < 40)
    assert 50 < candidates.sum() < 350
    picks = torch.stack([loss.pick(now, np.random.default_rng(seed)) for seed in range(300)])
    assert (picks.sum(1) == 8).all()
    assert not picks[:, ~candidates].any()
    assert picks.float().mean(0)[candidates].numpy() == pytest.approx(8 / int(candidates.sum()), abs=0.06)
    assert torch.equal(~SPEAR(least=1.0, most=40.0).kept(now, np.random.default_rng(3)), picks[3])


def test_kl_cov_penalises_the_largest_covariance_by_the_distance_from_the_old_policy():
    # Log ratios ½, −¼, 0, 0; the first token is the one of largest covariance, and nothing is clipped.
    now = made(LOGP, ADVANTAGE, old=[-1.5, -8.75, -1.0, -5.0])
    now.logp_N.requires_grad_()
    loss = KLCov(share=0.25, beta=0.1).fitted(now)
    values = loss.tokens(now)
    assert values.tolist() == pytest.approx([-3 * math.exp(0.5) + 0.05, math.exp(-0.25), 1, 1])
    gradient = torch.autograd.grad(values.sum(), now.logp_N)[0]
    assert gradient.tolist() == pytest.approx([-3 * math.exp(0.5) + 0.1, math.exp(-0.25), 1, 1])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ClipCov(least=40), "least = 40 must be below most = 40"),
        (lambda: ClipCov(dual=1.0), "greater than 1"),
        (lambda: ClipCov(dropped=0), "greater than 0"),
        (lambda: KLCov(share=1), "less than 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(make, named):
    with pytest.raises(ValidationError, match=named):
        make()


def test_a_resumed_run_draws_what_it_would_have_drawn(parts, tmp_path):
    changes = {"loss": ClipCov(dropped=0.3, least=0.0), "credit": {"name": "uniform"}, "imitation": {"weight": 0.0}}

    def run(folder, iterations) -> Trainer:
        return parts.make_trainer(folder, iterations=iterations, bottleneck_every=0, minibatches=2, **changes)

    digests = []
    for folder, stages in (("whole", [3]), ("parts", [2, 3])):
        for iterations in stages:
            trainer = run(tmp_path / folder, iterations)
            if iterations != stages[0]:
                trainer.restore()
            trainer.train()
            trainer.close()
        digests.append(parts.digest(trainer.policy.model))
    assert digests[0] == digests[1]
