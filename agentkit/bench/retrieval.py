"""Whether the store finds what comparing with everything finds: recall at 1, 10 and 50, in all and in part of it.

Truth is a plain product of all vectors with the query, computed here and not by the store. The 10 nearest of 100,000
lie within a few hundredths, so nothing but searching well makes the lists agree.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from agentkit.bench.table import Cell, Check, Scale, Table
from agentkit.bench.topics import SHARES, TopicEmbedder, all_vectors, environment_of, fill, open_topics, topic_query
from agentkit.memory.store import MemoryStore

CUTS = (1, 10, 50)


def measure(scale: Scale) -> Table:
    """A row for each size and share of the memories in scope."""
    sizes = scale.pick((300,), (1_000, 21_000), (1_000, 100_000))
    queries = scale.pick(5, 50, 200)
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="agentkit-bench-") as folder, open_topics(Path(folder)) as store:
            fill(store, size)
            rows += measure_store(store, size, queries)
    unfiltered = [row["recall@10"] for row in rows if row["in scope"] == "all"]
    filtered = [row["recall@10"] for row in rows if row["in scope"] != "all"]
    return Table(
        name="retrieval",
        title=f"share of the truly nearest that is found, {queries} queries",
        rows=tuple(rows),
        checks=(
            Check(what="least recall@10, all in scope", value=_least(unfiltered), bar=0.95, at="least"),
            Check(what="least recall@10, part in scope", value=_least(filtered), bar=0.99, at="least"),
        ),
    )


def measure_store(store: MemoryStore, size: int, queries: int) -> list[dict[str, Cell]]:
    """Recall against truth in a store that holds the first `size` memories about topics."""
    vectors = all_vectors(size)
    places = np.array([environment_of(number) for number in range(size)])
    asked = [topic_query(number) for number in range(queries)]
    rows: list[dict[str, Cell]] = []
    for scope in (None, *SHARES):
        inside = np.arange(size) if scope is None else np.flatnonzero(places == scope)
        if not len(inside):
            continue
        found = [_subjects(store, query, scope) for query in asked]
        row: dict[str, Cell] = {"memories": size, "in scope": scope or "all"}
        scores = TopicEmbedder().embed(asked) @ vectors[inside].T
        for cut in CUTS:
            hits = []
            for given, score in zip(found, scores, strict=True):
                true = set(inside[np.argsort(-score, kind="stable")[:cut]].tolist())
                hits.append(len(true & set(given[:cut])) / len(true))
            row[f"recall@{cut}"] = float(np.mean(hits))
        rows.append(row)
    return rows


def _subjects(store: MemoryStore, query: str, scope: str | None) -> list[int]:
    """Numbers of the memories recalled, nearest first."""
    found = store.recall(query, max(CUTS), env_id=scope)
    return [int(memory.keys["state"].split()[-1]) for memory in found]


def _least(values: list[Cell]) -> float:
    return min((float(value) for value in values if value is not None), default=float("nan"))
