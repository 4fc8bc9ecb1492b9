"""Trajectory balance: residuals by hand, the gradient of the squared residual, and its identity with REINFORCE."""

from __future__ import annotations

import math

import pytest
import torch

from agentkit.training.config import TrainConfig
from agentkit.training.losses import Now, TrajectoryBalance

SEQUENCE = torch.tensor([0, 1, 0, 1, 2, 3, 3, 4])
GROUP_S = torch.tensor([0, 0, 0, 1, 1])
ADVANTAGE_S = torch.tensor([0.7, -0.2, -0.5, 0.4, -0.4], dtype=torch.float64)


def case(seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: -3 * torch.rand(len(SEQUENCE), generator=generator, dtype=torch.float64)
    return Now(draw().requires_grad_(), draw(), ADVANTAGE_S[SEQUENCE], SEQUENCE, None, GROUP_S[SEQUENCE], draw())


def written_out(now, beta):
    """β/2 times the mean squared residual, with log Ẑ stopped."""
    x = [(now.logp_N - now.reference_logp_N)[now.sequence_N == s].sum() for s in range(5)]
    total = 0.0
    for group in (0, 1):
        inside = [s for s in range(5) if GROUP_S[s] == group]
        log_z = sum(-x[s].detach() + ADVANTAGE_S[s] / beta for s in inside) / len(inside)
        total = total + sum((log_z + x[s] - ADVANTAGE_S[s] / beta) ** 2 for s in inside)
    return beta / 2 * total / 5


def test_the_residual_by_hand():
    # Two attempts of one token: x = ln 2 and 0, r = ±½, β = 1: residuals ±(½ ln 2 − ½).
    logp = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-1 - math.log(2), -2.0], dtype=torch.float64)
    both = torch.tensor([0, 1])
    now = Now(logp, logp.detach(), torch.tensor([0.5, -0.5]).double(), both, None, torch.zeros(2).long(), reference)
    loss = TrajectoryBalance(beta=1.0).fitted(now).tokens(now)
    residual = math.log(2) / 2 - 0.5
    assert loss.tolist() == pytest.approx([residual**2 / 2] * 2)
    loss.sum().backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([residual, -residual])


@pytest.mark.parametrize("beta", [0.05, 1.0])
def test_loss_and_gradient_are_those_of_the_squared_residual_however_it_is_split(beta):
    now = case()
    expected = written_out(now, beta)
    slope = torch.autograd.grad(expected, now.logp_N)[0]
    fitted = TrajectoryBalance(beta=beta).fitted(now)
    whole = fitted.tokens(now) / 5
    assert whole.sum().item() == pytest.approx(expected.item())
    assert torch.autograd.grad(whole.sum(), now.logp_N)[0].numpy() == pytest.approx(slope.numpy(), abs=1e-12)
    for part in (torch.tensor([5, 0, 3]), torch.tensor([7])):
        piece = fitted.tokens(now.at(part, now.logp_N[part]))
        assert piece.tolist() == pytest.approx(fitted.tokens(now)[part].tolist())


def test_the_gradient_is_that_of_reinforce_with_a_penalty_on_the_distance():
    now, beta = case(), 0.3
    found = torch.autograd.grad(TrajectoryBalance(beta=beta).fitted(now).tokens(now).sum(), now.logp_N)[0]
    x = torch.stack([(now.logp_N - now.reference_logp_N)[s == SEQUENCE].sum() for s in range(5)]).detach()
    centre = torch.stack([x[group == GROUP_S].mean() for group in (0, 1)])[GROUP_S]
    advantage = ADVANTAGE_S - beta * (x - centre)
    assert found.numpy() == pytest.approx(-advantage[SEQUENCE].numpy(), abs=1e-12)


def test_a_constant_added_to_a_groups_rewards_changes_nothing():
    now = case()
    more = now._replace(advantage_N=now.advantage_N + torch.tensor([3.0, -7.0])[now.group_N])
    loss = TrajectoryBalance(beta=0.5)
    assert loss.fitted(more).tokens(more).tolist() == pytest.approx(loss.fitted(now).tokens(now).tolist())


def test_what_it_needs_is_said():
    now = case()
    varied = now._replace(advantage_N=torch.arange(8.0))
    with pytest.raises(ValueError, match="one advantage for all turns"):
        TrajectoryBalance().fitted(varied)
    with pytest.raises(ValueError, match="minibatches = 2: it compares the attempts of a group"):
        TrainConfig(loss=TrajectoryBalance(), reduction="seq-mean-token-sum", minibatches=2)
    with pytest.raises(ValueError, match="set reduction = 'seq-mean-token-sum'"):
        TrainConfig(loss=TrajectoryBalance())
