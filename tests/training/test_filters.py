"""Filters: which groups stay by hand and for any variances, and what the trainer makes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.memory.log import EpisodeLog
from agentkit.training import filters
from agentkit.training.advantages import Outcomes
from agentkit.training.filters import Dynamic, TopP, TopShare, group_variances, kept_groups


def kept(rule, variance_G):
    """What stays of groups that are all half solved."""
    return rule.kept(variance_G, np.full(len(variance_G), 0.5))


VARIANCES = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 10)), min_size=1, max_size=12).map(np.array)


def test_kept_groups_by_hand():
    variance_G = np.array([0.2, 0.0, 0.5, 0.3, 0.0, 0.5, 0.1, 0.0])
    assert np.flatnonzero(kept(TopShare(), variance_G)).tolist() == [2, 5]  # 2 of 8
    assert np.flatnonzero(kept(TopShare(share=0.26), variance_G)).tolist() == [
        2,
        3,
        5,
    ]  # 2.08, rounded up
    assert np.flatnonzero(kept(TopShare(share=1), variance_G)).tolist() == [0, 2, 3, 5, 6]
    # Of 1.6: 0.5, 1.0, 1.3, 1.5, 1.6; ρ = 0.9 asks for 1.44.
    assert np.flatnonzero(kept(TopP(), variance_G)).tolist() == [0, 2, 3, 5]
    assert np.flatnonzero(kept(TopP(mass=1), variance_G)).tolist() == [0, 2, 3, 5, 6]
    assert np.flatnonzero(kept(Dynamic(), variance_G)).tolist() == [0, 2, 3, 5, 6]


@given(VARIANCES, st.floats(0.05, 1))
def test_top_p_is_the_shortest_prefix_that_holds_enough(variance_G, mass):
    kept_G = kept(TopP(mass=mass), variance_G)
    total, held = variance_G.sum(), variance_G[kept_G].sum()
    assert held >= mass * total * (1 - 1e-9)
    if kept_G.any():
        assert held - variance_G[kept_G].min() < mass * total
        assert variance_G[kept_G].min() >= variance_G[~kept_G].max(initial=0)
    assert not kept_G[variance_G == 0].any()


@given(VARIANCES, st.floats(0.05, 1))
def test_the_top_share_is_of_all_groups_and_never_an_equal_one(variance_G, share):
    kept_G = kept(TopShare(share=share), variance_G)
    assert kept_G.sum() == min(math.ceil(share * len(variance_G) - 1e-9), (variance_G > 0).sum())
    assert variance_G[kept_G].min(initial=np.inf) >= variance_G[~kept_G].max(initial=0) * kept_G.any()


@given(st.lists(st.lists(st.floats(-5, 5), min_size=2, max_size=5), min_size=1, max_size=4))
def test_variances_are_those_of_the_textbook(groups):
    returns = np.array([value for group in groups for value in group])
    index = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    expected = [float(np.var(np.array(group), ddof=1)) for group in groups]
    assert group_variances(returns, index).tolist() == pytest.approx(expected, abs=1e-9)


def test_equal_returns_have_no_variance_to_the_last_bit():
    assert group_variances(np.array([0.1 + 0.2, 0.3, 0.3]), np.zeros(3, np.int64)).tolist() == [0.0]


def test_scales_by_hand():
    scales = [TopP(scaling=name).scale(1, 4) for name in ("none", "linear", "sqrt")]
    assert scales == [1.0, 0.25, 0.5]
    assert TopP(scaling="linear").scale(0, 0) == 0.0


def test_only_kept_groups_are_learnt_from_and_their_loss_is_scaled(make_trainer, tmp_path):
    plain = make_trainer(tmp_path / "plain", imitation={"weight": 0}, bottleneck_every=0)
    found = plain.iterate()
    assert found["groups/with_variance"] == 1.0  # three groups, all of which could teach
    one = make_trainer(tmp_path / "one", filter=TopShare(share=0.3), imitation={"weight": 0}, bottleneck_every=0)
    values = one.iterate()
    assert (values["filter/groups"], values["filter/kept"], values["filter/scale"]) == (3, 1, 1)
    assert 1 / 3 <= values["filter/variance"] < 1
    assert values["tokens/policy"] < found["tokens/policy"]
    assert values["success"] == found["success"]  # what was collected is reported whole
    half = make_trainer(
        tmp_path / "half", filter=TopShare(share=0.3, scaling="linear"), imitation={"weight": 0}, bottleneck_every=0
    )
    assert half.iterate()["loss/policy"] == pytest.approx(values["loss/policy"] / 3, abs=1e-6)


def test_dynamic_sampling_plays_other_tasks_for_those_left_out(make_trainer, tmp_path):
    trainer = make_trainer(
        tmp_path, filter=Dynamic(most_rounds=4), format_penalty=0, imitation={"weight": 0}, bottleneck_every=0
    )
    values = trainer.iterate()
    with EpisodeLog.open(tmp_path / "episodes.sqlite") as log:
        groups = len({episode.group_id for episode in log.episodes()})
    assert values["filter/rounds"] > 1, "the case must need another round"
    assert values["filter/groups"] == groups == trainer.collector.beliefs.next > 3
    assert values["filter/kept"] == 3 or values["filter/rounds"] == 4


def without_variance(value_N, group_N, num_groups):
    return np.zeros(len(value_N)), np.zeros(num_groups)


def test_dynamic_sampling_goes_by_success_not_by_penalties(parts):
    """Groups of two: both won, one malformed; one of two won; both lost, one malformed."""
    names = [("a", True, True), ("a", True, False), ("b", True, True), ("b", False, True), ("c", False, True)]
    names.append(("c", False, False))
    episodes = [
        parts.make_episode([parts.make_turn([5], [8], reward=won, valid=valid)], str(n), group_id=group, success=won)
        for n, (group, won, valid) in enumerate(names)
    ]
    outcomes = Outcomes.of(episodes, 0.1)
    assert kept_groups(Dynamic(), outcomes).tolist() == [False, True, False]
    assert kept_groups(Dynamic(metric="return"), outcomes).tolist() == [True, True, True]
    assert kept_groups(TopP(mass=1), outcomes).tolist() == [True, True, True]


def test_dynamic_sampling_ends_with_the_pool(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(
        tmp_path, filter=Dynamic(), task_pool=4, group_size=2, imitation={"weight": 0}, bottleneck_every=0
    )
    monkeypatch.setattr(filters, "within_groups", without_variance)
    values = trainer.iterate()
    assert (values["filter/groups"], values["filter/kept"]) == (4, 0)
    assert "tokens/policy" not in values


def test_training_ends_when_nothing_teaches_for_long(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(
        tmp_path, iterations=9, filter=TopP(stop_after=2), imitation={"weight": 0}, bottleneck_every=0
    )
    monkeypatch.setattr(filters, "within_groups", without_variance)
    with pytest.warns(RuntimeWarning, match="no group had anything to teach in 2 iterations"):
        trainer.train()
    assert trainer.iteration == 2
    assert (tmp_path / "checkpoints" / "000002").is_dir()
