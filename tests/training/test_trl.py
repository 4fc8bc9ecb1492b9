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

from agentkit.training.credit.top import top_share
from agentkit.training.losses import CISPO, GSPO, SAPO, VESPO, Clip, Now, kl_tokens, scales
from agentkit.training.mismatch import IcePop, Mismatch, OffPolicy, SequenceIcePop, SequenceTIS, TokenTIS

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
        entropy=torch.rand(num, generator=generator, dtype=torch.float64),
        sequence=torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS)),
    )


def padded(flat):
    return torch.nn.utils.rnn.pad_sequence(list(flat.split(LENGTHS)), batch_first=True, padding_value=-1.0)


def theirs(
    trainer_class,
    batch,
    *,
    beta=0.0,
    factor=None,
    level="token",
    epsilon=(0.2, 0.28),
    delta=None,
    share=1.0,
    off_policy=None,
    loss_type,
):
    """(loss, gradient of each token's log-probability) by TRL."""
    logp = batch.logp.clone().requires_grad_()
    trainer = trainer_class.__new__(trainer_class)
    keep = lambda value, **_: value
    told = {
        "aux_loss_enabled": False,
        "top_entropy_quantile": share,
        "off_policy_mask_threshold": off_policy,
        "importance_sampling_level": level,
        "beta": beta,
        "loss_type": loss_type,
        "epsilon_low": epsilon[0],
        "epsilon_high": epsilon[1],
        "use_vllm": factor is not None,
        "vllm_importance_sampling_correction": factor is not None,
        "max_completion_length": HORIZON,
        "current_gradient_accumulation_steps": 1,
        "_entropy_bonus_enabled": False,
        "_metrics": {"train": defaultdict(list)},
        "model": SimpleNamespace(training=True),
        "accelerator": SimpleNamespace(
            num_processes=1, gather=keep, gather_for_metrics=keep, reduce=keep, pad_across_processes=keep
        ),
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
        "_get_per_token_logps_and_entropies": lambda *_, **__: (padded(logp), padded(batch.entropy), None),
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
        "sampling_per_token_logps": padded(batch.sampler),
        "num_items_in_batch": mask.sum(),
    }
    if factor is not None:
        inputs["importance_sampling_ratio"] = padded(factor)
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
        total = total + beta * (scale * kl_tokens(logp, batch.reference)).sum()
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
    "luspo": (
        GSPO(low=0.02, high=0.02),
        "seq-mean-token-sum",
        {"loss_type": "luspo", "level": "sequence", "epsilon": (0.02, 0.02)},
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


@pytest.mark.parametrize("case", ["grpo", "dapo", "dr_grpo", "luspo", "sapo"])
def test_the_kl_term_is_that_of_trl_and_reduced_as_the_loss_is(trainer_class, case):
    loss, reduction, options = CASES[case]
    batch = make_batch(0.2)
    expected, gradient = theirs(trainer_class, batch, beta=0.3, **options)
    found, own = ours(batch, loss, reduction, beta=0.3)
    assert found == pytest.approx(expected, abs=1e-6)
    assert own.numpy() == pytest.approx(gradient.numpy(), abs=1e-6)


@pytest.mark.parametrize("reduction", ["dapo", "grpo"])
def test_the_loss_of_the_forks_is_that_of_trl(trainer_class, reduction):
    """Their fifth of all tokens is ours, and both divisors count all."""
    batch = make_batch(0.2)
    expected, gradient = theirs(trainer_class, batch, loss_type=reduction, share=0.2)
    kept_N = top_share(batch.entropy, 0.2)
    assert kept_N.sum() == 4
    found, own = ours(batch, Clip(), CASES[reduction][1], factor=kept_N)
    assert found == pytest.approx(expected, abs=1e-6)
    assert own.numpy() == pytest.approx(gradient.numpy(), abs=1e-6)


MODES: dict[str, tuple[Any, Any]] = {
    # Its factor in the words of `vllm_importance_sampling_mode`, from ρ of a sequence's tokens, and what it is here.
    "token_truncate": (lambda ratio: ratio.clamp(max=1.2), TokenTIS(cap=1.2)),
    "token_mask": (lambda ratio: ratio * (ratio <= 1.2), IcePop(low=0.0, high=1.2)),
    "sequence_truncate": (lambda ratio: ratio.prod().clamp(max=1.2).expand(len(ratio)), SequenceTIS(cap=1.2)),
    "sequence_mask": (
        lambda ratio: (ratio.prod() * (ratio.prod() <= 1.2)).expand(len(ratio)),
        SequenceIcePop(high=1.2),
    ),
}


@pytest.mark.parametrize("reduction", ["dapo", "grpo"])
@pytest.mark.parametrize("mode", MODES)
def test_factors_of_the_mismatch_multiply_the_loss_and_no_divisor_as_in_trl(trainer_class, mode, reduction):
    batch = make_batch(0.2)
    formula, weigh = MODES[mode]
    given = torch.cat([formula(part.exp()) for part in (batch.old - batch.sampler).split(LENGTHS)])
    assert 0 < (given < given.max()).sum() < len(given), "the case must reach both sides of the bound"
    expected, gradient = theirs(trainer_class, batch, loss_type=reduction, factor=given)
    told = batch.old, batch.sampler, batch.sequence, batch.advantage[batch.sequence]
    factor_N, stays_N, _ = Mismatch(weigh=weigh).factors(*told)
    assert stays_N.all()
    found, own = ours(batch, Clip(), CASES[reduction][1], factor=factor_N.double())
    assert found == pytest.approx(expected, abs=1e-6)
    assert own.numpy() == pytest.approx(gradient.numpy(), abs=1e-6)


@pytest.mark.parametrize("reduction", ["dapo", "grpo"])
def test_off_policy_sequences_are_silent_as_in_trl(trainer_class, reduction):
    """At the first optimizer step, where the policy that learns is the old one."""
    batch = make_batch(0.0)
    batch.sampler += 0.5
    mean = torch.stack([part.mean() for part in (batch.sampler - batch.old).split(LENGTHS)])
    bad = batch.advantage < 0
    assert mean[bad].max() > mean[bad].min()
    most = float(mean[bad].mean())
    assert most > 0
    expected, gradient = theirs(trainer_class, batch, loss_type=reduction, off_policy=most)
    told = batch.old, batch.sampler, batch.sequence, batch.advantage[batch.sequence]
    factor_N, stays_N, _ = Mismatch(weigh=None, reject=(OffPolicy(most=most),)).factors(*told)
    assert stays_N.all()
    assert 0 < (factor_N == 0).sum() < len(factor_N)
    found, own = ours(batch, Clip(), CASES[reduction][1], factor=factor_N.double())
    assert found == pytest.approx(expected, abs=1e-6)
    assert own.numpy() == pytest.approx(gradient.numpy(), abs=1e-6)
