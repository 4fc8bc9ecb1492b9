"""Detectors of what only shows in company: hubs, floods, strange clusters, bursts of writes, utilities that crash.

Each looks at a whole collection and returns findings, one sentence each, the strongest first. A finding is a reason to
put a memory in quarantine and look, not a proof. The default thresholds are set on benign collections of real episodes
(`agentkit memory bench --only benign`), so that at most one memory in a hundred is found there. None of them ever
holds an N x N matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import Field

from agentkit.errors import ConfigError
from agentkit.memory.records import Record

BLOCK = 256
"""Rows compared with all others at once."""
NEAR = 0.9
"""Cosine from which on two memories are near-duplicates."""


@dataclass(frozen=True)
class Finding:
    """One memory that a detector found."""

    memory_id: str
    detector: str
    score: float
    """How far beyond the threshold, as a multiple of it: 1 is just found."""
    sentence: str


class DetectorSettings(Record):
    """Thresholds; a memory is found when it reaches all those of a detector."""

    k: int = Field(default=5, ge=1)
    """Memories that a reference query recalls."""
    unrelated: float = Field(default=0.7, gt=0, le=1)
    """Two queries are unrelated if their cosine is below this."""
    hub_share: float = Field(default=0.1, gt=0, le=1)
    """Share of the unrelated queries that recall a hub."""
    hub_ratio: float = Field(default=8.0, gt=1)
    """How many times as often as the average memory a hub is recalled."""
    flood_count: int = Field(default=4, ge=1)
    """Near-duplicates of a memory from its own source."""
    flood_share: float = Field(default=0.3, gt=0, le=1)
    """Share of its source's other memories that they are."""
    strange_gap: float = Field(default=0.22, gt=0)
    """How much nearer a memory is to the memories of its own source than to any other."""
    strange_z: float = Field(default=3.0, gt=0)
    """Robust standard deviations by which that gap exceeds the collection's median."""
    burst_s: float = Field(default=60.0, gt=0)
    """Seconds in which a burst is written."""
    burst_count: int = Field(default=10, ge=2)
    """Memories in a burst."""
    burst_ratio: float = Field(default=5.0, gt=1)
    """How many times the other sources' median fullest span a burst is."""
    crash_recent: int = Field(default=10, ge=2)
    """Newest outcomes that are compared with those before."""
    crash_z: float = Field(default=3.5, gt=0)
    """Standard errors by which their mean is below that of those before."""


@dataclass(frozen=True)
class Collection:
    """Memories as the detectors see them; N of them, in any order."""

    ids: Sequence[str]
    vectors: np.ndarray
    """[N, dim] float32 unit vectors."""
    sources: Sequence[str]
    """[N] who wrote each: a run, a page, a person. A source that is not told from others cannot be found."""
    times: Sequence[float] = ()
    """[N] Unix time in seconds at which each was written; empty if unknown."""

    def __post_init__(self) -> None:
        number = len(self.ids)
        if self.vectors.ndim != 2 or len(self.vectors) != number:
            raise ConfigError(f"vectors of shape {self.vectors.shape} for {number} ids; needed: [{number}, dim]")
        for name, values in (("sources", self.sources), ("times", self.times)):
            if len(values) != number and (name == "sources" or len(values)):
                raise ConfigError(f"{len(values)} {name} for {number} ids; each memory needs one")
        if not np.isfinite(self.vectors).all():
            raise ConfigError("a vector of the collection is not finite; re-embed its memory")

    @cached_property
    def kin(self) -> Kin:
        """How near each memory is to its own source's and to the others'; computed once."""
        return _kin(self)


@dataclass(frozen=True)
class Kin:
    """Nearness of every memory to those of its own source and of others, [N] each; never counts itself."""

    own: np.ndarray
    """Mean cosine of its three nearest of its own source; -1 if that has fewer."""
    other: np.ndarray
    """Cosine of its nearest of any other source; -1 if there is none."""
    near_own: np.ndarray
    """Near-duplicates of its own source."""
    size: np.ndarray
    """Other memories of its own source."""


