"""Embedders: unit vectors, the same everywhere, with a fingerprint of what made them."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.memory.embedders import HashEmbedder, MiniLMEmbedder


@pytest.fixture(scope="module")
def minilm():
    return MiniLMEmbedder()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=40), max_size=5))
def test_hash_vectors_have_length_one_whatever_the_text(texts):
    vectors = HashEmbedder(32).embed(texts)
    assert vectors.shape == (len(texts), 32)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_a_hash_vector_does_not_depend_on_its_neighbours_or_the_process():
    embedder = HashEmbedder()
    alone = embedder.embed(["the red door"])
    np.testing.assert_array_equal(embedder.embed(["something else", "the red door"])[1:], alone)
    code = (
        "from agentkit.memory.embedders import HashEmbedder\n"
        "print(HashEmbedder().embed(['the red door']).tobytes().hex())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert other.stdout.strip() == alone.tobytes().hex()


def test_hash_vectors_are_near_when_words_are_shared():
    query, near, far = HashEmbedder().embed(["open the red door", "the red door is open", "buy cheap shoes"])
    assert query @ near > 0.6
    assert abs(query @ far) < 0.3


def test_different_spaces_have_different_fingerprints(minilm):
    assert len({HashEmbedder(64).fingerprint, HashEmbedder(128).fingerprint, minilm.fingerprint}) == 3
    assert MiniLMEmbedder().fingerprint == minilm.fingerprint


def test_importing_memory_loads_nothing_heavy():
    code = (
        "import sys, agentkit.memory, agentkit.memory.log, agentkit.memory.store\n"
        "print([m for m in ('torch', 'chromadb', 'sentence_transformers') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    code = "import sys, agentkit.memory.log; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_minilm_ranks_by_meaning(minilm):
    texts = ["The cat rests on the sofa.", "A feline naps upon the couch.", "Stocks fell sharply on Monday."]
    query, near, far = minilm.embed(texts)
    assert minilm.dim == 384
    assert query.shape == (384,)
    assert np.linalg.norm(query) == pytest.approx(1.0, abs=1e-5)
    assert query @ near > query @ far + 0.3
    assert minilm.embed([]).shape == (0, 384)
    np.testing.assert_allclose(minilm.embed(texts[:1])[0], query, atol=1e-5)
