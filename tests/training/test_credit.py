"""Token credit: ActFocus by hand, against an independent float64 reference, and the shares of the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from agentkit.memory.records import Role
from agentkit.training.credit import D3S, ActFocus, Credit, Forks, Pivot, Product, Recalled, Uniform, weighed
from agentkit.training.forward import TokenStats
from agentkit.training.losses import Clip, Now, scales
from agentkit.training.rows import Row
from agentkit.training.stream import flatten

ROLES = (Role.THOUGHT, Role.ACTION, Role.FORMAT, Role.OTHER)
FEW = settings(max_examples=25, deadline=None)  # for each signal
TOKENS = st.lists(st.tuples(st.sampled_from(ROLES), st.floats(-50, 50, width=32)), min_size=1, max_size=60)


SIGNALS = ("energy", "entropy", "nll", "shift")


def weigh(scheme, role_N, energy_N):
    """The weights of tokens of these roles, with these numbers as whatever signal the scheme reads."""
    none_N = torch.zeros(len(role_N))
    signal = getattr(scheme, "signal", "energy")
    reference = None
    if energy_N is not None:
        said = {"shift": (-energy_N, none_N, none_N), "entropy": (none_N, energy_N, none_N)}
        reference = TokenStats(*said.get(signal, (none_N, none_N, energy_N)))
    ones = np.ones(len(role_N))
    logprobs = -energy_N.numpy() if signal == "nll" and energy_N is not None else 0 * ones
    row = Row(
        0, ones.astype(np.int64), ones.astype(bool), role_N.numpy(), logprobs.astype(np.float32), ones.astype(np.int32)
    )
    return weighed(scheme, flatten([row], none_N, reference=reference)).weight_N


def tensors(tokens):
    role_N = torch.tensor([role for role, _ in tokens], dtype=torch.int8)
    return role_N, torch.tensor([energy for _, energy in tokens], dtype=torch.float32)


def reference(role_N, energy_N, alpha, beta, format_weight=1.0, other_weight=1.0, epsilon=1e-8):
    """ActFocus eq. 5 and 16, token by token."""
    energies = [float(e) for r, e in zip(role_N, energy_N, strict=True) if r == Role.ACTION]
    mean = math.fsum(energies) / len(energies) if energies else 0.0
    sigma = math.sqrt(math.fsum((e - mean) ** 2 for e in energies) / len(energies) + epsilon) if energies else 1.0
    weights = []
    for role, energy in zip(role_N.tolist(), energy_N.tolist(), strict=True):
        if role == Role.ACTION:
            weights.append(1 + beta / (1 + math.exp(-(energy - mean) / sigma)))
        else:
            weights.append({Role.THOUGHT: alpha, Role.FORMAT: format_weight, Role.OTHER: other_weight}[Role(role)])
    return np.array(weights)


def test_actfocus_by_hand():
    # Action energies 0, 1, 5: mean 2, variance (4 + 1 + 9)/3 = 14/3. Energies elsewhere must not matter.
    role = torch.tensor([Role.THOUGHT, Role.ACTION, Role.ACTION, Role.ACTION, Role.FORMAT, Role.OTHER])
    weights = weigh(ActFocus(alpha=0.2, beta=2.0), role, torch.tensor([99.0, 0.0, 1.0, 5.0, -99.0, 42.0]))
    sigma = math.sqrt(14 / 3)
    gates = [1 / (1 + math.exp(-(energy - 2) / sigma)) for energy in (0, 1, 5)]
    assert weights.tolist() == pytest.approx([0.2, *(1 + 2 * gate for gate in gates), 1.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("signal", SIGNALS)
@FEW
@given(TOKENS, st.floats(0, 1), st.floats(0, 3))
def test_weights_agree_with_the_reference_for_every_signal(signal, tokens, alpha, beta):
    role_N, energy_N = tensors(tokens)
    weights = weigh(ActFocus(alpha=alpha, beta=beta, signal=signal), role_N, energy_N)
    assert weights.numpy() == pytest.approx(reference(role_N, energy_N, alpha, beta), abs=1e-4)


def test_format_and_other_tokens_weigh_what_is_asked():
    role = torch.tensor([Role.FORMAT, Role.OTHER, Role.THOUGHT])
    scheme = ActFocus(format_weight=0.25, other_weight=0.75)
    assert weigh(scheme, role, torch.zeros(3)).tolist() == pytest.approx([0.25, 0.75, 0.1])


def test_all_tokens_of_malformed_turns_weigh_one():
    role = torch.full((5,), Role.OTHER)
    assert weigh(ActFocus(), role, torch.arange(5.0)).tolist() == [1.0] * 5


def test_equal_energies_put_every_gate_at_one_half():
    role = torch.full((4,), Role.ACTION)
    assert weigh(ActFocus(beta=0.5), role, torch.full((4,), 3.0)).tolist() == [1.25] * 4


def test_each_signal_is_what_its_name_says():
    # Action tokens with log π_old = −1, −3; the reference says log π_ref = −2, −1, entropy 5, 1, energy −9, −7.
    role_N = torch.full((2,), Role.ACTION)
    reference = TokenStats(torch.tensor([-2.0, -1.0]), torch.tensor([5.0, 1.0]), torch.tensor([-9.0, -7.0]))
    row = Row(0, np.ones(2, int), np.ones(2, bool), role_N.numpy(), np.array([-1, -3], np.float32), np.ones(2, int))
    stream = flatten([row], torch.zeros(2), reference=reference)
    more_on_second = {"energy": True, "entropy": False, "nll": True, "shift": False}  # −9, −7; 5, 1; 1, 3; 1, −2
    for signal, second in more_on_second.items():
        first_weight, second_weight = ActFocus.model_validate({"signal": signal}).weights(stream).tolist()
        assert (second_weight > first_weight) == second
        # two values stand one deviation from their mean
        assert sorted([first_weight, second_weight]) == pytest.approx(
            [1 + 0.5 / (1 + math.e), 1 + 0.5 / (1 + 1 / math.e)], abs=1e-6
        )


@pytest.mark.parametrize("signal", SIGNALS)
@FEW
@given(TOKENS)
def test_alpha_one_and_beta_zero_is_uniform_for_every_signal(signal, tokens):
    role_N, energy_N = tensors(tokens)
    uniform, plain = weigh(Uniform(), role_N, None), ActFocus(alpha=1, beta=0, signal=signal)
    assert torch.equal(weigh(plain, role_N, None), uniform)
    assert torch.equal(weigh(plain, role_N, energy_N), uniform)


@given(TOKENS, st.randoms())
def test_the_order_of_tokens_does_not_matter(tokens, random):
    role_N, energy_N = tensors(tokens)
    order = list(range(len(tokens)))
    random.shuffle(order)
    straight = weigh(ActFocus(), role_N, energy_N)[order]
    assert weigh(ActFocus(), role_N[order], energy_N[order]).numpy() == pytest.approx(straight.numpy(), abs=1e-5)


@given(TOKENS, st.floats(-20, 20))
def test_an_offset_of_the_logits_does_not_matter(tokens, offset):
    """The logits of a network are free up to a constant, which the batch's mean takes out again."""
    role_N, energy_N = tensors(tokens)
    action_energies = energy_N[role_N == Role.ACTION].numpy()
    if len(action_energies) and action_energies.std() > 1e-2:
        moved = weigh(ActFocus(), role_N, energy_N + offset)
        assert moved.numpy() == pytest.approx(weigh(ActFocus(), role_N, energy_N).numpy(), abs=1e-2)


