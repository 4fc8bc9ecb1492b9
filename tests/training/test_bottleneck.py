"""The action-bottleneck diagnostic: rank correlation against SciPy, groups by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from agentkit.memory.records import Role
from agentkit.training.bottleneck import MIN_GROUPS, GroupEnergy, bottleneck, group_energy, spearman

PAIRS = st.lists(st.tuples(st.integers(-4, 4), st.floats(-1e6, 1e6)), min_size=2, max_size=60)


@given(PAIRS)
def test_the_rank_correlation_is_scipys_also_with_ties(pairs):
    x, y = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    found = spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(x, y).statistic, abs=1e-9)


def test_a_groups_energies_are_means_of_its_attempts_means():
    thought, action = Role.THOUGHT, Role.ACTION
    roles = [np.array([thought, action, action], dtype=np.int8), np.array([action], dtype=np.int8)]
    energies = [np.array([1.0, 2.0, 6.0], dtype=np.float32), np.array([8.0], dtype=np.float32)]
    found = group_energy([1.0, 0.0], roles, energies)
    # all: (3 + 8)/2; action: (4 + 8)/2; only the first attempt thought; variance of (1, 0): 1/4
    assert found == GroupEnergy(0.25, 5.5, 1.0, 6.0)


def test_a_group_without_thoughts_is_left_out_of_their_correlation_only():
    groups = [GroupEnergy(float(i), float(i), math.nan if i == 0 else float(-i), float(i)) for i in range(MIN_GROUPS)]
    found = bottleneck(groups)
    assert found == {"bottleneck/all": 1.0, "bottleneck/thought": None, "bottleneck/action": 1.0}
    more = bottleneck([*groups, GroupEnergy(99.0, 99.0, -99.0, 99.0)])
    assert more["bottleneck/thought"] == -1.0


def test_fewer_than_thirty_groups_or_no_spread_give_none():
    groups = [GroupEnergy(float(i), float(i), float(i), float(i)) for i in range(MIN_GROUPS)]
    assert MIN_GROUPS == 30
    assert set(bottleneck(groups[:-1]).values()) == {None}
    assert set(bottleneck([GroupEnergy(0.0, float(i), float(i), float(i)) for i in range(40)]).values()) == {None}
    assert set(bottleneck([]).values()) == {None}
