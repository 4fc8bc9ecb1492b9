"""Lessons of an episode log: what a sync writes, a batch at a time, from where the last one stopped.

What one episode says is drafted as it comes. What attempts say together (insights, skills, fixes of failures) is drawn
anew from the newest episodes after there are new ones, and what no longer follows from them is retired; so the outcome
depends on the log and not on how often it was synced.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from agentkit.errors import ConfigError, unknown_name
from agentkit.memory import journal
from agentkit.memory.case import draft_of
from agentkit.memory.distillation import distil
from agentkit.memory.ingestion import ingest
from agentkit.memory.journal import memory_of
from agentkit.memory.kinds import Draft, FailureBody, Kind, Memory, Trust
from agentkit.memory.layout import memories
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode, Turn
from agentkit.memory.skills import extract_skills
from agentkit.memory.writer import MOST_EPISODES, OUT_OF_DATE, Plan, Writer, version_of

KINDS: tuple[Kind, ...] = ("episode", "step", "fact", "failure", "insight", "skill")
"""What a sync can write."""
SUCCESSES: tuple[Kind, ...] = ("episode",)
"""What a sync writes unless it is told otherwise."""
BATCH = 64
"""Episodes whose drafts are written in one transaction."""
WINDOW = 2_000
"""Newest episodes of the log from which attempts are compared."""
WINDOW_CHARACTERS = 50_000_000
"""Characters of observations of these, at most; older episodes are left out first."""
_COMPARED: frozenset[Kind] = frozenset({"failure", "insight", "skill"})
_STRIPPED = {
    "messages": (),
    "prompt_ids": (),
    "prompt_roles": (),
    "response_ids": (),
    "response_roles": (),
    "logprobs": (),
}


@dataclass(frozen=True)
class Lesson:
    """What is to be written in one transaction."""

    drafts: list[Draft]
    cursors: dict[str, int]
    """Keys of the store's state -> sequence number up to which the log is read then."""
    episodes: dict[str, Episode] = field(default_factory=dict)
    """Episodes that the drafts are about, by id."""
    compared: frozenset[str] = frozenset()
    """Ids of the attempts that were compared, if the drafts name all that follows from them."""
    env_ids: frozenset[str] = frozenset()
    """Environments whose attempts were compared."""
    kinds: frozenset[Kind] = frozenset()
    """Kinds of what was drawn from comparing them."""


def check_kinds(kinds: Collection[Kind]) -> None:
    """Refuse kinds that no sync can write.

    Raises:
        UnknownNameError: There is no such kind.
        ConfigError: There are none, or a text was given where a collection of them is needed.
    """
    if isinstance(kinds, str) or not kinds:
        raise ConfigError(f"kinds={kinds!r}; give one or more of {', '.join(KINDS)}, e.g. kinds=('episode', 'insight')")
    for kind in kinds:
        if kind not in KINDS:
            raise unknown_name("kind of memory", kind, KINDS)


def lessons(log: EpisodeLog, kinds: Collection[Kind], state: Mapping[str, str]) -> Iterator[Lesson]:
    """What to write of a log, in order, given how far it was read for each kind.

    Args:
        log: Recorded episodes; those recorded later than now are left for the next time.
        kinds: Of `KINDS`.
        state: The store's state, with the cursors of earlier lessons.
    """
    last = log.last_seq
    keys = {kind: cursor_of(log, kind) for kind in KINDS if kind in kinds}
    read = {kind: int(state.get(key, 0)) for kind, key in keys.items()}
    single = {kind: seq for kind, seq in read.items() if kind not in ("insight", "skill")}
    if single:
        yield from _of_each(log, keys, single, last)
    compared = {_compared_key(log, kind): kind for kind in keys if kind in _COMPARED}
    seen = min((int(state.get(key, 0)) for key in compared), default=last)
    if seen < last:
        yield _of_all(log, frozenset(compared.values()), seen, last, dict.fromkeys(compared, last))


def cursor_of(log: EpisodeLog, kind: Kind) -> str:
    """Key of the store's state that says how far a log was read for the memories of a kind that one episode gives."""
    return f"cursor:{log.id}" if kind == "episode" else f"cursor:{log.id}:{kind}"


def _compared_key(log: EpisodeLog, kind: Kind) -> str:
    return f"cursor:{log.id}:compared:{kind}"


def _of_each(log: EpisodeLog, keys: Mapping[Kind, str], read: Mapping[Kind, int], last: int) -> Iterator[Lesson]:
    success = True if set(read) == {"episode"} else None
    drafts: list[Draft] = []
    episodes: dict[str, Episode] = {}
    for seq, episode in log.numbered(after=min(read.values()), success=success):
        if seq > last:
            break
        drafts += _drafts(episode, [kind for kind, after in read.items() if seq > after])
        episodes[episode.id] = episode
        if len(episodes) == BATCH:
            yield Lesson(drafts, {keys[kind]: max(seq, after) for kind, after in read.items()}, episodes)
            drafts, episodes = [], {}
    yield Lesson(drafts, {keys[kind]: last for kind in read}, episodes)


