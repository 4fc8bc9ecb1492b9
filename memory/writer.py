"""Writer: the one way into a store for what others say, through the gate and past what is known already.

A draft becomes a new memory, the next version of its own memory, or evidence for the memory that it repeats; or it is
refused. Nothing in a draft can lift a decision that was made about its memory: status and trust rise by evidence only.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sqlalchemy import Connection, Row, insert, text

from agentkit.memory import journal
from agentkit.memory.evidence import BodyOf, EpisodeOf
from agentkit.memory.gate import Gate, GateSettings, signs_of
from agentkit.memory.journal import memory_of
from agentkit.memory.kinds import Body, Draft, FailureBody, Memory, Status, Trust
from agentkit.memory.layout import marks, notes
from agentkit.memory.novelty import Neighbours, anchor_of, claim_of, content_hash, probes_of, scope_of, shingles_of

MOST_EPISODES = 100
"""Episodes that a memory names as evidence; further ones that say the same add nothing."""
HELD_BACK = ("quarantine", "disputed")
"""Statuses that only `MemoryStore.decide` or a person lifts."""
OUT_OF_DATE = "the attempts on record no longer bear it out"
"""Note on a memory that a sync has retired; if they do again, a sync takes it back."""
_MOST_ALIKE = 32  # known memories of one claim that a draft is compared with
_COUNTS = ("num_seen", "num_uses", "num_successes")

Embed = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Decision:
    """What becomes of one draft, and why."""

    outcome: Status | Literal["merged", "rejected"]
    """The status it is written with; `merged` if it is evidence for a memory that is there; `rejected` if it adds
    nothing or cannot be written."""
    memory_id: str
    """Id of the memory that it becomes, adds to or repeats; empty if it cannot be written."""
    reasons: tuple[str, ...]
    """Sentences without a full stop; empty if there is nothing to say."""
    draft: Draft
    """As it would be written: with the status and trust that it is given."""


@dataclass(frozen=True)
class Plan:
    """What a write would do."""

    decisions: list[Decision]
    """One for each draft, in order."""
    versions: list[Memory]
    """What to append to the journal."""
    notes: dict[str, tuple[str, ...]]
    """Id of a memory -> why it was given its status."""


class Writer:
    """Decides what becomes of drafts; writes nothing itself, so that the store can append all in one transaction.

    Args:
        gate: What admits drafts; None takes them as they are.
        embed: [N, dim] unit vectors of texts.
    """

    def __init__(self, gate: Gate | None, embed: Embed) -> None:
        self._gate = gate
        self._embed = embed

    def plan(
        self,
        connection: Connection,
        drafts: Iterable[Draft],
        *,
        episode_of: EpisodeOf | None = None,
        complete: bool = False,
    ) -> Plan:
        """What would become of drafts, each judged after those before it.

        Args:
            connection: A transaction on the journal.
            drafts: What is to be remembered; their keys are sound.
            episode_of: Recorded episodes, against which claims of our own episodes are checked.
            complete: The drafts name all the evidence there is, so that it replaces what their memories name;
                otherwise it is added.
        """
        drafts = list(drafts)
        ids = [journal.memory_id(draft) for draft in drafts]
        rows = journal.current(connection, list(dict.fromkeys(ids)))
        held = {id: memory_of(row) for id, row in rows.items() if row.draft}  # one without is forgotten
        gate = self._gate
        if gate is None and episode_of is not None:  # a sync adds evidence up with any gate
            gate = Gate(GateSettings(scan=False))
        if gate is not None:
            gate = gate.against(episode_of, _body_in(connection))
        judged = [] if gate is None else [draft for draft in drafts if not _is_record(draft)]
        known, alike, vectors = self._neighbours(connection, judged) if judged else (Neighbours(), {}, {})
        now: dict[str, Draft] = {**alike, **held}  # as it stands after the drafts so far
        revived = _out_of_date(connection, [id for id, memory in held.items() if memory.status == "retired"])
        decisions, noted = [], dict[str, tuple[str, ...]]()
        for id, draft in zip(ids, drafts, strict=True):
            if gate is None:
                decision = Decision(draft.status, id, (), draft)
            elif episode_of is not None and id in held and held[id].status == "retired" and id not in revived:
                decision = Decision("rejected", id, ("it was retired on purpose",), held[id])
            else:
                decision = _decide(gate, id, draft, now, known, vectors.get(next(iter(draft.keys.values()))), complete)
            decisions.append(decision)
            if decision.outcome != "rejected":
                now[decision.memory_id] = decision.draft
                if decision.reasons and decision.outcome != "merged":
                    noted[decision.memory_id] = decision.reasons
                if gate is not None and not _is_record(decision.draft):
                    known.add(decision.memory_id, decision.draft, vectors.get(next(iter(decision.draft.keys.values()))))
        touched = dict.fromkeys(one.memory_id for one in decisions if one.outcome != "rejected")
        held = {**alike, **held}
        number = {**{id: row.version for id, row in rows.items()}, **{id: one.version for id, one in held.items()}}
        versions = [version_of(id, now[id], number.get(id, 0) + 1) for id in touched if _differs(now[id], held.get(id))]
        return Plan(decisions, versions, {memory.id: noted[memory.id] for memory in versions if memory.id in noted})

    def screened(
        self, memories: Sequence[Memory], known: Mapping[str, Row[Any]]
    ) -> tuple[list[Memory], dict[str, tuple[str, ...]]]:
        """Imported memories as they may be written, and notes: what has signs of an attack goes to quarantine.

        Args:
            memories: What a file holds. What it calls `TRUSTED` is taken as it is.
            known: Rows of the memories of their ids; a quarantine or dispute of theirs stays.
        """
        made, noted = [], dict[str, tuple[str, ...]]()
        for memory in memories:
            signs = signs_of(memory) if self._gate is not None and memory.trust < Trust.TRUSTED else ()
            before = known[memory.id].status if memory.id in known else ""
            if signs and memory.status in ("active", "probation"):
                memory = memory.model_copy(update={"status": "quarantine"})
                noted[memory.id] = tuple(f"it holds {sign}" for sign in signs)
            elif self._gate is not None and memory.trust < Trust.TRUSTED and before in HELD_BACK:
                memory = memory.model_copy(update={"status": before})
            made.append(memory)
        return made, noted

    def _neighbours(
        self, connection: Connection, drafts: Sequence[Draft]
    ) -> tuple[Neighbours, dict[str, Memory], dict[str, np.ndarray]]:
        """The known memories that any of the drafts might repeat, found by their marks.

        Also these memories by id, and the vectors of the keys of whatever claims the same as something else.
        """
        claims = Counter(claim_mark(draft) for draft in drafts)
        marked = {
            "claims": json.dumps(sorted(claims)),
            "anchors": json.dumps(sorted({one for draft in drafts for one in shingles_of(draft.text).tolist()})),
            "most": _MOST_ALIKE * len(claims),
            "namespaces": json.dumps(sorted({draft.namespace for draft in drafts})),
        }
        seqs = [row.seq for row in connection.execute(_PROPOSED, marked)]
        found = {row.id: memory_of(row) for row in journal.rows_of(connection, seqs)}
        claims.update(claim_mark(memory) for memory in found.values())
        compared = [one for one in (*drafts, *found.values()) if claims[claim_mark(one)] > 1]
        keys = list(dict.fromkeys(key for one in compared if (key := next(iter(one.keys.values()))).strip()))
        vectors = dict(zip(keys, self._embed(keys), strict=True))
        known = Neighbours()
        for id in sorted(found):
            known.add(id, found[id], vectors.get(found[id].key))
        return known, found, vectors


def _decide(
    gate: Gate,
    id: str,
    draft: Draft,
    now: Mapping[str, Draft],
    known: Neighbours,
    vector: np.ndarray | None,
    complete: bool,
) -> Decision:
    before = now.get(id)
    verdict = gate.admit(draft, vector, Neighbours() if _is_record(draft) else known, besides=id)
    if verdict.duplicate_of is not None:
        target = now.get(verdict.duplicate_of)
        if verdict.merges and target is not None and (made := _united(target, draft, verdict.trust)) != _said(target):
            return Decision("merged", verdict.duplicate_of, verdict.reasons, made)
        return Decision("rejected", verdict.duplicate_of, verdict.reasons, draft)
    if verdict.status == "rejected":
        return Decision("rejected", "", verdict.reasons, draft)
    if before is not None:
        draft = _as_known(draft, before, complete)
    cautious = draft.status not in ("active", "probation")
    changes: dict[str, object] = {
        "trust": verdict.trust,
        "status": draft.status if cautious else verdict.status,
    }
    made = _changed(draft, changes)
    if before is None or _by_person(draft):
        return Decision(made.status, id, verdict.reasons, made)
    same = claim_of(before.body) == claim_of(draft.body)
    if before.trust > made.trust:
        if not same or verdict.status != "active":
            why = f"memory {id} is trusted more ({before.trust.name}) than this draft of it ({made.trust.name})"
            return Decision("rejected", id, (why, *verdict.reasons), _said(before))
        if not complete:
            made = _united(before, draft, before.trust)
            return Decision("merged", id, (), made)
        made = _changed(made, {"trust": before.trust, "status": before.status})
    reasons = verdict.reasons
    if before.status in HELD_BACK and not cautious:
        made = _changed(made, {"status": before.status})
        reasons = reasons or (
            f"its memory was {'disputed' if before.status == 'disputed' else 'put in quarantine'} before",
        )
    elif made.status == "quarantine" and not cautious and content_hash(before) == content_hash(made):
        made = _changed(made, {"status": before.status})  # somebody has looked at these very signs and let it pass
    if same and not complete:
        made = _with_lineage(made, before)
    return Decision(made.status, id, reasons, made)


def _as_known(draft: Draft, before: Draft, complete: bool) -> Draft:
    """A failure as its memory knows it: one without a fix has the known fix, a fix alone has the known counts."""
    new, old = draft.body, before.body
    if not isinstance(new, FailureBody) or not isinstance(old, FailureBody):
        return draft
    if complete:
        ids = _union(before.source.episode_ids, draft.source.episode_ids)
        source = draft.source.model_copy(update={"episode_ids": ids})
        body = new.model_copy(update={"num_seen": max(new.num_seen, old.num_seen)})
        return _changed(draft, {"body": body, "source": source, "status": before.status})
    if old.fix and not new.fix and (new.cause, new.action) == (old.cause, old.action):
        body = new.model_copy(update={"fix": old.fix})
        return _changed(draft, {"body": body, "text": before.text, "keys": before.keys})
    return draft


def _with_lineage(made: Draft, before: Draft) -> Draft:
    """`made` with the evidence of the version before it, if it brings evidence that this did not have."""
    united = _united(before, made, made.trust)
    if set(made.source.episode_ids) <= set(before.source.episode_ids):
        return made
    if len(before.source.episode_ids) >= MOST_EPISODES:
        return united  # it goes on saying what the episodes that it names have shown
    ids = _union(made.source.episode_ids, before.source.episode_ids)
    source = made.source.model_copy(update={"episode_ids": ids, "parents": united.source.parents})
    return _changed(made, {"body": united.body, "source": source})


def _united(target: Draft, draft: Draft, trust: Trust) -> Draft:
    """`target` with the evidence of a draft that claims the same; counts are added if it names other episodes."""
    episode_ids = _union(target.source.episode_ids, draft.source.episode_ids)
    source = target.source.model_copy(
        update={"episode_ids": episode_ids, "parents": _union(target.source.parents, draft.source.parents)}
    )
    body = target.body
    pooled: dict[str, object] = {}
    if set(draft.source.episode_ids) and not set(draft.source.episode_ids) & set(target.source.episode_ids):
        pooled = {name: getattr(body, name) + getattr(draft.body, name) for name in _COUNTS if hasattr(body, name)}
    for name in ("evidence_for", "evidence_against"):
        if hasattr(body, name):
            pooled[name] = _union(getattr(body, name), getattr(draft.body, name))
    status = "active" if target.status == "probation" and trust > target.trust else target.status
    return _changed(
        target,
        {"body": body.model_copy(update=pooled), "source": source, "trust": max(target.trust, trust), "status": status},
    )


def _union(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))[: max(MOST_EPISODES, len(first))]


def _changed(draft: Draft, changes: Mapping[str, object]) -> Draft:
    return _said(draft).model_copy(update=dict(changes))


def _said(draft: Draft) -> Draft:
    """A draft, or what a memory says as one; its values are sound, so they are not checked again."""
    return Draft.model_construct(**{name: getattr(draft, name) for name in Draft.model_fields})


def _by_person(draft: Draft) -> bool:
    return draft.source.writer == "human" and draft.trust == Trust.TRUSTED


def _is_record(draft: Draft) -> bool:
    """Whether it tells of one recorded attempt of our own: two attempts that went alike are two, not a repetition."""
    own = draft.source.writer in ("environment", "policy") and bool(draft.source.episode_ids)
    return own and draft.kind in ("episode", "step")


def _differs(draft: Draft, held: Memory | None) -> bool:
    return held is None or journal.draft_text(draft) != journal.draft_text(held)


def version_of(id: str, draft: Draft, number: int) -> Memory:
    """The version of a memory, of this number, that says what `draft` says."""
    said = {name: getattr(draft, name) for name in Draft.model_fields}
    return Memory.model_construct(**said, id=id, version=number, recorded_s=time.time(), score=None)


def claim_mark(draft: Draft) -> int:
    """What memories that claim the same in the same place are found by, 63 bits."""
    digest = hashlib.blake2b(scope_of(draft).encode() + claim_of(draft.body), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def mark(connection: Connection, versions: Sequence[Memory], why: Mapping[str, tuple[str, ...]]) -> None:
    """Keep what appended versions are found by when a draft may repeat them, and the notes on them.

    Args:
        connection: The transaction that has appended them.
        versions: What was appended.
        why: Notes by id of the memory.
    """
    if not versions:
        return
    shingles = {memory.id: shingles_of(memory.text) for memory in versions}
    probed = sorted({one for found in shingles.values() for one in probes_of(found)})
    crowd = {row.anchor: row.num for row in connection.execute(_CROWD, {"anchors": json.dumps(probed)})}
    rows = {}
    for memory in versions:
        anchor = anchor_of(shingles[memory.id], crowd)
        if anchor is not None:
            crowd[anchor] = crowd.get(anchor, 0) + 1
        rows[memory.id] = {"id": memory.id, "claim": claim_mark(memory), "anchor": anchor}
    connection.execute(insert(marks).prefix_with("OR REPLACE"), list(rows.values()))
    first = journal.last_seq(connection) - len(versions) + 1
    said = [
        {"seq": seq, "reasons": json.dumps(why[memory.id])}
        for seq, memory in enumerate(versions, first)
        if why.get(memory.id)
    ]
    if said:
        connection.execute(insert(notes), said)


def notes_on(connection: Connection, id: str) -> tuple[str, ...]:
    """Why the newest version of a memory has its status; empty if nothing was to be said."""
    found = connection.execute(_NOTES, {"ids": json.dumps([id])}).one_or_none()
    return () if found is None else tuple(json.loads(found.reasons))


def unmark(connection: Connection, ids: Iterable[str]) -> None:
    """Erase what memories are found by; they are forgotten."""
    given = {"ids": json.dumps(sorted(ids))}
    connection.execute(text("DELETE FROM marks WHERE id IN (SELECT value FROM json_each(:ids))"), given)
    connection.execute(
        text(
            "DELETE FROM notes WHERE seq IN (SELECT seq FROM versions WHERE id IN (SELECT value FROM json_each(:ids)))"
        ),
        given,
    )


def _out_of_date(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Those of the memories that a sync has retired."""
    rows = connection.execute(_NOTES, {"ids": json.dumps(list(ids))}) if ids else ()
    return {row.id for row in rows if json.loads(row.reasons) == [OUT_OF_DATE]}


_PROPOSED = text(
    "SELECT seq FROM versions WHERE ended IS NULL AND status != 'retired' AND id IN ("
    "SELECT id FROM (SELECT id FROM marks WHERE claim IN (SELECT value FROM json_each(:claims)) LIMIT :most) "
    "UNION SELECT id FROM marks WHERE anchor IN (SELECT value FROM json_each(:anchors)))"
    " AND namespace IN (SELECT value FROM json_each(:namespaces)) ORDER BY seq"
)
_CROWD = text(
    "SELECT anchor, count(*) AS num FROM marks WHERE anchor IN (SELECT value FROM json_each(:anchors)) GROUP BY anchor"
)
_NOTES = text(
    "SELECT id, reasons FROM notes JOIN versions USING (seq) "
    "WHERE id IN (SELECT value FROM json_each(:ids)) AND ended IS NULL"
)


def _body_in(connection: Connection) -> BodyOf:
    """Finds what memories of the journal say, each read once."""

    @functools.cache
    def body_of(id: str) -> Body | None:
        rows = journal.current(connection, [id])
        return memory_of(rows[id]).body if id in rows and rows[id].draft else None

    return body_of
