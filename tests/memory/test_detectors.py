"""Detectors over whole collections."""

from __future__ import annotations

import time

import numpy as np
import pytest

from agentkit.errors import ConfigError
from agentkit.memory.detectors import Collection, DetectorSettings, bursts, crashes, detect, floods, hubs, strangers


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(
    number: int, rng: np.random.Generator, dim: int = 64, clusters: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [N, dim] about as many centres [clusters, dim]."""
    centres = unit(rng.normal(size=(clusters, dim)))
    return unit(centres[rng.integers(clusters, size=number)] + 0.08 * rng.normal(size=(number, dim))), centres


def collection_of(
    vectors: np.ndarray, sources: list[str] | None = None, times: list[float] | None = None
) -> Collection:
    number = len(vectors)
    return Collection(
        [f"m{n}" for n in range(number)], vectors, sources or [f"s{n % 10}" for n in range(number)], times or ()
    )


@pytest.mark.parametrize("seed", range(3))
def test_at_most_one_in_a_hundred_of_a_benign_clustered_collection_is_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, centres = clustered(1000, rng)
    queries = unit(np.repeat(centres, 5, axis=0) + 0.08 * rng.normal(size=(200, 64)))
    collection = collection_of(vectors, times=sorted(rng.uniform(0, 86_400, 1000).tolist()))
    assert len({finding.memory_id for finding in detect(collection, queries)}) <= 10


def test_a_memory_near_every_query_is_a_hub() -> None:
    rng = np.random.default_rng(0)
    shift = unit(rng.normal(size=(1, 64)))
    vectors, centres = clustered(500, rng)
    queries = unit(centres + shift)  # all queries have something in common that no memory has
    assert hubs(collection_of(vectors), queries) == []
    found = hubs(collection_of(np.vstack([vectors, shift])), queries)
    assert [finding.memory_id for finding in found] == ["m500"]
    assert found[0].score > 1
    assert "of 40 unrelated queries recall it" in found[0].sentence


def test_one_popular_task_makes_no_hub() -> None:
    rng = np.random.default_rng(0)
    vectors, centres = clustered(500, rng)
    popular = unit(np.repeat(centres[:1], 300, axis=0) + 0.02 * rng.normal(size=(300, 64)))
    assert hubs(collection_of(vectors), np.vstack([popular, centres])) == []


def test_a_source_that_repeats_itself_is_a_flood_and_one_with_a_few_repeats_is_not() -> None:
    rng = np.random.default_rng(0)
    vectors, _ = clustered(200, rng)
    same = unit(np.tile(unit(rng.normal(size=(1, 64))), (8, 1)) + 0.01 * rng.normal(size=(8, 64)))
    loud = collection_of(np.vstack([vectors, same]), [f"s{n % 10}" for n in range(200)] + ["loud"] * 8)
    assert {finding.memory_id for finding in floods(loud)} == {f"m{n}" for n in range(200, 208)}
    spread = collection_of(np.vstack([vectors, same]))  # the same texts, one from each source
    assert floods(spread) == []


def test_a_tight_cluster_of_one_source_far_from_all_others_is_strange() -> None:
    rng = np.random.default_rng(0)
    vectors, _ = clustered(400, rng)
    trigger = unit(rng.normal(size=(1, 64)))
    planted = unit(trigger + 0.05 * rng.normal(size=(6, 64)))
    sources = [f"s{n % 10}" for n in range(400)] + ["page"] * 6
    found = strangers(collection_of(np.vstack([vectors, planted]), sources))
    assert {finding.memory_id for finding in found} == {f"m{n}" for n in range(400, 406)}


def test_with_one_source_nothing_is_strange_because_there_is_nothing_to_compare_with() -> None:
    vectors, _ = clustered(50, np.random.default_rng(0))
    assert strangers(collection_of(vectors, ["all"] * 50)) == []


def test_a_source_that_writes_far_more_at_once_than_the_others_is_a_burst() -> None:
    vectors, _ = clustered(60, np.random.default_rng(0))
    times = [float(600 * n) for n in range(45)] + [30_000.0 + n for n in range(15)]
    sources = [f"s{n % 9}" for n in range(45)] + ["bot"] * 15
    found = bursts(collection_of(vectors, sources, times))
    assert {finding.memory_id for finding in found} == {f"m{n}" for n in range(45, 60)}
    assert found[0].score == 1.5  # 15 where 10 are a burst
    assert found[0].sentence == "its source wrote 15 memories within 60 s; the others' most is 1 as a rule"
    all_at_once = collection_of(vectors, sources, [0.0] * 60)  # as rollouts side by side write
    assert bursts(all_at_once) == []


def test_a_memory_that_stops_helping_is_a_crash() -> None:
    found = crashes({"a": [1.0] * 20 + [0.0] * 10, "b": [1.0, 0.0] * 15, "new": [0.0] * 15})
    assert [(finding.memory_id, finding.detector) for finding in found] == [("a", "crash")]
    # pooled 2/3, standard error sqrt(2/9 x (1/20 + 1/10)) = 0.1826, z = 5.477
    assert found[0].score == pytest.approx(5.477 / 3.5, rel=1e-3)


def test_few_memories_that_never_changed_are_said_to_crash() -> None:
    rng = np.random.default_rng(0)
    steady = {
        str(n): rng.binomial(1, rate, 60).astype(float).tolist() for n, rate in enumerate(rng.uniform(0, 1, 2000))
    }
    assert len(crashes(steady)) <= 20


def test_a_lower_threshold_never_finds_less() -> None:
    rng = np.random.default_rng(1)
    vectors, centres = clustered(300, rng)
    collection = collection_of(vectors)
    before = -1
    for share in (0.5, 0.2, 0.05, 0.01):
        settings = DetectorSettings(
            hub_share=share, hub_ratio=1.01, flood_share=share, flood_count=1, strange_gap=share
        )
        found = len(detect(collection, centres, settings))
        assert found >= before
        before = found


def test_empty_and_tiny_collections_have_no_findings() -> None:
    for number in (0, 1, 3):
        assert detect(collection_of(np.eye(4, dtype=np.float32)[:number]), np.eye(4, dtype=np.float32)) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": np.zeros(3)}, r"vectors of shape \(3,\) for 2 ids; needed: \[2, dim\]"),
        ({"sources": ["a"]}, "1 sources for 2 ids; each memory needs one"),
        ({"times": [1.0]}, "1 times for 2 ids"),
        ({"vectors": np.full((2, 4), np.nan)}, "not finite; re-embed"),
    ],
)
def test_a_collection_that_does_not_fit_together_is_an_error(changes: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"ids": ["a", "b"], "vectors": np.eye(4)[:2], "sources": ["x", "y"]}
    with pytest.raises(ConfigError, match=message):
        Collection(**(given | changes))  # type: ignore[arg-type]


def test_bursts_without_times_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"give `Collection\.times`"):
        bursts(collection_of(np.eye(4, dtype=np.float32)))


def test_ten_thousand_memories_are_looked_through_in_a_few_cpu_seconds() -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(10_000, 384)))
    start = time.process_time()
    detect(collection_of(vectors, times=list(map(float, range(10_000)))), vectors[:1000])
    assert time.process_time() - start < 10
