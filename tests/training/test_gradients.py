"""The gradient of a whole step against the formulas, written out over all logits in float64.

The networks are in float64, too; what is measured beforehand, and credit, is float32's.
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkit.errors import PolicyFault
from agentkit.memory.records import Role
from agentkit.policies.policy import Sampling
from agentkit.training import forward, gradients
from agentkit.training.batch import shares
from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.credit import ActFocus, Uniform
from agentkit.training.losses import (
    BAPO,
    EPO,
    SIL,
    SPEAR,
    Clip,
    Supervised,
)
from agentkit.training.mismatch import K3RS, Mismatch
from agentkit.training.network import Network
from agentkit.training.plans import ExGRPO
from agentkit.training.replay import Entry
from agentkit.training.rows import Row, build_rows
from agentkit.training.schedule import Cosine
from agentkit.training.stream import flatten
from agentkit.training.trainer import Trainer

ADVANTAGES = [1.5, -0.7, -0.8, 0.4]
TEMPERATURE = 0.8


@pytest.fixture
def make(parts, tmp_path):
    """A trainer whose policy has moved away from its reference, both in float64."""
    made: list[Trainer] = []

    def build(**changes):
        config = TrainConfig(**({"tasks_per_iteration": 2, "group_size": 2, "bottleneck_every": 0} | changes))
        trainer = Trainer(
            parts.make_taught_policy(),
            parts.LAKE,
            tmp_path / str(len(made)),
            config,
            sampling=Sampling(temperature=TEMPERATURE),
            reference=parts.make_policy(seed=9).model,
        )
        trainer.policy.model.double()  # which `check_model` would have refused
        if trainer.models.reference is not None:
            trainer.models.reference.double()
        made.append(trainer)
        return trainer

    yield build
    for trainer in made:
        trainer.close()


@pytest.fixture
def rows(parts):
    """Four rows of unequal length with all four roles; behaviour log-probabilities near the policy's own."""
    turns = [
        [parts.make_turn([5, 6], range(8, 16))],
        [parts.make_turn([9], [20, 21]), parts.make_turn([9, 20, 21, 30], range(40, 52))],
        [parts.make_turn([100, 101], range(103, 107))],
        [parts.make_turn(range(11), [12, 13, 14])],
    ]
    made = build_rows([parts.make_episode(each) for each in turns])[0]
    noise = np.random.default_rng(0)
    policy = parts.make_taught_policy().model.double()
    for row in made:
        exact = numbers(policy, row)["logp"].detach().numpy()
        # Log ratios from −0.5 to 0.5: many within the clip, some beyond it on either side.
        row.logprobs[row.sampled] = exact - noise.uniform(-0.5, 0.5, size=len(exact))
    return made


def numbers(model, row, temperature=TEMPERATURE):
    """Of one row's sampled tokens: log-probability, entropy, energy; from all logits, differentiable."""
    logits = model(torch.from_numpy(row.ids)[None]).logits[0]
    places = torch.from_numpy(np.flatnonzero(row.sampled))
    before = logits[places - 1]
    logp = (before / temperature).log_softmax(-1)
    return {
        "logp": logp[torch.arange(len(places)), torch.from_numpy(row.ids)[places]],
        "entropy": -(logp.exp() * logp).sum(-1),
        "energy": -before.logsumexp(-1),
    }


def over_all_tokens(trainer, rows):
    """Every quantity of the formulas, token by token in float64; the policy's with gradients."""
    policy = copy.deepcopy(trainer.policy.model).double()
    policy.zero_grad(set_to_none=True)
    mine = [numbers(policy, row) for row in rows]
    with torch.no_grad():
        reference = copy.deepcopy(trainer.models.reference or trainer.policy.model).double()
        frozen = [numbers(reference, row) for row in rows]

    def join(pieces):
        return torch.cat(list(pieces))

    return policy, {
        "logp": join(each["logp"] for each in mine),
        "entropy": join(each["entropy"] for each in mine),
        "reference": join(each["logp"].detach() for each in frozen),
        "energy": join(each["energy"].detach() for each in frozen),
        "old": join(torch.from_numpy(row.logprobs[row.sampled]).double() for row in rows),
        "role": join(torch.from_numpy(row.roles[row.sampled]) for row in rows),
    }


