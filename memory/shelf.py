"""Shelves: where a store keeps the generations of its vector index, in its own folder or on a Chroma server.

A rebuilt index is another generation beside the one in use; the journal says which of them counts.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from agentkit.memory.database import Database
from agentkit.memory.index import ChromaIndex, Page, connect, fill, inspect, server_fails
from agentkit.memory.journal import read_state, write_state

_LARGE = 5_000  # vectors from which on another process, which takes a second to begin, fills an index


class Shelf(Protocol):
    """Makes, opens, checks and removes generations."""

    @property
    def place(self) -> str:
        """Where it is; a store that moves to another makes its index anew."""
        ...

    @property
    def heals(self) -> bool:
        """Whether what fails now may work later without a rebuild, as a server may come back."""
        ...

    def open(self, generation: str, size: int = 0) -> ChromaIndex:
        """The index of a generation, made for `size` vectors if it is not there."""
        ...

    def fill(self, generation: str, size: int, pages: Iterator[Page]) -> ChromaIndex:
        """A new index of a generation, with the pages of vectors in it."""
        ...

    def sweep(self, generation: str) -> None:
        """Remove all other generations: replaced ones, and those of a rebuild that was cut short."""
        ...

    def mark(self, generation: str) -> str:
        """What a closed generation looks like from outside; equal as long as nobody has touched it."""
        ...

    def inspect(self, generation: str, ids: Sequence[str], vectors: np.ndarray) -> tuple[set[str], int]:
        """All ids of a closed generation, and how many of `ids` are what their own vector finds."""
        ...


class FolderShelf:
    """Generations as subfolders, Chroma running in this process."""

    heals = False

    def __init__(self, folder: Path) -> None:
        self.place = "folder"
        self._folder = folder

    def open(self, generation: str, size: int = 0) -> ChromaIndex:
        """The index of a generation."""
        return ChromaIndex(self._folder / generation, size=size)

    def fill(self, generation: str, size: int, pages: Iterator[Page]) -> ChromaIndex:
        """A new index of a generation; a large one is filled by another process."""
        shutil.rmtree(self._folder / generation, ignore_errors=True)
        if size > _LARGE:
            fill(self._folder / generation, size, pages)
            return self.open(generation, size)
        return _filled(self.open(generation, size), pages)

    def sweep(self, generation: str) -> None:
        """Remove all other generations."""
        for folder in self._folder.glob("*"):
            if folder.name.isdecimal() and folder.name != generation:
                shutil.rmtree(folder, ignore_errors=True)

    def mark(self, generation: str) -> str:
        """Names, sizes and times of change of the files."""
        folder = self._folder / generation
        found = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
        return json.dumps([[str(path.relative_to(folder)), at.st_size, at.st_mtime_ns] for path, at in found])

    def inspect(self, generation: str, ids: Sequence[str], vectors: np.ndarray) -> tuple[set[str], int]:
        """As seen by another process, since damaged files can crash their reader."""
        return inspect(self._folder / generation, ids, vectors)


class ServerShelf:
    """Generations as collections of a Chroma server, named after the store; damaged files crash the server, not us.

    Args:
        url: Of the server, e.g. `http://127.0.0.1:8000`.
        store_id: Tells the collections of this store from those of others.
    """

    heals = True

    def __init__(self, url: str, store_id: str) -> None:
        self.place = url
        self._prefix = f"agentkit-{store_id}-"

    def open(self, generation: str, size: int = 0) -> ChromaIndex:
        """The index of a generation."""
        return ChromaIndex(self.place, self._prefix + generation, size=size)

    def fill(self, generation: str, size: int, pages: Iterator[Page]) -> ChromaIndex:
        """A new index of a generation."""
        self._remove_if(lambda name: name == self._prefix + generation)
        return _filled(self.open(generation, size), pages)

    def sweep(self, generation: str) -> None:
        """Remove all other generations."""
        self._remove_if(lambda name: name.startswith(self._prefix) and name != self._prefix + generation)

    def mark(self, generation: str) -> str:
        """The number of vectors."""
        return str(self.open(generation).count())

    def inspect(self, generation: str, ids: Sequence[str], vectors: np.ndarray) -> tuple[set[str], int]:
        """As the server, another process already, says."""
        index = self.open(generation)
        return index.ids(), index.self_hits(ids, vectors)

    def _remove_if(self, doomed: Callable[[str], bool]) -> None:
        try:
            client = connect(self.place)
            for collection in client.list_collections():
                if doomed(collection.name):
                    client.delete_collection(collection.name)
        except Exception as error:  # whatever Chroma's parts raise
            raise server_fails(self.place, error) from error


def _filled(index: ChromaIndex, pages: Iterator[Page]) -> ChromaIndex:
    try:
        for numbers, vectors in pages:
            index.upsert([str(number) for number in numbers], vectors)
    except BaseException:
        index.close()
        raise
    return index


def shelf_of(folder: Path, database: Database, index: str | None) -> Shelf:
    """Where the store in `folder` keeps its index: at the URL `index`, or in the folder; None for where it last was."""
    if index is None:
        with database.reading() as connection:
            index = read_state(connection).get("place", "folder")
    if "://" not in index:
        return FolderShelf(folder / "chroma")
    with database.writing() as connection:
        store_id = read_state(connection).get("id", uuid.uuid4().hex)
        write_state(connection, id=store_id)
    return ServerShelf(index.rstrip("/"), store_id)