@given(
    TOKENS,
    st.sampled_from(SIGNALS),
    st.just(0.0) | st.floats(0.001, 1),
    st.floats(0, 4),
    st.floats(-3, 3).filter(lambda gain: abs(gain) > 1e-3),
    st.integers(0, 2**32 - 1),
)
def test_credit_moves_the_gradient_but_neither_its_sum_nor_the_scale_of_the_loss(
    tokens, signal, alpha, beta, gain, seed
):
    """With the same ρ·Â at all tokens, their ratios anywhere within the clip, the loss is −ρ·Â for any α and β."""
    role_N, energy_N = tensors(tokens)
    weight_N = weigh(ActFocus(alpha=alpha, beta=beta, signal=signal), role_N, energy_N).double()
    assume(bool(weight_N.any()))
    log_ratio_N = torch.from_numpy(np.random.default_rng(seed).uniform(math.log(0.81), math.log(1.27), len(tokens)))
    logp_N = log_ratio_N.clone().requires_grad_()
    now = Now(logp_N, torch.zeros_like(log_ratio_N), gain / log_ratio_N.exp(), torch.zeros(len(tokens)).long())
    loss = (scales("token-mean", weight_N, now.sequence_N) * weight_N * Clip().tokens(now)).sum()
    loss.backward()
    gradient_N = logp_N.grad
    assert gradient_N is not None
    assert loss.item() == pytest.approx(-gain, rel=1e-9)
    assert gradient_N.sum().item() == pytest.approx(-gain, rel=1e-9)
    thought_N, plain_N = role_N == Role.THOUGHT, (role_N == Role.FORMAT) | (role_N == Role.OTHER)
    if plain_N.any():
        expected = alpha * float(gradient_N[plain_N][0])
        assert gradient_N[thought_N].tolist() == pytest.approx([expected] * int(thought_N.sum()), rel=1e-6)


