from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from agentkit.bench.clock import beside, time_calls
from agentkit.bench.latency import Sized
from agentkit.memory.kinds import Memory
from agentkit.memory.store import MemoryStore


def test_calls_are_timed_alone_and_beside_others() -> None:
    def nap(_: int) -> None:
        time.sleep(0.01)

    times = time_calls(nap, 5)
    assert 10 <= times.p50 <= times.p95
    assert times.cpu_p95 < 10  # asleep
    done: list[int] = []
    with beside(done.append, pause_s=0.001) as milliseconds:
        nap(0)
    assert done == list(range(len(milliseconds)))
    assert len(done) > 1


def test_what_goes_wrong_beside_is_raised() -> None:
    with pytest.raises(ZeroDivisionError), beside(lambda number: 1 // number):
        time.sleep(0.01)


def test_a_slow_store_misses_the_bars_of_what_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recall = MemoryStore.recall

    def slow(self: MemoryStore, query: Any, k: int = 3, **scope: Any) -> list[Memory]:
        time.sleep(0.02 if scope.get("env_id") else 0.0)
        return recall(self, query, k, **scope)

    monkeypatch.setattr(MemoryStore, "recall", slow)
    sized = Sized(tmp_path, 200, 3)
    sized.measure()
    assert {check.what: check for check in sized.checks}["200: recall 10, 1 % in scope, p95, ms"].value >= 20
    calls = [row["call"] for row in sized.rows]
    assert len(calls) == len(set(calls))
    assert {"write one", "write one, no gate", "read, 1 % in scope", "rebuild of the index", "open"} <= set(calls)
