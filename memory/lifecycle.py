"""Lifecycle: what to keep where there is no room for everything, and how several memories become one.

Nothing goes silently: a plan says what would be retired and why, applying it is one write, and `undo` of that write
brings everything back. Retired memories are no longer recalled; only `forget` erases.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field
from sqlalchemy import Connection, select

from agentkit.errors import ConfigError, RecordError
from agentkit.memory.kinds import Body, FactBody, FailureBody, InsightBody, Memory, SkillBody, Trust
from agentkit.memory.layout import keys, memories, vectors
from agentkit.memory.records import Record
from agentkit.memory.utility import Utility

if TYPE_CHECKING:
    from agentkit.memory.store import MemoryStore

REDUNDANCY = 0.25
"""What being the very same as something kept costs a memory, where to cover all alone is worth about 0.5. Chosen."""
_RECALLED = ("active", "probation")


class Verdict(Record):
    """What a plan says of one memory."""

    id: str
    version: int
    """The version it was looked at in."""
    score: float
    """Worth x coverage − redundancy when it was decided upon, -0.25 to 1."""
    why: str


class EvictionPlan(Record):
    """What to keep and what to retire."""

    capacity: int
    kept: tuple[Verdict, ...]
    """Pinned ones first, then in the order in which they were chosen."""
    evicted: tuple[Verdict, ...]
    """In order of their ids."""
    over: int = Field(ge=0)
    """How many more than `capacity` are kept, since they are pinned."""


def plan_eviction(
    store: MemoryStore, capacity: int, *, pins: Collection[str] = (), redundancy: float = REDUNDANCY
) -> EvictionPlan:
    """Choose the `capacity` memories to keep; nothing is changed.

    They are chosen one after the other, always the one with the greatest

        worth · coverage − redundancy · likeness

    given those already chosen. *Worth* is ½ + (shrunk − sd) / 2 of its utility: what it does at the lower bound of
    its posterior; 0 if it is proved harmful. *Coverage* is the share of its states that none of the kept knows, 1 for
    memories without states. *Likeness* is the greatest cosine similarity, 0 to 1, of one of its keys to a key of one
    that is kept, of the same kind, environment and namespace. Equals are chosen by shortness, then by id. Since
    coverage only falls and likeness only rises, a score need only be looked at again when it comes first (Minoux 1978).

    Memories that are trusted (a person wrote or confirmed them) or named in `pins` are kept in any case. Those in
    quarantine or disputed wait for a decision; they are neither counted nor retired.

    Args:
        store: Where they are.
        capacity: How many memories that are recalled there shall be.
        pins: Ids to keep.
        redundancy: Weight of likeness.

    Raises:
        ConfigError: `capacity` or `redundancy` is negative, or a pin is no memory that is recalled.
    """
    if capacity < 0 or redundancy < 0:
        raise ConfigError(f"capacity is {capacity} and redundancy {redundancy}; give 0 or more")
    held = {memory.id: memory for memory in store.held() if memory.status in _RECALLED}
    unknown = sorted(set(pins) - set(held))
    if unknown:
        raise ConfigError(f"no memory {unknown[0]!r} to pin is recalled; pin what `recall` and `held` show")
    chooser = _Chooser(store, held, redundancy)
    kept = [
        chooser.keep(id, "pinned" if id in pins else "trusted")
        for id, memory in sorted(held.items())
        if id in pins or memory.trust == Trust.TRUSTED
    ]
    over = max(len(kept) - capacity, 0)
    done = {verdict.id for verdict in kept}
    queue = [(-chooser.score(id), len(held[id].text), id) for id in held if id not in done]
    heapq.heapify(queue)
    while queue and len(kept) < capacity:
        _, length, id = heapq.heappop(queue)
        score = chooser.score(id)
        if queue and (-score, length, id) > queue[0]:
            heapq.heappush(queue, (-score, length, id))
        else:
            kept.append(chooser.keep(id, "chosen"))
    evicted = [chooser.verdict(id) for id in sorted(id for _, _, id in queue)]
    return EvictionPlan(capacity=capacity, kept=tuple(kept), evicted=tuple(evicted), over=over)


def apply_eviction(store: MemoryStore, plan: EvictionPlan) -> int:
    """Retire what a plan says, in one write; returns its number for `undo`, 0 if there was nothing to retire.

    Raises:
        RecordError: One of the memories has changed since the plan was made; make another plan.
    """
    with store.alone():
        drafts = []
        for verdict in plan.evicted:
            memory = store.get(verdict.id)
            if memory is None or memory.version != verdict.version or memory.status not in _RECALLED:
                raise RecordError(f"memory {verdict.id} has changed since this plan was made; plan again, then apply")
            drafts.append(memory.draft(status="retired"))
        return store.revise(drafts, f"evict: keep {plan.capacity}")


def merge(store: MemoryStore, ids: Iterable[str], what: str = "merge") -> Memory:
    """Make one memory of several that say the same; the others are retired, all in one write.

    The one with the most evidence, equals by id, goes on as the merged memory's next version. Counts are added, for
    they count different uses; episodes are pooled as sets, so one that both cite counts once. Evidence for and against
    is kept on both sides, whatever the other side says. Trust is the least of all. The merged memory holds in the world
    from the earliest beginning to the latest end. Its parents are the others and all their parents.

    Raises:
        ConfigError: Fewer than two memories, or they are of a kind that is not merged: episodes and steps are what
            happened, each once.
        RecordError: One is not there or not recalled; they differ in kind, environment, task, namespace or split; facts
            contradict each other; or one is already part of another.
    """
    wanted = sorted(set(ids))
    if len(wanted) < 2:
        raise ConfigError(f"merging takes two memories or more, got {len(wanted)}")
    with store.alone():
        return _merge(store, wanted, what)


def _merge(store: MemoryStore, wanted: Sequence[str], what: str) -> Memory:
    found = [_recalled(store, id) for id in wanted]
    main = max(found, key=lambda memory: _evidence(memory.body))
    for memory in found:
        _check_alike(main, memory)
        eaten = set(memory.source.parents) & set(wanted)
        if eaten:
            raise RecordError(f"memory {min(eaten)} is a parent of {memory.id} already; its evidence would count twice")
    others = [memory for memory in found if memory is not main]
    sources = [main.source, *(memory.source for memory in others)]
    parents = [*(memory.id for memory in others), *(parent for source in sources for parent in source.parents)]
    pooled = main.draft(
        body=_pool(main.body, [memory.body for memory in others]),
        source=main.source.model_copy(
            update={
                "episode_ids": _union(source.episode_ids for source in sources),
                "turns": (),  # they are turns of one episode
                "parents": tuple(id for id in dict.fromkeys(parents) if id != main.id),
            }
        ),
        trust=min(memory.trust for memory in found),
        status="active" if any(memory.status == "active" for memory in found) else "probation",
        importance=max(memory.importance for memory in found),
        valid_from=None if any(one.valid_from is None for one in found) else min(one.valid_from or 0 for one in found),
        valid_to=None if any(one.valid_to is None for one in found) else max(one.valid_to or 0 for one in found),
    )
    store.revise([pooled, *(memory.draft(status="retired") for memory in others)], f"{what} {main.id}")
    return _recalled(store, main.id)


class _Chooser:
    """What is kept so far, and what a further memory would add."""

    def __init__(self, store: MemoryStore, held: dict[str, Memory], redundancy: float) -> None:
        self._held, self._redundancy = held, redundancy
        self._utility = store.ledger.utilities(held)
        with store.database.reading() as connection:
            self._vectors = _key_vectors(connection, held)
        self._known: dict[tuple[str, str], set[str]] = {}
        self._kept: dict[tuple[str, str, str], list[np.ndarray]] = {}
        self._likeness: dict[str, tuple[int, float]] = {}

    def score(self, id: str) -> float:
        memory = self._held[id]
        score = _worth(self._utility[id]) * self._coverage(memory) - self._redundancy * self._alike(memory)
        return round(score, 6)  # cosines differ in the last digits by the order of summation; equals go by length

    def verdict(self, id: str) -> Verdict:
        memory, utility = self._held[id], self._utility[id]
        why = f"worth {_worth(utility):.2f} x coverage {self._coverage(memory):.2f}, likeness {self._alike(memory):.2f}"
        if utility.harmful:
            why += ", proved harmful"
        return Verdict(id=id, version=memory.version, score=self.score(id), why=why)

    def keep(self, id: str, reason: str) -> Verdict:
        verdict = self.verdict(id)
        memory = self._held[id]
        self._known.setdefault(_place(memory), set()).update(_states(memory))
        self._kept.setdefault((memory.kind, *_place(memory)), []).append(self._vectors[id])
        return verdict.model_copy(update={"why": f"{reason}: {verdict.why}"})

    def _coverage(self, memory: Memory) -> float:
        states, known = _states(memory), self._known.get(_place(memory), set())
        return len(states - known) / len(states) if states else 1.0

    def _alike(self, memory: Memory) -> float:
        """Greatest likeness to what is kept; only what was kept since the last time is compared."""
        kept = self._kept.get((memory.kind, *_place(memory)), [])
        seen, most = self._likeness.get(memory.id, (0, 0.0))
        if seen < len(kept):
            most = max(most, float((self._vectors[memory.id] @ np.concatenate(kept[seen:]).T).max()))
            self._likeness[memory.id] = (len(kept), most)
        return min(most, 1.0)


def _worth(utility: Utility) -> float:
    return 0.0 if utility.harmful else min(max(0.5 + (utility.shrunk - utility.sd) / 2, 0.0), 1.0)


def _place(memory: Memory) -> tuple[str, str]:
    return memory.namespace, memory.env_id


def _states(memory: Memory) -> set[str]:
    """States in which it says what to do."""
    body = memory.body
    match body.kind:
        case "episode":
            return set(body.state_keys) - {""}
        case "step":
            return {body.state_key} - {""}
        case _:
            return set()


def _key_vectors(connection: Connection, held: Collection[str]) -> dict[str, np.ndarray]:
    """[keys, dim] unit vectors of the keys of each memory."""
    query = (
        select(memories.c.id, vectors.c.embedding)
        .join_from(memories, keys, keys.c.seq == memories.c.seq)
        .join(vectors, vectors.c.number == keys.c.vector)
        .where(memories.c.ended.is_(None))
        .order_by(memories.c.id, keys.c.field)
    )
    found: dict[str, list[np.ndarray]] = {id: [] for id in held}
    for id, embedding in connection.execute(query):
        if id in found:
            found[id].append(np.frombuffer(embedding, np.float32))
    return {id: np.stack(listed) for id, listed in found.items()}


def _recalled(store: MemoryStore, id: str) -> Memory:
    memory = store.get(id)
    if memory is None:
        raise RecordError(f"there is no memory {id!r} to merge; `held()` lists them")
    if memory.status not in _RECALLED:
        raise RecordError(f"memory {id} is {memory.status}; `decide` about it before merging")
    return memory


def _check_alike(main: Memory, other: Memory) -> None:
    if main.kind in ("episode", "step"):
        raise ConfigError(f"memory {main.id} is of kind {main.kind}: what happened is not merged; evict it instead")
    for name in ("kind", "env_id", "task_key", "namespace", "split"):
        mine, theirs = getattr(main, name), getattr(other, name)
        if mine != theirs:
            raise RecordError(
                f"memories {main.id} and {other.id} differ in {name} ({mine!r}, {theirs!r}); merge equals"
            )
    if isinstance(main.body, FactBody) and isinstance(other.body, FactBody) and main.body.value != other.body.value:
        raise RecordError(
            f"facts {main.id} and {other.id} say {main.body.value!r} and {other.body.value!r}; find out which holds "
            "and retire the other with `decide`"
        )


def _evidence(body: Body) -> int:
    match body:
        case FactBody() | FailureBody():
            return body.num_seen
        case SkillBody():
            return body.num_uses
        case InsightBody():
            return len(body.evidence_for) + len(body.evidence_against)
        case _:
            return 1


def _pool(main: Body, others: Sequence[Body]) -> Body:
    """The body of the merged memory; all are of one kind."""
    bodies = [main, *others]

    def total(name: Literal["num_seen", "num_uses", "num_successes"]) -> int:
        return sum(getattr(body, name) for body in bodies)

    match main:
        case FactBody():
            return main.model_copy(update={"num_seen": total("num_seen")})
        case FailureBody():
            fix = next((body.fix for body in bodies if isinstance(body, FailureBody) and body.fix), "")
            return main.model_copy(update={"num_seen": total("num_seen"), "fix": fix})
        case SkillBody():
            counted = {"num_uses": total("num_uses"), "num_successes": total("num_successes")}
            return main.model_copy(update=counted)
        case InsightBody():
            said = [body for body in bodies if isinstance(body, InsightBody)]
            pooled = {
                "evidence_for": _union(body.evidence_for for body in said),
                "evidence_against": _union(body.evidence_against for body in said),
            }
            return main.model_copy(update=pooled)
        case _:
            raise AssertionError(main.kind)


def _union(many: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(id for some in many for id in some))
