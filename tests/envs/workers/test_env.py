"""WorkerEnv: the same as the environment itself, and whatever happens in the worker stays there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import gymnasium
import pytest
from gymnasium.error import ResetNeeded

from agentkit.envs import Expert, Goals, Screen, Snapshot, Task, TextEnv, make_env, offers
from agentkit.envs.contract import CAPABILITIES
from agentkit.envs.workers import WorkerEnv, open_env
from agentkit.envs.workers.processes import descendants
from agentkit.errors import AgentkitError, ConfigError, EnvironmentFault, UnknownNameError

TROUBLE = "worker_toys:toys/Trouble-v0"


def alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def within(limit_s: float, holds: Any) -> bool:
    """Whether something comes to hold in time."""
    deadline = time.monotonic() + limit_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(holds())


@pytest.fixture
def trouble() -> Iterator[WorkerEnv]:
    env = WorkerEnv(TROUBLE, step_s=10)
    env.reset(seed=1)
    yield env
    env.close()


@pytest.mark.parametrize("env_id", ["agentkit/FrozenLake-v0", "agentkit/Sokoban-v0", "agentkit/Sudoku-v0"])
def test_it_plays_as_the_environment_itself(env_id: str) -> None:
    here, there = make_env(env_id), WorkerEnv(env_id)
    about = ("instructions", "example", "max_turns", "max_actions", "max_actions_per_turn", "turns_left", "spec")
    for seed in range(5):
        rng = Random(seed)
        options = {"split": "held_out", "attempt": seed}
        first = here.reset(seed=seed, options=options)
        assert there.reset(seed=seed, options=options) == first
        info, over = first[1], False
        while not over:
            action = rng.choice([*info["admissible_actions"], "nonsense"])
            answer = here.step(action)
            assert there.step(action) == answer
            assert [getattr(there, name) for name in about[:-1]] == [getattr(here, name) for name in about[:-1]]
            assert there.actions_left == here.actions_left
            _, _, terminated, truncated, info = answer
            over = terminated or truncated
        with pytest.raises(ResetNeeded, match="call reset"):
            there.step("Up")
    assert [offers(there, kind) for kind in CAPABILITIES.values()] == [
        offers(here, kind) for kind in CAPABILITIES.values()
    ]
    there.close()


def test_every_capability_works_and_values_keep_their_types() -> None:
    there, here = WorkerEnv("worker_toys:toys/Told-v0"), make_env("worker_toys:toys/Told-v0")
    assert (there.metadata["isolated"], there.metadata["inline"]) == (True, False)
    there.reset(seed=7)
    assert there.instructions == "Walk from 7."
    assert all(offers(there, kind) for kind in (Snapshot, Expert, Goals, Screen))
    told: Any = there
    assert told.screenshot() == bytes(range(256))
    assert told.expert_success() == 0.1 + 0.2
    assert told.desired_goal() == "世界"
    saved = told.snapshot()
    assert saved == told.snapshot()
    hash(saved)  # immutable
    after = [there.step("left") for _ in range(3)]
    told.restore(saved)
    assert (there.turns_left, [there.step("left") for _ in range(3)]) == (6, after)
    with WorkerEnv("worker_toys:toys/Told-v0") as other:
        other.restore(saved)
        assert [other.step("left") for _ in range(3)] == after
    here.reset(seed=7)
    assert [here.step("left") for _ in range(3)] == after
    there.close()


def test_what_is_not_offered_is_not_there() -> None:
    env = WorkerEnv("worker_toys:toys/Walk-v0")
    assert not any(offers(env, kind) for kind in CAPABILITIES.values())
    with pytest.raises(AttributeError, match="does not offer it, or it stays in the worker"):
        env.screenshot()
    with pytest.raises(TypeError, match="an action is a text such as 'left', got 3"):
        env.step(3)  # type: ignore[arg-type]
    env.close()


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("segfault", r"step\(\) did not return: its process died by signal 11 \(SIGSEGV\)$"),
        ("abort now", r"its process died by signal 6 \(SIGABRT\); its last output: no way on now$"),
        ("leave", r"step\(\) did not return: its process exited with code 3$"),
        ("exit", r"step\(\) raised SystemExit: bye$"),
        ("speechless", r"step\(\) raised Speechless: \(it cannot say what\)$"),
        ("raise x", r"step\(\) raised Odd: x{1997}\.\.\.$"),
        ("scribble", r"step\(\) gave an answer that cannot be read: it announces 4095 MB"),
        ("hang_up", r"step\(\) did not return: its process was killed|died by signal 9"),
        ("give object", r"step\(\) returned what cannot leave its process: \[1\]\[4\]\['odd'\] is a builtins.object"),
        ("give array", r"\['odd'\] is a numpy.ndarray, which is no plain data"),
        ("give large", r"it takes 65 MB, over the 64 MB that fit into a message"),
    ],
)
def test_what_goes_wrong_is_one_fault_and_the_next_reset_begins_anew(
    trouble: WorkerEnv, action: str, words: str
) -> None:
    before = trouble.reset(seed=5)
    with pytest.raises(EnvironmentFault) as caught:
        trouble.step(action)
    assert re.search(words, str(caught.value))
    assert str(caught.value).startswith(f"{TROUBLE}: ")
    assert "\n" not in str(caught.value)
    assert trouble.reset(seed=5) == before
    assert trouble.step("left")[1] == 0.5


@pytest.mark.parametrize("action", ["loop", "sleep 600", "sleep_in_c", "deaf"])
def test_a_hang_is_killed_within_the_limit(action: str) -> None:
    env = WorkerEnv(TROUBLE, step_s=1.0)
    env.reset(seed=1)
    env.step_s = 0.3
    begun = time.monotonic()
    with pytest.raises(
        EnvironmentFault, match=r"step\(\) did not return within 0.3 s, so its process was killed; raise"
    ):
        env.step(action)
    assert time.monotonic() - begun < 5
    with pytest.raises(
        EnvironmentFault, match=r"its process died by signal 9 \(SIGKILL\); reset\(\) begins with another"
    ):
        env.step("left")
    env.step_s = 10.0
    env.reset(seed=1)
    env.close()


def test_an_exception_comes_with_its_traceback_and_the_environment_goes_on(trouble: WorkerEnv) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        trouble.step("raise x")
    assert "worker_toys.py" in caught.value.__notes__[0]
    assert trouble.step("left")[0]


def test_errors_on_purpose_come_as_they_are(trouble: WorkerEnv) -> None:
    with pytest.raises(ConfigError, match=r"^too narrow") as caught:  # the nearest class that is known here too
        trouble.step("narrow")
    assert type(caught.value) is ConfigError
    lake = WorkerEnv("agentkit/FrozenLake-v0")
    with pytest.raises(ConfigError, match="no split 'trian'; did you mean 'train'"):
        lake.reset(options={"split": "trian"})
    with pytest.raises(ResetNeeded):
        lake.step("Up")
    with pytest.raises(UnknownNameError, match="did you mean 'agentkit/Sokoban-v0'"):
        WorkerEnv("agentkit/Sokobn-v0")
    with pytest.raises(ConfigError, match="no parameter of agentkit/FrozenLake-v0 'slop'"):
        WorkerEnv(Task(env_id="agentkit/FrozenLake-v0", seed=0, params={"slop": 1}))


def test_more_than_the_allowed_memory_stays_in_the_worker() -> None:
    env = WorkerEnv(TROUBLE, memory_mb=300)
    for action in ("allocate 4000", "gnaw 4000"):
        env.reset(seed=1)
        with pytest.raises(EnvironmentFault, match=r"step\(\) raised MemoryError: .*may hold 300 MB; raise the limit"):
            env.step(action)
    env.reset(seed=1)
    env.step("allocate 50")
    env.close()
    with pytest.raises(ConfigError, match=r"memory_mb = 20 is less than the \d+ MB of a worker"):
        WorkerEnv(TROUBLE, memory_mb=20)
    unlimited = WorkerEnv(TROUBLE)
    unlimited.reset(seed=1)
    unlimited.step("allocate 400")
    unlimited.close()


def test_numbers_of_numpy_and_odd_keys_travel(trouble: WorkerEnv) -> None:
    odd = trouble.step("give numpy")[4]["odd"]
    assert odd == {"reward": 0.5, "num": 3, "flag": True}
    assert [type(value) for value in odd.values()] == [float, int, bool]
    keys = trouble.step("give keys")[4]["odd"]
    assert (keys[1], keys["$tuple"], keys["set"], keys["bytes"]) == ((2, 3), [4], {5}, b"\x00\xff")
    assert trouble.step("left")[4]["admissible_actions"] == ["left", "right"]


def test_what_an_environment_prints_is_not_mixed_with_ours(trouble: WorkerEnv, capfd: Any) -> None:
    trouble.step("print")
    with pytest.raises(EnvironmentFault, match=r"SIGSEGV\); its last output: \.\.\..*bytes ?.*and the last word$"):
        trouble.step("segfault")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("action", ["child", "fork", "child_and_hang"])
def test_processes_that_an_environment_started_die_with_it(action: str, tmp_path: Path) -> None:
    env = WorkerEnv(TROUBLE, step_s=10)
    env.reset(seed=1)
    env.step_s = 2.0
    with pytest.raises(EnvironmentFault):
        env.step(f"{action} {tmp_path / 'pid'}")
    assert within(2, lambda: not alive(int((tmp_path / "pid").read_text())))


def test_making_may_fail_crash_and_hang() -> None:
    with pytest.raises(EnvironmentFault, match=r"Unmakeable-v0: __init__\(\) raised OSError: no browser"):
        WorkerEnv("worker_toys:toys/Unmakeable-v0")
    with pytest.raises(EnvironmentFault, match=r"__init__\(\) did not return: its process died by signal 11"):
        WorkerEnv("worker_toys:toys/Unmakeable-v0", how="crash")
    with pytest.raises(EnvironmentFault, match=r"__init__\(\) did not return within 0.2 s"):
        WorkerEnv("worker_toys:toys/Unmakeable-v0", how="sleep", step_s=0.2)


def test_closing_may_fail() -> None:
    env = WorkerEnv("worker_toys:toys/Clingy-v0")
    with pytest.raises(EnvironmentFault, match=r"close\(\) raised OSError: busy"):
        env.close()


def test_a_worker_lives_where_the_process_lives_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = WorkerEnv("worker_toys:toys/Surroundings-v0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOYS_WORD", "a \udcff word")
    second = WorkerEnv("worker_toys:toys/Surroundings-v0")
    one, two = (eval_list(env.reset(seed=0)[0]) for env in (first, second))
    assert (one[0], one[1]) != (two[0], two[1]) == (str(tmp_path), "a \udcff word")
    assert len({os.getpid(), one[2], two[2]}) == 3
    assert one[3] != two[3]  # forks of one process, and yet no twins
    assert one[4] != two[4]
    first.close()
    second.close()


def eval_list(text: str) -> list[Any]:
    import ast

    return ast.literal_eval(text)


def test_an_id_registered_here_is_known_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import worker_toys  # type: ignore[import-not-found]

    gymnasium.register("toys/Short-v0", entry_point=worker_toys.Walk, kwargs={"max_turns": 2}, disable_env_checker=True)
    env = WorkerEnv("toys/Short-v0")
    assert (env.name, env.max_turns) == ("Walk", 2)
    env.close()
    del gymnasium.registry["toys/Short-v0"]


def test_a_class_that_no_other_process_can_import_is_refused() -> None:
    class Local(TextEnv):
        def __init__(self) -> None:
            super().__init__(max_turns=1, max_actions=1, max_actions_per_turn=1)

    family: Any = Local
    gymnasium.register("toys/Local-v0", entry_point=family, disable_env_checker=True)
    with pytest.raises(ConfigError, match="inside a function: no other process can import it; put it into a module"):
        WorkerEnv("toys/Local-v0")
    del gymnasium.registry["toys/Local-v0"]
    with pytest.raises(ConfigError, match="step_s must be more than 0 seconds"):
        WorkerEnv(TROUBLE, step_s=0)
    with pytest.raises(ConfigError, match="is given what cannot leave this process"):
        WorkerEnv(TROUBLE, max_turns=object())


def test_only_environments_that_ask_for_it_or_are_asked_get_a_worker() -> None:
    assert isinstance(open_env("worker_toys:toys/Told-v0"), WorkerEnv)
    assert isinstance(open_env("agentkit/Sudoku-v0", isolate=True, num_empty=3), WorkerEnv)
    assert isinstance(open_env("agentkit/Sudoku-v0", memory_mb=500), WorkerEnv)
    assert not isinstance(open_env("agentkit/Sudoku-v0"), WorkerEnv)
    with pytest.raises(UnknownNameError):
        open_env("agentkit/Sudku-v0")


def test_an_interrupted_call_leaves_no_answer_to_the_next_one() -> None:
    env = WorkerEnv(TROUBLE, step_s=10)
    env.reset(seed=1)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        env.step("sleep 5")
    with pytest.raises(AgentkitError, match=r"reset\(\) begins with another"):
        env.step("left")
    env.reset(seed=1)
    env.close()


SCRIPT = """
    import sys
    from agentkit.envs.workers import WorkerEnv
    from agentkit.envs.workers.pool import shared_pool
    envs = [WorkerEnv("worker_toys:toys/Tidy-v0", path={path!r}) for _ in range(2)]
    envs.append(WorkerEnv("worker_toys:toys/Walk-v0"))
    envs.append(WorkerEnv("worker_toys:toys/Walk-v0"))
    envs.pop().close()
    print(shared_pool()._nursery.pid, *[env._worker.pid for env in envs], flush=True)
    {then}
