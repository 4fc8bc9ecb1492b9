"""Packs and micro-batches: what is cut, how it is laid out, and that what the network says of a row stays the same."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.training.forward import forward, measure
from agentkit.training.packing import Layout, hidden_states, micro_batches, pack_size, pair_cost, shared_length
from agentkit.training.rows import Row
from agentkit.training.tiny import build_model

CHEAP = 1e-6
"""A pair cost at which everything is shared that can be."""


def row_of(ids, first_sampled: int = 1) -> Row:
    """A row of these ids, sampled from some place on."""
    sampled = np.arange(len(ids)) >= first_sampled
    nothing = np.zeros(len(ids), np.int8), np.zeros(len(ids), np.float32), np.zeros(len(ids), np.int32)
    return Row(0, np.array(ids, np.int64), sampled, *nothing)


def of_length(length: int) -> Row:
    return row_of([0] * length, first_sampled=length)


@pytest.fixture(scope="module")
def exact(parts):
    """A network in float64, in which sharing can be told from rounding."""
    return parts.make_policy(seed=3).model.double()


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 120), st.booleans())
@settings(deadline=None)
def test_micro_batches_hold_every_row_once_and_stay_within_the_limit(lengths, max_tokens, sharing):
    rows = [row_of(np.arange(length) + 100 * (number % 3)) for number, length in enumerate(lengths)]
    batches = micro_batches(rows, max_tokens, CHEAP if sharing else None)
    assert sorted(i for batch in batches for i in batch.indices) == list(range(len(rows)))
    for indices, packs in batches:
        assert sum(packs) == len(indices)
        ends = np.cumsum(packs)
        sizes = [pack_size([rows[i] for i in indices[end - num : end]]) for num, end in zip(packs, ends, strict=True)]
        assert max(sizes) * len(sizes) <= max_tokens or len(indices) == 1


def test_long_tailed_lengths_are_cut_into_batches_with_little_padding():
    lengths = [int(length) for length in np.random.default_rng(0).lognormal(4, 1, 400).clip(8, 2000)]
    batches = micro_batches([of_length(length) for length in lengths], 4096)
    computed = sum(max(lengths[i] for i in batch.indices) * len(batch.indices) for batch in batches)
    assert computed < 1.1 * sum(lengths)
    assert len(batches) < 3 * sum(lengths) / 4096 + 10, "and yet the batches are few"


def test_equal_lengths_fill_their_batches():
    batches = micro_batches([of_length(100) for _ in range(25)], 1000)
    assert sorted(len(batch.indices) for batch in batches) == [5, 10, 10]


def test_rows_that_begin_alike_are_one_pack_and_others_are_not():
    rows = [row_of([1, 2, 3, 9]), row_of([5, 6, 7]), row_of([1, 2, 3, 8, 8])]
    (batch,) = micro_batches(rows, 1000, CHEAP)
    packs = np.split(batch.indices, np.cumsum(batch.packs)[:-1])
    assert {frozenset(pack.tolist()) for pack in packs} == {frozenset({0, 2}), frozenset({1})}
    assert micro_batches(rows, 1000)[0].packs == [1, 1, 1], "nothing is shared unless it is known what it costs"


def test_packs_end_where_what_they_save_costs_more_than_the_pairs_that_see_nothing():
    rows = [row_of([1] * 10 + [token] * 10) for token in range(2, 6)]
    # Shared: 10 + 4 * 10 = 50 tokens and 2,500 pairs; two packs of two: 60 and 1,800; alone: 80 and 1,600.
    for cost, packs in ((0.01, [4]), (0.02, [2, 2]), (0.2, [1, 1, 1, 1])):
        assert sorted(packs) == sorted(num for batch in micro_batches(rows, 1000, cost) for num in batch.packs)


def test_a_layout_worked_by_hand():
    rows = [row_of([7, 8, 1], 2), row_of([7, 8, 2, 3], 2), row_of([7, 9], 1)]
    layout = Layout.of(rows, [3])
    assert layout.ids_PS.tolist() == [[7, 8, 1, 2, 3, 9]]
    assert layout.position_PS is not None
    assert layout.mask_P1SS is not None
    assert layout.position_PS.tolist() == [[0, 1, 2, 2, 3, 1]]
    assert layout.mask_P1SS[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 0, 0, 0, 0, 1],
    ]
    assert layout.place_N.tolist() == [1, 1, 3, 0], "each token is predicted by the one before it in its row"
    assert layout.target_N.tolist() == [1, 2, 3, 9]
    alone = Layout.of(rows)
    assert alone.mask_P1SS is None
    assert alone.ids_PS.tolist() == [[7, 8, 1, 0], [7, 8, 2, 3], [7, 9, 0, 0]]


branching = st.lists(st.lists(st.integers(1, 3), min_size=2, max_size=7), min_size=1, max_size=7)


@given(branching, st.integers(8, 60))
@settings(deadline=None, max_examples=30)
def test_sharing_changes_neither_numbers_nor_gradients(exact, branches, max_tokens):
    """Few different ids make rows that share beginnings, are each other's beginnings, or are equal."""
    rows = [row_of(ids, 1 + len(ids) // 3) for ids in branches]

    def passed(cost):
        exact.zero_grad(set_to_none=True)
        total = 0.0
        logps = [torch.zeros(0)] * len(rows)
        for indices, packs in micro_batches(rows, max_tokens, cost):
            stats = forward(exact, [rows[i] for i in indices], 0.7, packs=packs)
            weight_N = torch.cat([torch.linspace(1, 2 + i, rows[i].num_sampled) for i in indices])
            (weight_N * stats.logp_N + 0.3 * stats.entropy_N - 0.1 * stats.energy_N).sum().backward()
            for i, logp_n in zip(indices, stats.logp_N.split([rows[i].num_sampled for i in indices]), strict=True):
                logps[i] = logp_n.detach()
            total += len(indices)
        assert total == len(rows)
        return torch.cat(logps), torch.cat([p.grad.flatten() for p in exact.parameters()])

    (logp_N, gradient), (alone_N, own) = passed(CHEAP), passed(None)
    assert (logp_N - alone_N).abs().max() < 1e-6
    assert (gradient - own).abs().max() <= 1e-6 * own.abs().max()


def test_what_is_shared_is_computed_once(exact):
    rows = [row_of([5] * 30 + [token], 30) for token in range(8)]
    assert pair_cost(exact) is not None, "found out by passes of its own"
    shapes = []
    handle = exact.get_input_embeddings().register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    try:
        measure(exact, rows, 10_000)
    finally:
        handle.remove()
    assert [tuple(shape) for shape in shapes] == [(1, 38)]


def test_a_pair_costs_what_its_multiplications_do(exact):
    weights = sum(p.numel() for p in exact.base_model.parameters()) - exact.get_input_embeddings().weight.numel()
    config = exact.config
    width, layers = config.num_attention_heads * config.head_dim, config.num_hidden_layers
    assert pair_cost(exact) == pytest.approx(2 * width * layers / weights)


def test_models_that_do_not_look_at_everything_or_take_no_masks_share_nothing(parts):
    windowed, deaf = (copy.deepcopy(parts.make_policy(seed=3).model) for _ in range(2))
    windowed.config.layer_types = ["sliding_attention"] * windowed.config.num_hidden_layers
    assert pair_cost(windowed) is None
    base = deaf.base_model.forward
    deaf.base_model.forward = lambda *args, attention_mask=None, **more: base(*args, **more)
    assert pair_cost(deaf) is None
    rows = [row_of([5, 6, 7]), row_of([5, 6, 8])]
    assert [batch.packs for batch in micro_batches(rows, 100, pair_cost(deaf))] == [[1, 1]]


def test_rows_share_what_they_begin_with():
    one, other = np.array([1, 2, 3]), np.array([1, 2, 4, 5])
    assert shared_length(one, other) == 2
    assert shared_length(one, one[:2]) == 2
    assert shared_length(other[2:], one) == 0


def test_all_layers_share_one_mask_in_the_number_type_of_attention(parts):
    model = build_model(parts.tokenizer(), hidden=32, layers=4, heads=2, seed=0)
    layout = Layout.of([row_of([1, 2, 3, 4]), row_of([1, 2, 5])], [2])
    size, seen = layout.ids_PS.shape[1], layout.mask_P1SS
    assert seen is not None
    for dtype in (torch.float32, torch.bfloat16):
        kept: dict[int, torch.Tensor] = {}

        def keep(tensor, kept=kept):
            if tensor.shape[-2:] == (size, size):
                kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with (
            torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            hidden_states(model, layout).sum().backward()
        (mask,) = kept.values()
        assert mask.dtype == dtype
        assert mask.stride(-2) % 16 == 0, "lines begin where a GPU's kernels want them"
        assert torch.equal(mask == 0, seen)
        assert torch.equal(mask == -torch.inf, ~seen)
