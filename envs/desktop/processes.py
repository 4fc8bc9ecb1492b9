"""Processes: children that end with Python, and how to tell that all of them have come to rest.

A process is at rest if each of its threads sleeps and none was scheduled in between: rest is then a fact, not a guess
of how many milliseconds something takes, and holds on a busy machine too.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LOOK_S = 0.004
"""Seconds between two looks at what the processes do."""
_SLEEPING = ("S", "T", "t", "Z", "X", "I")
"""States of a thread that wants no processor: asleep, stopped, dead."""

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


def await_rest(roots: Iterable[int], quiet_s: float, most_s: float) -> bool:
    """Wait until some processes and their descendants have been at rest for a while.

    Args:
        roots: ids of the processes.
        quiet_s: seconds without any activity that count as rest.
        most_s: seconds after which to give up.

    Returns:
        False if they were still busy after `most_s`.
    """
    roots = tuple(roots)
    begun = time.monotonic()
    last, since = _activity(roots), begun
    while True:
        time.sleep(LOOK_S)
        now = time.monotonic()
        seen = _activity(roots)
        if seen is None or seen != last:
            last, since = seen, now
        elif now - since >= quiet_s:
            return True
        if now - begun > most_s:
            return False


def _activity(roots: tuple[int, ...]) -> dict[str, bytes] | None:
    """How often each thread has been scheduled, or None if one of them is running or wants to."""
    seen: dict[str, bytes] = {}
    todo = list(roots)
    while todo:
        threads = f"/proc/{todo.pop()}/task"
        try:
            for thread in os.listdir(threads):
                folder = f"{threads}/{thread}"
                state = _read(f"{folder}/stat").rpartition(b") ")[2][:1].decode()
                if state not in _SLEEPING:
                    return None
                seen[folder] = _read(f"{folder}/schedstat")
                todo += map(int, _read(f"{folder}/children").split())
        except OSError:  # it has just ended
            seen[threads] = b"gone"
    return seen


def _read(path: str) -> bytes:
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.read(handle, 4096)
    finally:
        os.close(handle)
