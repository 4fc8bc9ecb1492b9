"""Nodes that give any LangGraph graph a memory: one recalls, one commits, and running a node again changes nothing.

LangGraph runs a node again after a failure, and from its beginning after an interrupt. What a node writes therefore
goes under the name of its place in the run (thread, checkpoint, task), and a name is written to once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypedDict

from langgraph.runtime import Runtime

from agentkit.agent import render_memories
from agentkit.errors import ConfigError
from agentkit.memory import journal
from agentkit.memory.exposure import Exploration
from agentkit.memory.kinds import Draft, Memory
from agentkit.memory.records import Episode, Record
from agentkit.memory.store import MemoryStore
from agentkit.seeding import derive_seed
from agentkit.task import Task

Query = str | Mapping[str, str]
"""A text that is compared with all keys, or a text for each field of keys."""


class Node(Protocol):
    """A node as `StateGraph.add_node` takes it."""

    def __call__(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any]: ...


class RecalledMemory(TypedDict):
    """A memory as the state holds it: plain data, which every checkpointer can keep."""

    id: str
    version: int
    kind: str
    text: str
    score: float
    """Cosine similarity to the query, -1 to 1."""
    propensity: float
    """Probability with which it is shown; 1 without exploration."""


def recall_node(
    memory: MemoryStore,
    situation: str | Callable[[Any], Query],
    *,
    k: int = 3,
    into: str = "memories",
    exploration: Exploration | None = None,
    episode: Callable[[Any], str] | None = None,
    **scope: Any,
) -> Node:
    """A node that writes what is remembered of the present situation into the state, as `RecalledMemory`.

    Args:
        memory: The store.
        situation: Key of the state that holds the situation, or a function of the state that returns it.
        k: Most memories.
        into: Key of the state that is written.
        exploration: Leaves each memory to a coin and records the exposure in `memory.ledger`, so that its effect can be
            measured; None shows all and records nothing.
        episode: Name of the episode from the state, for the ledger; by default the thread.
        scope: As for `MemoryStore.recall`: `env_id`, `kinds`, `namespaces`, `snapshot`, `exclude_tasks`, ...

    Raises:
        ConfigError: When it runs: the state lacks the key.
    """
    read = _reader(situation)

    def recall(state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        found = memory.recall(read(state), k, **scope)
        if exploration is None:
            return {into: [_plain(one, 1.0) for one in found]}
        drawn = exploration.draw(
            episode(state) if episode else _thread(runtime),
            [(one.id, one.score or 0.0) for one in found],
            k,
            recall=derive_seed(_place(runtime)),
        )
        memory.ledger.record(drawn)
        shown = {one.memory_id: one.propensity for one in drawn.candidates if one.shown}
        return {into: [_plain(one, shown[one.id]) for one in found if one.id in shown]}

    return recall


def commit_node(
    memory: MemoryStore,
    drafts: Callable[[Any], Iterable[Draft]],
    *,
    success: Callable[[Any], bool | None] | None = None,
    episode: Callable[[Any], str] | None = None,
    into: str | None = None,
    op: str = "commit",
) -> Node:
    """A node that writes what was learnt, and how it ended; run again, it writes nothing and gives the same ids.

    Args:
        memory: The store.
        drafts: What to write, from the state. The source of each is given the run: `thread/checkpoint`.
        success: How the episode ended, from the state, for `memory.ledger`; None while that is not known.
        episode: Name of the episode, the same as for `recall_node`; by default the thread.
        into: Key of the state that is given the ids of what was written; None for none.
        op: Name of the operation in `memory.history()`; two commits of one node need two names.
    """

    def commit(state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        run = run_of(runtime)
        made = [
            draft.model_copy(update={"source": draft.source.model_copy(update={"run": run})}) for draft in drafts(state)
        ]
        written = memory.write(made, f"{op} {_place(runtime)}", once=True) if made else []
        ended = success(state) if success else None
        if ended is not None:
            name = episode(state) if episode else _thread(runtime)
            task = Task(env_id=made[0].env_id if made else "", seed=0)
            memory.ledger.settle([Episode(id=name, task=task, success=ended)])
        return {} if into is None else {into: [one.id for one in written]}

    return commit


def run_of(runtime: Runtime[Any]) -> str:
    """Where a node runs, as `Source.run` records it: `thread/checkpoint`, the checkpoint being that which it reads."""
    info = runtime.execution_info
    if info is None:
        raise ConfigError("not inside a graph: only a node that LangGraph runs has a thread and a checkpoint")
    return f"{info.thread_id or ''}/{info.checkpoint_id}"


def made_in(memory: MemoryStore, run: str) -> list[Memory]:
    """What a thread, or one checkpoint of it (`thread/checkpoint`), wrote, as it was written, oldest first."""
    with memory.database.reading() as connection:
        versions = [journal.memory_of(row) for row in journal.of_run(connection, run)]
    first: dict[tuple[str, str], Memory] = {}
    for version in versions:  # a later one, e.g. with another status, still names the run that it came from
        first.setdefault((version.id, version.source.run), version)
    return list(first.values())


def show(memories: Sequence[RecalledMemory]) -> str:
    """Recalled memories as a delimited block of data for a prompt; empty for none."""
    return render_memories(tuple(_Shown(id=one["id"], text=one["text"]) for one in memories))


class _Shown(Record):
    id: str
    text: str


def _plain(memory: Memory, propensity: float) -> RecalledMemory:
    return RecalledMemory(
        id=memory.id,
        version=memory.version,
        kind=memory.kind,
        text=memory.text,
        score=memory.score or 0.0,
        propensity=propensity,
    )


def _reader(situation: str | Callable[[Any], Query]) -> Callable[[Any], Query]:
    if callable(situation):
        return situation

    def read(state: Any) -> Query:
        if situation not in state:
            raise ConfigError(f"the state has no {situation!r} to recall by; it has {sorted(state)}")
        return state[situation]

    return read


def _place(runtime: Runtime[Any]) -> str:
    """Name of one execution of one node: the same when LangGraph runs it again, another in every other step."""
    run = run_of(runtime)
    assert runtime.execution_info is not None  # `run_of` has made sure of it
    return f"{run} {runtime.execution_info.checkpoint_ns}"


def _thread(runtime: Runtime[Any]) -> str:
    thread = runtime.execution_info.thread_id if runtime.execution_info else None
    if not thread:
        raise ConfigError("without a thread the episode has no name; pass thread_id in the config, or give episode=")
    return thread
