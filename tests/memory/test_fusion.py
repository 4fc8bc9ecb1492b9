"""Fusion: formulas by hand, and a hybrid that is not worse than its best arm on queries it has not seen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkit.errors import ConfigError, UnknownNameError
from agentkit.memory.fusion import (
    ArmWeights,
    Query,
    fit_weights,
    fuse,
    ndcg_at,
    recall_at,
    reciprocal_rank,
    rrf,
)

HALF = ArmWeights(weights={"dense": 0.5, "lexical": 0.5})


def make_queries(number, seed, *, dense, lexical, size=60):
    """Queries over `size` ids, some relevant; an arm's strength is how many deviations it lifts the relevant ones.

    `"half"`: an arm that lifts one half of the relevant ids by 3 and leaves the others where they are.
    """
    random = np.random.default_rng(seed)
    ids = [f"m{n:02}" for n in range(size)]
    queries = []
    for _ in range(number):
        relevant = random.permutation(size)[:4]
        arms = {}
        for name, strength, scale in (("dense", dense, 0.1), ("lexical", lexical, 9.0)):
            scores = random.normal(size=size)
            lifted = {"half": relevant[:2] if name == "dense" else relevant[2:]}.get(strength, relevant)
            scores[lifted] += 3.0 if strength == "half" else strength
            found = np.argsort(-scores)[:30]
            arms[name] = {ids[row]: float(scores[row]) * scale for row in found}
        queries.append(Query(arms, {ids[row] for row in relevant}))
    return queries


def mean_ndcg(queries, rank):
    return np.mean([ndcg_at(list(rank(query.arms)), query.relevant, 10) for query in queries])


def alone(query_arms, name):
    return rrf({name: query_arms[name]})


def test_scores_are_scaled_by_what_the_query_gives_worked_by_hand():
    arms = {"dense": {"a": 0.9, "b": 0.7, "c": 0.5}, "lexical": {"c": 8.0, "b": 4.0, "d": 0.0}}
    # dense a 1, b 0.5, c 0; lexical c 1, b 0.5, d 0
    fused = fuse(arms, ArmWeights(weights={"dense": 0.6, "lexical": 0.4}))
    assert fused == pytest.approx({"a": 0.6, "b": 0.5, "c": 0.4, "d": 0.0})
    assert list(fused) == ["a", "b", "c", "d"]


def test_scores_are_scaled_by_a_range_and_cut_to_it():
    weights = ArmWeights(weights={"dense": 0.5, "lexical": 0.5}, ranges={"dense": (0.2, 0.6), "lexical": (0.0, 10.0)})
    assert fuse({"dense": {"a": 0.3, "b": 0.1}, "lexical": {"a": 20.0}}, weights) == pytest.approx(
        {"a": 0.5 * 0.25 + 0.5, "b": 0.0}
    )


def test_with_ranges_a_bad_lot_stays_bad():
    bad_lot = {"dense": {"a": 0.12, "b": 0.1}}
    assert fuse(bad_lot, HALF)["a"] == 0.5
    assert fuse(bad_lot, HALF.model_copy(update={"ranges": {"dense": (0.1, 0.9)}}))["a"] == pytest.approx(0.0125)


def test_an_arm_that_scores_all_the_same_moves_nothing():
    dense = {"a": 0.9, "b": 0.7, "c": 0.5}
    assert list(fuse({"dense": dense, "lexical": dict.fromkeys("cba", 3.0)}, HALF)) == ["a", "b", "c"]
    assert fuse({"dense": {"b": 1.0, "a": 1.0}, "lexical": {}}, HALF) == {"a": 0.5, "b": 0.5}
    assert fuse({}, HALF) == {}


def test_reciprocal_ranks_worked_by_hand_share_places_between_equals():
    arms = {"dense": {"a": 0.9, "b": 0.8, "c": 0.8, "d": 0.1}, "lexical": {"d": 5.0}}
    by_hand = {"d": 1 / 64 + 1 / 61, "a": 1 / 61, "b": 1 / 62, "c": 1 / 62}
    assert rrf(arms) == pytest.approx(by_hand)
    assert list(rrf(arms)) == list(by_hand)


scores = st.dictionaries(st.sampled_from("abcdef"), st.integers(-20, 20).map(float), min_size=1)


@given(dense=scores, lexical=scores, share=st.floats(0, 1))
def test_an_id_that_no_arm_puts_lower_is_not_ranked_lower(dense, lexical, share):
    arms = {"dense": dense, "lexical": lexical}
    for fused in (fuse(arms, ArmWeights(weights={"dense": share, "lexical": 1 - share})), rrf(arms)):
        for better in fused:
            for worse in fused:
                if all(arm.get(better, -math.inf) >= arm.get(worse, -math.inf) for arm in arms.values()):
                    assert fused[better] >= fused[worse] - 1e-12


@given(dense=scores, factor=st.floats(0.1, 100), shift=st.floats(-50, 50), lexical=scores)
def test_the_scale_of_an_arm_does_not_matter(dense, factor, shift, lexical):
    moved = {id: value * factor + shift for id, value in dense.items()}
    first, second = fuse({"dense": dense, "lexical": lexical}, HALF), fuse({"dense": moved, "lexical": lexical}, HALF)
    assert first == pytest.approx(second, abs=1e-6)


def test_metrics_worked_by_hand():
    ranking, relevant = ["a", "b", "c", "d"], {"b", "d", "x"}
    assert recall_at(ranking, relevant, 2) == pytest.approx(1 / 3)
    assert recall_at(ranking, relevant, 10) == pytest.approx(2 / 3)
    assert reciprocal_rank(ranking, relevant) == 0.5
    assert reciprocal_rank(ranking, {"x"}) == 0.0
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg_at(ranking, relevant, 10) == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert ndcg_at(ranking, relevant, 2) == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    assert ndcg_at(["b", "d", "x", "a"], relevant, 10) == 1.0
    assert recall_at([], relevant, 3) == reciprocal_rank([], relevant) == ndcg_at([], relevant, 3) == 0.0


SUITES: dict[str, dict[str, Any]] = {
    "dense good, lexical bad": {"dense": 2.5, "lexical": 0.0},
    "dense bad, lexical good": {"dense": 0.0, "lexical": 2.5},
    "lexical better": {"dense": 1.0, "lexical": 2.5},
    "both good": {"dense": 2.0, "lexical": 2.0},
    "complementary": {"dense": "half", "lexical": "half"},
    "both bad": {"dense": 0.0, "lexical": 0.0},
}


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("number", [10, 60])
@pytest.mark.parametrize("suite", SUITES)
def test_the_hybrid_is_never_a_point_worse_than_its_best_arm_on_new_queries(suite, number, absolute):
    fit = fit_weights(make_queries(number, 1, **SUITES[suite]), absolute=absolute)
    fresh = make_queries(300, 2, **SUITES[suite])
    best = max(mean_ndcg(fresh, lambda arms, name=name: alone(arms, name)) for name in ("dense", "lexical"))
    assert mean_ndcg(fresh, lambda arms: fuse(arms, fit.weights)) >= best - 0.01


def test_ranks_fused_without_weights_are_far_worse_than_a_good_arm_beside_a_bad_one():
    fresh = make_queries(400, 2, dense=0.0, lexical=2.5)
    assert mean_ndcg(fresh, rrf) < mean_ndcg(fresh, lambda arms: alone(arms, "lexical")) - 0.1


def test_arms_that_find_different_things_are_fused_and_gain():
    fit = fit_weights(make_queries(60, 1, dense="half", lexical="half"))
    assert 0.3 <= fit.weights.weights["dense"] <= 0.7
    assert fit.gain > 0.1
    assert fit.gain == pytest.approx(fit.fused - max(fit.alone.values()))


def test_absolute_scales_run_from_the_least_to_the_greatest_score_of_all_queries():
    queries = [
        Query({"dense": {"a": 0.5, "b": 0.2}}, {"a"}),
        Query({"dense": {"a": 0.9, "b": 0.3}, "exact": {}}, {"b"}),
    ]
    assert fit_weights(queries, absolute=True).weights.ranges == {"dense": (0.2, 0.9)}
    assert fit_weights(queries).weights.ranges == {}
    # a is 3/7 of the way, though the best of its query
    fused = fuse(queries[0].arms, fit_weights(queries, absolute=True).weights)
    assert fused == pytest.approx({"a": 3 / 7, "b": 0.0})


def test_an_arm_alone_is_not_credited_with_what_another_found():
    arms = {"dense": {"a": 0.5, "b": 0.9}, "exact": {"z": 1.0}}
    fit = fit_weights([Query(arms, {"a"})], "mrr")
    assert fit.alone == {"dense": 0.5, "exact": 0.0}
    assert fuse(arms, fit.weights) == {"b": 1.0, "a": 0.0}


def test_a_bad_arm_is_left_out_and_each_arm_is_told_alone():
    queries = make_queries(60, 1, dense=0.0, lexical=2.5)
    fit = fit_weights(queries)
    assert fit.weights.weights == {"dense": 0.0, "lexical": 1.0}
    for name in ("dense", "lexical"):
        assert fit.alone[name] == pytest.approx(mean_ndcg(queries, lambda arms, name=name: alone(arms, name)))
    assert fit.metric == "ndcg@10"
    assert fit.num_queries == 60


def test_only_a_gain_of_more_than_two_standard_errors_is_taken():
    fits = [fit_weights(make_queries(20, seed, dense=1.0, lexical=2.5)) for seed in range(8)]
    fused = [max(fit.weights.weights.values()) < 1.0 for fit in fits]
    assert fused == [fit.gain > 2 * fit.error for fit in fits]
    assert any(0 < fit.gain <= 2 * fit.error for fit in fits)  # or nothing was tested
    assert any(fused)


def test_the_gain_is_measured_on_queries_the_weights_were_not_fitted_to():
    fits = [fit_weights(make_queries(12, seed, dense=0.0, lexical=0.0)) for seed in range(20)]
    assert np.mean([fit.gain for fit in fits]) < 0.0  # fitted to the same queries, it could not be less than 0


def test_a_few_queries_choose_an_arm_but_no_mixture():
    fit = fit_weights(make_queries(9, 1, dense="half", lexical="half"))
    assert sorted(fit.weights.weights.values()) == [0.0, 1.0]
    assert math.isinf(fit_weights(make_queries(1, 1, dense=1.0, lexical=1.0)).error)


def test_fitting_is_blind_to_the_order_in_which_arms_are_named():
    queries = make_queries(30, 1, dense="half", lexical="half")
    turned = [Query(dict(reversed(query.arms.items())), query.relevant) for query in queries]
    assert fit_weights(queries) == fit_weights(turned)


def test_three_arms_are_searched_over_the_whole_simplex():
    # x has 0.45 under every weights, each rival its arm's share: x wins only where all three shares are below 0.45
    arms = {
        name: {rival: 1.0, "x": 0.45, "z": 0.0} for name, rival in (("dense", "a"), ("exact", "b"), ("lexical", "c"))
    }
    fit = fit_weights([Query(arms, {"x"})] * 10, "mrr")
    assert fit.alone == {"dense": 0.5, "exact": 0.5, "lexical": 0.5}
    assert (fit.fused, fit.gain, fit.error) == (1.0, 0.5, 0.0)
    assert fit.weights.weights == {"dense": 0.4, "exact": 0.4, "lexical": 0.2}


def test_metrics_can_be_chosen_and_a_missing_one_is_named():
    queries = make_queries(12, 1, dense=1.0, lexical=1.0)
    assert fit_weights(queries, "recall@5").alone["dense"] == pytest.approx(
        np.mean([recall_at(list(alone(query.arms, "dense")), query.relevant, 5) for query in queries])
    )
    with pytest.raises(UnknownNameError, match="no metric 'ndgc'; did you mean 'ndcg'"):
        fit_weights(queries, "ndgc@10")
    with pytest.raises(ConfigError, match="lacks a cut-off; write recall@10"):
        fit_weights(queries, "recall")


def test_bad_input_is_named():
    with pytest.raises(UnknownNameError, match="no arm 'lexcal'; did you mean 'lexical'"):
        fuse({"lexcal": {"a": 1.0}}, HALF)
    with pytest.raises(ConfigError, match="gives 'a' the score nan"):
        fuse({"dense": {"a": math.nan}}, HALF)
    with pytest.raises(ConfigError, match="k is 0"):
        rrf({}, k=0)
    with pytest.raises(ConfigError, match="no arm has been asked"):
        fit_weights([])
    with pytest.raises(ConfigError, match="no relevant id"):
        fit_weights([Query({"dense": {"a": 1.0}}, set())])
    with pytest.raises(ConfigError, match="no id is relevant"):
        recall_at(["a"], set(), 1)
    with pytest.raises(ConfigError, match="k is 0"):
        ndcg_at(["a"], {"a"}, 0)
    with pytest.raises(ConfigError, match="names an id twice"):
        reciprocal_rank(["a", "a"], {"a"})
    with pytest.raises(ValidationError, match=r"sum to 0.7; they must sum to 1"):
        ArmWeights(weights={"dense": 0.7})
    with pytest.raises(ValidationError, match="'lexical' has a range but no weight"):
        ArmWeights(weights={"dense": 1.0}, ranges={"lexical": (0.0, 1.0)})
    with pytest.raises(ValidationError, match="it must rise and be finite"):
        ArmWeights(weights={"dense": 1.0}, ranges={"dense": (1.0, 0.0)})


def test_ranges_that_are_known_are_kept_and_not_found_in_the_queries() -> None:
    queries = [Query({"dense": {"a": 0.9, "b": 0.5}}, {"a"})] * 3
    fit = fit_weights(queries, ranges={"dense": (0.0, 1.0), "lexical": (0.0, 1.0)})
    assert fit.weights.ranges == {"dense": (0.0, 1.0)}
    assert fuse(queries[0].arms, fit.weights) == {"a": 0.9, "b": 0.5}
    with pytest.raises(ConfigError, match="give one of the two"):
        fit_weights(queries, absolute=True, ranges={})