def written_out_weights(token, alpha, beta):
    weight = torch.ones(len(token["role"]), dtype=torch.float64)
    weight[token["role"] == Role.THOUGHT] = alpha
    action = token["role"] == Role.ACTION
    energy = token["energy"][action]
    weight[action] = 1 + beta * torch.sigmoid((energy - energy.mean()) / (energy.var(correction=0) + 1e-8).sqrt())
    return weight


def flat(model):
    return torch.cat([parameter.grad.flatten().double() for _, parameter in sorted(model.named_parameters())])


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def token_advantages(rows):
    return torch.tensor(np.repeat(ADVANTAGES, [row.num_sampled for row in rows]))


def policy_gradient(trainer, rows):
    trainer.policy.model.zero_grad(set_to_none=True)
    needs_reference = trainer.config.credit.needs_reference or trainer.config.kl_coef > 0
    reference = trainer.models.measure_reference(rows) if needs_reference else None
    stream = trainer.models.stream(trainer.config, rows, token_advantages(rows), reference)
    values = gradients.policy_gradient(
        trainer.policy.model, stream, list(range(len(rows))), trainer.config, TEMPERATURE
    )
    return values, flat(trainer.policy.model)


def replay_only(trainer, monkeypatch, entries, rows_of):
    """Let the trainer's buffer hold and draw just these entries."""
    monkeypatch.setattr(type(trainer.imitation.buffer), "__len__", lambda self: len(entries))
    monkeypatch.setattr(trainer.imitation.buffer, "sample", lambda num, rng: entries)
    monkeypatch.setattr(trainer.imitation.buffer, "rows", rows_of)


CASES = {
    "uniform": ({"credit": Uniform(), "entropy_coef": 0.0}, 1.0, 0.0),
    "actfocus": ({"credit": ActFocus(), "entropy_coef": 0.0}, 0.1, 0.5),
    "everything": ({"credit": ActFocus(alpha=0.3, beta=2.0), "entropy_coef": 0.05, "kl_coef": 0.2}, 0.3, 2.0),
}


@pytest.mark.parametrize("micro_batch_tokens", [1, 40, 10_000])
@pytest.mark.parametrize("case", CASES)
def test_the_policy_gradient_is_that_of_the_formula(make, rows, case, micro_batch_tokens):
    changes, alpha, beta = CASES[case]
    trainer = make(micro_batch_tokens=micro_batch_tokens, **changes)
    config = trainer.config
    values, found = policy_gradient(trainer, rows)

    model, token = over_all_tokens(trainer, rows)
    counts = [int(row.sampled.sum()) for row in rows]
    advantage = torch.tensor(np.repeat(ADVANTAGES, counts))
    weight = written_out_weights(token, alpha, beta)
    ratio = (token["logp"] - token["old"]).exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
    surrogate = -(weight * gain).sum() / weight.sum()
    d = token["reference"] - token["logp"]
    kl = (d.exp() - d - 1).mean()
    (surrogate - config.entropy_coef * token["entropy"].mean() + config.kl_coef * kl).backward()

    assert values["loss/policy"] == pytest.approx(surrogate.item(), rel=1e-5, abs=1e-7)
    assert values["entropy"] == pytest.approx(token["entropy"].mean().item(), rel=1e-5)
    assert relative(found, flat(model)) < 1e-5
    clipped = ((advantage > 0) & (ratio > 1.28)) | ((advantage < 0) & (ratio < 0.8))
    assert 0.05 < clipped.double().mean() < 0.9, "the case must reach both sides of the clip"
    for name, role in {"thought": Role.THOUGHT, "action": Role.ACTION, "format": Role.FORMAT}.items():
        inside = token["role"] == role
        assert values[f"share/{name}"] == pytest.approx((weight[inside].sum() / weight.sum()).item(), rel=1e-5)
        assert values[f"clipped/{name}"] == pytest.approx(clipped[inside].double().mean().item(), abs=1e-6)
    assert values["tokens/policy"] == sum(counts)
    if config.kl_coef:
        assert values["kl"] == pytest.approx(kl.item(), rel=1e-5)


