"""The anticipating agent: recall → anticipate → decide → act, where the policy first says how its action may fail.

Anticipatory reflection (Wang et al. 2024, "Devil's Advocate", arXiv 2405.16334): before it acts, the agent names what
could go wrong and keeps an alternative; if the action fails, it is reminded of that. The paper also has a model judge
every result and revise a plan of sub-tasks; here an action has failed if the environment did not understand it or the
state stayed as it was, and there is no plan.
"""

from __future__ import annotations

from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from agentkit.agent import AgentConfig, compose, past_messages, recent, render_memories, seen
from agentkit.attempt import Attempt
from agentkit.memory.case import clip
from agentkit.memory.ingestion import ACTION_LIMIT
from agentkit.memory.records import Message, Part, Role

ANTICIPATE = (
    "\n\nBefore you act: what would you do now, and how may it fail? Answer with what you would do instead if it "
    "fails. Nothing is played yet."
)
DECIDE = "Now act."


class State(TypedDict):
    """The graph's state: plain data, so that any checkpointer can keep it."""

    messages: list[Message]
    """The conversation so far, without the system message; four messages a turn."""
    memory: str
    """Recalled text, shown in front of every prompt."""
    alternative: str
    """What the policy would do if its action fails; empty if it named nothing."""
    failed: bool
    """The last action was not understood or changed nothing."""


def build_anticipating_agent(config: AgentConfig | None = None) -> Any:
    """The compiled graph; play it with `agentkit.collect(..., agent=graph)`.

    Each action takes two requests to the policy, recorded as two turns: that of node `anticipate`, which gives the
    environment nothing, and that of node `decide`. Both count against `Limits.max_turns`.
    """
    config = config or AgentConfig()
    shown = None if config.history is None else 2 * config.history

    async def recall(state: State, runtime: Runtime[Attempt]) -> dict[str, Any]:
        attempt = runtime.context
        await attempt.start()
        memory = render_memories(attempt.remember())
        return {"memory": memory, "messages": past_messages(attempt), "alternative": "", "failed": False}

    async def anticipate(state: State, runtime: Runtime[Attempt]) -> dict[str, Any]:
        attempt = runtime.context
        past = recent(state["messages"], shown)
        said = ANTICIPATE
        if state["failed"] and state["alternative"]:
            said = f"\n\nYour last action failed. What you would do in that case: {state['alternative']}{ANTICIPATE}"
        parts = (*seen(attempt.observation).parts, Part(role=Role.SYSTEM, text=said))
        question = Message(speaker="user", parts=parts)
        prompt = await compose(config, attempt, [*past, question], state["memory"])
        answer = await attempt.ask(prompt, node="anticipate")
        alternative = clip(attempt.turns[-1].action or "", ACTION_LIMIT)
        return {"messages": [*past, question, answer], "alternative": alternative}

    async def decide(state: State, runtime: Runtime[Attempt]) -> dict[str, Any]:
        attempt = runtime.context
        question = Message(speaker="user", parts=(Part(role=Role.SYSTEM, text=DECIDE),))
        conversation = [*state["messages"], question]
        answer = await attempt.ask(await compose(config, attempt, conversation, state["memory"]), node="decide")
        return {"messages": [*conversation, answer]}

    async def act(state: State, runtime: Runtime[Attempt]) -> dict[str, Any]:
        attempt = runtime.context
        before = attempt.turns[-1].state_key
        await attempt.act(attempt.turns[-1].action)
        turn = attempt.turns[-1]
        return {"failed": not turn.valid or (bool(before) and before == attempt.state_key)}

    async def whither(state: State, runtime: Runtime[Attempt]) -> str:
        return END if runtime.context.done else "anticipate"

    graph = StateGraph(State, context_schema=Attempt)
    graph.add_node("recall", recall)
    graph.add_node("anticipate", anticipate)
    graph.add_node("decide", decide)
    graph.add_node("act", act)
    graph.add_edge(START, "recall")
    graph.add_edge("recall", "anticipate")
    graph.add_edge("anticipate", "decide")
    graph.add_edge("decide", "act")
    graph.add_conditional_edges("act", whither, ["anticipate", END])
    return graph.compile(name="anticipating")
