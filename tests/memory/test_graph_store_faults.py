"""The LangGraph store among threads, event loops, kills, other owners and wrong settings."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)

from agentkit.errors import ConfigError, OwnedElsewhereError, RecordError, UnknownNameError
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.graph_store import ChromaMemoryStore


def count_letters(texts: Sequence[str]) -> list[list[float]]:
    """Small whole numbers, so that equal similarities are equal to the last digit."""
    return [[float(text.count(letter)) for letter in "abcdef"] for text in texts]


LETTERS: Any = {"dims": 6, "embed": count_letters, "fields": ["text"]}


def opened(folder: Path, **settings: Any) -> ChromaMemoryStore:
    return ChromaMemoryStore(folder, index=LETTERS, **settings)


def test_an_event_loop_that_uses_the_store_is_neither_blocked_nor_lets_itself_be_blocked(tmp_path):
    threads = set()

    def embed(texts: Sequence[str]) -> list[list[float]]:
        threads.add(threading.current_thread())
        time.sleep(0.3)
        return count_letters(texts)

    async def use(store: ChromaMemoryStore) -> int:
        store.get(("n",), "k")  # as yet, the loop is nothing to the store
        putting = asyncio.create_task(store.aput(("n",), "k", {"text": "a"}))
        ticks = 0
        while not putting.done():
            await asyncio.sleep(0.01)
            ticks += 1
        await putting
        with pytest.raises(asyncio.InvalidStateError, match="await the asynchronous one"):
            store.get(("n",), "k")
        await asyncio.gather(*(store.aput(("m",), f"{n}", {"n": n}) for n in range(30)))
        assert len(await store.asearch(("m",), limit=100)) == 30
        return ticks

    with ChromaMemoryStore(tmp_path, index={**LETTERS, "embed": embed}) as store:
        assert asyncio.run(use(store)) >= 5
        assert threading.main_thread() not in threads
        assert store.get(("n",), "k") is not None


def test_an_asynchronous_embedder_serves_asynchronous_calls(tmp_path):
    async def embed(texts: Sequence[str]) -> list[list[float]]:
        return count_letters(texts)

    async def use(store: ChromaMemoryStore) -> Any:
        await store.aput(("n",), "k", {"text": "ab"})
        return await store.asearch(("n",), query="ab")

    with ChromaMemoryStore(tmp_path, index={**LETTERS, "embed": embed}) as store:
        assert asyncio.run(use(store))[0].score == 1.0
        with pytest.raises(ValueError, match="async function"):
            store.put(("n",), "other", {"text": "c"})


def test_threads_that_put_the_same_item_leave_one_of_their_values_and_its_vector(tmp_path):
    with opened(tmp_path) as store:

        def put(letter: str) -> None:
            for _ in range(10):
                store.put(("n",), "k", {"text": letter})

        work = [threading.Thread(target=put, args=(letter,)) for letter in "abcd"]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        item = store.get(("n",), "k")
        assert item is not None
        assert [found.score for found in store.search(("n",), query=item.value["text"])] == [1.0]


PUTS = """
import os, sys
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.graph_store import ChromaMemoryStore
index = {"dims": 64, "embed": HashEmbedder(64), "fields": ["text"]}
for line in sys.stdin:  # the fork comes before a store is open, so each child is a fresh process
    child = os.fork()
    if child == 0:
        store = ChromaMemoryStore(sys.argv[1], index=index, exact_limit=int(sys.argv[2]))
        for n in range(100_000):
            name = f"{line.strip()}-{n}"
            store.put(("n",), name, {"text": f"number {name}"})
            os.write(1, f"ack {name}\\n".encode())
            if n % 10 == 9:
                store.search((), query="number", limit=1)
    os.write(1, f"pid {child}\\n".encode())
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


def killed_while_putting(folder: Path, exact_limit: int, num_kills: int) -> list[str]:
    """Acknowledged keys of processes that were killed one after another while they put items."""
    command = [sys.executable, "-c", PUTS, str(folder), str(exact_limit)]
    acknowledged: list[str] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for kill in range(num_kills):
            print(kill, file=process.stdin, flush=True)
            pid, num = 0, 0
            for line in process.stdout:
                word, _, name = line.strip().partition(" ")
                if word == "dead":
                    break
                if word == "pid":
                    pid = int(name)
                else:
                    acknowledged.append(name)
                    num += 1
                if pid and num == 25 + 3 * kill:
                    os.kill(pid, signal.SIGKILL)
        process.stdin.close()
    return acknowledged


@pytest.mark.parametrize(("exact_limit", "num_kills"), [(20_000, 10), (20, 1)])
def test_no_acknowledged_item_is_lost_when_the_process_is_killed(tmp_path, exact_limit, num_kills):
    acknowledged = killed_while_putting(tmp_path, exact_limit, num_kills)
    assert len(acknowledged) >= 25 * num_kills
    index: Any = {"dims": 64, "embed": HashEmbedder(64), "fields": ["text"]}
    with ChromaMemoryStore(tmp_path, index=index, exact_limit=exact_limit) as store:
        assert {item.key for item in store.search(("n",), limit=10**6)} >= set(acknowledged)
        for name in acknowledged[::40]:
            found = store.search(("n",), query=f"number {name}", limit=1)[0]
            assert (found.value["text"], found.score) == (f"number {name}", 1.0)
        with store._database.reading() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM item_vectors").scalar() == len(
                store.search((), limit=10**6)
            )
        assert store._chroma.trouble is None