@pytest.mark.parametrize("micro_batch_tokens", [1, 10_000])
def test_injected_tokens_have_the_shaped_loss_beside_the_attempts_clipped_one(make, rows, micro_batch_tokens):
    """Rows 1 and 3 joined the group; π_old is measured, and their ratio is to μ all the same."""
    changes = {"credit": ActFocus(), "entropy_coef": 0.0, "task_pool": 8, "micro_batch_tokens": micro_batch_tokens}
    trainer = make(plan=ExGRPO(shaping=0.1), mismatch=Mismatch(normalise=True), **changes)
    model, token = over_all_tokens(trainer, rows)
    stream = trainer.models.stream(
        trainer.config, rows, token_advantages(rows), trainer.models.measure_reference(rows), measured=True
    )
    injected = torch.from_numpy(np.isin(stream.row_N, [1, 3]))
    stream, _ = Mismatch(normalise=True).corrected(dataclasses.replace(stream, injected_N=injected))
    values = gradients.policy_gradient(trainer.policy.model, stream, range(4), trainer.config, TEMPERATURE)

    advantage, weight = token_advantages(rows), written_out_weights(token, 0.1, 0.5)
    shift = (token["logp"].detach() - token["old"]).exp()  # π_old is π: nothing has been learnt yet
    factor = shift.clamp(max=2.0)
    factor = torch.where(injected, 1.0, factor / factor[~injected].mean())
    own = (token["logp"] - token["logp"].detach()).exp() * advantage
    ratio = (token["logp"] - token["old"]).exp()
    loss = -(weight * factor * torch.where(injected, advantage * ratio / (ratio + 0.1), own)).sum() / weight.sum()
    loss.backward()
    assert values["loss/policy"] == pytest.approx(loss.item(), rel=1e-5)
    assert relative(flat(trainer.policy.model), flat(model)) < 1e-5


def test_the_kl_is_reduced_as_the_loss_is_and_without_credit(make, rows):
    changes = {"credit": ActFocus(), "entropy_coef": 0.0, "reduction": "seq-mean-token-mean"}
    trainer = make(kl_coef=0.2, **changes)
    both, found = policy_gradient(trainer, rows)
    _, without = policy_gradient(make(**changes), rows)
    model, token = over_all_tokens(trainer, rows)
    d = token["reference"] - token["logp"]
    each = (d.exp() - d - 1).split([row.num_sampled for row in rows])
    (0.2 * torch.stack([of_row.mean() for of_row in each]).mean()).backward()
    assert relative(found - without, flat(model)) < 1e-4
    assert both["kl"] == pytest.approx(torch.cat(each).mean().item(), rel=1e-5), "the metric is a mean over tokens"


def test_actfocus_with_alpha_one_and_beta_zero_is_the_plain_token_mean(make, rows):
    plain = make(credit=Uniform())
    focused = make(credit=ActFocus(alpha=1, beta=0))
    values, expected = policy_gradient(plain, rows)
    same_values, found = policy_gradient(focused, rows)
    assert same_values == pytest.approx(values, abs=1e-6)
    assert float((found - expected).abs().max()) <= 1e-6
    other_values, other = policy_gradient(make(credit=ActFocus()), rows)
    assert abs(other_values["loss/policy"] - values["loss/policy"]) > 1e-3
    assert relative(other, expected) > 0.1


