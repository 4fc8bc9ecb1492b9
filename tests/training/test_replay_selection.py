"""Selections and the sum tree: by hand, against plain arrays, and in their frequencies."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.errors import ConfigError
from agentkit.training.replay import SumTree
from agentkit.training.replay.selection import (
    ByAdvantage,
    Candidates,
    Highest,
    MaxVariance,
    MinEntropy,
    P2Value,
    Priority,
    Recent,
    Uniform,
    WholeGroups,
)

MASSES = st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), min_size=1, max_size=20)


def candidates(num=4, **changes):
    """Entries that are all alike but for the changes."""
    values: dict[str, Any] = {
        "advantage_M": np.ones(num),
        "return_M": np.zeros(num),
        "mean_logp_M": np.zeros(num),
        "priority_M": np.ones(num),
        "group_M": np.arange(num),
        "entropy_of": lambda places: np.zeros(len(places)),
    }
    return Candidates(**(values | {name: np.array(v) if isinstance(v, list) else v for name, v in changes.items()}))


@given(MASSES, st.lists(st.tuples(st.integers(0, 40), st.floats(0, 10)), max_size=10))
def test_the_sum_tree_is_a_plain_array(masses, changes):
    tree, plain = SumTree(masses), np.array(masses + [0.0] * 41)
    for place, mass in changes:
        tree[place] = plain[place] = mass
    assert tree.total == pytest.approx(plain.sum(), rel=1e-12)
    assert [tree[place] for place in range(41)] == plain[:41].tolist()
    ends = np.cumsum(plain)
    for u in np.linspace(0, 1, 23, endpoint=False):
        mass = u * tree.total
        place = tree.find(mass)
        assert tree.total == 0 or plain[place] > 0
        assert ends[place] - plain[place] <= mass * (1 + 1e-12) + 1e-12
        assert mass <= ends[place] * (1 + 1e-12) or tree.total == 0


@given(MASSES, st.randoms(use_true_random=False))
def test_a_tree_depends_on_its_masses_and_not_on_their_history(masses, random):
    direct, grown = SumTree(masses), SumTree()
    for place in random.sample(range(len(masses)), len(masses)):
        grown[place] = random.random()
        grown[place] = masses[place]
    assert grown.total == direct.total
    assert grown.draw(9, np.random.default_rng(3)) == direct.draw(9, np.random.default_rng(3))


def test_frequencies_of_draws_are_those_of_the_masses_without_replacement():
    masses, tree = np.array([1.0, 2.0, 0.0, 3.0]), SumTree([1.0, 2.0, 0.0, 3.0])
    rng, num = np.random.default_rng(0), 6000
    pairs = [tuple(tree.draw(2, rng)) for _ in range(num)]
    for pair in itertools.permutations((0, 1, 3), 2):
        first, second = masses[pair[0]] / 6, masses[pair[1]] / (6 - masses[pair[0]])
        assert pairs.count(pair) / num == pytest.approx(first * second, abs=0.025)  # 4 standard errors
    assert sorted(tree.draw(9, rng)) == [0, 1, 3]
    assert tree.total == 6.0


def test_masses_that_are_none_are_refused():
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="finite and not negative"):
            SumTree()[0] = wrong
        with pytest.raises(ConfigError, match="finite and not negative"):
            SumTree([wrong])


def test_masses_by_hand():
    entries = candidates(
        advantage_M=[0.5, -0.25, 0.0, 2.0],
        priority_M=[1, 4, 9, 0],
        return_M=[1, 0.5, -3, 8],
        mean_logp_M=[0, -1, 0, -9],
    )
    assert Uniform().masses(entries).tolist() == [1, 1, 1, 1]
    assert ByAdvantage().masses(entries).tolist() == [0.5, 0.25, 0, 2]
    assert ByAdvantage(alpha=2).masses(entries).tolist() == [0.25, 0.0625, 0, 4]
    assert Priority(alpha=0.5).masses(entries).tolist() == pytest.approx([1, 2, 3, 1e-3], abs=1e-6)
    expected = [0.3 + 0.7, 0.3 * np.exp(-1) + 0.35, 0.3, 0.3 * np.exp(-9) + 0.7]
    assert P2Value(alpha=0.3).masses(entries).tolist() == pytest.approx(expected)


@given(st.lists(st.floats(1e-3, 10), min_size=1, max_size=6), st.floats(0, 1))
def test_importance_weights_are_those_of_the_paper(masses, beta):
    share = np.array(masses) / sum(masses)
    expected = (len(masses) * share) ** -beta
    found = Priority(beta=beta).importance(np.array(masses), sum(masses), len(masses))
    assert found.tolist() == pytest.approx((expected / expected.max()).tolist())
    if beta == 1:  # Σ P·w is the same for all: the expectation of a uniform draw
        assert np.ptp(share * found) == pytest.approx(0, abs=1e-12)


def pick(rule, entries, num, seed=0):
    return sorted(rule.pick(entries, num, np.random.default_rng(seed)).tolist())


def test_choices_among_all_by_hand():
    entries = candidates(6, return_M=[1, 0, 2, 1, 1, 0.5])
    assert pick(Highest(), entries, 3) == [2, 3, 4]  # of equal ones the newest
    assert pick(Recent(), entries, 2) == [4, 5]
    assert pick(MaxVariance(), entries, 2) == [1, 2]
    entropies = np.array([0.3, 0.1, 0.2, 0.5, 0.1, 0.9])
    assert pick(MinEntropy(), candidates(6, entropy_of=lambda places: entropies[places]), 2) == [1, 4]
    for rule in (Highest(), Recent(), MaxVariance(), Uniform()):
        assert pick(rule, entries, 99) == [0, 1, 2, 3, 4, 5]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=7), st.integers(1, 7))
def test_no_other_subset_has_more_variance(returns, num):
    entries = candidates(len(returns), return_M=np.array(returns, np.float64))
    found = np.var(np.array(returns)[pick(MaxVariance(), entries, num)])
    best = max(np.var(subset) for subset in itertools.combinations(returns, min(num, len(returns))))
    assert found == pytest.approx(best)


def test_groups_come_whole():
    entries = candidates(7, group_M=[0, 0, 1, 1, 1, 2, 2])
    for seed in range(20):
        chosen = pick(WholeGroups(), entries, 5, seed)
        assert chosen in ([0, 1, 2, 3, 4], [2, 3, 4, 5, 6], [0, 1, 5, 6])
        assert pick(WholeGroups(), entries, 1, seed) in ([0, 1], [2, 3, 4], [5, 6])
