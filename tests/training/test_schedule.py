"""Schedules: bounds and monotony, besides the numbers in their doctests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.training.schedule import cosine_decay, cosine_ramp, warmup

STEPS = st.integers(0, 500)


@given(STEPS, st.integers(0, 300))
def test_schedules_stay_in_bounds_and_move_one_way(step, steps):
    assert 0 < warmup(step, steps) <= warmup(step + 1, steps) <= 1
    assert 0 <= cosine_ramp(step, steps) <= cosine_ramp(step + 1, steps) <= 1
    assert 0.1 - 1e-12 <= cosine_decay(step + 1, steps) <= cosine_decay(step, steps) <= 1


def test_no_steps_means_no_schedule():
    assert warmup(0, 0) == 1.0
    assert cosine_ramp(0, 0) == 1.0


def test_the_decay_ends_at_its_floor():
    assert cosine_decay(50, 50) == pytest.approx(0.1)
    assert cosine_decay(999, 50, floor=0.3) == pytest.approx(0.3)
