"""A vector index on a Chroma server: the same answers, and what happens when the server is gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import chromadb
import numpy as np
import pytest

from agentkit.errors import UnknownNameError
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.index import ChromaIndex, ExactIndex
from agentkit.memory.kinds import Draft, FactBody, Source
from agentkit.memory.store import MemoryStore


class Server:
    """A `chroma run` of our own on a free port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        chroma = Path(sys.executable).with_name("chroma")
        command = [str(chroma), "run", "--host", "127.0.0.1", "--port", str(self.port), "--path", str(self._folder)]
        quiet = {**os.environ, "CHROMA_ANONYMIZED_TELEMETRY": "false"}
        self._process = subprocess.Popen(
            command, env=quiet, cwd=self._folder.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/api/v2/heartbeat", timeout=1).close()
                return self
            except OSError:
                assert time.monotonic() < deadline
                assert self._process.poll() is None
                time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def collections(self) -> list[str]:
        client = chromadb.HttpClient("127.0.0.1", self.port)
        return sorted(collection.name for collection in client.list_collections())


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "server").start()
    yield server
    server.kill()


def fact(number):
    return Draft(
        body=FactBody(subject=f"thing {number}", relation="is", value="so"),
        text=f"thing {number} is so",
        keys={"state": f"a place number {number} {number * 7919 % 1000}"},
        env_id="test/Env-v0",
        source=Source(writer="environment", name="test"),
    )


def open_at(server, folder, **options):
    options = {"embedder": HashEmbedder(64), "index": server.url, "exact_limit": 50, **options}
    return MemoryStore.open(folder, **options)


def told(memory, query="a place number 77"):
    return [(found.id, found.score) for found in memory.recall(query, 5)]


def wait_until(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_index_on_a_server_keeps_the_promises_of_one_in_a_folder(server):
    vectors = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [str(number) for number in range(600)]
    exact, index = ExactIndex(), ChromaIndex(server.url, "agentkit-test")
    for one in (exact, index):
        one.upsert(ids, vectors)
        one.delete(["8", "unknown"])
    assert index.count() == 599
    assert index.ids() == exact.ids()
    assert index.self_hits(["7"], vectors[7:8]) == 1
    assert index.self_hits(["7"], vectors[8:9]) == 0
    assert np.mean([len(set(index.query(v, 10)) & set(exact.query(v, 10))) for v in vectors[:30]]) >= 9.5
    index.close()


def test_a_store_asks_the_server_and_answers_as_one_that_compares_all(server, tmp_path):
    with MemoryStore.open(tmp_path / "exact", embedder=HashEmbedder(64), index="exact") as exact:
        with open_at(server, tmp_path / "store") as memory:
            for one in (exact, memory):
                one.write(map(fact, range(600)))
            wait_until(lambda: memory._keeper.applied == 600)
            assert memory.trouble is None
            assert told(memory) == told(exact)
            assert memory.verify() == []
            [name] = server.collections()
            memory.rebuild()
            [renewed] = server.collections()
            assert name[:-1] == renewed[:-1]
            assert (name[-2:], renewed[-2:]) == ("-1", "-2")  # another generation, and the old one gone
            assert memory.verify() == []
        assert not (tmp_path / "store" / "chroma").exists()
        with open_at(server, tmp_path / "other") as other:  # a second store at the same server
            other.write(map(fact, range(600, 700)))
        assert len(server.collections()) == 2
        with open_at(server, tmp_path / "store") as memory:
            assert memory.trouble is None
            assert told(memory) == told(exact)


def test_without_its_server_a_store_warns_once_compares_all_and_heals(server, tmp_path, monkeypatch):
    monkeypatch.setattr("agentkit.memory.keeper._RETRY_S", 0.1)
    with open_at(server, tmp_path / "store") as memory:
        memory.write(map(fact, range(300)))
        wait_until(lambda: memory._keeper.applied == 300)
        expected = told(memory)
        server.kill()
        begun = time.monotonic()
        with pytest.warns(RuntimeWarning, match=r"Chroma server at http://127.* fails .*start it") as warned:  # noqa: PT031
            assert told(memory) == expected
            assert time.monotonic() - begun < 1
            memory.write([fact(300)])  # acknowledged all the same
            assert memory.recall(fact(300).keys["state"], 1)[0].text == "thing 300 is so"
            time.sleep(0.2)
            told(memory)  # tries again behind the scenes, in vain
        assert len(warned) == 1
        server.start()
        wait_until(lambda: told(memory) == expected and memory.trouble is None)
        wait_until(lambda: memory._keeper.applied == 301)
        assert memory.verify() == []


def test_a_store_whose_server_is_down_when_it_opens_heals_too(server, tmp_path, monkeypatch):
    monkeypatch.setattr("agentkit.memory.keeper._RETRY_S", 0.1)
    with open_at(server, tmp_path / "store") as memory:
        memory.write(map(fact, range(100)))
        expected = told(memory)
    server.kill()
    begun = time.monotonic()
    with pytest.warns(RuntimeWarning, match="Could not connect.*start it"):
        memory = open_at(server, tmp_path / "store")
    with memory:
        assert time.monotonic() - begun < 1
        assert told(memory) == expected
        with contextlib.suppress(OSError):
            shutil.rmtree(tmp_path / "server")  # it comes back without its data
        server.start()
        wait_until(lambda: told(memory) == expected and memory.trouble is None)
        wait_until(lambda: memory._keeper._index.count() == 100)
        assert memory.verify() == []


def test_a_server_that_hangs_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr("agentkit.memory.index._ANSWER_S", 0.5)
    with open_at(server, tmp_path / "store") as memory:
        memory.write(map(fact, range(100)))
        expected = told(memory)
        server.freeze()
        begun = time.monotonic()
        with pytest.warns(RuntimeWarning, match="Timeout"):
            assert told(memory) == expected
        assert time.monotonic() - begun < 2
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert told(memory) == expected
        server.kill()


def test_vectors_that_the_server_has_lost_are_noticed(server, tmp_path):
    with open_at(server, tmp_path / "store") as memory:
        memory.write(map(fact, range(100)))
        memory._keeper.apply()
        memory._keeper._index.delete(["7", "8"])
        assert "lacks 2 vectors and has 0 too many; call `rebuild()`" in memory.verify()[0]
        memory.rebuild()
        assert memory.verify() == []
        name = server.collections()[0]
    ChromaIndex(server.url, name).delete(["9"])
    with pytest.warns(RuntimeWarning, match="lacks 1 vectors"):
        memory = open_at(server, tmp_path / "store")
    memory.close()


def test_moving_an_index_between_folder_and_server_makes_it_anew(server, tmp_path):
    store = tmp_path / "store"
    with open_at(server, store) as memory:
        memory.write(map(fact, range(100)))
        expected = told(memory)
    for index in ("chroma", server.url):
        with open_at(server, store, index=index) as memory:
            assert told(memory) == expected
            assert memory._keeper._index.count() == 100
            assert memory.verify() == []


def test_an_index_that_is_no_name_and_no_url_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match=r"no vector index 'ftp://there'.*http://127.0.0.1:8000"):
        MemoryStore.open(tmp_path, embedder=HashEmbedder(64), index="ftp://there")
