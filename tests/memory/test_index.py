"""Vector indexes: both kinds keep the same promises; the exact one is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.errors import RecordError
from agentkit.memory.index import ChromaIndex, ExactIndex, inspect, nearest


def unit_vectors(number, dim=16, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(number, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(params=["exact", "chroma"])
def index(request, tmp_path):
    index = ExactIndex() if request.param == "exact" else ChromaIndex(tmp_path / "index")
    yield index
    index.close()


def test_an_index_finds_replaces_and_forgets(index):
    vectors = unit_vectors(600)
    ids = [f"m{n:03}" for n in range(600)]
    index.upsert(ids, vectors)  # more than one batch
    assert index.count() == 600
    assert index.ids() == set(ids)
    assert index.query(vectors[7], 1) == ["m007"]
    index.upsert(["m007"], vectors[8:9])
    assert index.count() == 600
    assert set(index.query(vectors[8], 2)) == {"m007", "m008"}
    index.delete(["m008", "unknown"])
    assert index.query(vectors[8], 1) == ["m007"]
    assert index.count() == 599


def test_an_empty_index_finds_nothing(index):
    assert index.query(unit_vectors(1)[0], 3) == []
    assert index.count() == 0
    assert index.ids() == set()


def test_chroma_agrees_with_the_oracle(tmp_path):
    vectors, ids = unit_vectors(1000), [f"m{n:03}" for n in range(1000)]
    exact, chroma = ExactIndex(), ChromaIndex(tmp_path / "index")
    exact.upsert(ids, vectors)
    chroma.upsert(ids, vectors)
    shared = [len(set(exact.query(query, 10)) & set(chroma.query(query, 10))) for query in unit_vectors(30, seed=1)]
    chroma.close()
    assert np.mean(shared) >= 9.5


def test_another_process_inspects_a_closed_index(tmp_path):
    vectors, ids = unit_vectors(20), [f"m{n:03}" for n in range(20)]
    index = ChromaIndex(tmp_path / "index")
    index.upsert(ids, vectors)
    index.close()
    assert inspect(tmp_path / "index", ids, vectors) == (set(ids), 20)
    _, hits = inspect(tmp_path / "index", ids, -vectors)
    assert hits == 0
    (tmp_path / "index" / "chroma.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(RecordError, match=r"cannot be read: .*rebuild"):
        inspect(tmp_path / "index", ids, vectors)
    with pytest.raises(RecordError, match="rebuild"):
        ChromaIndex(tmp_path / "index")


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 1000))
def test_nearest_is_a_full_sort_whatever_the_order_of_the_rows(number, k, seed):
    generator = np.random.default_rng(seed)
    matrix = np.repeat(unit_vectors(number, 4, seed), 2, axis=0)  # every score occurs twice
    ids = [f"m{n:03}" for n in range(2 * number)]
    vector = unit_vectors(1, 4, seed + 1)[0]
    scores = (matrix.astype(np.float64) * vector).sum(axis=1)
    expected = sorted(ids, key=lambda id: (-round(scores[int(id[1:])], 6), id))[:k]
    order = generator.permutation(len(ids))
    got = nearest([ids[n] for n in order], matrix[order], vector, k)
    assert [id for id, _ in got] == expected
    assert [score for _, score in got] == pytest.approx([scores[int(id[1:])] for id in expected], abs=1e-6)


@pytest.mark.parametrize("dim", [16, 64, 384])
def test_equals_are_ordered_by_id_although_a_matrix_product_tells_them_apart(dim):
    vector, query = unit_vectors(2, dim)
    for number in range(2, 40):
        matrix = np.tile(vector, (number, 1))
        matrix[0, 0] += 1e-7  # what another batch of the same model may add
        ids = [f"m{number - n:03}" for n in range(number)]
        k = number // 2
        assert [id for id, _ in nearest(ids, matrix, query, k)] == sorted(ids)[:k]
