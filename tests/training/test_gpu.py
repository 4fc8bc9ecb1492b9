"""On a GPU: the same gradient as on the CPU, training in bfloat16, resuming; and the benchmark of a step."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from agentkit.policies.local import LocalPolicy
from agentkit.training.advantages import DrGRPO
from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.credit import Uniform
from agentkit.training.gradients import policy_gradient
from agentkit.training.network import Network
from agentkit.training.rows import build_rows
from agentkit.training.stream import flatten
from agentkit.training.trainer import Trainer

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU with CUDA")


def make_gpu_trainer(parts: Any, folder: Path, **changes: Any) -> Trainer:
    """A small run of a taught policy on the GPU."""
    taught = parts.make_taught_policy()
    policy = LocalPolicy(taught.model.to("cuda"), taught.tokenizer)
    numbers: dict[str, Any] = {"tasks_per_iteration": 3, "group_size": 6, "learning_rate": 1e-3, "bottleneck_every": 2}
    sampling = parts.Sampling(max_new_tokens=24)
    config = TrainConfig(**(numbers | changes))
    return Trainer(policy, parts.LAKE, folder, config, params=parts.PARAMS, sampling=sampling)


@on_gpu
def test_a_learning_step_on_a_gpu_agrees_with_the_cpus(parts):
    turns = [parts.make_turn(range(5, 15), range(20, 40)), parts.make_turn(range(3), range(8, 16))]
    rows = build_rows([parts.make_episode([turn], str(number)) for number, turn in enumerate(turns)])[0]
    config = TrainConfig(credit=Uniform(), imitation=ImitationConfig(weight=0))
    found = []
    for device in ("cpu", "cuda"):
        model = parts.make_taught_policy().model.to(device)
        advantage_N = torch.tensor([1.0, -0.5]).repeat_interleave(torch.tensor([row.num_sampled for row in rows]))
        values = policy_gradient(model, flatten(rows, advantage_N), [0, 1], config, 1.0)
        flat = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
        found.append((values, flat))
    (values, here), (others, there) = found
    assert others == pytest.approx(values, rel=1e-4, abs=1e-5)
    assert float((there - here).norm() / here.norm()) < 1e-4


@on_gpu
@pytest.mark.parametrize("network", [Network(precision="bfloat16"), Network(checkpointing=True)], ids=repr)
def test_a_gpu_trains(parts, tmp_path, network):
    trainer = make_gpu_trainer(parts, tmp_path, network=network, advantage=DrGRPO(), kl_coef=0.01)
    before = [parameter.detach().clone() for parameter in trainer.models.learns]
    try:
        values = trainer.iterate() | trainer.iterate()
    finally:
        trainer.close()
    assert values["rows/learned"]
    moved = [not torch.equal(old, parameter) for old, parameter in zip(before, trainer.models.learns, strict=True)]
    assert any(moved)
    assert all(parameter.dtype == torch.float32 and parameter.isfinite().all() for parameter in trainer.models.learns)


@on_gpu
def test_a_checkpoint_restores_the_gpus_generator_and_what_was_learnt(parts, tmp_path):
    trainer = make_gpu_trainer(parts, tmp_path, iterations=1)
    trainer.train()
    trainer.save()
    learnt, drawn = [p.detach().clone() for p in trainer.models.learns], torch.rand(4, device="cuda")
    trainer.close()
    again = make_gpu_trainer(parts, tmp_path, iterations=2)
    torch.rand(9, device="cuda")
    again.restore()
    assert torch.equal(torch.rand(4, device="cuda"), drawn)
    assert all(torch.equal(one, other) for one, other in zip(learnt, again.models.learns, strict=True))
    again.train()
    again.close()


def run_benchmark(*arguments: str) -> str:
    """What the benchmark prints where no GPU is to be seen."""
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCHMARK), *arguments]
    return subprocess.run(command, env=hidden, capture_output=True, text=True, check=True).stdout


def test_the_benchmark_says_in_a_line_that_there_is_no_gpu():
    (line,) = run_benchmark().splitlines()
    assert line.startswith("gpu: there is none, so nothing is measured")


def test_the_benchmark_runs_on_a_cpu_with_a_small_network():
    head, kept, again = run_benchmark("--tiny").splitlines()
    assert head == "CPU: 4 rows of 32 tokens, half sampled; all weights learn, in bfloat16"
    for line, words in ((kept, "activations kept"), (again, "activations computed again")):
        assert words in line
        assert float(line.partition(": ")[2].partition(" tokens/s")[0].replace(",", "")) > 0


def test_what_a_step_needs_is_counted_as_by_hand():
    """Per block: q and o of 32 × 32, k and v of 16 × 32, three of 32 × 96, norms of 32, 32, 8, 8; a norm at the end."""
    benchmark = runpy.run_path(str(BENCHMARK))
    block = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 96 + 32 + 32 + 8 + 8
    weights, head = 2 * block + 32, 512 * 32
    pairs = 4 * 32 * 32 / 2
    needed = 6 * (weights * 128 + head * 64) + 3 * (2 + 2) * pairs * 2 * 4 * 8
    tiny = benchmark["TINY"]
    assert benchmark["flops"](benchmark["build"](tiny, "cpu"), tiny) == needed
