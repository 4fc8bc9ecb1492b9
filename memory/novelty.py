"""What is known already, and whether a draft adds to it.

A draft that looks like a known memory is a duplicate only if it also claims the same: in a small world most texts look
alike, and what differs in one word (another action, another door) may be what matters. So what is known is looked up by
its claim, and texts are compared word by word among the few that claim the same; no signature (MinHash) is needed.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from agentkit.errors import ConfigError
from agentkit.memory.kinds import Body, Draft

SHINGLE = 3
"""Words in a shingle."""
PROBES = 64
"""Shingles of a text among which its anchor is chosen."""
_EVIDENCE = {"evidence_for", "evidence_against", "num_seen", "num_uses", "num_successes", "episode_return"}
_TAG = re.compile(r"<[^<>\n]{0,200}>")


@dataclass(frozen=True)
class Match:
    """A known memory that a draft repeats."""

    memory_id: str
    reason: str
    same_claim: bool
    """Both claim the same, so that the evidence of one is evidence for the other."""


@dataclass(frozen=True)
class _Row:
    """A known memory."""

    scope: str
    claim: bytes
    shingles: frozenset[int]
    anchor: int | None
    content: bytes
    text: str
    vector: np.ndarray | None


class Neighbours:
    """The known memories, as far as novelty needs them; grows with `add`.

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
        self._rows: dict[str, _Row] = {}
        self._by_content: dict[bytes, dict[str, None]] = {}
        self._by_claim: dict[bytes, dict[str, None]] = {}
        self._by_anchor: dict[int, dict[str, None]] = {}
        self._crowd: Counter[int] = Counter()
        self._dim: int | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, memory_id: str, draft: Draft, vector: np.ndarray | None = None) -> None:
        """Know one more memory, or its next version, by what it was admitted from and its unit vector [dim].

        Without a vector it is known by its words only.
        """
        self.remove(memory_id)
        if vector is not None:
            self._dim = self._dim or len(vector)
            if len(vector) != self._dim:
                raise ConfigError(f"a vector of {len(vector)} numbers among vectors of {self._dim}; re-embed")
        shingles = shingles_of(draft.text)
        anchor = anchor_of(shingles, self._crowd)
        row = _Row(
            scope_of(draft),
            claim_of(draft.body),
            frozenset(shingles.tolist()),
            anchor,
            content_hash(draft),
            _plain(draft.text),
            vector,
        )
        self._rows[memory_id] = row
        self._by_content.setdefault(row.content, {})[memory_id] = None
        self._by_claim.setdefault(row.claim, {})[memory_id] = None
        if anchor is not None:
            self._by_anchor.setdefault(anchor, {})[memory_id] = None
            self._crowd[anchor] += 1

    def remove(self, memory_id: str) -> None:
        """Forget a memory; an unknown id is ignored."""
        row = self._rows.pop(memory_id, None)
        if row is None:
            return
        del self._by_content[row.content][memory_id], self._by_claim[row.claim][memory_id]
        if row.anchor is not None:
            del self._by_anchor[row.anchor][memory_id]
            self._crowd[row.anchor] -= 1

    def claimed(self, draft: Draft, besides: str = "") -> list[str]:
        """Ids of the memories of its kind that claim what `draft` claims; their vectors decide whether it is new."""
        ids = self._by_claim.get(claim_of(draft.body), ())
        return [id for id in ids if id != besides and self._rows[id].scope == scope_of(draft)]

    def repeated(self, draft: Draft, vector: np.ndarray | None = None, *, besides: str = "") -> Match | None:
        """The known memory that `draft` repeats, or None if it is new.

        Args:
            draft: What is to be remembered.
            vector: [dim] unit vector of it; without one, words decide.
            besides: Id of the memory whose next version it would be, which it may repeat.
        """
        exact = next((id for id in self._by_content.get(content_hash(draft), ()) if id != besides), None)
        if exact is not None:
            return Match(exact, f"same content as memory {exact}", True)
        shingles = frozenset(shingles_of(draft.text).tolist())
        return self._fed_back(draft, shingles, besides) or self._near(draft, shingles, vector, besides)

    def _fed_back(self, draft: Draft, shingles: frozenset[int], besides: str) -> Match | None:
        """Recalled texts that came back as input: known texts, whole, make up the draft.

        What code has made of a record, or a person said, repeats nothing by holding the words of another claim; what
        a model, a policy or a tool says does, if it holds them as they stand.
        """
        scope, claim, text = scope_of(draft), claim_of(draft.body), _plain(draft.text)
        echo = draft.source.writer not in ("environment", "human")
        found = {
            id: row
            for anchor in shingles & self._by_anchor.keys()
            for id in self._by_anchor[anchor]
            if id != besides
            and ((row := self._rows[id]).claim == claim or row.scope != scope or (echo and row.text in text))
            and row.shingles <= shingles
        }
        if not found:
            return None
        share = len(frozenset().union(*(row.shingles for row in found.values()))) / len(shingles)
        if share < self._covered:
            return None
        largest = max(found, key=lambda id: (len(found[id].shingles), id))
        same = found[largest].claim == claim and found[largest].scope == scope
        return Match(largest, f"repeats the text of memory {largest} ({share:.0%} of it is known)", same)

    def _near(self, draft: Draft, shingles: frozenset[int], vector: np.ndarray | None, besides: str) -> Match | None:
        for id in self.claimed(draft, besides):
            row = self._rows[id]
            common, union = len(shingles & row.shingles), len(shingles | row.shingles)
            if union and common / union >= self._jaccard:
                return Match(id, f"shares {common / union:.0%} of its wording with memory {id}", True)
            if vector is not None and row.vector is not None:
                cosine = float(row.vector @ vector)
                if cosine >= self._cosine:
                    return Match(id, f"means what memory {id} means (cosine {cosine:.3f})", True)
        return None