def _drafts(episode: Episode, kinds: Collection[Kind]) -> Iterator[Draft]:
    if "episode" in kinds and episode.success:
        yield draft_of(episode)
    yield from ingest(episode, [kind for kind in kinds if kind != "episode"])


def _of_all(log: EpisodeLog, kinds: frozenset[Kind], seen: int, last: int, cursors: dict[str, int]) -> Lesson:
    """What follows from comparing the newest attempts in those environments that were played since `seen`."""
    window: deque[tuple[Episode, int]] = deque()
    total, env_ids = 0, set[str]()
    for seq, episode in log.numbered(after=max(0, min(seen, last - WINDOW))):
        if seq > last:
            break
        if seq > seen:
            env_ids.add(episode.task.env_id)
        if seq > last - WINDOW:
            size = sum(len(turn.observation) for turn in episode.turns)
            window.append((_stripped(episode), size))
            total += size
            while total > WINDOW_CHARACTERS:
                total -= window.popleft()[1]
    episodes = {episode.id: episode for episode, _ in window if episode.task.env_id in env_ids}
    won = [episode for episode in episodes.values() if episode.success]
    lost = [episode for episode in episodes.values() if not episode.success]
    drafts: list[Draft] = []
    if kinds & {"insight", "failure"}:
        found = distil(won, lost)
        fixes: dict[tuple[str, ...], Draft] = {}
        for draft in sorted((one for one in found if one.kind == "failure"), key=_num_seen, reverse=True):
            fixes.setdefault(draft.identity, draft)  # of several fixes the one that helped most often
        drafts += [draft for draft in found if draft.kind == "insight" and "insight" in kinds]
        drafts += fixes.values() if "failure" in kinds else ()
    if "skill" in kinds:
        drafts += extract_skills(episodes.values())
    return Lesson(
        [_capped(draft) for draft in drafts], cursors, episodes, frozenset(episodes), frozenset(env_ids), kinds
    )


def _num_seen(draft: Draft) -> int:
    return draft.body.num_seen if isinstance(draft.body, FailureBody) else 0


def _capped(draft: Draft) -> Draft:
    source = draft.source.model_copy(update={"episode_ids": draft.source.episode_ids[:MOST_EPISODES]})
    return draft.model_copy(update={"source": source})


def _stripped(episode: Episode) -> Episode:
    """An episode without its prompts and tokens, which no lesson reads and which are most of it."""
    turns = tuple(Turn.model_construct(**{**turn.__dict__, **_STRIPPED}) for turn in episode.turns)
    return episode.model_copy(update={"turns": turns})


def out_of_date(connection: Connection, lesson: Lesson, drafted: Collection[str]) -> list[Memory]:
    """The versions that retire what a lesson no longer bears out: insights and skills of our own from these attempts.

    What was played again and held, or is vouched for, stays.

    Args:
        connection: A transaction on the journal.
        lesson: What was compared.
        drafted: Ids of the memories that it still draws.
    """
    if not lesson.compared:
        return []
    at = memories.c
    held = [at.ended.is_(None), at.namespace == "", at.env_id.in_(sorted(lesson.env_ids))]
    own = [at.kind.in_(sorted(lesson.kinds - {"failure"})), at.status.in_(("active", "probation"))]
    own.append(at.source_name.in_(("distil", "skills")))
    retired = []
    for row in connection.execute(select(memories).where(*held, *own).order_by(at.id)):
        memory = memory_of(row)
        stale = memory.id not in drafted and lesson.compared.issuperset(memory.source.episode_ids)
        if stale and memory.source.writer == "environment" and memory.trust < Trust.VERIFIED:
            retired.append(version_of(memory.id, memory.draft(status="retired"), memory.version + 1))
    return retired


def plan(connection: Connection, writer: Writer, lesson: Lesson, log: EpisodeLog) -> Plan:
    """What to append to the journal for a lesson, with what it retires; attempts that are known stay as they are."""

    def episode_of(id: str) -> Episode | None:
        return lesson.episodes.get(id) or log.get(id)

    records = {journal.memory_id(draft): draft for draft in lesson.drafts if draft.kind in ("episode", "step")}
    held = journal.current(connection, list(records))
    drafts = [draft for id, draft in records.items() if id not in held]
    drafts += [draft for draft in lesson.drafts if draft.kind not in ("episode", "step")]
    planned = writer.plan(connection, drafts, episode_of=episode_of, complete=bool(lesson.compared))
    retired = out_of_date(connection, lesson, {decision.memory_id for decision in planned.decisions})
    notes = {**planned.notes, **{memory.id: (OUT_OF_DATE,) for memory in retired}}
    return Plan(planned.decisions, [*planned.versions, *retired], notes)
