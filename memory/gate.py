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
from agentkit.memory.case import printable
from agentkit.memory.evidence import BodyOf, EpisodeOf, doubts_about, is_shown, lack_of_evidence
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
    """How far it may be trusted at most: what it claimed, or less; `OBSERVED` for what a step of our own shows."""
    duplicate_of: str | None = None
    """Id of the memory it repeats."""
    merges: bool = False
    """A duplicate that claims the same and would be active if it were new: its evidence and its `trust`, if that is
    higher, may be merged into the memory it repeats."""


class Gate:
    """Judges drafts one by one; holds settings only, so one gate may serve many threads.

    Args:
        settings: Limits.
        episode_of: Finds recorded episodes. With it, a draft that claims to come from our own episodes (`OBSERVED`)
            is believed only if they bear it out, and an untrusted one if a step of theirs is what it says; without
            it, the one is taken at its word and the other is not believed.
        body_of: Finds memories. With it, what an episode did because a memory told it to is no evidence. A store looks
            among its own.
    """

    def __init__(
        self,
        settings: GateSettings | None = None,
        *,
        episode_of: EpisodeOf | None = None,
        body_of: BodyOf | None = None,
    ) -> None:
        self._settings = settings or GateSettings()
        self._episode_of, self._body_of = episode_of, body_of

    def against(self, episode_of: EpisodeOf | None, body_of: BodyOf) -> Gate:
        """This gate with these recorded episodes as evidence (None: its own, if any), played under these memories."""
        return Gate(self._settings, episode_of=episode_of or self._episode_of, body_of=body_of)

    def admit(self, draft: Draft, vector: np.ndarray | None, known: Neighbours, *, besides: str = "") -> Verdict:
        """The verdict on one draft; `known` is not changed, whoever writes the memory adds it.

        What a person has written and vouches for (`human` and `TRUSTED`) is active; signs in it are reported.

        Args:
            draft: What is to be remembered.
            vector: [dim] unit vector of it, of the embedder that made those of `known`; None compares words only.
            known: What is remembered already.
            besides: Id of the memory whose next version it would be; that one it may repeat.

        Raises:
            ConfigError: `vector` is not a finite unit vector.
        """
        if vector is not None and not _is_unit(vector):
            raise ConfigError(f"the draft's vector (shape {vector.shape}) must be one finite vector of length 1")
        if faults := tuple(self._faults(draft)):
            return Verdict("rejected", faults)
        match = known.repeated(draft, vector, besides=besides)
        signs = tuple(f"it holds {sign}" for sign in signs_of(draft)) if self._settings.scan else ()
        by_trust = self._by_trust(draft)
        if match is not None:  # before the scan: what is fed back must add nothing, not even to the quarantine
            merges = match.same_claim and not signs and by_trust.status == "active"
            return Verdict("rejected", (match.reason,), by_trust.trust, match.memory_id, merges)
        if draft.source.writer == "human" and draft.trust == Trust.TRUSTED:
            return Verdict(by_trust.status, (*by_trust.reasons, *signs), by_trust.trust)
        return Verdict("quarantine", signs) if signs else by_trust

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
        if draft.source.writer != "human":  # more than OBSERVED is given by a person or by playing it again
            trust = min(trust, Trust.OBSERVED)
        if draft.source.writer in ("tool", "import") and trust == Trust.OBSERVED and self._episode_of is None:
            return Verdict("probation", (f"written by {draft.source.writer!r} and not checked against episodes",))
        if trust == Trust.OBSERVED and self._episode_of is not None:
            lack = lack_of_evidence(draft, self._episode_of, self._body_of)
            if lack is not None:
                return Verdict("probation", (f"not borne out: {lack}",))
        if trust == Trust.UNTRUSTED:
            if self._episode_of is None or not is_shown(draft, self._episode_of, self._body_of):
                return Verdict("probation", ("its source is untrusted",))
            trust = Trust.OBSERVED  # whoever says it, a step of our own is what it says
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


def signs_of(draft: Draft) -> tuple[str, ...]:
    """What in any part of a draft has no place in data (`suspicion.signs_in`), one phrase a sign.

    Control characters count where a policy would read them, not in the body, which keeps records as they were.
    """
    read = [draft.text, *draft.keys.values(), draft.source.name]
    kept = [printable(text) for text in _strings(draft.body.model_dump())]
    return signs_in("\n".join(dict.fromkeys([*read, *kept])))


def _is_unit(vector: np.ndarray) -> bool:
    return vector.ndim == 1 and bool(np.isfinite(vector).all()) and abs(float(np.linalg.norm(vector)) - 1.0) <= 1e-3


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _strings(part)
