"""PPO: advantages from a value head that learns beside the policy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from agentkit.training.advantages import ACE, GAE, ArCHer
from agentkit.training.advantages.values import ValueHead
from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.credit import Uniform
from agentkit.training.forward import forward, measure
from agentkit.training.gradients import policy_gradient
from agentkit.training.rows import build_rows
from agentkit.training.stream import flatten

PPO: dict[str, Any] = {"advantage": GAE(), "imitation": ImitationConfig(weight=0)}


@pytest.fixture
def rows(parts):
    turns = [parts.make_turn([5, 6], range(8, 16)), parts.make_turn([9], [20, 21])]
    return build_rows([parts.make_episode([turn], name=str(n)) for n, turn in enumerate(turns)])[0]


@pytest.fixture
def head():
    torch.manual_seed(0)
    made = ValueHead(32)
    torch.nn.init.normal_(made.linear.weight, std=0.3)
    return made


@pytest.mark.parametrize("micro_batch_tokens", [1, 10_000])
def test_the_value_loss_is_the_mean_of_the_formula_beside_an_unchanged_policy_loss(
    parts, rows, head, micro_batch_tokens
):
    model = parts.make_taught_policy().model
    settings: dict[str, Any] = {"credit": Uniform(), "entropy_coef": 0.0, "micro_batch_tokens": micro_batch_tokens}
    config = TrainConfig(**PPO, **settings)
    stats = measure(model, rows, 10_000, values=head)
    assert stats.value_N is not None
    target_N = stats.value_N + torch.tensor(np.random.default_rng(0).normal(size=10), dtype=torch.float32)
    stream = dataclasses.replace(flatten(rows, torch.ones(10), policy=stats), target_N=target_N)
    model.zero_grad(set_to_none=True)
    found = policy_gradient(model, stream, [0, 1], config, 1.0, values=head)
    whole = {name: value.grad.clone() for name, value in model.named_parameters()}
    own = head.linear.weight.grad.clone()

    # On the first step no value has moved: ½ (V − R)², times the coefficient, over the ten tokens.
    assert found["loss/value"] == pytest.approx(0.5 * float((0.5 * (stats.value_N - target_N) ** 2).mean()), rel=1e-5)
    assert found["loss/policy"] == pytest.approx(-1.0)
    model.zero_grad(set_to_none=True)
    head.zero_grad(set_to_none=True)
    now = forward(model, rows, values=head)
    assert now.value_N is not None
    ((-(now.logp_N - stats.logp_N).exp()).mean() + 0.25 * (now.value_N - target_N).square().mean()).backward()
    assert torch.allclose(own, head.linear.weight.grad, atol=1e-6)
    for name, value in model.named_parameters():
        assert torch.allclose(whole[name], value.grad, atol=1e-5), name


def test_ppo_runs_learns_values_and_resumes_exactly(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "a", iterations=3, **PPO)
    seen = []
    trainer.train(on_iteration=lambda number, values: seen.append(values))
    assert all(np.isfinite(values["loss/value"]) for values in seen)
    assert float(trainer.models.values.linear.weight.detach().abs().max()) > 0
    assert [group["lr"] for group in trainer.learner.optimizer.param_groups] == pytest.approx([3e-3, 3e-2])
    trainer.close()

    first = make_trainer(tmp_path / "c", iterations=2, **PPO)
    first.train()
    first.close()
    second = make_trainer(tmp_path / "c", iterations=3, **PPO)
    second.restore()
    second.train()
    for name, value in second.policy.model.named_parameters():
        assert torch.equal(value, dict(trainer.policy.model.named_parameters())[name]), name
    for one, other in zip(second.models.values.parameters(), trainer.models.values.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_ppo_cannot_use_is_refused():
    with pytest.raises(ValidationError, match="gives one number a token, and modifiers = ace change one a turn"):
        TrainConfig(**PPO, modifiers=(ACE(),))
    with pytest.raises(ValidationError, match="'archer' needs a critic's value of each turn"):
        TrainConfig(advantage=ArCHer())
