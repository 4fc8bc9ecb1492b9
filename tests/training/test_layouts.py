"""No loss depends on how its rows are laid out: padding, packs, their order, their split into micro-batches.

The networks are in float64, so that what differs by more than 10⁻⁶ is no rounding.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from agentkit.policies.policy import Sampling
from agentkit.training import forward, gradients, packing
from agentkit.training.advantages import GAE
from agentkit.training.batch import Batch, Estimate, policy_stream
from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.credit import Forks, Uniform
from agentkit.training.losses import (
    BAPO,
    CISPO,
    DPPO,
    DRO,
    EPO,
    GSPO,
    OPMD,
    SAPO,
    SIL,
    SIREN,
    SPEAR,
    VESPO,
    Clip,
    ClipCov,
    EntropyHistory,
    KLCov,
    Replayed,
    Shaped,
    Supervised,
    TrajectoryBalance,
)
from agentkit.training.mismatch import K3RS, Mismatch, SequenceTIS
from agentkit.training.plans import ExGRPO
from agentkit.training.rows import build_rows
from agentkit.training.stream import flatten
from agentkit.training.trainer import Trainer

TEMPERATURE = 0.8


@pytest.fixture
def make(parts, tmp_path):
    """A trainer whose policy has moved away from its reference, both in float64."""
    made: list[Trainer] = []

    def build(**changes):
        config = TrainConfig(**({"tasks_per_iteration": 2, "group_size": 2, "bottleneck_every": 0} | changes))
        policy, reference = parts.make_taught_policy(), parts.make_policy(seed=9).model
        sampling = Sampling(temperature=TEMPERATURE)
        made.append(Trainer(policy, parts.LAKE, tmp_path, config, sampling=sampling, reference=reference))
        policy.model.double()  # which `check_model` would have refused
        reference.double()
        return made[-1]

    yield build
    for trainer in made:
        trainer.close()


@pytest.fixture
def branches(parts):
    """Five rows, of which two and two begin alike; behaviour log-probabilities near the policy's own."""
    turns = [
        [parts.make_turn([5, 6], range(8, 16))],
        [parts.make_turn(range(11), [12, 13, 14])],
        [parts.make_turn(range(11), [12, 13, 20, 21, 22])],
        [parts.make_turn([9], [20, 21]), parts.make_turn([9, 20, 21, 30], range(40, 52))],
        [parts.make_turn([9], [20, 21]), parts.make_turn([9, 20, 21, 30], range(40, 47))],
    ]
    rows = build_rows([parts.make_episode(each) for each in turns])[0]
    noise, model = np.random.default_rng(0), parts.make_taught_policy().model
    for row in rows:
        exact = forward.measure(model, [row], 10_000, TEMPERATURE).logp_N.numpy()
        row.logprobs[row.sampled] = exact - noise.uniform(-0.5, 0.5, size=len(exact))
    return rows


def flat(model):
    return torch.cat([parameter.grad.flatten() for _, parameter in sorted(model.named_parameters())])


EVERY_LOSS: dict[str, dict[str, Any]] = {
    "dual clip": {"loss": Clip(dual=1.4)},
    "gspo": {"loss": GSPO(low=0.05, high=0.05), "reduction": "seq-mean-token-mean"},
    "luspo": {"loss": GSPO(low=0.05, high=0.05), "reduction": "seq-mean-token-sum"},
    "cispo": {"loss": CISPO(most=1.3)},
    "sapo": {"loss": SAPO()},
    "bapo": {"loss": BAPO(low_most=0.8, high_most=1.5)},
    "clip-cov": {"loss": ClipCov(least=0.05, dropped=0.9)},
    "kl-cov": {"loss": KLCov(share=0.2)},
    "forks": {"loss": Clip(), "credit": Forks(share=0.4)},
    "dppo": {"loss": DPPO(low=0.001, high=0.001)},
    "dro": {"loss": DRO()},
    "vespo": {"loss": VESPO()},
    "opmd": {"loss": OPMD(), "kl": "k2", "kl_coef": 0.1},
    "trajectory balance": {
        "loss": TrajectoryBalance(beta=0.1),
        "reduction": "seq-mean-token-sum",
        "credit": Uniform(),
    },
    "horizon": {"loss": Clip(), "reduction": "seq-mean-token-sum-norm", "horizon": 50},
    "token sum": {"loss": Clip(), "reduction": "token-sum"},
    "epo": {"entropy": EPO(low=0.9, high=1.1), "entropy_coef": 0.1},
    "siren": {"entropy": SIREN(), "entropy_coef": 0.1},
}