def test_credit_changes_the_policy_term_but_neither_entropy_nor_kl(make, rows):
    results = [
        policy_gradient(make(credit=credit, kl_coef=0.1, entropy_coef=0.1), rows)[0]
        for credit in (Uniform(), ActFocus(alpha=0.0, beta=3.0))
    ]
    for name in ("entropy", "kl"):
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-6)
    assert results[0]["share/thought"] > results[1]["share/thought"] == 0


@pytest.mark.parametrize("micro_batch_tokens", [1, 10_000])
def test_the_imitation_gradient_is_that_of_the_formula_over_its_own_tokens(make, rows, monkeypatch, micro_batch_tokens):
    trainer = make(
        imitation=ImitationConfig(weight=0.3, loss=SIL(truncation=1.2)), micro_batch_tokens=micro_batch_tokens
    )
    entries = [Entry(number, str(number), advantage, 0) for number, advantage in enumerate([0.9, 0.2, 1.7, 0.5])]
    replay_only(trainer, monkeypatch, entries, lambda entry: [rows[entry.number]])
    trainer.policy.model.zero_grad(set_to_none=True)
    values = trainer.imitation.gradient(trainer._now())
    found = flat(trainer.policy.model)

    model, token = over_all_tokens(trainer, rows)
    counts = [int(row.sampled.sum()) for row in rows]
    advantage = torch.tensor(np.repeat([0.9, 0.2, 1.0, 0.5], counts))  # at most 1
    weight = written_out_weights(token, 0.1, 0.5)
    importance = (token["logp"].detach() - token["old"]).exp().clamp(max=1.2)
    loss = -(weight * importance * advantage * token["logp"]).sum() / weight.sum()
    (0.3 * loss).backward()
    assert values["loss/imitation"] == pytest.approx(loss.item(), rel=1e-5)
    assert values["tokens/imitation"] == sum(counts)
    assert values["imitation/ess"] == pytest.approx(
        (importance.sum() ** 2 / (len(importance) * importance.square().sum())).item(), rel=1e-5
    )
    assert relative(found, flat(model)) < 1e-5


def test_the_imitation_weight_rises_along_its_ramp(make, rows, monkeypatch):
    ramp = Cosine(length=4, start=0, end=1)
    trainer = make(imitation=ImitationConfig(weight=0.8), schedules={"imitation.weight": ramp})
    replay_only(trainer, monkeypatch, [Entry(0, "a", 1.0, 0)], lambda entry: [rows[0]])
    factors = []
    for trainer.learner.clocks.steps in (0, 1, 3, 8):  # the steps done before
        factors.append(trainer.imitation.gradient(trainer._now())["imitation/factor"])
    assert factors == pytest.approx([0.8 * 0.5 * (1 - 2**-0.5), 0.4, 0.8, 0.8])


def test_energies_for_credit_are_standardised_over_all_rows_and_not_per_micro_batch(make, rows):
    trainer = make(micro_batch_tokens=1)
    stream = trainer.models.stream(trainer.config, rows, token_advantages(rows), trainer.models.measure_reference(rows))
    _, token = over_all_tokens(trainer, rows)
    assert stream.weight_N.numpy() == pytest.approx(written_out_weights(token, 0.1, 0.5).numpy(), abs=1e-3)


def test_the_log_probabilities_of_sampling_are_those_of_learning(parts, make, tmp_path):
    """What the engine recorded, batched, left-padded and with a cache, is what the training pass computes."""
    from agentkit.rollout import collect
    from agentkit.task import make_tasks
    from agentkit.training.forward import measure

    policy = parts.make_taught_policy()
    episodes = collect(
        policy,
        make_tasks(parts.LAKE, num=3, params=parts.PARAMS),
        group_size=4,
        sampling=Sampling(max_new_tokens=24, temperature=TEMPERATURE),
    )
    rows = build_rows(episodes)[0]
    recorded = np.concatenate([row.logprobs[row.sampled] for row in rows])
    assert measure(policy.model, rows, 500, TEMPERATURE).logp_N.numpy() == pytest.approx(recorded, abs=1e-4)


