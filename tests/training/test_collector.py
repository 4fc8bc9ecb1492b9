"""What the collector hands to plans, and a run that lacks what its settings ask for."""

from __future__ import annotations

import pytest
import torch

from agentkit.errors import CheckpointError
from agentkit.training.config import ImitationConfig
from agentkit.training.network import Network
from agentkit.training.plans import RolloutPlan
from agentkit.training.rows import build_rows
from agentkit.training.schedule import Linear


def test_a_plan_sees_the_numbers_as_the_schedules_have_them(make_trainer, tmp_path, monkeypatch):
    seen = []
    original = RolloutPlan.patch

    def patch(self, ground, played, state):
        seen.append(ground.config.format_penalty)
        return original(self, ground, played, state)

    monkeypatch.setattr(RolloutPlan, "patch", patch)
    halved = Linear(start=1, end=0.5, length=4)
    trainer = make_trainer(tmp_path, format_penalty=0.2, schedules={"format_penalty": halved})
    for trainer.learner.clocks.steps in (0, 1, 3, 9):  # the step at hand counts
        trainer.iterate()
    assert seen == pytest.approx([0.175, 0.15, 0.1, 0.1])


def test_log_probabilities_for_a_plan_are_in_the_precision_in_which_the_policy_learns(parts, make_trainer, tmp_path):
    rows = build_rows([parts.make_episode([parts.make_turn([5, 6], range(8, 40))])])[0]
    found = {}
    for precision in ("float32", "bfloat16"):
        trainer = make_trainer(tmp_path / precision, network=Network(precision=precision))
        logp_N, _ = trainer.collector.ground(trainer.config, 0).measure(rows)
        with trainer.config.network.learning(trainer.policy.model):
            assert torch.equal(torch.from_numpy(logp_N).float(), trainer.models.measure(rows).logp_N)
        found[precision] = logp_N
    assert abs(found["float32"] - found["bfloat16"]).max() > 1e-3


def test_a_checkpoint_of_a_run_without_replay_is_not_resumed_with_it(make_trainer, tmp_path):
    first = make_trainer(tmp_path, iterations=1, imitation=ImitationConfig(weight=0))
    first.train()
    first.close()
    with pytest.raises(CheckpointError, match="is of a run without imitation; resume with the same settings"):
        make_trainer(tmp_path).restore()
