"""The index beside the journal: it may lag, break and be made anew; answers do not change and nobody waits for it."""

from __future__ import annotations

import threading
import time

import pytest

from agentkit.errors import RecordError
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.index import ChromaIndex, inspect
from agentkit.memory.kinds import Draft, FactBody, Source
from agentkit.memory.store import MemoryStore


def fact(number):
    return Draft(
        body=FactBody(subject=f"thing {number}", relation="is", value="so"),
        text=f"thing {number} is so",
        keys={"state": f"a place number {number} {number * 7919 % 1000}"},
        env_id="test/Env-v0",
        source=Source(writer="environment", name="test"),
    )


def open_store(folder, **options):
    options = {"embedder": HashEmbedder(64), "index": "chroma", "exact_limit": 20, "gate": None, **options}
    return MemoryStore.open(folder, **options)


def told(memory):
    return [[(m.id, m.score) for m in memory.recall(f"a place number {n}", 5)] for n in (7, 77, 177)]


def test_what_the_index_has_not_been_told_is_found_all_the_same(tmp_path):
    with open_store(tmp_path / "exact", index="exact") as exact, open_store(tmp_path / "store") as memory:
        for one in (exact, memory):
            one.write(map(fact, range(60)))
        memory._keeper.apply()
        for one in (exact, memory):
            one.write(map(fact, range(60, 180)))  # too few to be told at once
        assert memory.index_lag in range(1, 121)
        assert told(memory) == told(exact)


def test_a_lag_is_made_up_behind_the_scenes(tmp_path):
    with open_store(tmp_path / "store") as memory:
        memory.write(map(fact, range(300)))
        deadline = time.monotonic() + 30
        while memory._keeper.applied < 300:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert memory.index_lag == 0
        assert memory._keeper._index.count() == 300


def test_recalls_and_writes_go_on_while_the_index_is_made_anew(tmp_path, monkeypatch):
    go, filling = threading.Event(), threading.Event()

    class Slow(ChromaIndex):
        def upsert(self, ids, vectors):
            filling.set()
            assert go.wait(30)
            super().upsert(ids, vectors)

    with open_store(tmp_path / "store") as memory:
        memory.write(map(fact, range(100)))
        expected = told(memory)
        monkeypatch.setattr("agentkit.memory.shelf.ChromaIndex", Slow)
        rebuild = threading.Thread(target=memory.rebuild)
        rebuild.start()
        assert filling.wait(30)
        assert told(memory) == expected
        memory.write([fact(100)])
        assert memory.recall(fact(100).keys["state"], 1)[0].text == "thing 100 is so"
        go.set()
        rebuild.join()
        assert memory.verify() == []
        assert memory.recall(fact(100).keys["state"], 1)[0].text == "thing 100 is so"


def test_a_large_index_is_filled_by_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr("agentkit.memory.shelf._LARGE", 50)
    with open_store(tmp_path / "store") as memory:
        memory.write(map(fact, range(100)))
        expected = told(memory)
        memory.rebuild()
        assert memory.verify() == []
        assert told(memory) == expected
        vectors = HashEmbedder(64).embed([fact(n).keys["state"] for n in range(100)])
    assert inspect(tmp_path / "store" / "chroma" / "2", ["1", "100"], vectors[[0, 99]])[1] == 2


def test_a_process_that_cannot_fill_an_index_says_so_and_leaves_the_old_one(tmp_path, monkeypatch):
    monkeypatch.setattr("agentkit.memory.shelf._LARGE", 50)
    with open_store(tmp_path / "store") as memory:
        memory.write(map(fact, range(100)))
        expected = told(memory)
        (tmp_path / "store" / "chroma" / "2").write_text("in the way")
        with pytest.raises(RecordError, match=r"a new Chroma index cannot be made in .*the old one is as it was"):
            memory.rebuild()
        assert told(memory) == expected
        assert memory.trouble is None
        assert memory.verify() == []
