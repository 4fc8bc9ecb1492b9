"""Hysteresis: what is shown stays until something is better by the margin."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.errors import ConfigError
from agentkit.memory.hysteresis import Hysteresis
from agentkit.memory.selection import Candidate, select


def best(most):
    """The `most` best by score."""
    return lambda candidates: sorted(candidates, key=lambda one: (-one.score, one.id))[:most]


def scored(**scores):
    return [Candidate(id, score, 10) for id, score in scores.items()]


def test_steps_worked_by_hand():
    memory = Hysteresis(margin=0.2)
    first = memory.step(scored(a=0.9, b=0.5, c=0.4), best(2))
    assert [one.id for one in first.candidates] == ["a", "b"]
    assert (first.added, first.dropped, first.fresh, first.churn) == (("a", "b"), (), ("a", "b"), 0.0)

    kept = memory.step(scored(a=0.9, b=0.5, c=0.59), best(2))  # 0.59 is not above 0.5 · 1.2
    assert (kept.added, kept.dropped, kept.fresh, kept.churn) == ((), (), (), 0.0)
    assert kept.candidates[1] == Candidate("b", 0.5, 10)  # with its own score, not the raised one

    beaten = memory.step(scored(a=0.9, b=0.5, c=0.61), best(2))
    assert (beaten.added, beaten.dropped, beaten.fresh) == (("c",), ("b",), ("c",))
    assert beaten.churn == pytest.approx(2 / 3)  # of a, b, c

    back = memory.step(scored(a=0.9, b=0.8, c=0.61), best(2))
    assert (back.added, back.fresh) == (("b",), ())  # shown before in this episode
    assert memory.seen == {"a", "b", "c"}
    assert memory.churn == pytest.approx((0 + 2 / 3 + 2 / 3) / 3)


def test_scores_that_waver_within_the_margin_change_nothing():
    random = np.random.default_rng(0)
    calm, restless = Hysteresis(margin=0.5), Hysteresis(margin=0.0)
    for _ in range(50):
        candidates = [Candidate(f"m{n}", 0.5 + float(random.uniform(-0.08, 0.08)), 10) for n in range(8)]
        calm.step(candidates, best(3))
        restless.step(candidates, best(3))
    assert calm.churn == 0.0  # 0.58 / 0.42 = 1.38 < 1.5
    assert restless.churn > 0.5
    assert len(calm.seen) == 3


def test_what_is_no_longer_relevant_or_not_retrieved_goes():
    choose = partial(select, similarity=lambda row: np.zeros(2), budget_tokens=100, most=2)
    memory = Hysteresis()
    memory.step(scored(a=0.9, b=0.9), choose)
    assert memory.step(scored(a=0.0, c=0.1), choose).candidates == (Candidate("c", 0.1, 10),)
    assert memory.shown == ("c",)


def test_another_episode_starts_with_nothing():
    memory = Hysteresis()
    memory.step(scored(a=0.9), best(1))
    memory.step(scored(b=2.0), best(1))
    assert memory.churn == 1.0
    memory.start()
    assert (memory.shown, memory.seen, memory.churn) == ((), set(), 0.0)
    assert memory.step(scored(b=0.9), best(1)).fresh == ("b",)


def test_an_empty_step_counts_as_no_churn():
    memory = Hysteresis()
    for _ in range(2):
        assert memory.step([], best(1)).churn == 0.0


@given(
    steps=st.lists(st.lists(st.floats(0.01, 1), min_size=6, max_size=6), min_size=2, max_size=6),
    margin=st.floats(0, 2),
)
def test_every_newcomer_has_beaten_whatever_it_replaced_by_the_margin(steps, margin):
    memory = Hysteresis(margin)
    for number, scores in enumerate(steps):
        own = {f"m{n}": score for n, score in enumerate(scores)}
        shown = memory.step(scored(**own), best(3))
        assert len(shown.candidates) == 3
        if number:
            for newcomer in shown.added:
                for replaced in shown.dropped:
                    assert own[newcomer] >= own[replaced] * (1 + margin)


def test_a_margin_below_0_is_refused():
    with pytest.raises(ConfigError, match=r"margin -0.1 must be 0 or more"):
        Hysteresis(-0.1)
