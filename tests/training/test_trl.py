"""The same batch through TRL's own `GRPOTrainer._compute_loss`: every loss and KL term both have agrees to 1e-6.

TRL's method is called as it is, on a trainer that holds only what the method reads; the network is replaced by given
log-probabilities, so that nothing is loaded.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from agentkit.training.losses import CISPO, GSPO, SAPO, VESPO, Clip, Now, kl_loss, scales
from agentkit.training.mismatch import Mismatch, TokenTIS

LENGTHS = [7, 3, 5, 1]
HORIZON = 9


@pytest.fixture(scope="module")
def trainer_class():
    grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer", reason="TRL is a development dependency")
    return grpo_trainer.GRPOTrainer


def make_batch(spread, seed=0):
    generator = torch.Generator().manual_seed(seed)
    num = sum(LENGTHS)
    old = -3 * torch.rand(num, generator=generator, dtype=torch.float64)
    return SimpleNamespace(
        old=old,
        logp=old + spread * torch.randn(num, generator=generator, dtype=torch.float64),
        reference=old + 0.3 * torch.randn(num, generator=generator, dtype=torch.float64),
        sampler=old + 0.5 * torch.randn(num, generator=generator, dtype=torch.float64),
        advantage=torch.tensor([1.3, -0.9, 0.4, -0.8], dtype=torch.float64),
        sequence=torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS)),
    )


def padded(flat):
    return torch.nn.utils.rnn.pad_sequence(list(flat.split(LENGTHS)), batch_first=True, padding_value=-1.0)


def theirs(trainer_class, batch, *, beta=0.0, sampler=None, level="token", epsilon=(0.2, 0.28), delta=None, loss_type):
    """(loss, gradient of each token's log-probability) by TRL."""
    logp = batch.logp.clone().requires_grad_()
    trainer = trainer_class.__new__(trainer_class)
    keep = lambda value, **_: value
    told = {
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": level,
        "beta": beta,
        "loss_type": loss_type,
        "epsilon_low": epsilon[0],
        "epsilon_high": epsilon[1],
        "use_vllm": sampler is not None,
        "vllm_importance_sampling_correction": sampler is not None,
        "max_completion_length": HORIZON,
        "current_gradient_accumulation_steps": 1,
        "_entropy_bonus_enabled": False,
        "_metrics": {"train": defaultdict(list)},
        "model": SimpleNamespace(training=True),
        "accelerator": SimpleNamespace(num_processes=1, gather=keep, gather_for_metrics=keep, reduce=keep),
        "args": SimpleNamespace(
            delta=delta,
            use_bias_correction_kl=False,
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
            vespo_k_pos=2.0,
            vespo_lambda_pos=3.0,
            vespo_k_neg=3.0,
            vespo_lambda_neg=2.0,
            steps_per_generation=1,
        ),
        "_get_per_token_logps_and_entropies": lambda *_, **__: (padded(logp), padded(torch.zeros_like(logp)), None),
    }
    for name, value in told.items():
        object.__setattr__(trainer, name, value)
    mask = padded(torch.ones_like(logp)).clamp(min=0)
    inputs = {
        "prompt_ids": torch.zeros(len(LENGTHS), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(LENGTHS), 1),
        "completion_ids": torch.zeros_like(mask, dtype=torch.long),
        "completion_mask": mask,
        "advantages": batch.advantage,
        "old_per_token_logps": padded(batch.old),
        "ref_per_token_logps": padded(batch.reference),
        "num_items_in_batch": mask.sum(),
    }
    if sampler is not None:
        inputs["importance_sampling_ratio"] = padded(sampler)
    loss = trainer._compute_loss(None, inputs)
    loss.backward()
    return loss.item(), logp.grad


def ours(batch, loss, reduction, *, factor=None, beta=0.0):
    logp = batch.logp.clone().requires_grad_()
    advantage = batch.advantage[batch.sequence]
    now = Now(logp, batch.old, advantage, batch.sequence)
    weight = torch.ones_like(logp)
    scale = scales(reduction, weight, batch.sequence, horizon=HORIZON if reduction.endswith("norm") else None)
    tokens = loss.fitted(now).tokens(now)
    total = (scale * (tokens if factor is None else factor * tokens)).sum()
    if beta:
        total = total + beta * kl_loss(logp, batch.reference) / len(logp)
    total.backward()
    return total.item(), logp.grad


CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "grpo": (Clip(), "seq-mean-token-mean", {"loss_type": "grpo"}),
    "bnpo": (Clip(), "token-mean", {"loss_type": "bnpo"}),
    "dapo": (Clip(), "token-mean", {"loss_type": "dapo"}),
    "dr_grpo": (Clip(), "seq-mean-token-sum-norm", {"loss_type": "dr_grpo"}),
    "dual clip": (Clip(dual=1.5), "token-mean", {"loss_type": "dapo", "delta": 1.5}),
    "gspo": (GSPO(), "seq-mean-token-mean", {"loss_type": "grpo", "level": "sequence", "epsilon": (3e-4, 4e-4)}),
    "wide gspo": (
        GSPO(low=0.3, high=0.3),
        "seq-mean-token-mean",
        {"loss_type": "grpo", "level": "sequence", "epsilon": (0.3, 0.3)},
    ),
    "cispo": (CISPO(most=1.4), "token-mean", {"loss_type": "cispo", "epsilon": (0.2, 1.4)}),
    "sapo": (SAPO(), "seq-mean-token-mean", {"loss_type": "sapo"}),
    "vespo": (VESPO(), "token-mean", {"loss_type": "vespo"}),
}


@pytest.mark.parametrize("spread", [1e-4, 0.2, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_a_loss_and_its_gradient_are_those_of_trl(trainer_class, case, spread):
    loss, reduction, options = CASES[case]
    batch = make_batch(spread)
    expected, gradient = theirs(trainer_class, batch, **options)
    found, own = ours(batch, loss, reduction)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert own.numpy() == pytest.approx(gradient.numpy(), rel=1e-6, abs=1e-6)
    assert gradient.abs().max() > 1e-3


def test_the_kl_term_is_that_of_trl(trainer_class):
    batch = make_batch(0.2)
    expected, gradient = theirs(trainer_class, batch, loss_type="dapo", beta=0.3)
    found, own = ours(batch, Clip(), "token-mean", beta=0.3)
    assert found == pytest.approx(expected, abs=1e-6)
    assert own.numpy() == pytest.approx(gradient.numpy(), abs=1e-6)


def test_factors_of_the_mismatch_multiply_the_loss_as_in_trl(trainer_class):
    batch = make_batch(0.2)
    factor = Mismatch(weigh=TokenTIS(cap=2.0)).factors(batch.old, batch.sampler, batch.sequence)[0].double()
    assert factor.max() == 2.0
    expected, gradient = theirs(trainer_class, batch, loss_type="dapo", sampler=factor)
    found, own = ours(batch, Clip(), "token-mean", factor=factor)
    assert found == pytest.approx(expected, abs=1e-6)
    assert own.numpy() == pytest.approx(gradient.numpy(), abs=1e-6)
