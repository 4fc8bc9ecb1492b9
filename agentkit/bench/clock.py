"""Clock: how long calls take, of the clock on the wall and of this process's CPU, alone or beside other work."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np


class Times(NamedTuple):
    """Of many calls, in milliseconds."""

    p50: float
    p95: float
    cpu_p95: float
    """Of the CPU time of the process, all its threads."""


def time_calls(work: Callable[[int], object], repeats: int) -> Times:
    """How long `work(0)`, `work(1)` ... took."""
    wall, cpu = [], []
    for one in range(repeats):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        work(one)
        wall.append(1000 * (time.perf_counter() - begun))
        cpu.append(1000 * (time.process_time() - cpu_begun))
    return Times(**cuts(wall), cpu_p95=cuts(cpu)["p95"])


class Stopwatch:
    """Seconds since it was made.

    CPU time counts all threads, and those other processes started by this one that have ended.
    """

    def __init__(self) -> None:
        self._begun, self._cpu_begun = time.perf_counter(), _cpu_s()

    @property
    def wall_s(self) -> float:
        """On the wall."""
        return time.perf_counter() - self._begun

    @property
    def cpu_s(self) -> float:
        """Of CPU."""
        return _cpu_s() - self._cpu_begun


@contextmanager
def beside(work: Callable[[int], object], pause_s: float = 0.0) -> Iterator[list[float]]:
    """Do `work(0)`, `work(1)` ... in another thread while the block runs; yields the milliseconds of each so far.

    After each, the thread pauses for so many seconds. What goes wrong there is raised at the end of the block.
    """
    over = threading.Event()
    milliseconds: list[float] = []

    def go_on() -> None:
        while not over.is_set():
            begun = time.perf_counter()
            work(len(milliseconds))
            milliseconds.append(1000 * (time.perf_counter() - begun))
            over.wait(pause_s)

    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(go_on)
        try:
            yield milliseconds
        finally:
            over.set()
        going.result()


def cuts(milliseconds: Sequence[float]) -> dict[str, float]:
    """`p50` and `p95`; nothing of nothing.

    >>> cuts([1.0, 2.0, 3.0]), cuts([])
    ({'p50': 2.0, 'p95': 2.9}, {})
    """
    if not milliseconds:
        return {}
    p50, p95 = np.percentile(milliseconds, [50, 95]).tolist()
    return {"p50": p50, "p95": p95}


def _cpu_s() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
