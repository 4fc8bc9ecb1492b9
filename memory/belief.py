"""Belief: what is held for true about a subject, when sources contradict each other and the world changes.

All values of one subject and relation are versions of one memory. The newest says what is believed now; each holds for
an interval of the world's time, and a newer version prevails over an older one where their intervals overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from sqlalchemy import func, select

from agentkit.errors import ConfigError, RecordError
from agentkit.memory.journal import memory_id, memory_of
from agentkit.memory.kinds import Draft, FactBody, Memory, Trust
from agentkit.memory.layout import memories
from agentkit.memory.novelty import Neighbours
from agentkit.memory.records import Record

if TYPE_CHECKING:
    from agentkit.memory.store import MemoryStore

Weighed = Literal["new", "same", "confirmed", "updated", "earlier", "disputed", "refused"]
"""What became of a fact: the first of its subject and relation; known to the letter; the same value again; in place of
the value so far; it held before the value so far did; neither prevails; less trusted than the value so far."""


class Held(Record):
    """A value and when it held."""

    value: str
    valid_from: float | None
    """Unix time in seconds; None for always."""
    valid_to: float | None
    """Up to here, this moment not included; None for still."""
    version: int


def believe(store: MemoryStore, draft: Draft) -> Weighed:
    """Write a fact, weighed against what is believed about its subject and relation.

    1. Another value that is *more trusted*, or *as trusted and true from a later time on*, takes the place of the value
       so far, which ends where it begins. So does one from the same named source, which corrects itself.
    2. One that is true from an earlier time on, and no more trusted, is weighed against the value that held then. If it
       prevails, it held up to the next beginning; the value so far stays.
    3. One that is as trusted, from another source, with no time or the same, makes the memory `disputed`: it is no
       longer recalled, and both values are kept as versions until a later fact prevails over all of them, or `decide`
       ends it.
    4. One that is *less trusted*, or in which the store's gate finds an injection, is kept as a version in
       quarantine; the value so far stays.

    The same value again adds up `num_seen` and pools the episodes; told twice from the same episodes it counts once.

    When a value ends or is disputed, so is what was made from it, all the way down: derived memories end at the same
    time, or are disputed. All of it is one write: there after a crash or not at all, and taken back by one `undo`,
    after which the fact counts as never told.

    Args:
        store: Where it is believed.
        draft: A fact. `valid_from` is when it was observed or began, if that is known.

    Raises:
        ConfigError: It is no fact, or holds from a time after its end.
        RecordError: The gate refuses it as malformed. Nothing was written.
    """
    body = draft.body
    if not isinstance(body, FactBody):
        raise ConfigError(f"believe() weighs facts, got a memory of kind {draft.kind}; use MemoryStore.write")
    if draft.valid_from is not None and draft.valid_to is not None and draft.valid_from >= draft.valid_to:
        raise ConfigError(f"the fact holds from {draft.valid_from} to {draft.valid_to}; it must end after it begins")
    with store.alone():
        return _weigh(store, draft, body)


def _weigh(store: MemoryStore, draft: Draft, body: FactBody) -> Weighed:
    """Write a draft with that body, weighed against the versions that stand; no other thread writes meanwhile."""
    id, draft = memory_id(draft), _screened(store, draft)
    versions = _standing(store, id)
    if not versions or versions[-1].status == "retired":
        store.revise([draft], "believe: new")
        return "new"
    now, said = versions[-1], [version.draft() for version in versions]
    if _is_repeated(draft, said):
        return "same"
    if now.status == "quarantine" and draft.trust < Trust.TRUSTED:  # only a person or `decide` lifts that
        store.revise([draft.model_copy(update={"status": "quarantine"})], "believe: refused")
        return "refused"
    if draft.status == "quarantine":
        _write_aside(store, draft, now, "refused")
        return "refused"
    rivals = _rivals(versions)
    most = max(rival.trust for rival in rivals)
    if _precedes(draft, rivals) and (draft.trust <= most or _over_before(draft, rivals)):
        return _believe_of_the_past(store, draft, versions)
    if len(rivals) == 1 and _value(now) == body.value and not _over(now, draft):
        store.revise([_confirmed(now, draft)], "believe: confirmed")
        return "confirmed"
    if draft.trust < most:
        _write_aside(store, draft.model_copy(update={"status": "quarantine"}), now, "refused")
        return "refused"
    derived = _descendants(store, id)
    others = [rival for rival in rivals if _value(rival) != body.value or _over(rival, draft)]
    if draft.trust > most or all(_gives_way(rival, draft) for rival in others):
        store.revise([draft, *(_ended(one, draft.valid_from) for one in derived)], "believe: updated")
        return "updated"
    doubted = [one.draft(status="disputed") for one in derived]
    store.revise([draft.model_copy(update={"status": "disputed"}), *doubted], "believe: disputed")
    return "disputed"


def _is_repeated(draft: Draft, said: Sequence[Draft]) -> bool:
    """Whether a fact says nothing that was not said before, whatever became of it then."""
    alike = [
        one for one in said if one.model_copy(update={"status": draft.status, "valid_to": draft.valid_to}) == draft
    ]
    if alike and (alike[-1] is said[-1] or draft.valid_from is not None or alike[-1].status != draft.status):
        return True
    cited, now = draft.source.episode_ids, said[-1]
    return bool(cited) and draft.body == _once(now, draft) and set(cited) <= set(now.source.episode_ids)


def _once(now: Draft, draft: Draft) -> FactBody:
    """What is believed now, with the count of the draft."""
    assert isinstance(now.body, FactBody)
    assert isinstance(draft.body, FactBody)
    return now.body.model_copy(update={"num_seen": draft.body.num_seen})


def _screened(store: MemoryStore, draft: Draft) -> Draft:
    """The draft with the trust and status that the gate of the store gives it, whatever is believed so far."""
    if store.gate is None:
        return draft
    verdict = store.gate.admit(draft, None, Neighbours())
    if verdict.status == "rejected":
        raise RecordError(f"nothing was written, for the fact is malformed: {'; '.join(verdict.reasons)}")
    return draft.model_copy(update={"trust": min(draft.trust, verdict.trust), "status": verdict.status})


def _believe_of_the_past(store: MemoryStore, draft: Draft, versions: Sequence[Memory]) -> Weighed:
    """Weigh a fact that began before the newest value did, which stays: against the value that held then."""
    assert draft.valid_from is not None
    assert isinstance(draft.body, FactBody)
    now, counting = versions[-1], _counting(versions)
    begins = [one.valid_from for one in counting if one.valid_from is not None and one.valid_from > draft.valid_from]
    ends = [*begins, *([draft.valid_to] if draft.valid_to is not None else [])]
    earlier = draft.model_copy(update={"valid_to": min(ends)})
    then = _holder(counting, draft.valid_from)
    if then is not None and _value(then) == draft.body.value:
        return "same"
    if then is not None and draft.trust < then.trust:
        _write_aside(store, earlier.model_copy(update={"status": "quarantine"}), now, "refused")
        return "refused"
    clear = then is None or draft.trust > then.trust or _gives_way(then, draft)
    if not clear:
        earlier = earlier.model_copy(update={"status": "disputed"})
    _write_aside(store, earlier, now, "earlier")
    return "earlier"


def _write_aside(store: MemoryStore, draft: Draft, now: Memory, what: str) -> None:
    """Write a version that is kept but not believed now: what is believed follows it in the same write."""
    store.revise([draft, now.draft()], f"believe: {what}")


def end_belief(store: MemoryStore, id: str, at_s: float) -> Memory:
    """Say that a memory no longer holds from a Unix time on; what was made from it ends with it, in the same write.

    Raises:
        RecordError: There is no such memory, or it begins later than that.
    """
    with store.alone():
        memory = store.get(id)
        if memory is None:
            raise RecordError(f"there is no memory {id!r} to end; `held()` lists them")
        begin = memory.valid_from
        if begin is not None and begin >= at_s:
            raise RecordError(f"memory {id} holds from {begin} on and cannot end at {at_s}; retire it instead")
        ends = [_ended(one, at_s) for one in _descendants(store, id)]
        store.revise([memory.draft(valid_to=at_s), *ends], "end")
        return store.get(id) or memory


def beliefs(store: MemoryStore, id: str) -> list[Held]:
    """All values of a fact that held at some time, as believed now, in order of time; nothing for disputed times."""
    marks = {-float("inf")}
    versions = _counting(_standing(store, id))
    for version in versions:
        marks |= {mark for mark in (version.valid_from, version.valid_to) if mark is not None}
    found: list[Held] = []
    edges = sorted(marks)
    for begin, end in zip(edges, [*edges[1:], None], strict=True):
        holder = _holder(versions, begin)
        if holder is None:
            continue
        start = None if begin == -float("inf") else begin
        if found and found[-1].version == holder.version and found[-1].valid_to == start:
            found[-1] = found[-1].model_copy(update={"valid_to": end})
        else:
            found.append(Held(value=_value(holder), valid_from=start, valid_to=end, version=holder.version))
    return found


def believed(store: MemoryStore, id: str, at_s: float) -> str | None:
    """The value of a fact at a Unix time of the world, as believed now; None if it is unknown, over, or disputed."""
    holder = _holder(_counting(_standing(store, id)), at_s)
    return None if holder is None else _value(holder)


def rival_values(store: MemoryStore, id: str) -> tuple[str, ...]:
    """The values between which a disputed fact is undecided, in order of their versions; one if it is not disputed."""
    return tuple(dict.fromkeys(_value(one) for one in _rivals(_standing(store, id))))


def _standing(store: MemoryStore, id: str) -> list[Memory]:
    """The versions of a memory, oldest first, without those that were undone.

    To undo a write is to write an earlier version again, under the number it had: what preceded it then does again.
    """
    versions = store.versions(id)
    preceding: list[int] = []
    newest: dict[int, int] = {}  # number of a version -> where it was written last
    for place, version in enumerate(versions):
        again = newest.get(version.version)
        if again is None or version.version == versions[place - 1].version + 1:
            preceding.append(place - 1)
        else:
            preceding.append(preceding[again])
        newest[version.version] = place
    listed, place = list[Memory](), len(versions) - 1
    while place >= 0:
        listed.append(versions[place])
        place = preceding[place]
    return listed[::-1]


def _counting(versions: Sequence[Memory]) -> list[Memory]:
    """The versions that say something about the world, oldest first: all since it was last retired."""
    listed: list[Memory] = []
    for version in versions:
        if version.status == "retired":
            listed = []
        elif version.status != "quarantine":
            listed.append(version)
    return listed


def _holder(versions: Sequence[Memory], at_s: float) -> Memory | None:
    """The newest version that speaks of a moment; None if that one is disputed or says that it is over."""
    for number, version in reversed(list(enumerate(versions))):
        begins = version.valid_from is None or version.valid_from <= at_s
        if begins and (version.valid_to is None or at_s < version.valid_to):
            return None if version.status == "disputed" else version
        # The end of a value, said later of the same value, prevails over what was said of it before.
        before = versions[number - 1] if number else None
        if begins and before is not None and _value(before) == _value(version):
            return None
    return None


def _rivals(versions: Sequence[Memory]) -> list[Memory]:
    """The newest version, and if it is disputed, those it disputes with; oldest first."""
    now = versions[-1]
    rivals = [now]
    for version in reversed(versions[:-1]):
        if rivals[-1].status != "disputed":
            break
        aside = version.valid_to is not None and now.valid_from is not None and version.valid_to <= now.valid_from
        if version.status != "quarantine" and not aside:
            rivals.append(version)
    return rivals[::-1]


def _value(memory: Memory) -> str:
    assert isinstance(memory.body, FactBody)
    return memory.body.value


def _over(memory: Memory, draft: Draft) -> bool:
    """The memory had ended when the draft began."""
    return memory.valid_to is not None and draft.valid_from is not None and draft.valid_from >= memory.valid_to


def _precedes(draft: Draft, rivals: Sequence[Memory]) -> bool:
    """It began before all of them did."""
    return draft.valid_from is not None and all(
        rival.valid_from is not None and draft.valid_from < rival.valid_from for rival in rivals
    )


def _over_before(draft: Draft, rivals: Sequence[Memory]) -> bool:
    """It was over when they began, so that it does not contradict them, however trusted it is."""
    return draft.valid_to is not None and all(draft.valid_to <= (rival.valid_from or 0.0) for rival in rivals)


def _gives_way(memory: Memory, draft: Draft) -> bool:
    """`draft`, as trusted, prevails: it began later, or its source corrects itself."""
    if memory.valid_from is not None and draft.valid_from is not None and draft.valid_from != memory.valid_from:
        return draft.valid_from > memory.valid_from
    named = bool(draft.source.name) and draft.source.name == memory.source.name
    return _over(memory, draft) or (named and draft.source.writer == memory.source.writer)


def _confirmed(memory: Memory, draft: Draft) -> Draft:
    assert isinstance(memory.body, FactBody)
    assert isinstance(draft.body, FactBody)
    source = memory.source if memory.trust >= draft.trust else draft.source
    episodes = tuple(dict.fromkeys((*memory.source.episode_ids, *draft.source.episode_ids)))
    return memory.draft(
        body=memory.body.model_copy(update={"num_seen": memory.body.num_seen + draft.body.num_seen}),
        source=source.model_copy(update={"episode_ids": episodes}),
        trust=max(memory.trust, draft.trust),
        valid_to=draft.valid_to if memory.valid_to is None else memory.valid_to,
    )


def _ended(memory: Memory, at_s: float | None) -> Draft:
    """The memory ended at that time; disputed, if the time is unknown or it would end before it begins."""
    if at_s is None or (memory.valid_from is not None and memory.valid_from >= at_s):
        return memory.draft(status="disputed")
    return memory.draft(valid_to=at_s if memory.valid_to is None else min(memory.valid_to, at_s))


def _descendants(store: MemoryStore, id: str) -> list[Memory]:
    """Memories that were made from it, and from those; in order of their ids."""
    found: dict[str, Memory] = {}
    level = [id]
    with store.database.reading() as connection:
        while level:
            named = func.instr(memories.c.draft, f'"{level.pop()}"') > 0  # most drafts need not be parsed then
            query = select(memories).where(named, memories.c.ended.is_(None), memories.c.status != "retired")
            for memory in map(memory_of, connection.execute(query)):
                if memory.id not in (id, *found) and {id, *found} & set(memory.source.parents):
                    found[memory.id] = memory
                    level.append(memory.id)
    return [found[id] for id in sorted(found)]
