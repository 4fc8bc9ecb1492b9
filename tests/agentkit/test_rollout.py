"""Attempts and rollouts: limits, faults, order, concurrency, and the record of it all."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from agentkit.agent import build_agent
from agentkit.attempt import Attempt, Limits
from agentkit.envs import Task, TextEnv, make_tasks
from agentkit.errors import ConfigError, EnvironmentFault, PolicyFault
from agentkit.memory import Episode, EpisodeLog, Message, Part, Role
from agentkit.policies import Completion, ExpertPolicy, LocalPolicy, Request, Sampling, ScriptedPolicy, as_response
from agentkit.rollout import MAX_CONSECUTIVE_FAULTS, collect, collect_async, run_sync
from agentkit.training.rows import build_rows

TasksOf = Callable[..., list[Task]]
WAIT = ScriptedPolicy(lambda request: as_response("wait"))


class Corridor(TextEnv):
    """Ends with success after so many steps; each pays 1."""

    metadata = {"render_modes": [], "inline": True}  # noqa: RUF012 - Gymnasium's own convention
    length = 4

    def __init__(self) -> None:
        super().__init__(max_turns=100, max_actions=100, max_actions_per_turn=1)
        self.place = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.place = 0
        return "place 0", self.info()

    def step(self, action: str) -> Any:
        self.place += 1
        return f"place {self.place}", 1.0, self.place == self.length, False, self.info(action != "bad")

    def info(self, valid: bool = True) -> dict[str, Any]:
        return {"success": self.place == self.length, "valid": valid, "state_key": f"p{self.place}"}


class BlockingCorridor(Corridor):
    """The same, but every step takes 50 ms on a thread of its own."""

    metadata = {"render_modes": [], "inline": False}  # noqa: RUF012 - Gymnasium's own convention
    pause_s = 0.05

    def step(self, action: str) -> Any:
        time.sleep(self.pause_s)
        return super().step(action)


def test_an_attempt_is_recorded_turn_by_turn(tasks_of: TasksOf) -> None:
    script = iter([as_response("wait", "hm"), "nonsense", as_response("bad"), as_response("wait")])
    (episode,) = collect(ScriptedPolicy(lambda request: next(script)), tasks_of(Corridor))
    assert (episode.success, episode.error, episode.episode_return) == (True, None, 4.0)
    assert [turn.observation for turn in episode.turns] == ["place 0", "place 1", "place 2", "place 3"]
    assert [turn.state_key for turn in episode.turns] == ["p0", "p1", "p2", "p3"]
    assert [turn.action for turn in episode.turns] == ["wait", None, "bad", "wait"]
    assert [turn.valid for turn in episode.turns] == [True, False, False, True]  # malformed; not understood
    assert [turn.terminated for turn in episode.turns] == [False, False, False, True]
    assert not any(turn.truncated for turn in episode.turns)
    assert {turn.node for turn in episode.turns} == {"decide"}
    assert len(episode.turns[3].messages) == 1 + 3 + 4  # the rules, three answers, four observations
    assert episode.id == episode.model_copy(update={"id": ""}).fingerprint()


def test_max_turns_truncates_and_is_no_fault(tasks_of: TasksOf) -> None:
    (episode,) = collect(WAIT, tasks_of(Corridor), limits=Limits(max_turns=3))
    assert (episode.error, episode.success) == (None, False)
    assert [turn.truncated for turn in episode.turns] == [False, False, True]
    assert [turn.terminated for turn in episode.turns] == [False] * 3


def test_an_attempt_at_its_limit_is_done(tasks_of: TasksOf) -> None:
    async def main() -> None:
        attempt = Attempt(tasks_of(Corridor)[0], WAIT, limits=Limits(max_turns=2))
        await attempt.start()
        question = [Message(speaker="user", parts=(Part(role=Role.OBSERVATION, text="?"),))]
        for done in (False, True):
            await attempt.ask(question, node="decide")
            await attempt.act("wait")
            assert attempt.done is done
        await attempt.close()

    asyncio.run(main())


def test_an_end_on_the_last_allowed_turn_is_an_end_and_no_truncation(tasks_of: TasksOf) -> None:
    (episode,) = collect(WAIT, tasks_of(Corridor), limits=Limits(max_turns=4))
    assert episode.success
    assert (episode.turns[-1].terminated, episode.turns[-1].truncated) == (True, False)


class Silent:
    """A policy that never answers."""

    name, version = "silent", 0

    async def complete(self, request: Request) -> Completion:
        await asyncio.Event().wait()
        raise AssertionError


def test_a_policy_that_never_answers_is_a_fault_after_policy_s(tasks_of: TasksOf) -> None:
    begun = time.monotonic()
    episodes = collect(Silent(), tasks_of(Corridor, 5), limits=Limits(policy_s=0.1))
    assert {episode.error for episode in episodes} == {"PolicyFault: silent did not answer within policy_s = 0.1 s"}
    assert not any(episode.success for episode in episodes)
    assert time.monotonic() - begun < 10


def test_an_episode_that_takes_too_long_is_recorded_with_what_it_has(tasks_of: TasksOf) -> None:
    (episode,) = collect(WAIT, tasks_of(BlockingCorridor), limits=Limits(episode_s=0.12))
    assert episode.error == "the episode took longer than episode_s = 0.12 s"
    assert 1 <= len(episode.turns) <= 3
    assert not episode.success


def test_a_timeout_of_the_policys_own_is_not_taken_for_ours(tasks_of: TasksOf) -> None:
    def slow(request: Request) -> str:
        raise TimeoutError("gateway")

    (episode,) = collect(ScriptedPolicy(slow), tasks_of(Corridor))
    assert episode.error == "PolicyFault: scripted raised a TimeoutError of its own: gateway"


def test_a_failing_environment_fails_its_episode_only(tasks_of: TasksOf) -> None:
    class Trap(Corridor):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            self.seed = seed
            return super().reset()

        def step(self, action: str) -> Any:
            if self.seed == 1 and self.place == 2:
                raise KeyError("floor")
            return super().step(action)

    episodes = collect(WAIT, tasks_of(Trap, 3))
    assert [episode.success for episode in episodes] == [True, False, True]
    assert episodes[1].error is not None
    assert episodes[1].error.startswith("EnvironmentFault: tests/Trap")
    assert episodes[1].error.endswith("step() raised KeyError: 'floor'")
    assert [turn.reward for turn in episodes[1].turns] == [1.0, 1.0, 0.0]


def test_faults_in_a_row_end_the_collection_and_keep_what_was_recorded(tasks_of: TasksOf, tmp_path: Path) -> None:
    class Ruin(Corridor):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            if seed and seed >= 10:
                raise OSError("gone")
            return super().reset()

    with EpisodeLog.open(tmp_path / "log.sqlite") as log:
        with pytest.raises(
            EnvironmentFault, match=r"32 attempts in a row failed, the last with: .*OSError: gone"
        ) as caught:
            collect(WAIT, tasks_of(Ruin, 200), log=log, concurrency=1)
        assert not isinstance(caught.value, BaseExceptionGroup)
        assert log.count(success=True) == 10
        assert log.count(success=False) == MAX_CONSECUTIVE_FAULTS


def test_faults_between_successes_do_not_add_up(tasks_of: TasksOf) -> None:
    class Shaky(Corridor):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            if seed and seed % 4:
                raise OSError("gone")
            return super().reset()

    episodes = collect(WAIT, tasks_of(Shaky, 80), concurrency=1)
    assert sum(episode.error is not None for episode in episodes) == 60


def test_a_broken_policy_ends_the_collection_as_such(tasks_of: TasksOf) -> None:
    with pytest.raises(PolicyFault, match="32 attempts in a row"):
        collect(ScriptedPolicy([]), tasks_of(Corridor, 40))


def test_the_awaited_collection_raises_one_clear_error_too(tasks_of: TasksOf) -> None:
    async def main() -> None:
        with pytest.raises(PolicyFault, match="32 attempts in a row"):
            await collect_async(ScriptedPolicy([]), tasks_of(Corridor, 40))

    asyncio.run(main())


def test_many_blocking_environments_run_at_once_and_not_in_step(tasks_of: TasksOf) -> None:
    class Uneven(BlockingCorridor):
        """One takes two steps of 1.5 s, all others ten of 10 ms."""

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            self.length, self.pause_s = (2, 1.5) if seed == 0 else (10, 0.01)
            return super().reset()

    order: list[int] = []
    begun = time.monotonic()
    episodes = collect(WAIT, tasks_of(Uneven, 64), on_episode=lambda episode: order.append(episode.task.seed))
    assert all(episode.success for episode in episodes)
    # In step, the others would take their last eight steps after the slow one has ended.
    assert order[-1] == 0
    # One after the other, the 630 short steps alone would take 6.3 s beside the 3 s of the slow one.
    assert time.monotonic() - begun < 9.3


@pytest.mark.parametrize(("most_at_once", "expected"), [(None, 3), (2, 2), (5, 3)])
def test_no_more_attempts_run_at_once_than_allowed(tasks_of: TasksOf, most_at_once: Any, expected: int) -> None:
    running, most = 0, 0

    class Counted(Corridor):
        metadata = {**Corridor.metadata, "most_at_once": most_at_once}  # noqa: RUF012 - Gymnasium's own convention

        def reset(self, **_: Any) -> Any:
            nonlocal running, most
            running += 1
            most = max(most, running)
            return super().reset()

        def close(self) -> None:
            nonlocal running
            running -= 1

    collect(WAIT, tasks_of(Counted, 20), concurrency=3)
    assert most == expected
    assert running == 0


def test_episodes_come_back_by_task_and_attempt_whatever_order_they_end_in(tasks_of: TasksOf) -> None:
    class Backwards(Corridor):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            self.length = 5 - (seed or 0)
            return super().reset()

    ended = []
    episodes = collect(
        WAIT, tasks_of(Backwards, 4), group_size=2, on_episode=lambda e: ended.append((e.task.seed, e.attempt))
    )
    expected = [(seed, attempt) for seed in range(4) for attempt in range(2)]
    assert [(episode.task.seed, episode.attempt) for episode in episodes] == expected
    assert ended == [(seed, attempt) for seed in (3, 2, 1, 0) for attempt in range(2)]


def test_an_episode_is_in_the_log_as_soon_as_it_ends(tasks_of: TasksOf, tmp_path: Path) -> None:
    with EpisodeLog.open(tmp_path / "log.sqlite") as log:
        counts: list[int] = []

        def look(episode: Episode) -> None:
            counts.append(len(log))
            assert episode.id in log

        episodes = collect(WAIT, tasks_of(Corridor, 5), log=log, on_episode=look, concurrency=2)
        assert counts == [1, 2, 3, 4, 5]
        assert sorted(e.id for e in log.episodes()) == sorted(e.id for e in episodes)


def test_the_same_seed_plays_the_same_to_the_bit(policy: LocalPolicy) -> None:
    tasks = make_tasks("agentkit/FrozenLake-v0", num=6, params={"slip": 0.3})
    sampling = Sampling(max_new_tokens=8)

    def play(seed: int = 0, concurrency: int = 32) -> list[Episode]:
        return collect(policy, tasks, group_size=4, sampling=sampling, seed=seed, concurrency=concurrency)

    first, again, other = play(), play(), play(seed=1)
    assert [episode.id for episode in first] == [episode.id for episode in again]
    assert [episode.fingerprint() for episode in first] == [episode.fingerprint() for episode in again]
    assert len({episode.id for episode in first} | {episode.id for episode in other}) == 48
    # Attempts at one task share the group and the first observation, and sample differently.
    for place in range(0, 24, 4):
        group = first[place : place + 4]
        assert len({episode.group_id for episode in group}) == 1
        assert len({episode.turns[0].observation for episode in group}) == 1
        assert len({episode.turns[0].response_ids for episode in group}) == 4
    assert len({episode.group_id for episode in first}) == 6
    # What is sampled does not depend on how many play at once; only the last bits of the arithmetic may.
    one_by_one = play(concurrency=1)
    for a, b in zip(first, one_by_one, strict=True):
        assert [turn.response_ids for turn in a.turns] == [turn.response_ids for turn in b.turns]


def test_the_version_that_acted_is_recorded_and_seeds_the_sampling(policy: LocalPolicy) -> None:
    tasks = make_tasks("agentkit/FrozenLake-v0", num=1)
    sampling = Sampling(max_new_tokens=16)
    (before,) = collect(policy, tasks, sampling=sampling)
    policy.version = 3
    (after,) = collect(policy, tasks, sampling=sampling)
    assert (before.policy_version, after.policy_version) == (0, 3)
    assert before.group_id != after.group_id
    assert before.turns[0].response_ids != after.turns[0].response_ids


class Debate(TypedDict):
    """A custom graph's own state; it has nothing of the built-in agent's."""

    advice: str


def debate() -> Any:
    """A graph in which a critic advises an actor."""

    def message(text: str) -> list[Message]:
        return [Message(speaker="user", parts=(Part(role=Role.OBSERVATION, text=text),))]

    async def begin(state: Debate, runtime: Runtime[Attempt]) -> dict[str, Any]:
        await runtime.context.start()
        return {"advice": ""}

    async def critic(state: Debate, runtime: Runtime[Attempt]) -> dict[str, Any]:
        answer = await runtime.context.ask(message(f"Advise: {runtime.context.observation}"), node="critic")
        return {"advice": answer.text}

    async def actor(state: Debate, runtime: Runtime[Attempt]) -> dict[str, Any]:
        attempt = runtime.context
        await attempt.ask(message(f"{attempt.observation} Advice: {state['advice']}"), node="actor")
        await attempt.act(attempt.turns[-1].action)
        return {}

    async def onward(state: Debate, runtime: Runtime[Attempt]) -> str:
        return END if runtime.context.done else "critic"

    graph = StateGraph(Debate, context_schema=Attempt)
    graph.add_node("begin", begin)
    graph.add_node("critic", critic)
    graph.add_node("actor", actor)
    graph.add_edge(START, "begin")
    graph.add_edge("begin", "critic")
    graph.add_edge("critic", "actor")
    graph.add_conditional_edges("actor", onward, ["critic", END])
    return graph.compile()


def test_a_graph_with_two_asking_nodes_is_recorded_and_makes_rows(policy: LocalPolicy, tasks_of: TasksOf) -> None:
    (episode,) = collect(policy, tasks_of(Corridor), agent=debate(), sampling=Sampling(max_new_tokens=6))
    assert (episode.error, episode.success) == (None, True)
    assert [turn.node for turn in episode.turns] == ["critic", "actor"] * 4
    assert [turn.reward for turn in episode.turns] == [0.0, 1.0] * 4
    assert [turn.terminated for turn in episode.turns] == [False] * 7 + [True]
    rows, joins = build_rows([episode])
    assert (len(rows), joins.forked, joins.skipped) == (8, 7, 0)
    for row, turn in zip(rows, episode.turns, strict=True):
        assert row.ids[row.sampled].tolist() == list(turn.response_ids)


@pytest.mark.parametrize("max_turns", [5, 6])
def test_a_graph_that_asks_twice_a_step_is_truncated_wherever_the_limit_falls(
    max_turns: int, tasks_of: TasksOf
) -> None:
    (episode,) = collect(WAIT, tasks_of(Corridor), agent=debate(), limits=Limits(max_turns=max_turns))
    assert episode.error is None
    assert len(episode.turns) == max_turns
    assert [turn.truncated for turn in episode.turns] == [False] * (max_turns - 1) + [True]


def test_a_bug_of_the_graph_surfaces_as_itself_and_closes_its_environments(tasks_of: TasksOf) -> None:
    closed = []

    class Noted(Corridor):
        def close(self) -> None:
            closed.append(self)

    def faulty(request: Request) -> str:
        raise ValueError("bug")

    tasks = tasks_of(Noted, 3)
    with pytest.raises(ValueError, match="bug") as caught:
        collect(ScriptedPolicy(faulty), tasks)
    assert not isinstance(caught.value, ConfigError)
    assert len(closed) >= 1

    class Own(Exception):
        pass

    async def broken(state: Debate, runtime: Runtime[Attempt]) -> dict[str, Any]:
        raise TimeoutError("a node's own") from Own()

    graph = StateGraph(Debate, context_schema=Attempt)
    graph.add_node("broken", broken)
    graph.add_edge(START, "broken")
    with pytest.raises(TimeoutError, match="a node's own") as late:
        collect(WAIT, tasks, agent=graph.compile())
    assert isinstance(late.value.__cause__, Own)


def test_a_graph_that_acts_before_it_asks_is_told_so(tasks_of: TasksOf) -> None:
    async def hasty(state: Debate, runtime: Runtime[Attempt]) -> dict[str, Any]:
        await runtime.context.start()
        await runtime.context.act("wait")
        return {}

    graph = StateGraph(Debate, context_schema=Attempt)
    graph.add_node("hasty", hasty)
    graph.add_edge(START, "hasty")
    with pytest.raises(ConfigError, match=r"act\(\) without an ask\(\) before it"):
        collect(WAIT, tasks_of(Corridor), agent=graph.compile())


def test_impossible_numbers_are_refused(tasks_of: TasksOf) -> None:
    with pytest.raises(ConfigError, match="group_size 0 and concurrency 128 must be at least 1"):
        collect(WAIT, tasks_of(Corridor), group_size=0)


def test_no_tasks_give_no_episodes() -> None:
    assert collect(WAIT, []) == []


def test_a_cancelled_collection_lets_go_of_its_environments(tasks_of: TasksOf) -> None:
    closed = threading.Event()

    class Noted(BlockingCorridor):
        pause_s = 4.0

        def close(self) -> None:
            closed.set()

    async def main() -> None:
        task = asyncio.create_task(collect_async(WAIT, tasks_of(Noted)))
        await asyncio.sleep(0.5)
        task.cancel()
        begun = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begun < 2, "the step under way must not be waited for"

    asyncio.run(main())
    assert closed.wait(10)


def test_run_sync_does_not_format_its_result() -> None:
    class Loud:
        def __repr__(self) -> str:
            raise AssertionError("formatting thousands of episodes takes seconds")

    async def main() -> Loud:
        return Loud()

    assert isinstance(run_sync(main), Loud)


def test_built_graphs_are_compiled_once_and_serve_many_collections(tasks_of: TasksOf) -> None:
    agent = build_agent()
    tasks = tasks_of(Corridor, 2)
    assert [e.id for e in collect(WAIT, tasks, agent=agent)] == [e.id for e in collect(WAIT, tasks, agent=agent)]


def test_a_graph_with_a_checkpointer_can_be_played():
    from langgraph.checkpoint.memory import InMemorySaver

    agent = build_agent()
    agent.checkpointer = InMemorySaver()
    episodes = collect(ExpertPolicy(), make_tasks("agentkit/FrozenLake-v0", num=3), agent=agent)
    assert [episode.success for episode in episodes] == [True, True, True]


def test_a_turn_that_is_not_acted_on_is_not_held_against_the_policy():
    async def plan_and_play() -> Episode:
        attempt = Attempt(
            task=make_tasks("agentkit/FrozenLake-v0", num=1)[0],
            policy=ScriptedPolicy(["a plan without tags", "no tags either"]),
        )
        question = Message(speaker="user", parts=(Part(role=Role.OBSERVATION, text=await attempt.start()),))
        await attempt.ask([question], node="plan")
        await attempt.ask([question], node="act")
        await attempt.act(attempt.turns[-1].action)
        await attempt.close()
        return attempt.episode()

    turns = asyncio.run(plan_and_play()).turns
    assert [(turn.node, turn.action, turn.valid) for turn in turns] == [("plan", None, True), ("act", None, False)]


def test_collecting_works_inside_a_running_event_loop_as_in_a_notebook() -> None:
    async def cell() -> list[Episode]:
        return collect(ExpertPolicy(), make_tasks("agentkit/FrozenLake-v0", num=2))

    assert [episode.success for episode in asyncio.run(cell())] == [True, True]


def test_acting_twice_on_one_answer_is_a_bug_of_the_graph() -> None:
    async def act_twice() -> None:
        attempt = Attempt(task=make_tasks("agentkit/FrozenLake-v0", num=1)[0], policy=ExpertPolicy())
        question = Message(speaker="user", parts=(Part(role=Role.OBSERVATION, text=await attempt.start()),))
        await attempt.ask([question], node="act")
        await attempt.act("Up")
        await attempt.act("Up")

    with pytest.raises(ConfigError, match=r"act\(\) without an ask\(\) before it"):
        asyncio.run(act_twice())


def test_an_environment_is_not_blamed_for_an_event_loop_that_was_late(tasks_of: TasksOf) -> None:
    class Quick(Corridor):
        metadata = {"render_modes": [], "inline": False}  # noqa: RUF012 - Gymnasium's own convention

    def compute(request: Request) -> str:
        time.sleep(0.4)  # a model that computes on the loop, longer than an environment may take
        return as_response("wait")

    episodes = collect(ScriptedPolicy(compute), tasks_of(Quick, num=3), limits=Limits(env_step_s=0.3))
    assert [episode.error for episode in episodes] == [None] * 3