def test_in_bfloat16_the_first_ratio_is_1_though_the_sampler_has_float32(parts, make_trainer, tmp_path, monkeypatch):
    ratios, inner = [], Clip.tokens

    def seen(self, now):
        ratios.append(((now.logp_N - now.old_logp_N).detach().exp(), now.old_logp_N))
        return inner(self, now)

    monkeypatch.setattr(Clip, "tokens", seen)
    trainer = make_trainer(tmp_path, network=Network(precision="bfloat16"), imitation=ImitationConfig(weight=0))
    assert trainer.iterate()["rows/learned"]
    ratio_N, old_logp_N = (torch.cat(parts_) for parts_ in zip(*ratios, strict=True))
    assert ratio_N.numpy() == pytest.approx(1, abs=1e-6)
    recorded = [turn.logprobs for episode in trainer.log.episodes() for turn in episode.turns]
    assert abs(sum(map(sum, recorded)) - float(old_logp_N.double().sum())) > 1e-3


def test_stored_log_probabilities_are_refused_beside_bfloat16_which_would_not_read_them():
    half = Network(precision="bfloat16")
    with pytest.raises(ValidationError, match=r"plan.old_logprobs = 'stored' and 'bfloat16'"):
        TrainConfig(plan=ExGRPO(), task_pool=8, network=half)
    TrainConfig(plan=ExGRPO(old_logprobs="recomputed"), task_pool=8, network=half)
    TrainConfig(plan=ExGRPO(), task_pool=8, network=half, mismatch=Mismatch())


def test_rejected_tokens_leave_numerator_and_denominator(make, rows):
    """An episode that the mismatch rejects might as well not be there."""
    trainer = make(credit=Uniform(), entropy_coef=0.0)
    stream = trainer.models.stream(trainer.config, rows, token_advantages(rows), None, measured=True)
    mean_E = [
        float((r.exp() - 1 - r).mean())
        for r in ((stream.old_logp_N - stream.behaviour_logp_N)[stream.episode_N == e].double() for e in range(4))
    ]
    most = (sorted(mean_E)[2] + max(mean_E)) / 2
    mismatch = Mismatch(weigh=None, reject=(K3RS(most=most),))
    rejected, found = mismatch.corrected(stream)
    assert 0 < found["mismatch/rejected"] < 1
    left = [e for e in range(4) if mean_E[e] <= most]
    model = trainer.policy.model
    results = []
    for changed, chosen in ((rejected, range(4)), (stream, left)):
        model.zero_grad(set_to_none=True)
        results.append((gradients.policy_gradient(model, changed, chosen, trainer.config, TEMPERATURE), flat(model)))
    assert results[0][0]["loss/policy"] == pytest.approx(results[1][0]["loss/policy"], abs=1e-6)
    assert relative(results[0][1], results[1][1]) < 1e-6