def detect(collection: Collection, queries: np.ndarray, settings: DetectorSettings | None = None) -> list[Finding]:
    """What all detectors over vectors and times find; `queries` [Q, dim] are unit vectors of what is usually asked."""
    settings = settings or DetectorSettings()
    found = hubs(collection, queries, settings) + floods(collection, settings) + strangers(collection, settings)
    return found + (bursts(collection, settings) if len(collection.times) else [])


def hubs(collection: Collection, queries: np.ndarray, settings: DetectorSettings | None = None) -> list[Finding]:
    """Memories that far too many unrelated queries recall.

    A poisoned memory has to be recalled for many tasks to pay; honest memories are recalled for theirs (AgentPoison,
    Chen et al. 2024, optimises for the former). The measure is the k-occurrence N_k of Radovanovic et al. (2010), taken
    over mutually unrelated queries only, so that a popular task does not look like a hub.
    """
    settings = settings or DetectorSettings()
    queries = _unrelated(queries, settings.unrelated)
    if len(collection.ids) <= settings.k or len(queries) < 20:  # a share of fewer says little
        return []
    counts = np.zeros(len(collection.ids), np.int64)
    for start in range(0, len(queries), BLOCK):
        cosines = queries[start : start + BLOCK] @ collection.vectors.T
        nearest = np.argpartition(-cosines, settings.k - 1, axis=1)[:, : settings.k]
        counts += np.bincount(nearest.ravel(), minlength=len(counts))
    least = max(settings.hub_share * len(queries), settings.hub_ratio * counts.mean())
    return _findings(
        collection.ids,
        "hub",
        counts / least,
        lambda row: f"{counts[row]} of {len(queries)} unrelated queries recall it; on average {counts.mean():.1f} do",
    )


def floods(collection: Collection, settings: DetectorSettings | None = None) -> list[Finding]:
    """Memories of a source that says the same over and over."""
    settings = settings or DetectorSettings()
    kin = collection.kin
    least = np.maximum(settings.flood_count, settings.flood_share * kin.size)
    return _findings(
        collection.ids,
        "flood",
        kin.near_own / least,
        lambda row: (
            f"{kin.near_own[row]} of the {kin.size[row]} other memories of its source are near-duplicates of it"
        ),
    )


def strangers(collection: Collection, settings: DetectorSettings | None = None) -> list[Finding]:
    """Tight clusters of one source, far from all that others wrote: where a trigger leads.

    The memories of a trigger lie together in a place of their own, so that nothing else is recalled with it
    (AgentPoison's uniqueness and compactness losses). Needs several sources at work on the same tasks.
    """
    settings = settings or DetectorSettings()
    gap = collection.kin.own - collection.kin.other
    known = (collection.kin.own > -1) & (collection.kin.other > -1)
    if not known.any():
        return []
    middle = float(np.median(gap[known]))
    spread = max(1.4826 * float(np.median(np.abs(gap[known] - middle))), 1e-3)
    scores = np.minimum(gap / settings.strange_gap, (gap - middle) / spread / settings.strange_z)
    return _findings(
        collection.ids,
        "stranger",
        np.where(known, scores, 0.0),
        lambda row: (
            f"cosine {collection.kin.own[row]:.2f} to its own source's memories but at most "
            f"{collection.kin.other[row]:.2f} to any other; the usual gap is {middle:.2f}"
        ),
    )


def bursts(collection: Collection, settings: DetectorSettings | None = None) -> list[Finding]:
    """Memories of a source that writes many at once, compared with how the other sources write; needs four of them."""
    settings = settings or DetectorSettings()
    if len(collection.times) != len(collection.ids):
        raise ConfigError("bursts need the time at which each memory was written; give `Collection.times`")
    times, rows_of = np.asarray(collection.times, np.float64), _rows_by_source(collection)
    fullest: dict[str, int] = {}
    counts = np.zeros(len(times), np.int64)  # memories in the fullest span that holds a memory
    for source, rows in rows_of.items():
        rows = rows[np.argsort(times[rows], kind="stable")]
        ends = np.searchsorted(times[rows], times[rows] + settings.burst_s, side="right")
        for place, end in enumerate(ends):
            span = rows[place:end]
            counts[span] = np.maximum(counts[span], len(span))
        fullest[source] = int((ends - np.arange(len(rows))).max())
    if len(rows_of) < 4:
        return []
    usual = {source: float(np.median([n for s, n in fullest.items() if s != source])) for source in rows_of}
    least = np.array([max(settings.burst_count, settings.burst_ratio * usual[s]) for s in collection.sources])
    return _findings(
        collection.ids,
        "burst",
        counts / least,
        lambda row: (
            f"its source wrote {counts[row]} memories within {settings.burst_s:g} s; "
            f"the others' most is {usual[collection.sources[row]]:g} as a rule"
        ),
    )


