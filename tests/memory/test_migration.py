"""Another embedder, while the store is in use: answers by one embedder at a time, and nothing done twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from agentkit.errors import RecordError
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.kinds import Draft, FactBody, Source
from agentkit.memory.store import MemoryStore


class Backwards:
    """Reads texts from back to front, into as many numbers as `HashEmbedder(64)`: nothing would notice a mixture.

    Waits for `go` before every batch but the first `free` ones.
    """

    def __init__(self, dim=64, free=10_000):
        self.dim = dim
        self.fingerprint = f"backwards-{dim}"
        self.free = free
        self.go = threading.Event()
        self.texts: list[str] = []

    def embed(self, texts):
        if self.free <= 0:
            assert self.go.wait(30)
        self.free -= 1
        self.texts += texts
        return -HashEmbedder(self.dim).embed([text[::-1] for text in texts])


def fact(number, value="so"):
    return Draft(
        body=FactBody(subject=f"thing {number}", relation="is", value=value),
        text=f"thing {number} is {value}",
        keys={"state": f"a place number {number} {number * 7919 % 1000}"},
        env_id="test/Env-v0",
        source=Source(writer="environment", name="test"),
    )


def told(memory, k=5):
    return [[(found.id, found.score) for found in memory.recall(f"a place number {n}", k)] for n in (7, 77, 177)]


def fresh(folder, embedder, numbers):
    """What a store says that has always had that embedder."""
    with MemoryStore.open(folder, embedder=embedder, index="exact") as memory:
        memory.write(map(fact, numbers))
        return told(memory)


@pytest.mark.parametrize("index", ["chroma", "exact"])
@pytest.mark.parametrize("dim", [64, 32])
def test_recalls_use_the_old_embedder_to_the_end_and_then_the_new_one(tmp_path, index, dim):
    old, new = HashEmbedder(64), Backwards(dim, free=2)
    before = fresh(tmp_path / "old", old, range(300))
    with MemoryStore.open(tmp_path / "store", embedder=old, index=index, exact_limit=50) as memory:
        memory.write(map(fact, range(300)))
        pinned = memory.snapshot()
        migration = memory.migrate(new)
        assert memory.migrate(new) is migration
        with pytest.raises(RecordError, match=r"change to embedder 'backwards-\d+' is under way; `wait`"):
            memory.migrate(HashEmbedder(16))
        while migration.progress() != (128, 300):
            time.sleep(0.01)
        assert not migration.done
        assert not migration.wait(0.01)
        assert told(memory) == before
        memory.write([fact(300)])  # gets both
        assert memory.recall("a place number 300", 1)[0].text == "thing 300 is so"
        assert migration.progress() == (128, 301)
        new.go.set()
        assert migration.wait(30)
        assert migration.progress() == (301, 301)
        after = fresh(tmp_path / "new", Backwards(dim), range(301))
        assert told(memory) == after != before
        assert memory.snapshot() != pinned
        assert memory.verify() == []
        memory.write([fact(301)])
        assert memory.verify() == []
        assert len(new.texts) == 301 + 3 + 1  # each text once, the queries of `told`, and the last memory
    with pytest.raises(RecordError, match=f"made with embedder 'backwards-{dim}', not 'hash-2-dim64'.*`migrate`"):
        MemoryStore.open(tmp_path / "store", embedder=old, index=index)
    with MemoryStore.open(tmp_path / "store", embedder=Backwards(dim), index=index, exact_limit=50) as memory:
        assert memory.trouble is None
        assert memory.verify() == []


def test_recalls_from_other_threads_see_one_embedder_or_the_other(tmp_path):
    """Backwards gives the negative of what the same text read backwards gives: mixed up, scores would be foreign."""
    old, new = HashEmbedder(64), Backwards(64)
    before, after = fresh(tmp_path / "old", old, range(200)), fresh(tmp_path / "new", Backwards(64), range(200))
    with MemoryStore.open(tmp_path / "store", embedder=old, exact_limit=20) as memory:
        memory.write(map(fact, range(200)))
        seen, over = [], threading.Event()

        def ask():
            while not over.is_set():
                seen.append(told(memory))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        migration = memory.migrate(new)
        migration.wait(30)
        time.sleep(0.3)
        over.set()
        for thread in threads:
            thread.join()
        for answers in seen:
            for given, one, other in zip(answers, before, after, strict=True):
                assert given in (one, other)
        assert seen[-1] == after


KILLED = """
import os, sys, threading
sys.path.insert(0, sys.argv[2])
from test_migration import Backwards, fact
from agentkit.memory import HashEmbedder, MemoryStore

