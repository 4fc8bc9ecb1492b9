"""The forward pass against all logits in float64, and that no choice of batching changes it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from agentkit.errors import ConfigError
from agentkit.training import forward as forward_module
from agentkit.training.forward import check_model, forward, measure
from agentkit.training.packing import micro_batches, pair_cost
from agentkit.training.rows import Row, build_rows


@pytest.fixture(scope="module")
def model(parts):
    """Sharper than a fresh network, whose distributions are all nearly uniform."""
    made = parts.make_policy(seed=3).model
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(6.0)
    return made


@pytest.fixture(scope="module")
def smooth(parts):
    """A fresh network: its gradients are free of the amplified rounding of sharp ones."""
    return parts.make_policy(seed=3).model


@pytest.fixture
def rows(parts):
    """Rows of lengths 4, 9, 6 and 11; the second has two responses."""
    episodes = [
        [parts.make_turn([5, 6], [7, 8])],
        [parts.make_turn([9, 3], [4, 5]), parts.make_turn([9, 3, 4, 5, 30, 31], [32, 33, 34])],
        [parts.make_turn([100, 101, 102], [103, 104, 105])],
        [parts.make_turn([11] * 10, [12])],
    ]
    return build_rows([parts.make_episode(turns) for turns in episodes])[0]


def reference(model, rows, temperature):
    """(log-probability, entropy, energy) of each sampled token from the whole logits of one row at a time."""
    double = copy.deepcopy(model).double()
    found = []
    for row in rows:
        with torch.no_grad():
            logits = double(torch.from_numpy(row.ids)[None]).logits[0].numpy()
        for place in np.flatnonzero(row.sampled):
            raw = logits[place - 1]  # the position before a token predicts it
            scaled = raw / temperature
            logp = scaled - np.log(np.exp(scaled - scaled.max()).sum()) - scaled.max()
            energy = -(np.log(np.exp(raw - raw.max()).sum()) + raw.max())
            found.append((logp[row.ids[place]], -(np.exp(logp) * logp).sum(), energy))
    return np.array(found).T


def as_array(stats):
    return torch.stack([stats.logp_N, stats.entropy_N, stats.energy_N]).detach().numpy()


def gradients(model, rows, max_tokens=10**9):
    """Of a sum that uses all three numbers of every token."""
    model.zero_grad(set_to_none=True)
    for indices, packs in micro_batches(rows, max_tokens, pair_cost(model)):
        stats = forward(model, [rows[i] for i in indices], 0.7, packs=packs)
        (stats.logp_N.sum() + 0.3 * stats.entropy_N.sum() + 0.1 * stats.energy_N.sum()).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("temperature", [1.0, 0.5, 1.7])
def test_all_three_numbers_agree_with_the_whole_logits_in_float64(model, rows, temperature):
    found = as_array(forward(model, rows, temperature))
    expected = reference(model, rows, temperature)
    assert expected[1].min() < 5, "entropies near the maximum would not tell a wrong distribution from a right one"
    assert found == pytest.approx(expected, abs=2e-4)


def test_the_energy_is_that_of_the_raw_logits_and_not_of_log_probabilities(model, rows):
    hot, cold = forward(model, rows, 2.0), forward(model, rows, 1.0)
    assert cold.energy_N.abs().min() > 0.5
    assert torch.equal(hot.energy_N, cold.energy_N)


def test_what_follows_a_token_does_not_change_it(model, rows):
    row = rows[0]
    longer = Row(
        0, np.append(row.ids, 77), np.append(row.sampled, False), np.append(row.roles, 0), row.logprobs, row.turns
    )
    assert as_array(forward(model, [longer])) == pytest.approx(as_array(forward(model, [row])), abs=1e-5)


def test_padding_and_row_order_change_nothing(model, rows):
    together = as_array(forward(model, rows))
    alone = np.concatenate([as_array(forward(model, [row])) for row in rows], axis=1)
    assert together == pytest.approx(alone, abs=1e-5)
    backwards = as_array(forward(model, rows[::-1]))
    assert backwards == pytest.approx(
        np.concatenate([as_array(forward(model, [r])) for r in rows[::-1]], axis=1), abs=1e-5
    )


@pytest.mark.parametrize("max_tokens", [1, 12, 20, 10**6])
def test_measure_gives_the_order_of_the_rows_however_they_are_split(model, rows, max_tokens):
    assert as_array(measure(model, rows, max_tokens)) == pytest.approx(as_array(forward(model, rows)), abs=1e-5)
    assert measure(model, [], max_tokens).logp_N.shape == (0,)


@pytest.mark.parametrize("max_tokens", [1, 12, 20])
def test_the_gradient_does_not_depend_on_the_micro_batches(smooth, rows, max_tokens):
    whole = gradients(smooth, rows)
    assert (gradients(smooth, rows, max_tokens) - whole).abs().max() < 1e-6 * whole.abs().max()


@pytest.mark.parametrize("num_chunk", [1, 2, 3])
def test_chunks_that_are_computed_again_change_neither_numbers_nor_gradients(smooth, rows, num_chunk, monkeypatch):
    model = smooth
    whole, gradient = as_array(forward(model, rows, 0.7)), gradients(model, rows)
    monkeypatch.setattr(forward_module, "CHUNK_LOGITS", num_chunk * model.config.vocab_size)
    calls = []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: calls.append(args[0].shape))
    try:
        assert as_array(forward(model, rows, 0.7)) == pytest.approx(whole, abs=1e-5)
        assert len(calls) == -(-sum(row.num_sampled for row in rows) // num_chunk)
        assert (gradients(model, rows) - gradient).abs().max() < 1e-6 * gradient.abs().max()
        assert len(calls) == 3 * -(-sum(row.num_sampled for row in rows) // num_chunk), (
            "forward again in the backward pass"
        )
    finally:
        handle.remove()


def test_the_output_layer_sees_sampled_positions_only_and_never_more_than_a_chunk(model, rows, monkeypatch):
    monkeypatch.setattr(forward_module, "CHUNK_LOGITS", 4 * model.config.vocab_size)
    shapes = []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    try:
        measure(model, rows, 10**6)
    finally:
        handle.remove()
    assert all(len(shape) == 2 and shape[0] <= 4 for shape in shapes)
    assert sum(shape[0] for shape in shapes) == sum(row.num_sampled for row in rows) == 11


def test_a_model_in_bfloat16_is_measured_in_float32(model, rows):
    half = copy.deepcopy(model).bfloat16()
    stats = forward(half, rows)
    assert stats.logp_N.dtype == stats.entropy_N.dtype == stats.energy_N.dtype == torch.float32
    assert (stats.logp_N < 0).all()
    assert as_array(stats) == pytest.approx(as_array(forward(model, rows)), abs=0.5)


class Capped(torch.nn.Module):
    """A model that squashes its logits into ± cap after the output layer, as Gemma 2 does."""

    def __init__(self, model, cap):
        super().__init__()
        self.inner, self.cap = model, cap

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)

    def forward(self, **kwargs):
        output = self.inner(**kwargs)
        output.logits = self.cap * torch.tanh(output.logits / self.cap)
        return output


def test_a_model_with_a_soft_cap_on_its_logits_is_refused(parts):
    """Also a fresh one, whose logits are still far below the cap."""
    model = parts.make_policy().model
    check_model(model)
    for cap in (30.0, 5.0):
        with pytest.raises(ConfigError, match=r"soft cap or scale"):
            check_model(Capped(model, cap))


def test_a_model_that_scales_its_logits_is_refused(parts):
    model = parts.make_policy().model
    handle = model.register_forward_hook(lambda _, args, output: setattr(output, "logits", output.logits * 0.25))
    try:
        with pytest.raises(ConfigError, match=r"soft cap or scale"):
            check_model(model)
    finally:
        handle.remove()


def test_a_sampled_first_token_is_a_broken_row(model):
    roles, logprobs, turns = np.zeros(2, np.int8), np.zeros(2, np.float32), np.zeros(2, np.int32)
    row = Row(0, np.array([1, 2]), np.array([True, False]), roles, logprobs, turns)
    with pytest.raises(AssertionError, match="first token"):
        forward(model, [row])


def test_weights_that_would_round_their_updates_away_are_refused(smooth):
    with pytest.raises(ConfigError, match=r"not float32.*LocalPolicy.load\(folder, dtype=torch.float32\)"):
        check_model(copy.deepcopy(smooth).to(torch.bfloat16))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_output_layer_is_cast_once_and_says_the_same(smooth, rows, monkeypatch, frozen):
    model, casts = copy.deepcopy(smooth).requires_grad_(not frozen), []
    monkeypatch.setattr(forward_module, "CHUNK_LOGITS", 1)
    shape = model.get_output_embeddings().weight.shape

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._to_copy.default and args[0].shape == shape:
                casts.append(func)
            return func(*args, **(kwargs or {}))

    with torch.autocast("cpu", torch.bfloat16), torch.no_grad(), Casts():
        found = forward(model, rows).logp_N
    assert len(found) > 2, "more chunks than one"
    assert len(casts) == 1
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        hidden = forward_module.hidden_states(model, forward_module.Layout.of(rows))
        logits = model.get_output_embeddings()(hidden).float()
    target_N = forward_module.Layout.of(rows).target_N
    expected_N = logits.log_softmax(-1).gather(1, target_N[:, None])[:, 0]
    assert found.numpy() == pytest.approx(expected_N.numpy(), abs=1e-4)