@pytest.mark.parametrize(
    ("action_share", "after", "per_action", "per_thought"),
    [
        (0.095, 0.57, 6.0, 0.48),
        (0.039, 0.34, 8.6, 0.69),
        (0.041, 0.35, 8.5, 0.68),
        (0.026, 0.25, 9.6, 0.77),
        (0.153, 0.69, 4.5, 0.36),
        (0.142, 0.67, 4.8, 0.38),
        (0.108, 0.60, 5.6, 0.45),
        (0.073, 0.50, 6.8, 0.54),
    ],
)
def test_shares_of_the_gradient_are_those_derived_from_the_papers_token_counts(
    action_share, after, per_action, per_thought
):
    num_action = round(1000 * action_share)
    role = torch.tensor([Role.ACTION] * num_action + [Role.THOUGHT] * (1000 - num_action))
    weights = weigh(ActFocus(), role, torch.zeros(1000)).double()  # equal energies: mean action weight 1.25
    total = weights.sum()
    assert (weights[:num_action].sum() / total).item() == pytest.approx(after, abs=0.006)
    assert (weights[0] / total * 1000).item() == pytest.approx(per_action, rel=0.012)
    assert (weights[-1] / total * 1000).item() == pytest.approx(per_thought, abs=0.0051)


def test_no_action_token_needs_no_energy_statistics():
    role = torch.tensor([Role.THOUGHT, Role.FORMAT])
    assert weigh(ActFocus(), role, None).tolist() == pytest.approx([0.1, 1.0])


def test_energy_is_asked_for_only_where_beta_uses_it():
    assert ActFocus().needs_reference
    assert not ActFocus(beta=0).needs_reference
    assert not Uniform().needs_reference
    assert not ActFocus(signal="nll").needs_reference
    for signal in ("energy", "entropy", "shift"):
        assert ActFocus(signal=signal).needs_reference
        with pytest.raises(ValueError, match=f"needs the reference's {signal}"):
            weigh(ActFocus(signal=signal), torch.tensor([Role.ACTION]), None)


@given(TOKENS)
def test_the_weights_of_several_schemes_multiply(tokens):
    role_N, energy_N = tensors(tokens)
    one, other = ActFocus(), ActFocus(alpha=0.5, beta=1.0)
    product = Product(factors=(one, other, Uniform()))
    assert torch.equal(weigh(product, role_N, energy_N), weigh(one, role_N, energy_N) * weigh(other, role_N, energy_N))
    assert product.needs_reference
    assert not Product(factors=(Uniform(), Pivot())).needs_reference
    assert Product(factors=(Uniform(), Forks())).needs_policy
    with pytest.raises(ValidationError):
        Product(factors=())


def test_a_scheme_is_chosen_by_its_name_and_survives_json():
    adapter = TypeAdapter(Credit)
    assert adapter.validate_python({"name": "uniform"}) == Uniform()
    scheme = adapter.validate_python({"name": "actfocus", "alpha": 0.3})
    assert scheme == ActFocus(alpha=0.3)
    assert adapter.validate_json(adapter.dump_json(scheme)) == scheme
    for other in (Forks(share=0.1), D3S(), Recalled(weight=2.0), Pivot(), Product(factors=(ActFocus(), Pivot()))):
        assert adapter.validate_json(adapter.dump_json(other)) == other
    for wrong in (
        {"name": "forks", "share": 1.0},
        {"name": "entropy"},
        {"name": "uniform", "alpha": 1.0},
        {"name": "actfocus", "alpha": 1.5},
    ):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
