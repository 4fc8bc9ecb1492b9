"""The top share of the batch's tokens: forks by entropy, D³S by |A|·H."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentkit.memory.records import Role
from agentkit.training.credit import D3S, Forks, Product, weighed
from agentkit.training.credit.top import top_share
from agentkit.training.forward import TokenStats
from agentkit.training.rows import Row
from agentkit.training.stream import flatten


def stream_of(entropies, advantages, lengths=None):
    """Rows of these lengths, one after the other."""
    rows = []
    for length in lengths or [len(entropies)]:
        ones = np.ones(length, np.int64)
        roles = np.full(length, Role.ACTION, np.int8)
        rows.append(Row(0, ones, ones.astype(bool), roles, ones.astype(np.float32), ones.astype(np.int32)))
    none = torch.zeros(len(entropies))
    policy = TokenStats(none, torch.tensor(entropies, dtype=torch.float32), none)
    return flatten(rows, torch.tensor(advantages, dtype=torch.float32), policy=policy)


def test_forks_keep_the_fifth_of_all_tokens_with_the_greatest_entropy():
    entropies = [0.1, 2.0, 0.3, 0.0, 0.5, 1.9, 0.2, 0.4, 0.1, 0.6]
    weights = Forks().weights(stream_of(entropies, [1.0] * 10))
    assert weights.tolist() == [0, 1, 0, 0, 0, 1, 0, 0, 0, 0]


def test_the_share_is_of_the_batch_and_not_of_each_row():
    entropies = [9.0, 8.0, 7.0, 6.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    weights = Forks(share=0.4).weights(stream_of(entropies, [1.0] * 10, [4, 6]))
    assert weights.tolist() == [1] * 4 + [0] * 6


def test_divisors_count_all_tokens_beside_forks_and_the_kept_ones_beside_d3s():
    stream = stream_of([2.0, 1.0, 0.5, 3.0], [-1.0, 4.0, 1.0, -1.0])
    forks = weighed(Forks(share=0.5), stream)
    assert (forks.weight_N.tolist(), forks.factor_N.tolist()) == ([1, 1, 1, 1], [1, 0, 0, 1])
    d3s = weighed(D3S(share=0.5), stream)
    assert (d3s.weight_N.tolist(), d3s.factor_N.tolist()) == ([0, 1, 0, 1], [1, 1, 1, 1])
    both = weighed(Product(factors=(Forks(share=0.5), D3S(share=0.5))), stream)
    assert (both.weight_N.tolist(), both.factor_N.tolist()) == ([0, 1, 0, 1], [1, 0, 0, 1])


def test_d3s_keeps_the_tokens_whose_entropy_times_advantage_is_largest_whatever_its_sign():
    # |A|·H: 2, 4, 0.5, 3
    weights = D3S(share=0.5).weights(stream_of([2.0, 1.0, 0.5, 3.0], [-1.0, 4.0, 1.0, -1.0]))
    assert weights.tolist() == [0, 1, 0, 1]


@given(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_the_top_share_is_the_largest_values_and_their_equals(values, share):
    kept = top_share(torch.tensor(values), share)
    least = sorted(values, reverse=True)[math.ceil(share * len(values) - 1e-9) - 1]
    assert kept.tolist() == [float(value >= least) for value in values]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.randoms())
def test_the_order_of_tokens_does_not_matter(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    value_N = torch.tensor(values, dtype=torch.float32)
    assert torch.equal(top_share(value_N[order], 0.3), top_share(value_N, 0.3)[order])


def test_seven_of_a_hundred_are_seven_hundredths():
    assert top_share(torch.arange(100.0), 0.07).sum() == 7


def test_the_policy_is_asked_and_its_absence_named():
    for scheme in (Forks(), D3S()):
        assert scheme.needs_policy
        assert not scheme.needs_reference
        silent = dataclasses.replace(stream_of([1.0], [1.0]), policy=None)
        with pytest.raises(ValueError, match=f"'{scheme.name}' needs the policy's entropy"):
            scheme.weights(silent)