def test_a_folder_has_one_owner(tmp_path):
    with opened(tmp_path) as store:
        with pytest.raises(OwnedElsewhereError, match="already open in this process"):
            opened(tmp_path)
        command = f"from agentkit.memory.graph_store import ChromaMemoryStore; ChromaMemoryStore({str(tmp_path)!r})"
        done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
        assert f"OwnedElsewhereError: {tmp_path} is owned by process {os.getpid()}" in done.stderr
        store.put(("n",), "k", {})
    store.close()
    with pytest.raises(RecordError, match="has been closed; open it again"):
        store.get(("n",), "k")
    opened(tmp_path).close()


def test_another_embedder_is_refused_and_touches_nothing(tmp_path):
    def other(texts: Sequence[str]) -> list[list[float]]:
        return [vector[::-1] for vector in count_letters(texts)]

    with opened(tmp_path) as store:
        store.put(("n",), "k", {"text": "a"})
    with pytest.raises(ConfigError, match=r"vectors have 6 numbers, the index says dims=7; .* another folder"):
        ChromaMemoryStore(tmp_path, index={**LETTERS, "dims": 7})
    with ChromaMemoryStore(tmp_path, index={**LETTERS, "embed": other}) as store:
        for _ in range(2):
            with pytest.raises(ConfigError, match="made by another embedder, and gave the same text another vector"):
                store.put(("n",), "k", {"text": "b"})
            with pytest.raises(ConfigError, match="made by another embedder"):
                store.search(("n",), query="a")
        assert store.search(("n",))[0].value == {"text": "a"}
    with opened(tmp_path) as store:
        assert store.search(("n",), query="a")[0].score == 1.0


def test_an_embedder_of_another_name_is_refused_at_once(tmp_path):
    index: Any = {"dims": 64, "embed": HashEmbedder(64)}
    ChromaMemoryStore(tmp_path, index=index).close()
    renamed = HashEmbedder(64)
    renamed.fingerprint = "hash-0-dim64"
    with pytest.raises(ConfigError, match="another embedder, 'hash-2-dim64', not 'hash-0-dim64'"):
        ChromaMemoryStore(tmp_path, index={"dims": 64, "embed": renamed})  # type: ignore[arg-type]
    ChromaMemoryStore(tmp_path, index=index).close()


@pytest.mark.parametrize(
    ("op", "error", "message"),
    [
        (PutOp((), "k", {}), InvalidNamespaceError, "at least one label"),
        (PutOp(("a", "b.c"), "k", {}), InvalidNamespaceError, r"'b\.c' in \('a', 'b\.c'\) is no label"),
        (GetOp(("a\x1fb",), "k"), InvalidNamespaceError, "characters 0 and 31"),
        (PutOp(("a",), "\ud800", {}), ConfigError, "no Unicode text"),
        (PutOp(("a",), "k", {"x": object()}), ConfigError, "the value of 'k' .* cannot be kept as JSON"),
        (PutOp(("a",), "k", {"x": float("nan")}), ConfigError, "cannot be kept as JSON"),
        (PutOp(("a",), "k", {}, ttl=0), ConfigError, "give minutes above 0"),
        (PutOp(("a",), "k", {}, index="text"), ConfigError, r"index is 'text'; give a list of paths"),  # type: ignore[arg-type]
        (SearchOp((), {"n": {"$near": 1}}), ConfigError, r"no operator '\$near'; there are \$eq"),
        (SearchOp((), {"n": {"$gt": "x"}}), ConfigError, r"\$gt compares with 'x'; give it a number"),
        (SearchOp((), limit=-1), ConfigError, "limit=-1, offset=0: give numbers from 0"),
        (ListNamespacesOp((MatchCondition("infix", ("a",)),)), ConfigError, "not by 'infix'"),  # type: ignore[arg-type]
        ("get", ConfigError, "'get' is no operation"),
    ],
)
def test_a_malformed_operation_stops_its_batch_before_anything_is_done(tmp_path, op, error, message):
    with opened(tmp_path) as store:
        with pytest.raises(error, match=message):
            store.batch([PutOp(("a",), "other", {"text": "a"}), op])
        assert store.list_namespaces() == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda texts: [[1.0] * 5 for _ in texts], r"vector of shape \(5,\), but the index says dims=6"),
        (lambda texts: [[1.0] * 6], "gave 1 vectors for 2 texts"),
        (lambda texts: [[float("nan")] * 6 for _ in texts], "not finite"),
    ],
)
def test_an_embedder_that_breaks_its_word_is_told_so(tmp_path, wrong, message):
    index: Any = {**LETTERS, "embed": wrong}
    with ChromaMemoryStore(tmp_path, index=index) as store:
        with pytest.raises(ConfigError, match=message):
            store.put(("n",), "k", {"text": "a"})
        assert store.get(("n",), "k") is None


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"index": {"dims": 6}}, ConfigError, "needs 'dims', a whole number from 1, and 'embed'"),
        ({"index": {**LETTERS, "feilds": []}}, UnknownNameError, "did you mean 'fields'"),
        ({"index": {**LETTERS, "fields": "text"}}, ConfigError, "give a list of paths"),
        ({"ttl": {"sweep_interval_minutes": 5}}, UnknownNameError, "no time-to-live setting"),
        ({"ttl": {"omit_expired": False}}, ConfigError, "never returns expired items"),
    ],
)
def test_malformed_settings_are_refused_and_the_folder_given_back(tmp_path, settings, error, message) -> None:
    with pytest.raises(error, match=message):
        ChromaMemoryStore(tmp_path, **settings)
    opened(tmp_path).close()
