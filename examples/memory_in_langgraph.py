"""A LangGraph agent with a memory: it recalls, works, asks itself what to keep, and survives being killed.

The checkpoints lie in LangGraph's SqliteSaver, the memories in a MemoryStore beside it. Kill it wherever you like and
start it again with the same folder: the thread goes on, and nothing is written twice.

Run: python examples/memory_in_langgraph.py [FOLDER]     (needs the extra `checkpoint`)
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from agentkit.memory import Draft, HashEmbedder, MemoryStore, Source
from agentkit.memory.kinds import InsightBody
from agentkit.memory_nodes import RecalledMemory, commit_node, made_in, recall_node, show


class State(TypedDict, total=False):
    """What the nodes hand on."""

    observation: str
    memories: list[RecalledMemory]
    lesson: str


def work(state: State) -> State:
    """Stands for a model: what it is shown, and what it makes of it."""
    print(show(state["memories"]) or "Nothing is remembered of this.\n")
    return {"lesson": "Go round the thin ice."}


def lesson(state: State) -> list[Draft]:
    """What to remember."""
    body = InsightBody(condition=state["observation"], advice=state["lesson"])
    keys = {"condition": state["observation"]}
    return [Draft(body=body, text=state["lesson"], keys=keys, env_id="lake", source=Source(writer="policy"))]


def build(memory: MemoryStore, saver: Any) -> Any:
    """The compiled graph: recall → work → commit."""
    commit = commit_node(memory, lesson)

    def commit_and_maybe_die(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        written = commit(state, runtime)
        if os.environ.get("KILL_AFTER_COMMIT"):  # the worst moment: written, and LangGraph does not know it yet
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    graph = StateGraph(State)
    graph.add_node("recall", recall_node(memory, "observation"))
    graph.add_node("work", work)
    graph.add_node("commit", commit_and_maybe_die)
    graph.add_edge(START, "recall")
    graph.add_edge("recall", "work")
    graph.add_edge("work", "commit")
    graph.add_edge("commit", END)
    return graph.compile(checkpointer=saver)


def main() -> None:
    """Run the thread to its end, from where it was left, and print which checkpoint made which memories."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    thread: Any = {"configurable": {"thread_id": "lesson"}}
    with (
        MemoryStore.open(folder / "memory", embedder=HashEmbedder(), index="exact") as memory,
        SqliteSaver.from_conn_string(str(folder / "checkpoints.sqlite")) as saver,
    ):
        agent = build(memory, saver)
        waiting = agent.get_state(thread).next
        if waiting:
            print("taken up again before:", *waiting)
        agent.invoke(None if waiting else {"observation": "thin ice ahead"}, thread, durability="sync")
        for made in made_in(memory, "lesson"):
            print(f"{made.source.run} made {made.id}: {made.text}")


if __name__ == "__main__":
    main()