@pytest.mark.parametrize("loss", [Clip(), BAPO()], ids=repr)
def test_a_log_probability_that_is_not_finite_names_the_episodes_and_no_step_is_taken(make, rows, monkeypatch, loss):
    trainer = make(loss=loss, micro_batch_tokens=1)
    trainer.iteration = 7
    stream = trainer.models.stream(trainer.config, rows, token_advantages(rows), trainer.models.measure_reference(rows))
    stream = dataclasses.replace(stream, episode_ids=["a", "b", "c", "d"])
    before = [parameter.detach().clone() for parameter in trainer.policy.model.parameters()]
    honest = forward.forward

    def broken(model, rows_, *args, **kwargs):
        stats = honest(model, rows_, *args, **kwargs)
        if any(row.episode == 2 for row in rows_):
            stats = dataclasses.replace(stats, logp_N=stats.logp_N * float("nan"))
        return stats

    monkeypatch.setattr(gradients, "forward", broken)
    monkeypatch.setattr(forward, "forward", broken)
    with pytest.raises(PolicyFault, match="iteration 7: the log-probability of episode c is not finite, no step"):
        trainer._step(stream, [0, 1, 2, 3])
    for parameter, old in zip(trainer.policy.model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


def test_a_loss_that_is_not_finite_names_the_episodes(make, rows):
    trainer = make(credit=Uniform(), micro_batch_tokens=1)
    stream = trainer.models.stream(trainer.config, rows, token_advantages(rows), None)
    advantage_N = torch.where(stream.episode_N == 1, float("inf"), stream.advantage_N)
    stream = dataclasses.replace(stream, advantage_N=advantage_N)
    with pytest.raises(PolicyFault, match="the loss of episode number 1 is not finite"):
        trainer._step(stream, [0, 1, 2, 3])


def test_a_gradient_that_is_not_finite_names_what_was_replayed_too(make, rows, monkeypatch):
    trainer = make(credit=Uniform())
    stream = trainer.models.stream(trainer.config, rows, token_advantages(rows), None)

    def gradient(*_):
        trainer.imitation.replayed = ["old", "older"]
        return {}

    monkeypatch.setattr(trainer.imitation, "gradient", gradient)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(PolicyFault, match="episode number 0, number 1 and of replayed episode old, older"):
        trainer._step(stream, [0, 1])


def test_a_gradient_that_is_not_finite_names_the_episodes(make, rows, monkeypatch):
    trainer = make(credit=Uniform())
    stream = trainer.models.stream(trainer.config, rows, token_advantages(rows), None)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(PolicyFault, match="gradient of iteration 0 is not finite, no step") as raised:
        trainer._step(stream, [0, 1, 3])
    assert "episode number 0, number 1, number 3" in str(raised.value)
    assert trainer.policy.version == 0


def test_erroneous_turns_are_context_only_under_supervised_replay(parts, make, rows, monkeypatch):
    """The second episode's first turn is not valid: its two tokens have no weight, its second turn keeps its own."""
    trainer = make(credit=Uniform(), imitation=ImitationConfig(weight=1.0, loss=Supervised()))
    episode = parts.make_episode([parts.make_turn([9], [20, 21], valid=False), parts.make_turn([9], [40])])
    replay_only(trainer, monkeypatch, [Entry(0, "a", 1.0, 0)], lambda entry: [dataclasses.replace(rows[1], episode=0)])
    monkeypatch.setattr(trainer.imitation.buffer, "episode", lambda entry: episode)
    found = trainer.imitation.gradient(trainer._now())["loss/imitation"]
    with torch.no_grad():
        logp = numbers(trainer.policy.model, rows[1])["logp"]
    assert found == pytest.approx(-float(logp[2:].mean()), rel=1e-6)


def test_a_run_with_every_state_it_can_keep_goes_on_bit_for_bit(parts, tmp_path):
    changes = {
        "entropy": EPO(),
        "mismatch": Mismatch(),
        "imitation": ImitationConfig(episodes_per_step=3, loss=SPEAR(least=0.0)),
        "bottleneck_every": 0,
    }
    whole = parts.make_trainer(tmp_path / "whole", iterations=3, **changes)
    seen = []
    whole.train(on_iteration=lambda number, values: seen.append(values))
    assert all(values["mismatch/ess"] == pytest.approx(1, abs=1e-3) for values in seen if "mismatch/ess" in values)
    assert any("mismatch/ess" in values for values in seen)
    assert whole.learner.entropies.turns
    assert len(whole.imitation.means) == 9
    part = parts.make_trainer(tmp_path / "part", iterations=2, **changes)
    part.train()
    part.close()
    again = parts.make_trainer(tmp_path / "part", iterations=3, **changes)
    again.restore()
    assert len(again.imitation.means) == 6
    again.train()
    assert parts.digest(again.policy.model) == parts.digest(whole.policy.model)
    assert again.learner.entropies == whole.learner.entropies
    assert again.imitation.means == whole.imitation.means
    again.close()
    whole.close()


REDUCTIONS = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("credit", [Uniform(), ActFocus()])
def test_rows_that_do_not_learn_count_in_the_divisors_and_are_not_computed(make, rows, reduction, credit, monkeypatch):
    horizon = {"horizon": 50} if reduction.endswith("norm") else {}
    trainer = make(credit=credit, entropy_coef=0.0, reduction=reduction, **horizon)
    model, config = trainer.policy.model, trainer.config
    advantage_N = token_advantages(rows)
    advantage_N[torch.tensor(np.repeat([row.episode == 1 for row in rows], [row.num_sampled for row in rows]))] = 0.0
    reference = trainer.models.measure_reference(rows) if config.needs_reference else None
    stream = trainer.models.stream(config, rows, advantage_N, reference)
    learns_R = np.array([row.episode != 1 for row in rows])
    passed: list[Row] = []
    inner = gradients.forward

    def counted(model, rows, *more):
        passed.extend(rows)
        return inner(model, rows, *more)

    monkeypatch.setattr(gradients, "forward", counted)
    found = []
    for changed in (stream, dataclasses.replace(stream, learns_R=learns_R)):
        passed.clear()
        model.zero_grad(set_to_none=True)
        values = gradients.policy_gradient(model, changed, list(range(len(rows))), config, TEMPERATURE)
        found.append((values["loss/policy"], flat(model), len(passed)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    assert relative(found[1][1], found[0][1]) < 1e-6
    assert (found[0][2], found[1][2]) == (len(rows), int(learns_R.sum()))


@pytest.mark.parametrize("reduction", ["token-mean", "seq-mean-token-mean"])
def test_a_factor_of_a_whole_sequence_is_not_divided_out(make, rows, reduction):
    """Twice the factor is twice the loss, and of one sequence its share of it."""
    trainer = make(credit=Uniform(), entropy_coef=0.0, reduction=reduction)
    stream = trainer.models.stream(trainer.config, rows, token_advantages(rows), None)
    one_N = (stream.episode_N == 0).float()

    def loss(factor_N):
        changed = dataclasses.replace(stream, factor_N=factor_N)
        chosen = list(range(len(rows)))
        return gradients.policy_gradient(trainer.policy.model, changed, chosen, trainer.config, TEMPERATURE)[
            "loss/policy"
        ]

    whole, own = loss(torch.ones_like(one_N)), loss(one_N)
    assert loss(2 * torch.ones_like(one_N)) == pytest.approx(2 * whole, rel=1e-6)
    assert own != 0
    assert loss(1 + one_N) == pytest.approx(whole + own, rel=1e-6)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 9)
)
def test_steps_share_out_whole_episodes_and_each_has_some_that_learn(episodes, num, seed):
    """Each episode: how many rows it has, and whether they learn."""
    token = np.array([False, True])
    nothing = np.zeros(2, np.int8), np.zeros(2, np.float32), np.zeros(2, np.int32)
    rows = [Row(e, np.array([0, 1]), token, *nothing) for e, (count, _) in enumerate(episodes) for _ in range(count)]
    learns_R = np.array([learns for count, learns in episodes for _ in range(count)])
    if not learns_R.any():
        return
    stream = dataclasses.replace(flatten(rows, torch.ones(len(rows))), learns_R=learns_R)
    steps = shares(stream, num, np.random.default_rng(seed))
    learning = sum(learns for _, learns in episodes)
    assert len(steps) == min(num, learning)
    assert sorted(row for step in steps for row in step) == list(range(len(rows)))
    of_step = [{rows[row].episode for row in step} for step in steps]
    assert sum(map(len, of_step)) == len(episodes), "no episode is in two steps"
    taught = [sum(episodes[e][1] for e in step) for step in of_step]
    assert max(taught) - min(taught) <= 1
