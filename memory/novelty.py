"""What is known already, and whether a draft adds to it.

A draft that looks like a known memory is a duplicate only if it also claims the same: in a small world most texts look
alike, and what differs in one word (another action, another door) may be what matters.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from dataclasses import dataclass

import numpy as np

from agentkit.errors import ConfigError
from agentkit.memory.kinds import Body, Draft

PERMUTATIONS = 128
SHINGLE = 3
"""Words in a shingle."""
_MULTIPLIERS, _OFFSETS = np.random.default_rng(0x5EED).integers(1, 1 << 63, (2, PERMUTATIONS), dtype=np.uint64)
_MULTIPLIERS |= np.uint64(1)
_EVIDENCE = {"evidence_for", "evidence_against", "num_seen", "num_uses", "num_successes", "episode_return"}
_TAG = re.compile(r"<[^<>\n]{0,200}>")


@dataclass(frozen=True)
class Match:
    """A known memory that a draft repeats."""

    memory_id: str
    reason: str


class Neighbours:
    """The known memories, as far as novelty needs them: hashes, shingles, MinHash signatures and vectors.

    Grows with `add`; 10,000 memories of 384 numbers and 60 words take about 25 MB and a few milliseconds a draft.

    Args:
        jaccard: Least share of common shingles of two texts that say the same.
        cosine: Least cosine similarity of two vectors of one kind that mean the same.
        covered: Least share of a draft's shingles that known texts, each contained whole, have to make up for the
            draft to be their repetition.
    """

    def __init__(self, *, jaccard: float = 0.9, cosine: float = 0.98, covered: float = 0.7) -> None:
        for name, value in (("jaccard", jaccard), ("cosine", cosine), ("covered", covered)):
            if not 0.0 < value <= 1.0:
                raise ConfigError(f"{name} is {value:g}; it is a share, above 0 and at most 1")
        self._jaccard, self._cosine, self._covered = jaccard, cosine, covered
        self._ids: list[str] = []
        self._kinds: list[str] = []
        self._claims: list[bytes] = []
        self._shingles: list[np.ndarray] = []
        self._rows_by_id: dict[str, int] = {}
        self._rows_by_hash: dict[bytes, int] = {}
        self._rows_by_least: dict[int, list[int]] = {}
        self._signatures = np.zeros((0, PERMUTATIONS), np.uint32)
        self._vectors = np.zeros((0, 0), np.float32)

    def __len__(self) -> int:
        return len(self._rows_by_id)

    def add(self, memory_id: str, draft: Draft, vector: np.ndarray) -> None:
        """Know one more memory, or its next version, by what it was admitted from and its unit vector [dim]."""
        if memory_id in self._rows_by_id:
            self.remove(memory_id)
        row = len(self._ids)
        if row == len(self._signatures):
            self._grow(max(64, 2 * row), len(vector))
        if len(vector) != self._vectors.shape[1]:
            raise ConfigError(f"a vector of {len(vector)} numbers among vectors of {self._vectors.shape[1]}; re-embed")
        shingles = shingles_of(draft.text)
        self._ids.append(memory_id)
        self._kinds.append(f"{draft.env_id}\0{draft.kind}")
        self._claims.append(claim_of(draft.body))
        self._shingles.append(shingles)
        self._signatures[row], self._vectors[row] = minhash(shingles), vector
        self._rows_by_id[memory_id] = row
        self._rows_by_hash.setdefault(content_hash(draft), row)
        if len(shingles):
            self._rows_by_least.setdefault(int(shingles[0]), []).append(row)

    def remove(self, memory_id: str) -> None:
        """Forget a memory; an unknown id is ignored. Its row stays, empty, until the object is made anew."""
        row = self._rows_by_id.pop(memory_id, None)
        if row is None:
            return
        self._rows_by_hash = {key: known for key, known in self._rows_by_hash.items() if known != row}
        if len(self._shingles[row]):
            self._rows_by_least[int(self._shingles[row][0])].remove(row)
        self._kinds[row], self._claims[row], self._shingles[row] = "", b"", np.zeros(0, np.uint32)
        self._vectors[row], self._signatures[row] = 0.0, 0

    def repeated(self, draft: Draft, vector: np.ndarray) -> Match | None:
        """The known memory that `draft` with its unit `vector` [dim] repeats, or None if it is new."""
        exact = self._rows_by_hash.get(content_hash(draft))
        if exact is not None:
            return Match(self._ids[exact], f"same content as memory {self._ids[exact]}")
        if not self._rows_by_id:
            return None
        shingles, claim = shingles_of(draft.text), claim_of(draft.body)
        return self._fed_back(draft, shingles, claim) or self._near(draft, shingles, claim, vector)

    def _fed_back(self, draft: Draft, shingles: np.ndarray, claim: bytes) -> Match | None:
        """Recalled texts that came back as input: known texts, whole, make up the draft."""
        present = set(shingles.tolist())
        kind = f"{draft.env_id}\0{draft.kind}"
        rows = [
            row
            for least in present
            for row in self._rows_by_least.get(least, ())
            if (self._claims[row] == claim or self._kinds[row] != kind)
            and present.issuperset(self._shingles[row].tolist())
        ]
        if not rows:
            return None
        share = len(set().union(*(self._shingles[row].tolist() for row in rows))) / len(present)
        if share < self._covered:
            return None
        largest = max(rows, key=lambda row: len(self._shingles[row]))
        return Match(
            self._ids[largest], f"repeats the text of memory {self._ids[largest]} ({share:.0%} of it is known)"
        )

    def _near(self, draft: Draft, shingles: np.ndarray, claim: bytes, vector: np.ndarray) -> Match | None:
        number = len(self._ids)
        kind = f"{draft.env_id}\0{draft.kind}"
        alike = (self._signatures[:number] == minhash(shingles)).mean(axis=1)
        cosines = self._vectors[:number] @ vector
        for row in np.flatnonzero((alike >= self._jaccard - 0.2) | (cosines >= self._cosine)):
            if self._kinds[row] != kind or self._claims[row] != claim:
                continue
            common = len(np.intersect1d(shingles, self._shingles[row], assume_unique=True))
            union = len(shingles) + len(self._shingles[row]) - common
            if union and common / union >= self._jaccard:
                return Match(self._ids[row], f"shares {common / union:.0%} of its wording with memory {self._ids[row]}")
            if cosines[row] >= self._cosine:
                return Match(self._ids[row], f"means what memory {self._ids[row]} means (cosine {cosines[row]:.3f})")
        return None

    def _grow(self, capacity: int, dim: int) -> None:
        if self._vectors.shape[0] == 0:
            self._vectors = np.zeros((0, dim), np.float32)
        more = capacity - len(self._signatures)
        self._signatures = np.concatenate([self._signatures, np.zeros((more, PERMUTATIONS), np.uint32)])
        self._vectors = np.concatenate([self._vectors, np.zeros((more, self._vectors.shape[1]), np.float32)])


def content_hash(draft: Draft) -> bytes:
    """Hash of what a draft says and where; equal for the same content from different sources or episodes."""
    parts = (draft.env_id, draft.task_key, " ".join(draft.text.split()), claim_of(draft.body).hex())
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).digest()


def claim_of(body: Body) -> bytes:
    """Hash of what a body claims, without the evidence for it: equal claims may be merged, others may not."""
    claim = body.model_dump_json(exclude=_EVIDENCE)
    return hashlib.blake2b(" ".join(claim.lower().split()).encode(), digest_size=16).digest()


def shingles_of(text: str) -> np.ndarray:
    """[S] sorted uint32 hashes of the runs of three words in `text`, markup aside; one of all if it has fewer.

    >>> len(shingles_of("open the red door")), len(shingles_of("open")), len(shingles_of(""))
    (2, 1, 0)
    """
    words = re.findall(r"[^\W_]+|[^\w\s]", _TAG.sub(" ", text).lower())
    if not words:
        words = text.split()
    runs = {" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))} if words else set()
    return np.array(sorted({zlib.crc32(run.encode()) for run in runs}), np.uint32)


def minhash(shingles: np.ndarray) -> np.ndarray:
    """[128] uint32 signature; the share of equal places estimates the Jaccard similarity (Broder 1997).

    The permutations are multiply-shift hashes (Dietzfelbinger et al. 1997), the same in every process.
    """
    if not len(shingles):
        return np.full(PERMUTATIONS, 0xFFFFFFFF, np.uint32)
    mixed = shingles.astype(np.uint64)[:, None] * _MULTIPLIERS + _OFFSETS
    return (mixed >> np.uint64(32)).min(axis=0).astype(np.uint32)