def scope_of(draft: Draft) -> str:
    """Where a draft can be a duplicate: in its namespace and environment, among memories of its kind."""
    return f"{draft.namespace}\0{draft.env_id}\0{draft.kind}"


def anchor_of(shingles: np.ndarray, crowd: Mapping[int, int]) -> int | None:
    """The shingle that a text is found by where it is contained in another: the one that fewest texts are found by.

    Args:
        shingles: [S] of the text; of more than `PROBES`, evenly spaced ones are considered. None if there are none.
        crowd: How many texts are found by each shingle already.
    """
    probed = probes_of(shingles)
    return min(probed, key=lambda one: (crowd.get(one, 0), one), default=None)


def probes_of(shingles: np.ndarray) -> list[int]:
    """The shingles among which the anchor of a text is chosen."""
    return list(map(int, shingles[:: -(-len(shingles) // PROBES)])) if len(shingles) else []


def _plain(text: str) -> str:
    """A text without what shouting or other white space changes."""
    return " ".join(text.casefold().split())


def content_hash(draft: Draft) -> bytes:
    """Hash of what a draft says and where; equal for the same content from different sources or episodes."""
    parts = (draft.namespace, draft.env_id, draft.task_key, " ".join(draft.text.split()), claim_of(draft.body).hex())
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).digest()


def claim_of(body: Body) -> bytes:
    """Hash of what a body claims, without the evidence for it: equal claims may be merged, others may not."""
    claim = body.model_dump_json(exclude=_EVIDENCE)
    return hashlib.blake2b(" ".join(claim.lower().split()).encode(), digest_size=16).digest()


@lru_cache(maxsize=2048)
def shingles_of(text: str) -> np.ndarray:
    """[S] sorted uint32 hashes of the runs of three words in `text`, markup aside; one of all if it has fewer.

    >>> len(shingles_of("open the red door")), len(shingles_of("open")), len(shingles_of(""))
    (2, 1, 0)
    """
    words = re.findall(r"[^\W_]+|[^\w\s]", _TAG.sub(" ", text).lower())
    if not words:
        words = text.split()
    runs = {" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))} if words else set()
    made = np.array(sorted({zlib.crc32(run.encode()) for run in runs}), np.uint32)
    made.setflags(write=False)  # shared by all who ask for the same text
    return made
