"""Which of the ranked memories are shown: the best ones that say different things and fit into a token budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from agentkit.errors import ConfigError
from agentkit.memory.kinds import Kind

Similarity = Callable[[int], np.ndarray]
"""Position of a candidate -> its similarities [N] to all candidates, at most 1; asked only for what is selected."""


class Candidate(NamedTuple):
    """A ranked memory that may be shown."""

    id: str
    score: float
    """From `ranking.score`; 0 is never shown."""
    tokens: int
    """Tokens it takes in the prompt."""
    source: str = ""
    """Episode it is an exemplar of; empty for one that stands for many."""
    kind: Kind = "episode"


def cosine(vectors: np.ndarray) -> Similarity:
    """Similarity by vectors [N, dim] of length 1, in the order of the candidates."""
    return lambda row: vectors @ vectors[row]


def select(
    candidates: Sequence[Candidate],
    similarity: Similarity,
    *,
    budget_tokens: int,
    most: int,
    diversity: float = 0.3,
    per_source: int = 1,
    with_failure: bool = False,
) -> list[Candidate]:
    """At most `most` candidates in at most `budget_tokens` tokens, the highest score first.

    Greedy maximal marginal relevance (Carbonell & Goldstein 1998): next comes the candidate with the greatest
    (1 - diversity) · score - diversity · (greatest similarity to any SELECTED one). Where the source is silent: the
    first is the best by score; scores are divided by the best one's, so that `diversity` means the same whatever their
    scale; what no longer fits is passed over for what does; equal ones are ordered by id.

    Args:
        candidates: In any order.
        similarity: See `Similarity`, `cosine`.
        budget_tokens: Never exceeded.
        most: Never exceeded.
        diversity: 0 (by score alone) to 1.
        per_source: How many may come from the same episode.
        with_failure: The best failure that leaves tokens for something else beside it is certain of a place, so that
            there is an example of what not to do. With `most` 1 it is not.

    Raises:
        ConfigError: A number out of its range, or an id that stands there twice.
    """
    _check(candidates, budget_tokens, most, diversity, per_source)
    order = sorted(range(len(candidates)), key=lambda row: candidates[row].id)  # argmax takes the first: the least id
    scores = np.array([candidates[row].score for row in order])
    tokens = np.array([candidates[row].tokens for row in order])
    sources = np.array([candidates[row].source for row in order])
    worth = (1 - diversity) * scores / max(scores.max(initial=0.0), 1e-12)
    nearest = np.full(len(order), -1.0)
    eligible = scores > 0
    left = budget_tokens
    seated = _best_failure([candidates[row] for row in order], budget_tokens) if with_failure and most > 1 else None
    chosen: list[int] = []
    while len(chosen) < most:
        fits = eligible & (tokens <= left)
        if not fits.any():
            break
        if seated is not None and not chosen:
            row = seated
        else:
            gains = worth - diversity * nearest if chosen else scores
            row = int(np.where(fits, gains.round(12), -np.inf).argmax())
        chosen.append(row)
        left -= int(tokens[row])
        eligible[row] = False
        same = sources == sources[row]
        if sources[row] and same[chosen].sum() >= per_source:
            eligible[same] = False
        if diversity and len(chosen) < most:
            nearest = np.maximum(nearest, similarity(order[row])[order])
    return sorted((candidates[order[row]] for row in chosen), key=lambda one: (-one.score, one.id))


def _best_failure(candidates: Sequence[Candidate], budget_tokens: int) -> int | None:
    """Position of the best failure that leaves tokens for the smallest memory of another kind, if there is one."""
    shown = [(row, one) for row, one in enumerate(candidates) if one.score > 0]
    room = budget_tokens - min((one.tokens for _, one in shown if one.kind != "failure"), default=0)
    failures = [(row, one) for row, one in shown if one.kind == "failure" and one.tokens <= room]
    return max(failures, key=lambda pair: pair[1].score)[0] if failures else None


def _check(candidates: Sequence[Candidate], budget_tokens: int, most: int, diversity: float, per_source: int) -> None:
    if not 0.0 <= diversity <= 1.0:
        raise ConfigError(f"diversity {diversity:g} is outside [0, 1]; 0 looks at scores alone")
    for name, number, least in (("budget_tokens", budget_tokens, 0), ("most", most, 0), ("per_source", per_source, 1)):
        if number < least:
            raise ConfigError(f"{name} is {number}; it must be at least {least}")
    if len({one.id for one in candidates}) < len(candidates):
        raise ConfigError("an id stands among the candidates twice; keep the better score of the two")
    for one in candidates:
        if not (math.isfinite(one.score) and one.score >= 0 and one.tokens >= 0):
            raise ConfigError(f"candidate {one.id!r} has score {one.score} and {one.tokens} tokens; neither may be < 0")
