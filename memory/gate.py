"""The gate: what becomes of one draft before it is written - active, on probation, in quarantine, or rejected.

Checks go from cheap to dear and from certain to doubtful; each says in a sentence what it found. The gate judges form,
origin and evidence. It cannot tell a lie in plain words; `detectors` and `consensus` look at the company it keeps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from agentkit.errors import ConfigError
from agentkit.memory.evidence import EpisodeOf, doubts_about, lack_of_evidence
from agentkit.memory.kinds import KEY_FIELDS, Draft, Trust
from agentkit.memory.novelty import Neighbours
from agentkit.memory.records import Episode, Record
from agentkit.memory.suspicion import signs_in

__all__ = ["Gate", "GateSettings", "Neighbours", "Verdict", "admit_episode"]


class GateSettings(Record):
    """Limits of the gate."""

    most_text_bytes: int = Field(default=100_000, ge=1)
    """Bytes of UTF-8 in the text, in a key, or in the body; beyond, a draft is rejected."""
    scan: bool = True
    """Look for injections and secrets; off only for data that nobody else could write."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of a draft or an episode, and why."""

    status: Literal["active", "probation", "quarantine", "rejected"]
    reasons: tuple[str, ...] = ()
    """Sentences without a full stop; empty if there is nothing to say."""
    trust: Trust = Trust.UNTRUSTED
    """How far it may be trusted at most: what it claimed, or less."""
    duplicate_of: str | None = None
    """Id of the memory it repeats, so that its evidence and its `trust`, if that is higher, can be merged there."""


class Gate:
    """Judges drafts one by one; holds settings only, so one gate may serve many threads.

    Args:
        settings: Limits.
        episode_of: Finds recorded episodes. With it, a draft that claims to come from our own episodes (`OBSERVED`)
            is believed only if they bear it out; without it, it is taken at its word.
    """

    def __init__(self, settings: GateSettings | None = None, *, episode_of: EpisodeOf | None = None) -> None:
        self._settings = settings or GateSettings()
        self._episode_of = episode_of

    def admit(self, draft: Draft, vector: np.ndarray, known: Neighbours) -> Verdict:
        """The verdict on one draft; `known` is not changed, whoever writes the memory adds it.

        Args:
            draft: What is to be remembered.
            vector: [dim] unit vector of it, of the embedder that made those of `known`.
            known: What is remembered already.

        Raises:
            ConfigError: `vector` is not a finite unit vector.
        """
        if vector.ndim != 1 or not np.isfinite(vector).all() or abs(float(np.linalg.norm(vector)) - 1.0) > 1e-3:
            raise ConfigError(f"the draft's vector (shape {vector.shape}) must be one finite vector of length 1")
        if faults := tuple(self._faults(draft)):
            return Verdict("rejected", faults)
        match = known.repeated(draft, vector)
        if match is not None:  # before the scan: what is fed back must add nothing, not even to the quarantine
            trust = self._by_trust(draft).trust
            return Verdict("rejected", (match.reason,), trust, duplicate_of=match.memory_id)
        if self._settings.scan and (signs := _signs(draft)):
            return Verdict("quarantine", tuple(f"it holds {sign}" for sign in signs))
        return self._by_trust(draft)

    def _faults(self, draft: Draft) -> Iterator[str]:
        if not draft.text.strip():
            yield "its text is empty"
        if not draft.keys:
            yield f"it has no key to be found by; give one of {', '.join(KEY_FIELDS)}"
        for name, key in draft.keys.items():
            if name not in KEY_FIELDS:
                yield f"unknown key {name!r}; keys are {', '.join(KEY_FIELDS)}"
            if not key.strip():
                yield f"its key {name!r} is empty"
        sizes = {
            "text": draft.text,
            "body": draft.body.model_dump_json(),
            **{f"key {n!r}": k for n, k in draft.keys.items()},
        }
        for name, content in sizes.items():
            size, most = len(content.encode()), self._settings.most_text_bytes
            if size > most:
                yield f"its {name} has {size} bytes, more than the {most} allowed; shorten or split it"
        if draft.valid_from is not None and draft.valid_to is not None and draft.valid_to <= draft.valid_from:
            yield f"it is valid to {draft.valid_to:g}, which is not after {draft.valid_from:g}, from when it is valid"

    def _by_trust(self, draft: Draft) -> Verdict:
        trust = draft.trust
        if draft.source.writer in ("tool", "import") and trust == Trust.OBSERVED and self._episode_of is None:
            return Verdict("probation", (f"written by {draft.source.writer!r} and not checked against episodes",))
        if trust == Trust.OBSERVED and self._episode_of is not None:
            lack = lack_of_evidence(draft, self._episode_of)
            if lack is not None:
                return Verdict("probation", (f"not borne out: {lack}",))
        if trust == Trust.UNTRUSTED:
            return Verdict("probation", ("its source is untrusted",))
        if draft.status == "probation":
            return Verdict("probation", ("its writer put it on probation",), trust)
        return Verdict("active", trust=trust)


def admit_episode(episode: Episode, *, quarantined: Collection[str] = ()) -> Verdict:
    """Whether an episode may be learnt from (replayed): only if its record is sound and its memories were.

    Args:
        episode: What was played.
        quarantined: Ids of the memories in quarantine; an episode that was shown one of them is in quarantine too.

    Returns:
        `active`, `quarantine` with the doubts, or `rejected` if there is nothing to learn from.
    """
    if not episode.turns:
        return Verdict("rejected", ("it has no turns",))
    doubts = list(doubts_about(episode))
    shown = {id for turn in episode.turns for id in turn.memory_ids}
    if tainted := sorted(shown.intersection(quarantined)):
        doubts.append(f"it was shown memories that are in quarantine: {', '.join(tainted[:5])}")
    if doubts:
        return Verdict("quarantine", tuple(doubts))
    return Verdict("active", trust=Trust.OBSERVED)


def _signs(draft: Draft) -> tuple[str, ...]:
    texts = [draft.text, *draft.keys.values(), draft.source.name, *_strings(draft.body.model_dump())]
    return tuple(dict.fromkeys(sign for text in dict.fromkeys(texts) for sign in signs_in(text)))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _strings(part)
