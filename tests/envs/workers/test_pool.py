"""The pool: workers are kept, replaced and ended; the nursery comes back; forks of a process share nothing."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkit.envs.workers import WorkerEnv
from agentkit.envs.workers import pool as pools
from agentkit.envs.workers.pool import Pool
from agentkit.envs.workers.processes import descendants, usage
from agentkit.errors import EnvironmentFault

WALK = "worker_toys:toys/Walk-v0"
TROUBLE = "worker_toys:toys/Trouble-v0"


@pytest.fixture
def pool() -> Iterator[Pool]:
    one = Pool()
    yield one
    one.close()


def worker_of(env: WorkerEnv) -> int:
    assert env._worker is not None
    return env._worker.pid


def nursery_of(pool: Pool) -> int:
    assert pool._nursery is not None
    return pool._nursery.pid


def test_a_worker_is_kept_for_the_next_environment_of_its_kind(pool: Pool) -> None:
    first = WorkerEnv(WALK, pool=pool)
    pid = worker_of(first)
    first.close()
    again = WorkerEnv(WALK, pool=pool)
    assert worker_of(again) == pid
    other = WorkerEnv(TROUBLE, pool=pool)  # it has imported other things
    assert worker_of(other) != pid
    again.close()
    assert worker_of(WorkerEnv(TROUBLE, pool=pool)) != pid


def test_a_worker_whose_environment_raised_is_not_kept(pool: Pool) -> None:
    env = WorkerEnv(TROUBLE, pool=pool)
    pid = worker_of(env)
    env.reset(seed=1)
    with pytest.raises(EnvironmentFault):
        env.step("raise x")
    env.close()
    assert worker_of(WorkerEnv(TROUBLE, pool=pool)) != pid


def test_a_worker_that_died_while_idle_is_replaced(pool: Pool) -> None:
    env = WorkerEnv(WALK, pool=pool)
    pid = worker_of(env)
    env.close()
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    again = WorkerEnv(WALK, pool=pool)
    assert worker_of(again) != pid
    assert again.reset(seed=1)


def test_no_more_than_a_few_and_no_large_ones_are_kept(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "MAX_IDLE", 2)
    envs = [WorkerEnv(WALK, pool=pool) for _ in range(4)]
    pids = [worker_of(env) for env in envs]
    for env in envs:
        env.close()
    kept = [worker_of(env) for env in [WorkerEnv(WALK, pool=pool) for _ in range(3)]]
    assert set(kept) & set(pids) == set(pids[2:])
    monkeypatch.setattr(pools, "MAX_IDLE_MB", 1)
    env = WorkerEnv(TROUBLE, pool=pool)
    pid = worker_of(env)
    env.close()
    assert worker_of(WorkerEnv(TROUBLE, pool=pool)) != pid


def test_a_nursery_that_is_killed_takes_its_workers_along_and_another_takes_its_place(pool: Pool) -> None:
    env = WorkerEnv(WALK, pool=pool, step_s=10)
    env.reset(seed=1)
    first = nursery_of(pool)
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker_of(env)}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(EnvironmentFault, match="its process was killed with the process that started it"):
        env.step("left")
    env.reset(seed=1)
    assert nursery_of(pool) != first
    assert env.step("left")


def test_a_nursery_that_cannot_start_says_why(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    with pytest.raises(EnvironmentFault, match=r"did not start: ModuleNotFoundError: No module named '.*"):
        WorkerEnv("agentkit/Sudoku-v0", pool=pool)


def test_threads_share_a_pool(pool: Pool) -> None:
    results: list[object] = []

    def play() -> None:
        for seed in range(5):
            env = WorkerEnv(WALK, pool=pool)
            results.append((seed, env.reset(seed=seed)[0], env.step("left")[0]))
            env.close()

    threads = [threading.Thread(target=play) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 40
    assert len(set(results)) == 5
    assert len(descendants(nursery_of(pool))) <= 8


def test_a_closed_pool_leaves_nothing(pool: Pool) -> None:
    before = usage()
    envs = [WorkerEnv(WALK, pool=pool) for _ in range(3)]
    during, pids = usage(), [nursery_of(pool), *map(worker_of, envs)]
    pool.close()
    after = usage()
    assert before is not None
    assert during is not None
    assert after is not None
    assert during.processes == before.processes + 4
    assert after.processes == before.processes
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(EnvironmentFault):
        envs[0].step("left")


def test_the_hash_seed_of_workers_can_be_set() -> None:
    seen = []
    for seed in (1, 1, 2):
        pool = Pool(hash_seed=seed)
        env = WorkerEnv("worker_toys:toys/Hashed-v0", pool=pool)
        seen.append(env.reset(seed=0)[0])
        env.close()
        pool.close()
    assert seen[0] == seen[1] != seen[2]


def test_a_fork_of_the_process_starts_anew_and_disturbs_nobody() -> None:
    script = """
        import os, sys
        from agentkit.envs.workers import WorkerEnv
        from agentkit.envs.workers.pool import shared_pool
        env = WorkerEnv("agentkit/Sudoku-v0")
        first = env.reset(seed=1)
        if os.fork() == 0:
            own = WorkerEnv("agentkit/Sudoku-v0")
            assert own.reset(seed=1) == first
            try:
                env.step("?")
            except Exception as error:
                print(type(error).__name__, error, flush=True)
            own.close()
            sys.exit(0)
        os.wait()
        assert env.step("?")[4]["valid"] is False
        env.close()
        print("fine")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("EnvironmentFault agentkit/Sudoku-v0: step() did not return: its process belongs to")
    assert lines[1] == "fine"


def test_workers_that_cannot_be_started_are_one_error(pool: Pool) -> None:
    WorkerEnv(WALK, pool=pool).close()
    _, hard = resource.prlimit(nursery_of(pool), resource.RLIMIT_NOFILE)
    resource.prlimit(nursery_of(pool), resource.RLIMIT_NOFILE, (9, hard))
    envs = []
    with pytest.raises(EnvironmentFault, match=r"no worker process can be started: .*Too many open files"):
        envs += [WorkerEnv(TROUBLE, pool=pool) for _ in range(9)]
    assert WorkerEnv(WALK, pool=pool).reset(seed=1)  # the nursery and its workers live on


def test_a_nursery_whose_worker_closes_its_output_does_not_spin(pool: Pool) -> None:
    env = WorkerEnv(TROUBLE, pool=pool)
    env.reset(seed=1)
    env.step("be silent")
    before = cpu_s(nursery_of(pool))
    time.sleep(0.5)
    assert cpu_s(nursery_of(pool)) - before < 0.1
    assert env.step("left")


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
