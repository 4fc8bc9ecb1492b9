"""The environment as an attempt sees it: its thread, its limits, and what it may not do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentkit.envs import Task, TextEnv
from agentkit.errors import ConfigError, EnvironmentFault, UnknownNameError
from agentkit.world import LiveWorld

TasksOf = Callable[..., list[Task]]


class Room(TextEnv):
    """Three steps; on an event loop."""

    metadata = {"render_modes": [], "inline": True}  # noqa: RUF012 - Gymnasium's own convention
    instructions = "Wait."
    info: dict[str, Any] = {"success": True, "valid": True, "state_key": "s", "admissible_actions": ["wait"]}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(max_turns=3, max_actions=3, max_actions_per_turn=1)

    def reset(self, **_: Any) -> Any:
        return "begun", self.info

    def step(self, action: str) -> Any:
        return f"did {action}", 1.0, False, False, self.info


class SlowRoom(Room):
    """The same on a thread of its own; notes which one every call came on."""

    metadata = {"render_modes": [], "inline": False}  # noqa: RUF012 - Gymnasium's own convention
    seen: list[tuple[str, int]] = []  # noqa: RUF012 - shared on purpose

    def __init__(self) -> None:
        super().__init__()
        self.note("init")

    def note(self, call: str) -> None:
        self.seen.append((call, threading.get_ident()))

    def reset(self, **options: Any) -> Any:
        self.note("reset")
        return super().reset(**options)

    def step(self, action: str) -> Any:
        self.note("step")
        return super().step(action)

    def expert_action(self) -> str:
        self.note("expert")
        return "wait"

    def close(self) -> None:
        self.note("close")


def live(task: Task, play: Callable[[LiveWorld], Awaitable[Any]], step_s: float = 5.0) -> Any:
    """What `play` returns of a world of the task, which is closed after it."""

    async def main() -> Any:
        world = LiveWorld(task, step_s)
        try:
            return await play(world)
        finally:
            await world.close()

    return asyncio.run(main())


async def one_step(world: LiveWorld) -> Any:
    await world.reset(0)
    return await world.step("wait")


@pytest.mark.parametrize("family", [Room, SlowRoom])
def test_a_world_is_reset_stepped_and_tells_what_it_knows(family: type[Room], tasks_of: TasksOf) -> None:
    async def play(world: LiveWorld) -> None:
        assert await world.reset(0) == "begun"
        assert await world.step("wait") == ("did wait", 1.0, False, False)
        assert (world.instructions, world.admissible_actions) == ("Wait.", ["wait"])

    live(tasks_of(family)[0], play)


def test_every_call_of_a_blocking_environment_comes_on_one_thread_that_ends(tasks_of: TasksOf) -> None:
    async def play(world: LiveWorld) -> None:
        await one_step(world)
        assert await world.expert_action() == "wait"

    SlowRoom.seen.clear()
    live(tasks_of(SlowRoom)[0], play)
    assert [call for call, _ in SlowRoom.seen] == ["init", "reset", "step", "expert", "close"]
    (thread,) = {thread for _, thread in SlowRoom.seen}
    assert thread != threading.get_ident()
    deadline = time.monotonic() + 2
    while any(one.name == "agentkit-environment" for one in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_inline_environment_is_called_where_it_is_awaited(tasks_of: TasksOf) -> None:
    class Here(SlowRoom):
        metadata = {"render_modes": [], "inline": True}  # noqa: RUF012

    Here.seen.clear()
    live(tasks_of(Here)[0], one_step)
    assert {thread for _, thread in Here.seen} == {threading.get_ident()}


@pytest.mark.parametrize("call", ["__init__", "reset", "step"])
def test_a_hanging_call_is_a_fault_within_the_limit_and_leaves_its_thread_behind(call: str, tasks_of: TasksOf) -> None:
    release = threading.Event()

    class Stuck(SlowRoom):
        def note(self, name: str) -> None:
            if name.strip("_") == call.strip("_"):
                release.wait(20)

    begun = time.monotonic()
    with pytest.raises(
        EnvironmentFault, match=rf"{call}\(\) did not return within 0.1 s; raise the limit \(env_step_s\)"
    ):
        live(tasks_of(Stuck)[0], one_step, step_s=0.1)
    assert time.monotonic() - begun < 10
    release.set()


def test_a_call_that_hung_and_returned_has_its_environment_closed(tasks_of: TasksOf) -> None:
    closed = threading.Event()

    class Late(SlowRoom):
        def step(self, action: str) -> Any:
            time.sleep(0.3)
            return super().step(action)

        def close(self) -> None:
            closed.set()

    with pytest.raises(EnvironmentFault, match="did not return"):
        live(tasks_of(Late)[0], one_step, step_s=0.05)
    assert closed.wait(2)


def test_a_process_can_exit_while_an_environment_hangs() -> None:
    script = """
        import asyncio, threading, gymnasium
        from agentkit.envs import TextEnv, make_tasks
        from agentkit.policies import ScriptedPolicy
        from agentkit.attempt import Limits
        from agentkit.rollout import collect
        class Stuck(TextEnv):
            def __init__(self): super().__init__(max_turns=1, max_actions=1, max_actions_per_turn=1)
            def reset(self, **_): return "a", {}
            def step(self, action): threading.Event().wait()
        gymnasium.register("tests/Stuck-v0", entry_point=Stuck, disable_env_checker=True)
        tasks = make_tasks("tests/Stuck-v0", num=2)
        episodes = collect(ScriptedPolicy(lambda r: "x"), tasks, limits=Limits(env_step_s=0.1))
        print([episode.error for episode in episodes])
    """
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.count("did not return within 0.1 s") == 2
    assert done.stderr == ""
    assert time.monotonic() - begun < 30


ORDINARY = [ValueError("bad"), StopIteration(), TimeoutError("page took 30 s")]


@pytest.mark.parametrize(
    ("inline", "error"),
    # On the event loop the last two cannot be told from the loop's own.
    [(inline, error) for inline in (True, False) for error in ORDINARY]
    + [(False, asyncio.CancelledError()), (False, SystemExit(1))],
)
def test_whatever_an_environment_raises_is_a_fault_with_its_name(
    inline: bool, error: BaseException, tasks_of: TasksOf
) -> None:
    class Broken(Room):
        metadata = {"render_modes": [], "inline": inline}  # noqa: RUF012

        def step(self, action: str) -> Any:
            raise error

    with pytest.raises(EnvironmentFault, match=rf"step\(\) raised {type(error).__name__}: ") as caught:
        live(tasks_of(Broken)[0], one_step)
    assert caught.value.__cause__ is error


def test_an_environment_that_cannot_be_made_is_a_fault_and_an_unknown_one_is_named(tasks_of: TasksOf) -> None:
    class Unmade(SlowRoom):
        def note(self, call: str) -> None:
            raise OSError("no browser")

    with pytest.raises(EnvironmentFault, match=r"__init__\(\) raised OSError: no browser"):
        live(tasks_of(Unmade)[0], one_step)
    with pytest.raises(UnknownNameError, match="did you mean 'agentkit/Sokoban-v0'"):
        live(Task(env_id="agentkit/Sokobn-v0", seed=0), one_step)


@pytest.mark.parametrize(
    ("reset", "step", "complaint"),
    [
        (("a", {}), ("a", 0.0, False, False), r"step\(\) returned a tuple of 4 where a tuple of 5 is due"),
        (("a", {}), None, r"step\(\) returned NoneType where a tuple of 5 is due"),
        ("a", None, r"reset\(\) returned str where a tuple of 2 is due"),
        ((b"a", {}), None, "the observation is bytes, not str; wrap the environment"),
        (("a", None), None, "info is NoneType, not a dict"),
        (("a", {}), (["a"], 0.0, False, False, {}), "the observation is list, not str"),
        (("a", {}), ("a", 0.0, False, False, []), "info is list, not a dict"),
        (("a", {}), ("a", None, False, False, {}), "the reward None, no finite number"),
        (("a", {}), ("a", "much", False, False, {}), "the reward 'much', no finite number"),
        (("a", {}), ("a", float("nan"), False, False, {}), "the reward nan, no finite number"),
    ],
)
def test_what_breaks_the_contract_is_a_fault_that_says_how(
    reset: Any, step: Any, complaint: str, tasks_of: TasksOf
) -> None:
    class Odd(Room):
        def reset(self, **_: Any) -> Any:
            return reset

        def step(self, action: str) -> Any:
            return step

    with pytest.raises(EnvironmentFault, match=complaint):
        live(tasks_of(Odd)[0], one_step)


def test_an_environment_that_says_little_is_enough(tasks_of: TasksOf) -> None:
    class Taciturn(Room):
        info = {"admissible_actions": None}  # noqa: RUF012

    async def play(world: LiveWorld) -> Any:
        await world.reset(0)
        return list(world.admissible_actions)

    assert live(tasks_of(Taciturn)[0], play) == []


def test_without_an_expert_asking_it_is_a_fault(tasks_of: TasksOf) -> None:
    async def play(world: LiveWorld) -> Any:
        await world.reset(0)
        return await world.expert_action()

    with pytest.raises(EnvironmentFault, match=r"has no expert; it lacks expert_action\(\)"):
        live(tasks_of(Room)[0], play)


def test_a_graph_that_forgets_to_start_is_told_so(tasks_of: TasksOf) -> None:
    async def step(world: LiveWorld) -> Any:
        return await world.step("wait")

    async def instructions(world: LiveWorld) -> Any:
        return world.instructions

    for play in (step, instructions):
        with pytest.raises(ConfigError, match=r"must await start\(\) first"):
            live(tasks_of(Room)[0], play)


@pytest.mark.parametrize("inline", [True, False])
def test_trouble_at_closing_is_a_warning(inline: bool, tasks_of: TasksOf) -> None:
    class Clingy(Room):
        metadata = {"render_modes": [], "inline": inline}  # noqa: RUF012

        def close(self) -> None:
            raise OSError("busy")

    with pytest.warns(RuntimeWarning, match=r"close\(\) raised OSError: busy"):
        live(tasks_of(Clingy)[0], one_step)


def test_a_world_is_closed_when_its_closing_is_over(tasks_of: TasksOf) -> None:
    class Tidy(SlowRoom):
        def close(self) -> None:
            time.sleep(0.1)
            self.seen.append(("closed", 0))

    Tidy.seen.clear()
    live(tasks_of(Tidy)[0], one_step)
    assert Tidy.seen[-1] == ("closed", 0)
