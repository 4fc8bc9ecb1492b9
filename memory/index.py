"""Vector indexes: ids by nearness of their vectors. An index holds nothing that the journal does not hold.

`ExactIndex` compares with everything, in memory; `ChromaIndex` is approximate and fast on large stores.
Run as `python -m agentkit.memory.index`, this file is the other process that reads files which may crash their reader,
and that fills a large index: Chroma takes vectors in without releasing the interpreter, so all threads would wait.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import numpy as np

from agentkit.errors import MissingExtraError, RecordError, require

BATCH = 250
"""Vectors by which an index may lag before it is brought up to date unasked."""
PAGE = 2_500
"""Vectors handed to Chroma in one call; it does not split larger ones itself."""
_PERSIST = 1_000  # Chroma rewrites all its files after so many; a large index, after a twentieth of its vectors
_CHECK_S = 600  # a checker that takes longer hangs
_ANSWER_S = 10  # a server that takes longer to answer hangs; a page of vectors takes it about a second


class VectorIndex(Protocol):
    """What a memory store needs of a vector index; vectors are [N, dim] float32 of length 1."""

    def upsert(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        """Add vectors, or replace those of known ids."""
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Remove ids; unknown ones are ignored."""
        ...

    def query(self, vector: np.ndarray, k: int) -> list[str]:
        """The ids of the `k` vectors nearest to `vector` [dim], nearest first; fewer if there are fewer."""
        ...

    def ids(self) -> set[str]:
        """All ids."""
        ...

    def count(self) -> int:
        """Number of vectors."""
        ...

    def close(self) -> None:
        """Release files and memory."""
        ...