LAYOUTS: dict[str, tuple[tuple[int, ...], int, bool]] = {
    # The order of the rows, tokens of a micro-batch, whether rows that begin alike are laid into one pack.
    "all packed": ((0, 1, 2, 3, 4), 10_000, True),
    "all padded, in another order": ((2, 4, 3, 1, 0), 10_000, False),
    "two or three together": ((4, 0, 1, 3, 2), 40, True),
    "each alone": ((0, 1, 2, 3, 4), 1, True),
}


def arranged(layout, trainer, branches, monkeypatch):
    """(config, rows, [N] advantages) of this layout; the first, third and last row are of one episode."""
    order, micro_batch_tokens, packs = LAYOUTS[layout]
    config = trainer.config.model_copy(update={"micro_batch_tokens": micro_batch_tokens})
    rows = [dataclasses.replace(branches[number], episode=number % 2) for number in order]
    for module in (gradients, forward):
        monkeypatch.setattr(module, "pair_cost", packing.pair_cost if packs else lambda model: None)
    advantage_N = torch.tensor(np.repeat([[0.8, -0.5][row.episode] for row in rows], [r.num_sampled for r in rows]))
    return config, rows, advantage_N


def laid_out(layout, trainer, branches, monkeypatch):
    """(config, stream) of the rows in this layout."""
    config, rows, advantage_N = arranged(layout, trainer, branches, monkeypatch)
    reference = trainer.models.measure_reference(rows) if trainer.models.reference is not None else None
    stream = trainer.models.stream(config, rows, advantage_N, reference)
    return config, dataclasses.replace(stream, group_N=torch.zeros(len(stream.role_N), dtype=torch.long))


