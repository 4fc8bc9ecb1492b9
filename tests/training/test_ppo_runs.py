"""GAE beside parts that change tokens' credit or the groups: it trains, values what was injected, and resumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from agentkit.training.advantages import GAE, GRPO
from agentkit.training.batch import Batch, Estimate
from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.credit import D3S, Forks, Pivot, Product, Uniform
from agentkit.training.learner import Learner
from agentkit.training.metrics import TIMINGS, read_metrics
from agentkit.training.mismatch import Mismatch
from agentkit.training.plans import ARPO, R3L, RLEP, XRPO, ExGRPO, Hindsight, Hints, SpecRL

CASES: dict[str, dict[str, Any]] = {
    "d3s": {"credit": D3S(share=0.3)},
    "product": {"credit": Product(factors=(D3S(), Forks(share=0.5)))},
    "arpo": {"plan": ARPO()},
    "rlep": {"plan": RLEP(at_least=1)},
    "exgrpo": {"plan": ExGRPO(start_above=0.0, old_logprobs="recomputed"), "task_pool": 4},
    "exgrpo-stored": {"plan": ExGRPO(start_above=0.0), "mismatch": Mismatch(), "task_pool": 4},
    "exgrpo-shaped": {"plan": ExGRPO(start_above=0.0, shaping=0.1), "task_pool": 4},
    "r3l": {"plan": R3L(), "credit": Pivot()},
    "xrpo": {"plan": XRPO(hints=Hints(after=1))},
    "hindsight": {"plan": Hindsight(), "imitation": ImitationConfig(episodes_per_step=3)},
    "spec-rl": {"plan": SpecRL()},
}


def make_run(parts, folder, case, iterations=2):
    base = {"task_pool": 3, "group_size": 4, "bottleneck_every": 0, "imitation": ImitationConfig(weight=0)}
    return parts.make_trainer(folder, iterations=iterations, advantage=GAE(lam=0.9), **(base | CASES[case]))


def numbers(folder):
    lines = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if not name.startswith(TIMINGS)} for line in lines]


@pytest.mark.parametrize("case", CASES)
def test_gae_trains_beside_it_and_goes_on_to_the_bit(parts, tmp_path, monkeypatch, case):
    streams = []
    original = Learner.step

    def step(self, config, stream, *rest):
        streams.append(stream)
        return original(self, config, stream, *rest)

    monkeypatch.setattr(Learner, "step", step)
    whole = make_run(parts, tmp_path / "whole", case)
    whole.train()
    whole.close()
    assert len(streams) == whole.policy.version == 2
    for stream in streams:
        assert stream.policy is not None
        for value_N in (stream.advantage_N, stream.target_N, stream.weight_N, stream.old_logp_N, stream.policy.value_N):
            assert len(value_N) == len(stream.role_N)
            assert value_N.isfinite().all()
        assert stream.weight_N.sum() > 0
        if not whole.config.mismatch:  # π_old is measured, of injected and made turns too: the ratio begins at 1
            assert torch.equal(stream.old_logp_N, stream.policy.logp_N)
    lines = numbers(tmp_path / "whole")
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert all(line["loss/value"] > 0 for line in lines)
    if "plan" in CASES[case]:
        assert sum(value for line in lines for name, value in line.items() if name.startswith("plan/")) > 0

    first = make_run(parts, tmp_path / "part", case, iterations=1)
    first.train()
    first.close()
    second = make_run(parts, tmp_path / "part", case)
    second.restore()
    second.train()
    second.close()
    assert parts.digest(second.policy.model) == parts.digest(whole.policy.model)
    assert torch.equal(second.models.values.linear.weight, whole.models.values.linear.weight)
    assert numbers(tmp_path / "part") == lines


def test_d3s_keeps_the_tokens_whose_advantage_by_gae_times_entropy_is_greatest(parts, make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, advantage=GAE(), credit=D3S(share=0.25), imitation=ImitationConfig(weight=0))
    turns = [[parts.make_turn([5, 6], range(8, 8 + length), reward=length)] for length in (3, 5, 4)]
    episodes = [parts.make_episode(each, name=str(n)) for n, each in enumerate(turns)]
    batch = Batch.of(trainer.config, episodes)
    estimate = Estimate.of(batch, trainer.models, trainer.config)
    stream = trainer.models.stream(trainer.config, batch.rows, estimate.advantage_N, policy=estimate.policy)
    assert estimate.policy is not None
    score_N = (estimate.advantage_N.abs() * estimate.policy.entropy_N).numpy()
    assert set(np.flatnonzero(stream.weight_N.numpy())) == set(np.argsort(-score_N)[:3])  # ⌈0.25 · 12⌉


def test_an_injected_turn_is_valued_and_judged_as_if_it_had_just_been_played(parts, make_trainer, tmp_path):
    """Two attempts at one task; the second joined from earlier. At λ = γ = 1 a token's target is the reward to come."""
    trainer = make_trainer(tmp_path, advantage=GAE(whiten=False), imitation=ImitationConfig(weight=0))
    with torch.no_grad():
        trainer.models.values.linear.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    own = parts.make_episode([parts.make_turn([5], [8, 9], reward=0.0), parts.make_turn([7], [10], reward=0.5)], "own")
    joined = parts.make_episode(
        [parts.make_turn([5], [11, 12], reward=1.0), parts.make_turn([6], [13], reward=2.0)], "j"
    )
    batch = Batch.of(trainer.config, [own, joined])
    estimate = Estimate.of(batch, trainer.models, trainer.config)
    assert estimate.target_N is not None
    assert estimate.target_N.numpy() == pytest.approx([0.5, 0.5, 0.5, 3, 3, 2], abs=1e-5)
    value_N = trainer.models.measure(batch.rows, values=True).value_N
    assert value_N.abs().min() > 0
    assert torch.allclose(estimate.advantage_N, estimate.target_N - value_N, atol=1e-5)


def test_stored_log_probabilities_that_would_not_be_read_are_refused():
    for asks in ({"advantage": GAE()}, {"credit": D3S()}, {"credit": Product(factors=(Uniform(), Forks()))}):
        with pytest.raises(ValidationError, match=r"plan.old_logprobs = 'stored' and '(gae|d3s|product)'"):
            TrainConfig(plan=ExGRPO(), **asks)
        TrainConfig(plan=ExGRPO(old_logprobs="recomputed"), **asks)
        TrainConfig(plan=ExGRPO(), mismatch=Mismatch(), **asks)
        TrainConfig(plan=ExGRPO(shaping=0.1), **asks)
        TrainConfig(plan=Hindsight(old_logprobs="stored"), **asks)
    TrainConfig(plan=ExGRPO(), advantage=GRPO())
    with pytest.raises(ValidationError, match="'stored' and 'gae'"):
        TrainConfig(plan=XRPO(hints=Hints(old_logprobs="stored")), advantage=GAE())