class ExactIndex:
    """All vectors in memory, every query compared with each: never wrong, and the oracle of the tests."""

    def __init__(self) -> None:
        self._vectors: dict[str, np.ndarray] = {}
        self._stacked: tuple[list[str], np.ndarray] | None = None

    def upsert(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        """Add vectors, or replace those of known ids."""
        self._vectors.update(zip(ids, np.array(vectors, np.float32), strict=True))
        self._stacked = None

    def delete(self, ids: Sequence[str]) -> None:
        """Remove ids; unknown ones are ignored."""
        for id in ids:
            self._vectors.pop(id, None)
        self._stacked = None

    def query(self, vector: np.ndarray, k: int) -> list[str]:
        """The ids of the `k` nearest vectors, nearest first."""
        if not self._vectors:
            return []
        if self._stacked is None:
            self._stacked = (list(self._vectors), np.stack(list(self._vectors.values())))
        return [id for id, _ in nearest(*self._stacked, vector, k)]

    def ids(self) -> set[str]:
        """All ids."""
        return set(self._vectors)

    def count(self) -> int:
        """Number of vectors."""
        return len(self._vectors)

    def close(self) -> None:
        """Forget everything."""
        self._vectors.clear()
        self._stacked = None


class ChromaIndex:
    """One Chroma collection (HNSW, cosine), in a folder that the caller owns or on a server (`chroma run`).

    No documents, no metadata, no embedding function: Chroma filters slowly, and texts live in the journal.

    Args:
        where: A folder of its own, or the URL of a server.
        collection: Name of the collection; made if it is not there.
        size: Number of vectors it is made for.

    Raises:
        RecordError: Chroma cannot open it, here or in any later call, or the server does not answer.
    """

    def __init__(self, where: Path | str, collection: str = "memories", *, size: int = 0) -> None:
        self.where = where
        hnsw = {"space": "cosine", "sync_threshold": max(_PERSIST, size // 20)}
        try:
            self._client = connect(where)
            self._collection = self._client.get_or_create_collection(
                collection, embedding_function=None, configuration={"hnsw": hnsw}
            )
            self._batch = min(PAGE, self._client.get_max_batch_size())
        except MissingExtraError:
            raise
        except Exception as error:  # whatever Chroma's parts raise
            raise self._unreadable(error) from error

    def upsert(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        """Add vectors, or replace those of known ids, in batches."""
        for start in range(0, len(ids), self._batch):
            part = slice(start, start + self._batch)
            self._call("upsert", ids=list(ids[part]), embeddings=vectors[part])

    def delete(self, ids: Sequence[str]) -> None:
        """Remove ids; unknown ones are ignored."""
        for start in range(0, len(ids), self._batch):
            self._call("delete", ids=list(ids[start : start + self._batch]))

    def query(self, vector: np.ndarray, k: int) -> list[str]:
        """The ids of about the `k` nearest vectors, nearest first."""
        return list(self._call("query", query_embeddings=vector[None], n_results=k, include=[])["ids"][0])

    def self_hits(self, ids: Sequence[str], vectors: np.ndarray) -> int:
        """How many of `ids` their own `vectors` [N, dim] find, or an equal one: a sound index finds all."""
        if not len(ids):
            return 0
        found = self._call("query", query_embeddings=vectors, n_results=1, include=["distances"])
        return sum(
            got == [id] or any(distance < 1e-5 for distance in distances)
            for id, got, distances in zip(ids, found["ids"], found["distances"], strict=True)
        )

    def ids(self) -> set[str]:
        """All ids."""
        return set(self._call("get", include=[])["ids"])

    def count(self) -> int:
        """Number of vectors; right even when their segment is lost, so not a sign of health."""
        return int(self._call("count"))

    def close(self) -> None:
        """Close the files, so that another process may open them."""
        self._client.close()

    def _call(self, method: str, **arguments: Any) -> Any:
        try:
            return getattr(self._collection, method)(**arguments)
        except Exception as error:  # whatever Chroma's parts raise
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> RecordError:
        if isinstance(self.where, Path):
            return RecordError(
                f"the Chroma index in {self.where} fails ({type(error).__name__}: {error}); nothing is lost, "
                "the journal beside it has everything: call `rebuild()`"
            )
        return server_fails(self.where, error)


def server_fails(url: str, error: Exception) -> RecordError:
    """What to raise when a Chroma server fails."""
    return RecordError(
        f"the Chroma server at {url} fails ({type(error).__name__}: {error}); nothing is lost, the journal has "
        "everything: start it (`chroma run --path FOLDER --port PORT`), and it is used again by itself"
    )


def connect(where: Path | str) -> Any:
    """A Chroma client of a folder, or of the server at a URL; raises whatever Chroma raises."""
    chromadb = require("chromadb")
    settings = chromadb.Settings(anonymized_telemetry=False)
    if isinstance(where, Path):
        return chromadb.PersistentClient(path=str(where), settings=settings)
    at = urlsplit(where)
    client = chromadb.HttpClient(at.hostname, at.port or 8000, ssl=at.scheme == "https", settings=settings)
    client._server._session.timeout = _ANSWER_S  # there is no setting for it, and without one it waits for ever
    return client


Name = TypeVar("Name", str, int)


def nearest(
    names: Sequence[Name], matrix: np.ndarray, vector: np.ndarray, k: int, *, ties: bool = False
) -> list[tuple[Name, float]]:
    """The `k` names whose rows of `matrix` [N, dim] have the greatest dot products with `vector`, and these.

    Equal scores (to six decimals) are ordered by name, whatever the order of the rows: a matrix product rounds
    differently by position, so the candidates it finds are scored once more, each by itself. With `ties`, all that
    are as near as the last are given, however many.
    """
    if k < 1 or not len(names):
        return []
    rough = np.einsum("ij,j->i", matrix, vector)  # as fast as BLAS here, and without its threads that wait by spinning
    least = np.partition(rough, -k)[-k] if k < len(names) else -np.inf
    rows = np.flatnonzero(rough >= least - 1e-5)
    scores = (matrix[rows].astype(np.float64) * vector.astype(np.float64)).sum(axis=1).round(6)
    ranked = sorted(zip((-scores).tolist(), (names[row] for row in rows.tolist()), strict=True))
    last = ranked[min(k, len(ranked)) - 1][0]
    return [(name, -score) for place, (score, name) in enumerate(ranked) if place < k or (ties and score == last)]


def inspect(folder: Path, ids: Sequence[str], vectors: np.ndarray) -> tuple[set[str], int]:
    """All ids in a Chroma folder, and how many of `ids` are what their own vector finds; in another process.

    Corrupt segments can crash the process that reads them. The caller must own the folder and have it closed.

    Raises:
        RecordError: The index cannot be read, or its reader died or hung.
    """
    question = json.dumps({"ids": list(ids), "vectors": vectors.tolist()})
    try:
        done = subprocess.run(
            _command("inspect", folder),
            input=question,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=_CHECK_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RecordError(f"reading the Chroma index in {folder} hangs; call `rebuild()`") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RecordError(f"the Chroma index in {folder} cannot be read: {last}; call `rebuild()`")
    answer = json.loads(done.stdout.splitlines()[-1])
    return set(answer["ids"]), int(answer["hits"])


Page = tuple[list[int], np.ndarray]
"""Numbers of vectors, in order, and the vectors [N, dim] float32."""


def fill(folder: Path, size: int, pages: Iterator[Page]) -> None:
    """Make a Chroma index for `size` vectors and put the pages into it, in another process.

    Raises:
        RecordError: That process failed.
    """
    with tempfile.TemporaryFile() as said:
        command = _command("fill", folder, str(size))
        filler = subprocess.Popen(command, env=_environment(), stdin=subprocess.PIPE, stderr=said)
        assert filler.stdin is not None
        try:
            with filler.stdin as pipe:
                for numbers, vectors in pages:
                    pipe.write(np.array([len(numbers), vectors.shape[1], *numbers], np.int64).tobytes())
                    pipe.write(vectors.tobytes())
                pipe.write(np.zeros(2, np.int64).tobytes())
        except BrokenPipeError:
            pass  # it says below why it has gone
        except BaseException:
            filler.kill()
            raise
        finally:
            status = filler.wait()
        if status != 0:
            said.seek(0)
            last = (said.read().decode(errors="replace").strip().splitlines() or [f"exit status {status}"])[-1]
            raise RecordError(f"a new Chroma index cannot be made in {folder}: {last}; the old one is as it was")


def _command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "agentkit.memory.index", *map(str, words)]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _inspect(folder: Path) -> None:
    question = json.load(sys.stdin)
    index = ChromaIndex(folder)
    hits = index.self_hits(question["ids"], np.array(question["vectors"], np.float32))
    print(json.dumps({"ids": sorted(index.ids()), "hits": hits}))
    index.close()


def _fill(folder: Path, size: int) -> None:
    index, pipe = ChromaIndex(folder, size=size), sys.stdin.buffer
    while len(head := pipe.read(16)) == 16:
        number, dim = np.frombuffer(head, np.int64).tolist()
        if not number:
            index.close()
            return
        numbers = np.frombuffer(pipe.read(8 * number), np.int64).tolist()
        vectors = np.frombuffer(pipe.read(4 * number * dim), np.float32).reshape(number, dim)
        index.upsert([str(one) for one in numbers], vectors)
    raise RecordError("the process that filled it has gone")


if __name__ == "__main__":
    if sys.argv[1] == "inspect":
        _inspect(Path(sys.argv[2]))
    else:
        _fill(Path(sys.argv[2]), int(sys.argv[3]))