def assert_all_agree(results):
    """Metrics and gradients, of whatever layout."""
    (values, expected), *others = results
    assert expected.norm() > 1e-6
    for again, found in others:
        assert again == pytest.approx(values, rel=1e-6, abs=1e-7)
        assert (found - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("case", EVERY_LOSS)
def test_neither_padding_nor_packing_nor_split_nor_order_changes_a_loss(make, branches, case, monkeypatch):
    trainer, results = make(**({"entropy_coef": 0.0} | EVERY_LOSS[case])), []
    for layout in LAYOUTS:
        config, stream = laid_out(layout, trainer, branches, monkeypatch)
        history = EntropyHistory(turns={0: [2.0, 1.0], 1: [1.0, 1.0]}, anchor=0.1)
        model = trainer.policy.model
        model.zero_grad(set_to_none=True)
        values = gradients.policy_gradient(model, stream, range(5), config, TEMPERATURE, history)
        results.append((values, flat(model)))
    assert_all_agree(results)


@pytest.mark.parametrize("reduction", ["token-mean", "seq-mean-token-mean"])
@pytest.mark.parametrize(
    "loss", [SIL(), Shaped(), Replayed(), SPEAR(least=0.01, dropped=0.9), Supervised()], ids=lambda loss: loss.name
)
def test_nor_do_they_change_a_loss_of_replayed_tokens(make, branches, loss, reduction, monkeypatch):
    trainer, results = make(imitation=ImitationConfig(loss=loss)), []
    for layout in LAYOUTS:
        config, stream = laid_out(layout, trainer, branches, monkeypatch)
        model = trainer.policy.model
        model.zero_grad(set_to_none=True)
        values = gradients.imitation_gradient(model, stream, 0.7, config, TEMPERATURE, reduction=reduction)
        results.append((values, flat(model)))
    assert_all_agree(results)
    assert ("imitation/kept" in results[0][0]) == isinstance(loss, SPEAR)
    if isinstance(loss, SPEAR):
        assert 0.05 < results[0][0]["imitation/kept"] < 0.95


WHAT_A_BATCH_BRINGS: dict[str, dict[str, Any]] = {
    "values": {"advantage": GAE(value_clip=0.1)},
    "injected": {"plan": ExGRPO(shaping=0.1), "task_pool": 8},
    "mismatch of tokens": {"mismatch": Mismatch(normalise=True)},
    "mismatch of episodes": {"mismatch": Mismatch(weigh=SequenceTIS(cap=50.0), normalise=True)},
    "rejected": {"mismatch": Mismatch(reject=(K3RS(most=0.05),))},
    "injected beside a mismatch": {"plan": ExGRPO(shaping=0.1), "task_pool": 8, "mismatch": Mismatch(normalise=True)},
}


def measured(trainer, branches):
    """([N] what the policy said of the branches when it was 0.3 nats away or less, [N] targets of its values)."""
    head, noise = trainer.models.values, np.random.default_rng(1)
    if head is not None:  # its weights are zeros in the beginning, which the network has no gradient through
        torch.nn.init.normal_(head.linear.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    stats = forward.measure(trainer.policy.model, branches, 10_000, TEMPERATURE, values=head)
    moved_N, target_N = (torch.from_numpy(noise.uniform(-0.3, 0.3, len(stats.logp_N))).float() for _ in range(2))
    value_N = None if stats.value_N is None else stats.value_N + moved_N
    return dataclasses.replace(stats, logp_N=stats.logp_N + moved_N, value_N=value_N), target_N


@pytest.mark.parametrize("case", WHAT_A_BATCH_BRINGS)
def test_nor_do_they_change_what_values_injected_tokens_and_mismatch_add(parts, make, branches, case, monkeypatch):
    """From the batch on, in a step without the first of the rows; π_old is neither μ nor π."""
    trainer, results = make(entropy_coef=0.0, **WHAT_A_BATCH_BRINGS[case]), []
    model, head = trainer.policy.model, trainer.models.values
    told, target_N = measured(trainer, branches)
    pair = [parts.make_episode(), parts.make_episode()], parts.make_outcomes([[1.0], [0.0]])
    for layout, (order, *_) in LAYOUTS.items():
        config, rows, advantage_N = arranged(layout, trainer, branches, monkeypatch)
        places = flatten(branches, torch.zeros(len(target_N))).places(order)
        batch = Batch(*pair, rows, gain_E=np.zeros(2), values={}, injected_E=np.array([False, True]))
        estimate = Estimate(advantage_N, None if head is None else target_N[places], told.of(places))
        stream, found = policy_stream(batch, estimate, trainer.models, config)
        assert stream is not None
        learning = [model] if head is None else [model, head]
        for network in learning:
            network.zero_grad(set_to_none=True)
        chosen = [place for place, number in enumerate(order) if number != 0]
        values = gradients.policy_gradient(model, stream, chosen, config, TEMPERATURE, values=head)
        results.append((values | found, torch.cat([flat(network) for network in learning])))
    assert_all_agree(results)
    found, expected = results[0][0], WHAT_A_BATCH_BRINGS[case]
    assert found.get("loss/value", 0.0) > 0 or "advantage" not in expected
    assert ("mismatch/ess" in found) == ("mismatch" in expected)
    assert 0 < found.get("mismatch/rejected", 0.5) < 1 or case != "rejected"


def test_the_layouts_differ_in_padding_packs_and_passes(make, branches):
    cost = packing.pair_cost(make().policy.model)
    found = {}
    for layout, (order, max_tokens, packs) in LAYOUTS.items():
        ordered = [branches[number] for number in order]
        found[layout] = [batch.packs for batch in packing.micro_batches(ordered, max_tokens, cost if packs else None)]
    assert [sorted(packs) for packs in found["all packed"]] == [[1, 2, 2]]
    assert found["all padded, in another order"] == [[1] * 5]
    assert len({len(row) for row in branches}) > 1
    assert 1 < len(found["two or three together"]) < 5
    assert found["each alone"] == [[1]] * 5
