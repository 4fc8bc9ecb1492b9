"""Several rankings of the same memories made into one, with weights that are fitted and not believed.

An arm is one way to search (`dense`, `lexical`, `exact`); for a query it gives ids with raw scores, greatest best.
Fusing a good arm with a bad one is often worse than the good one alone, so `fit_weights` tells how each arm does alone
and fuses only where that is better on queries that the weights were not fitted to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from agentkit.errors import ConfigError, unknown_name
from agentkit.memory.records import Record

Arms = Mapping[str, Mapping[str, float]]
"""Name of the arm -> id -> raw score, for one query. What an arm did not find is left out."""
Metric = tuple[str, int]
"""Name and cut-off."""
STEPS = 10
"""The weights tried are multiples of 1/10."""
FOLDS = 5
"""Parts into which the queries are divided, each in turn to be judged."""
_METRICS = ("ndcg", "recall", "mrr")


class ArmWeights(Record):
    """How much each arm counts, and from what to what its scores run."""

    weights: dict[str, Annotated[float, Field(ge=0.0, le=1.0)]]
    """Arm -> its share; they sum to 1."""
    ranges: dict[str, tuple[float, float]] = Field(default={})
    """Arm -> the raw scores that become 0 and 1; arms that are not named are scaled by what each query gives."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not math.isclose(sum(self.weights.values()), 1.0, abs_tol=1e-6):
            raise ValueError(f"weights {self.weights} sum to {sum(self.weights.values()):g}; they must sum to 1")
        for name, (low, high) in self.ranges.items():
            if name not in self.weights:
                raise ValueError(f"arm {name!r} has a range but no weight; give it one, 0 if it is not to count")
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"the range of arm {name!r} runs from {low} to {high}; it must rise and be finite")
        return self


class Query(NamedTuple):
    """A query whose answer is known."""

    arms: Arms
    """What each arm gave for it."""
    relevant: Collection[str]
    """The ids it should find, one or more; found by an arm or not."""


class ArmFit(Record):
    """Weights, and the evidence for them."""

    weights: ArmWeights
    """What to fuse with: of the best arm alone, unless `fused` is clearly better."""
    metric: str
    alone: dict[str, float]
    """Arm -> mean of the metric over all queries if only this arm is asked."""
    fused: float
    """Mean of the metric over all queries, each fused with weights fitted to the other folds."""
    gain: float
    """`fused` less the best of `alone`."""
    error: float
    """Standard error of `gain` over the queries; infinite for fewer than two."""
    num_queries: int


def fuse(arms: Arms, weights: ArmWeights) -> dict[str, float]:
    """Id -> the weighted sum of its scaled scores, in [0, 1], best first, equal ones by id.

    Convex combination (Bruch, Gai & Ingber 2023, section 4). An arm with a range is scaled by it and cut to [0, 1];
    any other by the least and the greatest score it gives to this query. What an arm did not find counts 0 there, and
    if an arm gives the same score to all it found, these count 1; what only arms of weight 0 found is left out. Scaled
    by query, the best of a bad lot counts as much as the best of a good one: for a relevance that can be compared
    between queries, give ranges.

    >>> arms = {"dense": {"a": 0.9, "b": 0.5, "c": 0.1}, "lexical": {"b": 12.0, "c": 4.0}}
    >>> fuse(arms, ArmWeights(weights={"dense": 0.5, "lexical": 0.5}))
    {'b': 0.75, 'a': 0.5, 'c': 0.0}

    Raises:
        UnknownNameError: An arm that has no weight.
        ConfigError: A score that is not finite.
    """
    for name in arms:
        if name not in weights.weights:
            raise unknown_name("arm", name, weights.weights)
    names = [name for name, weight in weights.weights.items() if weight > 0]
    ids, scores_AN = _stack(arms, names)
    scaled_AN = _scale(scores_AN, [weights.ranges.get(name) for name in names])
    fused_N = np.minimum(np.array([weights.weights[name] for name in names]) @ scaled_AN, 1.0)
    return {ids[row]: float(fused_N[row]) for row in np.argsort(-fused_N.round(12), kind="stable")}


def rrf(arms: Arms, k: float = 60.0) -> dict[str, float]:
    """Id -> the sum over arms of 1 / (k + its rank there), best first, equal ones by id.

    Reciprocal rank fusion (Cormack, Clarke & Büttcher 2009), where 60 comes from. It needs no scales and no weights,
    and so cannot leave a bad arm out. Where the source is silent on ties: equal scores share the best of their ranks.

    >>> rrf({"dense": {"a": 0.9, "b": 0.5}, "lexical": {"b": 12.0}}, k=1)
    {'b': 0.8333333333333333, 'a': 0.5}

    Raises:
        ConfigError: A score that is not finite, or a `k` that is not above 0.
    """
    if k <= 0:
        raise ConfigError(f"k is {k:g}; reciprocal rank fusion needs one above 0, usually 60")
    ids, scores_AN = _stack(arms, list(arms))
    fused_N = np.zeros(len(ids))
    for scores_N in scores_AN:
        found = ~np.isnan(scores_N)
        ordered = np.sort(-scores_N[found])
        fused_N[found] += 1.0 / (k + 1 + np.searchsorted(ordered, -scores_N[found]))
    return {ids[row]: float(fused_N[row]) for row in np.argsort(-fused_N.round(12), kind="stable")}


