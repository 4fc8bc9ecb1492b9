"""Your own LangGraph agent: a planner and an actor, two nodes that both ask the policy. Recorded, it can be trained.

Run: python examples/own_graph.py
"""

from __future__ import annotations

from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from agentkit import Attempt, Role, ScriptedPolicy, collect, make_tasks
from agentkit.memory import Message, Part
from agentkit.policies import Request


class State(TypedDict):
    """What the nodes hand on."""

    plan: str


def user(text: str) -> Message:
    """A user message that shows what the environment said."""
    return Message(speaker="user", parts=(Part(role=Role.OBSERVATION, text=text),))


async def plan(state: State, runtime: Runtime[Attempt]) -> dict[str, Any]:
    """Reset the environment and ask for a plan."""
    attempt = runtime.context
    await attempt.start()
    answer = await attempt.ask([user(f"Plan in one sentence.\n{attempt.observation}")], node="plan")
    return {"plan": answer.text}


async def act(state: State, runtime: Runtime[Attempt]) -> dict[str, Any]:
    """Ask for an action and play it."""
    attempt = runtime.context
    await attempt.ask([user(f"Plan: {state['plan']}\n{attempt.observation}")], node="act")
    await attempt.act(attempt.turns[-1].action)
    return {}


async def whither(state: State, runtime: Runtime[Attempt]) -> str:
    """Go on until the environment or a limit says that it is over."""
    return END if runtime.context.done else "act"


def build() -> Any:
    """The compiled graph; its context is an `Attempt`."""
    graph = StateGraph(State, context_schema=Attempt)
    graph.add_node("plan", plan)
    graph.add_node("act", act)
    graph.add_edge(START, "plan")
    graph.add_edge("plan", "act")
    graph.add_conditional_edges("act", whither, ["act", END])
    return graph.compile()


def main() -> None:
    """Play one attempt with a stand-in for a language model and print which node said what."""

    def answer(request: Request) -> str:
        planning = request.messages[-1].text.startswith("Plan in")
        return "Go right, then down." if planning else "<think>as planned</think><answer>Right || Down</answer>"

    episode = collect(ScriptedPolicy(answer), make_tasks("agentkit/FrozenLake-v0", num=1), agent=build())[0]
    for turn in episode.turns:
        print(f"{turn.node:>5}: {turn.response}")


if __name__ == "__main__":
    main()
