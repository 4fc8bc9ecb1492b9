"""What an agent step costs: our graph with attempt and record against a bare LangGraph graph of the same shape.

Run: python benchmarks/agent.py. CPU seconds of one process, repeats interleaved. Policy and environment do nothing, so
what is left is LangGraph and ours: rendering a conversation that grows by a turn a step, checking what the
environment returns, building the record, hashing it, and (last line) writing it to an `EpisodeLog`.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

import gymnasium
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from agentkit.agent import build_agent
from agentkit.envs import TextEnv, make_tasks
from agentkit.memory.log import EpisodeLog
from agentkit.policies.doubles import ScriptedPolicy, as_response
from agentkit.rollout import collect

NUM_EPISODES = 64
NUM_STEPS = 10
REPEATS = 9
BAR = 1.25
"""Most CPU time of an agent step, in units of the bare graph's."""


class Stillness(TextEnv):
    """Shows a short text `NUM_STEPS` times, whatever is done."""

    metadata = {"render_modes": [], "inline": True}  # noqa: RUF012 - Gymnasium's own convention
    instructions = "Nothing happens."

    def __init__(self, **_: Any) -> None:
        super().__init__(max_turns=NUM_STEPS, max_actions=NUM_STEPS, max_actions_per_turn=1)

    def reset(self, **_: Any) -> tuple[str, dict[str, Any]]:
        """The first observation."""
        self.turns_left = NUM_STEPS
        return "still", {"state_key": "still"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """The same again."""
        self.turns_left -= 1
        return "still", 0.0, self.turns_left == 0, False, {"success": True, "valid": True, "state_key": "still"}


class BareState(TypedDict):
    """As much state as the agent's graph has."""

    messages: list[Any]
    memory: str


@dataclass
class Countdown:
    """The bare graph's context: counts the steps."""

    left: int = NUM_STEPS


def bare_graph() -> Any:
    """recall → decide → act as in `build_agent`, with nodes that do nothing but let the conversation grow."""

    async def recall(state: BareState, runtime: Runtime[Countdown]) -> dict[str, Any]:
        return {"memory": "", "messages": []}

    async def decide(state: BareState, runtime: Runtime[Countdown]) -> dict[str, Any]:
        return {"messages": [*state["messages"], "question", "answer"]}

    async def act(state: BareState, runtime: Runtime[Countdown]) -> dict[str, Any]:
        runtime.context.left -= 1
        return {}

    async def whither(state: BareState, runtime: Runtime[Countdown]) -> str:
        return "decide" if runtime.context.left else END

    graph = StateGraph(BareState, context_schema=Countdown)
    graph.add_node("recall", recall)
    graph.add_node("decide", decide)
    graph.add_node("act", act)
    graph.add_edge(START, "recall")
    graph.add_edge("recall", "decide")
    graph.add_edge("decide", "act")
    graph.add_conditional_edges("act", whither, ["decide", END])
    return graph.compile()


def run_bare(graph: Any) -> None:
    """All episodes on the bare graph, as many in flight at once as `collect` has."""

    async def main() -> None:
        config = {"recursion_limit": 10 * NUM_STEPS}
        start = {"messages": [], "memory": ""}
        await asyncio.gather(*(graph.ainvoke(start, config, context=Countdown()) for _ in range(NUM_EPISODES)))

    asyncio.run(main())


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU seconds of one run; the garbage of the run before it is not counted."""
    gc.collect()
    begun = time.process_time()
    run()
    return time.process_time() - begun


def main() -> None:
    """Measure and print."""
    gymnasium.register("bench/Stillness-v0", entry_point=Stillness, disable_env_checker=True)
    tasks = make_tasks("bench/Stillness-v0", num=NUM_EPISODES)
    policy = ScriptedPolicy(lambda request: as_response("wait"))
    bare, agent = bare_graph(), build_agent()
    with tempfile.TemporaryDirectory() as folder:
        fresh_log = iter(range(1_000_000))

        def run_logged() -> None:
            with EpisodeLog.open(Path(folder) / f"{next(fresh_log)}.sqlite") as log:
                collect(policy, tasks, agent=agent, log=log)

        runs: dict[str, Callable[[], object]] = {
            "bare LangGraph": lambda: run_bare(bare),
            "agent, recorded": lambda: collect(policy, tasks, agent=agent),
            "agent, recorded and logged": run_logged,
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(REPEATS + 1):  # the first warms up
            for name, run in runs.items():
                spent = cpu_seconds(run)
                if repeat:
                    seconds[name].append(spent)
    steps = NUM_EPISODES * NUM_STEPS
    floor = median(seconds["bare LangGraph"])
    print(f"{NUM_EPISODES} episodes of {NUM_STEPS} steps, median of {REPEATS} repeats (bar for recorded: {BAR:.2f} x)")
    for name, repeats in seconds.items():
        middle = median(repeats)
        print(f"{name:28} {1e6 * middle / steps:7.0f} µs a step  {middle / floor:5.2f} x  {middle:6.3f} CPU s")


if __name__ == "__main__":
    main()