def fit_weights(
    queries: Sequence[Query],
    metric: str = "ndcg@10",
    *,
    absolute: bool = False,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> ArmFit:
    """The arm weights that serve some answered queries best, or the best arm alone if fusing is not clearly better.

    Every combination of multiples of 1/10 is tried, none is drawn. For the evidence, query n is in fold n mod 5, and
    each fold is fused with the weights that are best on the others. Fusion is taken if it gains more than two standard
    errors over the best arm, and then with the weights that are best on all queries. Of equally good weights those with
    the greatest single share win. With fewer than 10 queries the best arm is taken.

    Args:
        queries: Answered queries, as many and as like the later ones as can be had.
        metric: `ndcg@k`, `recall@k`, `mrr` or `mrr@k`.
        absolute: Scale by the least and greatest score an arm gave to any of the queries, and put these `ranges` into
            the weights; else by what each query gives.
        ranges: Scale by these instead, where it is known from what to what the scores of an arm run.

    Raises:
        ConfigError: Both `absolute` and `ranges`, no queries, one without a relevant id, no arms, or a score that is
            not finite.
        UnknownNameError: A metric that there is not.
    """
    measure = _parse(metric)
    names = sorted({name for query in queries for name in query.arms})
    if not names:
        raise ConfigError("no arm has been asked anything; give at least one query with its arms' scores")
    if absolute and ranges is not None:
        raise ConfigError("absolute ranges are found in the queries, but ranges are given; give one of the two")
    ranges = {name: span for name, span in (ranges or {}).items() if name in names}
    if absolute:
        ranges = _ranges(queries, names)
    grid_GA = _grid(len(names))
    values_QG = np.array([_measure_grid(query, names, ranges, grid_GA, measure) for query in queries])

    alone = {name: float(values_QG[:, grid_GA[:, arm] == 1.0].mean()) for arm, name in enumerate(names)}
    best = max(range(len(names)), key=lambda arm: alone[names[arm]])  # the first by name of equally good ones
    best_row = int(np.flatnonzero(grid_GA[:, best] == 1.0)[0])
    fused_Q = _out_of_fold(values_QG)
    gains_Q = fused_Q - values_QG[:, best_row]
    gain = float(gains_Q.mean())
    error = float(gains_Q.std(ddof=1) / math.sqrt(len(gains_Q))) if len(gains_Q) > 1 else math.inf
    fusing = len(queries) >= 2 * FOLDS and gain > 2 * error
    chosen = grid_GA[_best_row(values_QG) if fusing else best_row]
    return ArmFit(
        weights=ArmWeights(weights=dict(zip(names, chosen.tolist(), strict=True)), ranges=ranges),
        metric=metric,
        alone=alone,
        fused=float(fused_Q.mean()),
        gain=gain,
        error=error,
        num_queries=len(queries),
    )


def recall_at(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """The share of the relevant ids that are among the first `k`.

    >>> recall_at(["a", "b", "c"], {"b", "d"}, k=2)
    0.5
    """
    return _judge(ranking, relevant, ("recall", k))


def reciprocal_rank(ranking: Sequence[str], relevant: Collection[str]) -> float:
    """1 / the place of the first relevant id, 0 if there is none; its mean over queries is the MRR.

    >>> reciprocal_rank(["a", "b", "c"], {"b", "c"})
    0.5
    """
    return _judge(ranking, relevant, ("mrr", max(1, len(ranking))))


def ndcg_at(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Sum of 1 / log2(1 + place) over the relevant of the first `k`, as a share of the best possible sum.

    Normalised discounted cumulative gain (Järvelin & Kekäläinen 2002) with gains of 0 and 1.

    >>> round(ndcg_at(["a", "b", "c"], {"b"}, k=3), 4)  # 1 / log2(3)
    0.6309
    """
    return _judge(ranking, relevant, ("ndcg", k))


def _judge(ranking: Sequence[str], relevant: Collection[str], metric: Metric) -> float:
    wanted = set(relevant)
    if not wanted:
        raise ConfigError("no id is relevant, so no ranking is better than another; leave such queries out")
    if metric[1] < 1:
        raise ConfigError(f"k is {metric[1]}; it must be at least 1")
    if len(set(ranking)) < len(ranking):
        raise ConfigError("the ranking names an id twice; each may stand in one place")
    return float(_value(np.array([id in wanted for id in ranking], dtype=float), len(wanted), metric))


def _value(hits: np.ndarray, num_relevant: int, metric: Metric) -> np.ndarray:
    """The metric [...] of rankings [..., N] of 1 (relevant) and 0, best first."""
    name, k = metric
    hits = hits[..., :k]
    places = np.arange(1, hits.shape[-1] + 1)
    if name == "recall":
        return hits.sum(axis=-1) / num_relevant
    if name == "mrr":
        return (hits / places).max(axis=-1, initial=0.0)
    ideal = (1.0 / np.log2(np.arange(1, min(k, num_relevant) + 1) + 1)).sum()
    return (hits / np.log2(places + 1)).sum(axis=-1) / ideal


def _parse(metric: str) -> Metric:
    name, at, k = metric.partition("@")
    if name not in _METRICS:
        raise unknown_name("metric", name, _METRICS)
    if not at and name == "mrr":
        return name, 1 << 30
    if not (k.isdecimal() and int(k) > 0):
        raise ConfigError(f"metric {metric!r} lacks a cut-off; write {name}@10")
    return name, int(k)


def _stack(arms: Arms, names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """All ids in order, and the raw scores [A, N] with NaN where an arm did not find an id."""
    ids = sorted({id for name in names for id in arms.get(name, ())})
    rows = {id: row for row, id in enumerate(ids)}
    scores_AN = np.full((len(names), len(ids)), np.nan)
    for arm, name in enumerate(names):
        for id, value in arms.get(name, {}).items():
            if not math.isfinite(value):
                raise ConfigError(f"arm {name!r} gives {id!r} the score {value}; leave out what an arm did not find")
            scores_AN[arm, rows[id]] = value
    return ids, scores_AN


def _scale(scores_AN: np.ndarray, ranges: Sequence[tuple[float, float] | None]) -> np.ndarray:
    """Scores in [0, 1], 0 where NaN."""
    scaled_AN = np.zeros_like(scores_AN)
    for scores_N, scaled_N, known in zip(scores_AN, scaled_AN, ranges, strict=True):
        found = ~np.isnan(scores_N)
        if not found.any():
            continue
        low, high = known or (scores_N[found].min(), scores_N[found].max())
        if high > low:
            scaled_N[found] = np.clip((scores_N[found] - low) / (high - low), 0.0, 1.0)
        else:
            scaled_N[found] = scores_N[found] >= low
    return scaled_AN


def _ranges(queries: Sequence[Query], names: Sequence[str]) -> dict[str, tuple[float, float]]:
    seen = {name: [value for query in queries for value in query.arms.get(name, {}).values()] for name in names}
    return {name: (min(values), max(values)) for name, values in seen.items() if values}


def _grid(num_arms: int) -> np.ndarray:
    """[G, A] all multiples of 1/10 that sum to 1, those with the greatest single share first."""
    bars = itertools.combinations(range(STEPS + num_arms - 1), num_arms - 1)  # between which the shares stand
    points = [tuple(np.diff((-1, *places, STEPS + num_arms - 1)) - 1) for places in bars]
    return np.array(sorted(points, key=lambda point: (max(point), point), reverse=True)) / STEPS


def _measure_grid(
    query: Query, names: Sequence[str], ranges: Mapping[str, tuple[float, float]], grid_GA: np.ndarray, metric: Metric
) -> np.ndarray:
    """[G] the metric of one query under every row of the grid."""
    wanted = set(query.relevant)
    if not wanted:
        raise ConfigError("a query has no relevant id, so it says nothing about the weights; leave it out")
    ids, scores_AN = _stack(query.arms, names)
    found_GN = (grid_GA > 0) @ ~np.isnan(scores_AN)  # by an arm that counts; the rest is not in the ranking
    fused_GN = np.where(found_GN, grid_GA @ _scale(scores_AN, [ranges.get(name) for name in names]), -1.0)
    order_GN = np.argsort(-fused_GN.round(12), axis=1, kind="stable")
    hits_GN = found_GN & np.array([id in wanted for id in ids], dtype=bool)
    return _value(np.take_along_axis(hits_GN, order_GN, axis=1), len(wanted), metric)


def _out_of_fold(values_QG: np.ndarray) -> np.ndarray:
    """[Q] the value of each query under the row that is best on the other folds."""
    folds_Q = np.arange(len(values_QG)) % FOLDS
    chosen_Q = np.zeros(len(values_QG), dtype=int)
    for fold in set(folds_Q.tolist()):
        others = folds_Q != fold
        chosen_Q[~others] = _best_row(values_QG[others]) if others.any() else 0
    return values_QG[np.arange(len(values_QG)), chosen_Q]


def _best_row(values_QG: np.ndarray) -> int:
    """The first of the rows with the greatest mean."""
    return int(values_QG.mean(axis=0).round(12).argmax())
