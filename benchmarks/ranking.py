"""Ranking, selection and fusion: CPU milliseconds, each beside a plain loop that gives the same answer.

Run: python benchmarks/ranking.py [--candidates 10000] [--queries 200]. Ratios are worth more than milliseconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from agentkit.memory.fusion import Query, fit_weights, fuse, rrf
from agentkit.memory.kinds import Trust
from agentkit.memory.ranking import KINDS, Columns, RankWeights, Signals, score_many
from agentkit.memory.selection import Candidate, cosine, select

DIM = 384
SHOWN = 8
DIVERSITY = 0.3


def cpu_ms(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median CPU milliseconds of a call, and what it gives."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return 1000 * float(np.median(times)), result


def score_loop(signals: list[Signals], weights: RankWeights) -> list[float]:
    """The formula of the score, in plain floats."""
    scores = []
    for one in signals:
        value = one.relevance if one.relevance >= weights.floor else 0.0
        value *= 1 + weights.utility * ((one.utility or 0.0) - 0.5)
        value *= 1 + weights.recency * 0.5 ** ((one.age_s or 0.0) / weights.half_life_s[one.kind])
        value *= 1 + weights.importance * ((one.importance or 0.0) - 0.5)
        scores.append(value * weights.trust[one.trust])
    return scores


def mmr_loop(candidates: list[Candidate], vectors: np.ndarray) -> set[str]:
    """Maximal marginal relevance that compares every candidate with every selected one anew."""
    best, chosen = max(one.score for one in candidates), [int(np.argmax([one.score for one in candidates]))]
    while len(chosen) < SHOWN:
        gains = {
            row: (1 - DIVERSITY) * one.score / best - DIVERSITY * max(float(vectors[row] @ vectors[c]) for c in chosen)
            for row, one in enumerate(candidates)
            if row not in chosen
        }
        chosen.append(max(gains, key=lambda row: gains[row]))
    return {candidates[row].id for row in chosen}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=200)
    given = parser.parse_args()
    random = np.random.default_rng(0)
    number = given.candidates

    signals = [
        Signals(float(rel), float(use), float(age), float(imp), Trust(int(trust)), KINDS[int(kind)])
        for rel, use, age, imp, trust, kind in zip(
            *random.uniform(size=(2, number)),
            random.uniform(0, 1e7, number),
            random.uniform(size=number),
            random.integers(0, len(Trust), number),
            random.integers(0, len(KINDS), number),
            strict=True,
        )
    ]
    columns = Columns.of(signals)
    vectors = random.normal(size=(number, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    print("| what | ms | plain loop, ms | ratio |\n|---|---|---|---|")

    loop, one_by_one = cpu_ms(lambda: score_loop(signals, RankWeights()), 5)
    for what, ranking in (
        ("`score_many`", lambda: score_many(columns)),
        ("`score_many`, `Columns.of` included", lambda: score_many(Columns.of(signals))),
    ):
        many, scores = cpu_ms(ranking, 21)
        assert np.allclose(scores, one_by_one, rtol=0, atol=1e-12)
        print(f"| {what}, {number} candidates | {many:.2f} | {loop:.1f} | {loop / many:.1f} |")

    candidates = [Candidate(f"m{n:06}", float(value), 50) for n, value in enumerate(scores)]
    for size in (100, number):
        some, similarity = candidates[:size], cosine(vectors[:size])
        fast, chosen = cpu_ms(
            lambda some=some, similarity=similarity: select(  # type: ignore[misc]
                some, similarity, budget_tokens=10_000, most=SHOWN, diversity=DIVERSITY
            ),
            11,
        )
        slow, expected = cpu_ms(lambda some=some, size=size: mmr_loop(some, vectors[:size]), 1)  # type: ignore[misc]
        assert {one.id for one in chosen} == expected
        print(f"| `select`, {SHOWN} of {size}, {DIM} dimensions | {fast:.2f} | {slow:.0f} | {slow / fast:.0f} |")

    queries = []
    for _ in range(given.queries):
        found = random.permutation(number)[:100]
        arms = {name: {f"m{row:06}": float(random.normal()) for row in found} for name in ("dense", "exact", "lexical")}
        queries.append(Query(arms, {f"m{row:06}" for row in found[:3]}))
    fit_ms, fit = cpu_ms(lambda: fit_weights(queries), 1)
    fuse_ms, _ = cpu_ms(lambda: [fuse(query.arms, fit.weights) for query in queries], 3)
    rrf_ms, _ = cpu_ms(lambda: [rrf(query.arms) for query in queries], 3)
    print(f"| `fit_weights`, {given.queries} queries of 3 arms, 100 ids each | {fit_ms:.0f} | | |")
    print(f"| `fuse`, one such query | {fuse_ms / given.queries:.3f} | | |")
    print(f"| `rrf`, one such query | {rrf_ms / given.queries:.3f} | | |")


if __name__ == "__main__":
    main()
