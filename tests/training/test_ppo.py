"""PPO: advantages from a value head that learns beside the policy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from agentkit.training.advantages import ACE, GAE
from agentkit.training.advantages.values import ValueHead
from agentkit.training.batch import Batch, Estimate
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


@pytest.mark.parametrize(("bootstrap", "whole"), [(True, True), (False, False)])
def test_an_episode_that_a_limit_cut_goes_on_in_the_value_of_its_end(parts, make_trainer, tmp_path, bootstrap, whole):
    """λ = γ = 1: a token's target is the reward to come and the value after the last token, where that is to count.

    The first was cut after two rows, the second ended, the third ended at the very limit, the fourth was cut at once.
    """
    gae = GAE(whiten=False, bootstrap=bootstrap)
    trainer = make_trainer(tmp_path, advantage=gae, imitation=ImitationConfig(weight=0))
    with torch.no_grad():
        trainer.models.values.linear.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    cut, over = {"truncated": True}, {"terminated": True}
    turns = [
        [parts.make_turn([5], [8, 9], reward=0.5), parts.make_turn([6, 7], [10], reward=1.0, **cut)],
        [parts.make_turn([5], [11, 12], reward=1.0, **over)],
        [parts.make_turn([5], [13], reward=2.0, **cut, **over)],
        [parts.make_turn([6], [14, 15], reward=0.0, **cut)],
    ]
    episodes = [parts.make_episode(each, str(number)) for number, each in enumerate(turns)]
    batch = Batch.of(trainer.config, episodes)
    assert batch.outcomes.cut_E.tolist() == [True, False, False, True]
    estimate: Any = Estimate.of(batch, trainer.models, trainer.config)
    after = []
    for ids in ([6, 7, 10], [6, 14, 15]):
        with torch.no_grad():
            hidden = trainer.policy.model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state
            after.append(float(trainer.models.values(hidden[0, -1:])))
    assert min(map(abs, after)) > 0.01
    first, last = after if whole else (0.0, 0.0)
    expected = [1.5 + first, 1.5 + first, 1 + first, 1, 1, 2, last, last]
    assert estimate.target_N.numpy() == pytest.approx(expected, abs=1e-4)
    plain: Any = trainer.models.measure(batch.rows, values=True)
    assert torch.allclose(estimate.policy.logp_N, plain.logp_N, atol=1e-5)
    assert torch.allclose(estimate.policy.value_N, plain.value_N, atol=1e-5)
    trainer.close()


def test_what_ppo_cannot_use_is_refused():
    with pytest.raises(ValidationError, match="gives one number a token, and modifiers = ace change one a turn"):
        TrainConfig(**PPO, modifiers=(ACE(),))
