"""Processes: children that end with Python, and how to tell that all of them have come to rest.

A process is at rest if each of its threads sleeps, none was scheduled in between, and none sleeps for a short while
only: rest is then a fact, not a guess of how many milliseconds something takes, and holds on a busy machine too.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

LOOK_S = 0.004
"""Seconds between two looks at what the processes do."""
_SLEEPING = ("S", "T", "t", "Z", "X", "I")
"""States of a thread that wants no processor: asleep, stopped, dead."""

_POLLS = {"x86_64": ("7", "271"), "aarch64": ("", "73")}
"""Numbers of the system calls poll and ppoll, by machine."""

_orders: queue.SimpleQueue[tuple[list[str], dict[str, Any], queue.SimpleQueue[Any]]] = queue.SimpleQueue()
_starter: threading.Thread | None = None
_lock = threading.Lock()


def start(argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a child, leader of its own process group; `options` as for `subprocess.Popen`.

    The kernel ends a child that asked to die with its parent as soon as the *thread* that started it ends, so all
    children are started by one thread that lives as long as Python.
    """
    global _starter
    with _lock:
        if _starter is None or not _starter.is_alive():
            _starter = threading.Thread(target=_start_children, daemon=True, name="agentkit-desktop-starter")
            _starter.start()
    answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
    _orders.put((argv, options, answer))
    child = answer.get()
    if isinstance(child, BaseException):
        raise child
    return child


def _start_children() -> None:
    while True:
        argv, options, answer = _orders.get()
        try:
            answer.put(subprocess.Popen(argv, start_new_session=True, stdin=subprocess.DEVNULL, **options))
        except BaseException as error:  # noqa: BLE001 - raised again by `start`
            answer.put(error)


def end(children: Iterable[subprocess.Popen[bytes]], how: signal.Signals = signal.SIGKILL) -> None:
    """End children with their process groups, and reap them; those that outlive a polite signal by 2 s are killed."""
    children = list(children)
    for child in children:
        _signal(child, how)
    for child in children:
        try:
            child.wait(2)
        except subprocess.TimeoutExpired:
            _signal(child, signal.SIGKILL)
            child.wait()


def _signal(child: subprocess.Popen[bytes], how: signal.Signals) -> None:
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, how)


def end_marked(mark: str, sparing: Iterable[int] = ()) -> None:
    """Kill every process that has `mark` in its environment, be it of another group; those of `sparing` live on."""
    spared = set(sparing)
    for _ in range(5):  # what is killed may just have started another
        numbered = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        found = [int(entry.name) for entry in numbered if int(entry.name) not in spared and _bears(entry, mark)]
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.01)


def _bears(process: Path, mark: str) -> bool:
    try:
        return mark.encode() in (process / "environ").read_bytes()
    except OSError:
        return False


def await_rest(
    roots: Iterable[int], quiet_s: float, most_s: float, timed: Iterable[int] = (), soon_s: float = 0
) -> bool:
    """Wait until some processes and their descendants have been at rest for a while.

    Args:
        roots: ids of the processes.
        quiet_s: seconds without any activity that count as rest.
        most_s: seconds after which to give up.
        timed: those of `roots` that are not at rest while a timer of theirs is to go off soon.
        soon_s: seconds from the timer's beginning to its end that count as soon.

    Returns:
        False if they were still busy after `most_s`.
    """
    roots, timed = tuple(roots), tuple(timed)
    begun = time.monotonic()
    last, since = _activity(roots), begun
    while True:
        time.sleep(LOOK_S)
        now = time.monotonic()
        seen = _activity(roots)
        if seen is None or seen != last:
            last, since = seen, now
        elif now - since >= quiet_s and (now - since >= soon_s or _next_timer_s(timed) > soon_s):
            return True
        if now - begun > most_s:
            return False


def _threads(roots: Iterable[int]) -> Iterator[str]:
    """Folders under /proc of the threads of some processes and of their descendants; empty for one that has ended."""
    todo = list(roots)
    while todo:
        threads = f"/proc/{todo.pop()}/task"
        try:
            for thread in os.listdir(threads):
                folder = f"{threads}/{thread}"
                yield folder
                todo += map(int, _read(f"{folder}/children").split())
        except OSError:
            yield ""


def _activity(roots: Iterable[int]) -> dict[str, bytes] | None:
    """How often each thread has been scheduled, or None if one of them is running or wants to."""
    seen: dict[str, bytes] = {}
    for folder in _threads(roots):
        try:
            if _read(f"{folder}/stat").rpartition(b") ")[2][:1].decode() not in _SLEEPING:
                return None
            seen[folder] = _read(f"{folder}/schedstat")
        except OSError:
            seen[folder] = b"gone"
    return seen


def _next_timer_s(roots: Iterable[int]) -> float:
    """Seconds that the event loop which wakes first has set itself to sleep; 0 where that cannot be told."""
    if (machine := os.uname().machine) not in _POLLS:
        return 0.0
    poll, ppoll = _POLLS[machine]
    shortest = math.inf
    for folder in _threads(roots):
        try:
            call, *arguments = _read(f"{folder}/syscall").decode().split()
            if call == poll:  # milliseconds, a C int; negative for no timer
                [timeout_ms] = struct.unpack("<i", struct.pack("<I", int(arguments[2], 16) & 0xFFFFFFFF))
                timer_s = timeout_ms / 1000 if timeout_ms >= 0 else math.inf
            elif call == ppoll and (address := int(arguments[2], 16)):
                with open(f"{folder}/mem", "rb") as memory:
                    memory.seek(address)
                    seconds, nanoseconds = struct.unpack("<qq", memory.read(16))
                timer_s = seconds + nanoseconds / 1e9
            else:
                continue
        except OSError:  # it has ended, or may not be looked at
            timer_s = 0.0
        shortest = min(shortest, timer_s)
    return shortest


def _read(path: str) -> bytes:
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.read(handle, 4096)
    finally:
        os.close(handle)