class Mortal(Backwards):
    def embed(self, texts):
        if len(self.texts) > 128:
            os.kill(os.getpid(), 9)
        return super().embed(texts)

memory = MemoryStore.open(sys.argv[1], embedder=HashEmbedder(64), index="exact")
memory.write(map(fact, range(300)))
memory.migrate(Mortal()).wait()
"""


def test_after_a_kill_it_goes_on_where_it_stopped(tmp_path):
    store, here = tmp_path / "store", str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", KILLED, str(store), here], check=False)
    assert done.returncode == -signal.SIGKILL
    before, after = (fresh(tmp_path / e.fingerprint, e, range(300)) for e in (HashEmbedder(64), Backwards()))
    new = Backwards()
    with MemoryStore.open(store, embedder=HashEmbedder(64), index="exact") as memory:
        assert told(memory) == before
        assert memory.migrate(new).wait(30)
        assert len(new.texts) == 300 - 192  # three batches of 64 were acknowledged
        assert told(memory) == after


def test_closing_stops_it_and_opening_with_rebuild_goes_on(tmp_path):
    slow = Backwards(free=2)
    memory = MemoryStore.open(tmp_path / "store", embedder=HashEmbedder(64), index="exact")
    memory.write(map(fact, range(300)))
    migration = memory.migrate(slow)
    while migration.progress()[0] < 128:
        time.sleep(0.01)
    threading.Timer(0.2, slow.go.set).start()
    memory.close()
    assert migration.done
    new = Backwards()
    with MemoryStore.open(tmp_path / "store", embedder=new, index="exact", rebuild=True) as memory:
        assert len(new.texts) == 300 - 192
        assert memory.verify() == []


def test_an_embedder_that_fails_leaves_the_store_as_it_was(tmp_path):
    class Failing(Backwards):
        def embed(self, texts):
            if len(self.texts) >= 64:
                raise RuntimeError("the service is out")
            return super().embed(texts)

    class Lying(Backwards):
        def embed(self, texts):
            return np.ones((len(texts), 63), np.float32)

    with MemoryStore.open(tmp_path / "store", embedder=HashEmbedder(64), index="exact") as memory:
        memory.write(map(fact, range(200)))
        before = told(memory)
        with pytest.raises(RecordError, match=r"stopped \(the service is out\); the store answers as before"):
            memory.migrate(Failing()).wait()
        with pytest.raises(
            RecordError, match=r"gave vectors of shape \(64, 63\), or not finite, for 64 texts, its dim is 64"
        ):
            memory.migrate(Lying()).wait()
        assert told(memory) == before
        assert memory.verify() == []
        assert memory.migrate(Backwards()).wait(30)
        assert memory.verify() == []


def test_what_is_forgotten_meanwhile_is_in_neither(tmp_path):
    slow = Backwards(free=2)
    with MemoryStore.open(tmp_path / "store", embedder=HashEmbedder(64), index="exact") as memory:
        memory.write(map(fact, range(300)))
        migration = memory.migrate(slow)
        while migration.progress()[0] < 128:
            time.sleep(0.01)
        found = memory.recall("a place number 7", 1)[0]
        id, text = found.id, found.key
        memory.forget(id=id)
        assert memory.verify() == []
        slow.go.set()
        migration.wait(30)
        assert memory.verify() == []
        assert id not in [found.id for found in memory.recall("a place number 7", 300)]
    for path in (tmp_path / "store").iterdir():
        assert text.encode() not in path.read_bytes()
