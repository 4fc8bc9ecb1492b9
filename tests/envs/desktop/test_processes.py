"""Children, their end, and their rest."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from agentkit.envs.desktop import processes

pytestmark = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux's /proc")
SLEEPER = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]


def started(code: str) -> subprocess.Popen[bytes]:
    child = processes.start([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    return child


def test_a_sleeping_process_is_at_rest_and_a_working_one_is_not() -> None:
    sleeper = started("import time; print(flush=True); time.sleep(60)")
    worker = started("print(flush=True)\nwhile True: pass")
    try:
        assert processes.await_rest([sleeper.pid], 0.03, 5)
        assert not processes.await_rest([worker.pid], 0.03, 0.2)
        assert not processes.await_rest([sleeper.pid, worker.pid], 0.03, 0.2)
    finally:
        processes.end([sleeper, worker])


def test_work_of_a_grandchild_and_of_a_thread_is_work() -> None:
    parent = started(
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'while True: pass'])\nprint(flush=True); time.sleep(60)"
    )
    threaded = started(
        "import threading, time\ndef work():\n  while True: pass\n"
        "threading.Thread(target=work, daemon=True).start()\nprint(flush=True); time.sleep(60)"
    )
    try:
        assert not processes.await_rest([parent.pid], 0.03, 0.2)
        assert not processes.await_rest([threaded.pid], 0.03, 0.2)
    finally:
        processes.end([parent, threaded])


def test_rest_begins_anew_with_every_short_piece_of_work() -> None:
    ticking = started("import time; print(flush=True)\nwhile True: time.sleep(0.02)")
    try:
        assert not processes.await_rest([ticking.pid], 0.1, 0.5)
    finally:
        processes.end([ticking])


LIBC = "import ctypes, os, struct; libc = ctypes.CDLL(None)\n"
PPOLL = "libc.ppoll(None, 0, struct.pack('<qq', {} // 1000, {} % 1000 * 1000000), None)"


@pytest.mark.parametrize("sleep", ["libc.poll(None, 0, {})", PPOLL])
def test_an_event_loop_that_will_wake_soon_is_not_at_rest(sleep: str) -> None:
    def waits(timeout_ms: int, soon_s: float) -> bool:
        loop = started(f"{LIBC}print(flush=True)\n{sleep.replace('{}', str(timeout_ms))}\nlibc.poll(None, 0, -1)")
        try:
            time.sleep(0.1)
            begun = time.monotonic()
            assert processes.await_rest([loop.pid], 0.02, 5, [loop.pid], soon_s)
            return time.monotonic() - begun > 0.2
        finally:
            processes.end([loop])

    assert waits(500, soon_s=0.6)
    assert not waits(500, soon_s=0.1)
    assert not waits(30_000, soon_s=0.6)


def test_an_event_loop_without_a_timer_is_at_rest_and_timers_of_others_do_not_count() -> None:
    forever = started(f"{LIBC}print(flush=True)\nlibc.poll(None, 0, -1)")
    timed = started(f"{LIBC}print(flush=True)\nlibc.poll(None, 0, 3000)\nlibc.poll(None, 0, -1)")
    try:
        time.sleep(0.1)
        begun = time.monotonic()
        assert processes.await_rest([forever.pid, timed.pid], 0.02, 5, [forever.pid], 4)
        assert time.monotonic() - begun < 1
        assert not processes.await_rest([forever.pid, timed.pid], 0.02, 0.5, [timed.pid], 4)
    finally:
        processes.end([forever, timed])


def test_a_process_that_is_gone_is_at_rest() -> None:
    child = started("print(flush=True)")
    child.wait()
    assert processes.await_rest([child.pid], 0.01, 1)


def test_a_child_outlives_the_thread_that_asked_for_it() -> None:
    children: list[subprocess.Popen[bytes]] = []
    command = ["setpriv", "--pdeathsig", "KILL", *SLEEPER]
    thread = threading.Thread(target=lambda: children.append(processes.start(command, stdout=subprocess.PIPE)))
    thread.start()
    thread.join()
    [child] = children
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(0.1)
    try:
        assert child.poll() is None
    finally:
        processes.end([child])
    assert child.returncode is not None


def test_ending_takes_the_group_and_does_not_ask_twice() -> None:
    stubborn = started(
        "import signal, subprocess, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(flush=True); time.sleep(60)"
    )
    [grandchild] = psutil.Process(stubborn.pid).children()
    processes.end([stubborn])
    assert stubborn.returncode == -9
    psutil.wait_procs([grandchild], timeout=5)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


def test_a_mark_in_the_environment_finds_what_has_left_its_group() -> None:
    mark = f"AGENTKIT_TEST_MARK={os.getpid()}"
    name, _, value = mark.partition("=")
    runaway = processes.start(SLEEPER, env={**os.environ, name: value}, stdout=subprocess.PIPE)
    spared = processes.start(SLEEPER, env={**os.environ, name: value}, stdout=subprocess.PIPE)
    try:
        processes.end_marked(mark, sparing=[spared.pid])
        assert runaway.wait(5) == -9
        assert spared.poll() is None
    finally:
        processes.end([spared])


def test_a_program_that_is_not_there_is_an_error_of_who_asked() -> None:
    with pytest.raises(FileNotFoundError):
        processes.start(["/no/such/program"])