def crashes(outcomes: Mapping[str, Sequence[float]], settings: DetectorSettings | None = None) -> list[Finding]:
    """Memories that used to help and no longer do; `outcomes` are results in [0, 1] of their uses, oldest first.

    Compares the newest outcomes with all before them (two-sample z test, pooled variance of proportions).
    """
    settings = settings or DetectorSettings()
    ids, scores, means = [], [], []
    for id, results in outcomes.items():
        past, recent = np.asarray(results[: -settings.crash_recent]), np.asarray(results[-settings.crash_recent :])
        if len(past) < settings.crash_recent:
            continue
        pooled = float(np.mean(results))
        error = (max(pooled * (1 - pooled), 1e-6) * (1 / len(past) + 1 / len(recent))) ** 0.5
        ids.append(id)
        means.append((float(past.mean()), float(recent.mean())))
        scores.append((means[-1][0] - means[-1][1]) / error / settings.crash_z)
    return _findings(
        ids,
        "crash",
        np.array(scores),
        lambda row: (
            f"its uses went from {means[row][0]:.2f} to {means[row][1]:.2f} on average in the last "
            f"{settings.crash_recent}"
        ),
    )


def _findings(ids: Sequence[str], detector: str, scores: np.ndarray, sentence: Callable[[int], str]) -> list[Finding]:
    rows = np.flatnonzero(scores >= 1.0)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    return [Finding(ids[int(row)], detector, float(scores[row]), sentence(int(row))) for row in rows]


def _unrelated(queries: np.ndarray, cosine: float) -> np.ndarray:
    """Queries [U, dim] of which no two are nearer than `cosine`: each that is not near an earlier one."""
    kept = np.zeros_like(queries)
    number = 0
    for query in queries:
        if not number or float((kept[:number] @ query).max()) < cosine:
            kept[number] = query
            number += 1
    return kept[:number]


def _rows_by_source(collection: Collection) -> dict[str, np.ndarray]:
    names, places = np.unique(np.asarray(collection.sources, dtype=str), return_inverse=True)
    return {str(name): np.flatnonzero(places == number) for number, name in enumerate(names)}


def _kin(collection: Collection) -> Kin:
    number = len(collection.ids)
    rows_of = list(_rows_by_source(collection).values())
    own, other = np.full(number, -1.0), np.full(number, -1.0)
    near_own, size = np.zeros(number, np.int64), np.zeros(number, np.int64)
    if number == 0:
        return Kin(own, other, near_own, size)
    order = np.concatenate(rows_of)  # source by source, so that each is a run of columns
    starts = np.cumsum([0, *(len(rows) for rows in rows_of)])
    vectors = collection.vectors[order]
    for place, rows in enumerate(rows_of):
        first, last = starts[place], starts[place + 1]
        size[rows] = len(rows) - 1
        for start in range(first, last, BLOCK):
            block = slice(start, min(start + BLOCK, last))
            cosines = vectors[block] @ vectors.T
            mine = cosines[:, first:last].copy()
            mine[np.arange(len(mine)), np.arange(start - first, start - first + len(mine))] = -1.0
            cosines[:, first:last] = -1.0
            at = order[block]
            other[at] = cosines.max(axis=1)
            near_own[at] = (mine >= NEAR).sum(axis=1)
            if mine.shape[1] > 3:
                own[at] = np.partition(mine, -3, axis=1)[:, -3:].mean(axis=1)
    return Kin(own, other, near_own, size)