"""


@pytest.mark.parametrize(
    ("then", "code"),
    [("", 0), ("import os; os.kill(os.getpid(), 9)", -9), ("import os; os._exit(4)", 4), ("raise SystemExit(5)", 5)],
)
def test_a_process_that_ends_leaves_none_behind(then: str, code: int, tmp_path: Path) -> None:
    script = textwrap.dedent(SCRIPT.format(path=str(tmp_path / "note"), then=then))
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environ, timeout=60)
    assert (done.returncode, done.stderr) == (code, "")
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 4
    assert within(15, lambda: not any(map(alive, pids)))
    assert (tmp_path / "note").read_text() == "closed"


def test_the_main_script_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import gymnasium
            from agentkit.envs.workers import WorkerEnv
            from agentkit.envs import TextEnv
            print("run")
            class Mine(TextEnv): pass
            WorkerEnv("agentkit/Sudoku-v0").reset(seed=1)
            gymnasium.register("mine/Mine-v0", entry_point=Mine)
            WorkerEnv("mine/Mine-v0")
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "run\n"
    assert "ConfigError: 'mine/Mine-v0' is a class of the main script: no other process can import it" in done.stderr


def test_an_environment_that_nobody_holds_any_more_is_closed_and_its_process_ends(tmp_path: Path) -> None:
    env = WorkerEnv("worker_toys:toys/Tidy-v0", path=str(tmp_path / "note"))
    assert env._worker is not None
    pid = env._worker.pid
    del env
    assert within(5, lambda: not alive(pid))
    assert (tmp_path / "note").read_text() == "closed"
    assert within(5, lambda: not any(one == pid for one in descendants(os.getpid())))  # no zombie either
