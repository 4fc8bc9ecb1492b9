"""The LangGraph store answers as LangGraph's own store in memory does."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import (
    GetOp,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchItem,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.graph_store import ChromaMemoryStore

FIELDS = ["text", "notes[*].text"]


def count_letters(texts: Sequence[str]) -> list[list[float]]:
    """Small whole numbers, so that equal similarities are equal to the last digit."""
    return [[float(text.count(letter)) for letter in "abcdef"] for text in texts]


LETTERS: Any = {"dims": 6, "embed": count_letters, "fields": FIELDS}


class _Namespaces(dict[tuple[str, ...], Any]):
    def __missing__(self, namespace: tuple[str, ...]) -> dict[str, Any]:
        return {}


class Oracle(InMemoryStore):
    """LangGraph's store in memory, without three of its slips.

    There, reading a namespace makes it; a changed item is still found by texts that it had before; and a batch fails
    if two of its texts are equal.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._data = _Namespaces()

    def _apply_put_ops(self, put_ops: Any) -> None:
        for (namespace, _), op in put_ops.items():
            if op.value is not None:
                self._data.setdefault(namespace, {})
        super()._apply_put_ops(put_ops)
        for namespace in [namespace for namespace, items in self._data.items() if not items]:
            del self._data[namespace]

    def _extract_texts(self, put_ops: Any) -> Any:
        for namespace, key in put_ops:
            self._vectors[namespace].pop(key, None)
        return super()._extract_texts(put_ops)

    def _insertinmem_store(self, to_embed: Any, embeddings: Any) -> None:
        for vector, places in zip(embeddings, to_embed.values(), strict=True):
            for namespace, key, path in places:
                self._vectors[namespace][key][path] = vector


class Expected:
    """What the oracle answers, in the order and pages that our store promises."""

    def __init__(self) -> None:
        self.oracle = Oracle(index=LETTERS)
        self.changed: dict[Any, int] = {}
        self.last: dict[Any, str] = {}
        self.batches = itertools.count()

    def batch(self, ops: Sequence[Any]) -> list[Any]:
        """Plain answers."""
        whole = [op._replace(limit=10**6, offset=0) if isinstance(op, SearchOp) else op for op in ops]
        found = self.oracle.batch(whole)
        answers = [
            self._page(op, each) if isinstance(op, SearchOp) else plain(each)
            for op, each in zip(ops, found, strict=True)
        ]
        number = next(self.batches)
        for op in {(op.namespace, op.key): op for op in ops if isinstance(op, PutOp)}.values():
            name = (op.namespace, op.key)
            now = json.dumps([op.value, FIELDS if op.index is None else op.index or []])
            if op.value is None:
                self.last.pop(name, None)
            elif self.last.get(name) != now:
                self.last[name], self.changed[name] = now, number
        return answers

    def _page(self, op: SearchOp, found: Any) -> list[Any]:
        def place(item: SearchItem) -> Any:
            name = (item.namespace, item.key)
            score = 9.0 if item.score is None else -round(item.score, 6)
            return score, -self.changed[name], item.key, "\x1f".join(item.namespace)

        return plain(sorted(found, key=place)[op.offset : op.offset + op.limit])


def plain(answer: Any) -> Any:
    """An answer without times, with scores to five decimals."""
    if isinstance(answer, list):
        return [plain(each) for each in answer]
    if answer is None or isinstance(answer, tuple):
        return answer
    score = getattr(answer, "score", None)
    return answer.namespace, answer.key, answer.value, None if score is None else pytest.approx(score, abs=1e-5)


labels = st.sampled_from(["u", "v", "w", "uv"])
namespaces = st.lists(labels, min_size=1, max_size=3).map(tuple)
keys = st.sampled_from(["k1", "k2", "k3"])
texts = st.text("abcdef ", max_size=5)
values = st.fixed_dictionaries(
    {"n": st.integers(0, 3)},
    optional={
        "text": texts,
        "tag": st.sampled_from(["x", "y", None, True, 1, 1.0, ["x", 2], "a\x00b", '"\\é\ud800']),
        "by": st.fixed_dictionaries({"name": st.sampled_from(["Ada", "Bo"])}, optional={"age": st.integers(0, 2)}),
        "notes": st.lists(st.fixed_dictionaries({}, optional={"text": texts}), max_size=3),
    },
)
operators = st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"])
filters = st.fixed_dictionaries(
    {},
    optional={
        "n": st.integers(0, 3) | st.dictionaries(operators, st.integers(0, 3), min_size=1, max_size=2),
        "tag": st.sampled_from(["x", "y", None, True, ["x", {"$gte": 2}], {"$ne": "x"}]),
        "by": st.sampled_from([{"name": "Ada"}, {"age": 1}, {"name": {"$ne": "Bo"}}]),
    },
)
limits, offsets = st.integers(0, 6), st.integers(0, 4)
indexes = st.sampled_from([None, None, False, ["by.name"], ["notes[0].text", "tag"]])
puts = st.builds(PutOp, namespaces, keys, values, indexes, st.none())
paths = st.lists(labels | st.just("*"), max_size=3).map(tuple)
conditions = st.lists(st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), paths), max_size=2).map(tuple)
searches = st.builds(
    SearchOp,
    st.lists(labels, max_size=2).map(tuple),
    st.none() | filters,
    limits,
    offsets,
    st.none() | st.text("abcdef", min_size=1, max_size=4),
    st.booleans(),
)
operations = st.one_of(
    puts,
    puts,
    puts,
    st.builds(PutOp, namespaces, keys, st.none(), st.none(), st.none()),
    st.builds(GetOp, namespaces, keys, st.booleans()),
    searches,
    searches,
    st.builds(ListNamespacesOp, st.none() | conditions, st.none() | st.integers(1, 3), limits, offsets),
)
batches = st.lists(
    st.tuples(st.lists(operations, min_size=1, max_size=6), st.sampled_from(["sync", "sync", "async", "reopened"])),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(batches)
def test_any_batches_are_answered_as_by_the_store_in_memory(played):
    expected = Expected()
    with tempfile.TemporaryDirectory() as folder:
        store = ChromaMemoryStore(folder, index=LETTERS)
        try:
            for ops, how in played:
                if how == "reopened":
                    store.close()
                    store = ChromaMemoryStore(folder, index=LETTERS)
                answers = asyncio.run(store.abatch(ops)) if how == "async" else store.batch(ops)
                assert plain(answers) == expected.batch(ops)
            store.close()
            store = ChromaMemoryStore(folder, index=LETTERS)
            everything: list[Any] = [SearchOp((), limit=100), SearchOp((), limit=100, query="abc"), ListNamespacesOp()]
            assert plain(store.batch(everything)) == expected.batch(everything)
        finally:
            store.close()


def opened(folder: Path, **settings: Any) -> ChromaMemoryStore:
    return ChromaMemoryStore(folder, index=LETTERS, **settings)


def test_an_item_is_as_like_a_query_as_the_most_like_of_its_texts(tmp_path):
    with opened(tmp_path) as store:
        store.put(("n",), "both", {"notes": [{"text": "a"}, {"text": "ab"}]})
        store.put(("n",), "half", {"text": "ac"})
        store.put(("n",), "none", {"text": "e"}, index=False)
        found = [(item.key, item.score) for item in store.search(("n",), query="a")]
        assert found == [("both", 1.0), ("half", 0.707107), ("none", None)]
        assert [item.key for item in store.search(("n",), query="a", offset=1, limit=1)] == ["half"]
        assert [item.key for item in store.search(("n",), query="a", offset=2, limit=1)] == ["none"]
        store.put(("n",), "both", {"text": "d"})  # its former texts are found no more
        assert [item.key for item in store.search(("n",), query="a", limit=2)] == ["half", "both"]


def test_the_whole_value_is_embedded_by_default_and_where_asked(tmp_path):
    seen: list[str] = []

    def embed(texts: Sequence[str]) -> list[list[float]]:
        seen.extend(texts)
        return count_letters(texts)

    with ChromaMemoryStore(tmp_path, index={"dims": 6, "embed": embed}) as store:
        store.put(("n",), "k", {"b": 1, "a": "x"})
        store.put(("n",), "k", {"b": 2}, index=["$", "b"])
    assert seen[0] == '{"a": "x", "b": 1}'
    assert seen[2:] == ['{"b": 2}', "2"]  # between them is the text that tells embedders apart


def test_a_put_that_changes_nothing_leaves_no_trace(tmp_path):
    num_embedded = [0]

    def embed(texts: Sequence[str]) -> list[list[float]]:
        num_embedded[0] += len(texts)
        return count_letters(texts)

    with ChromaMemoryStore(tmp_path, index={**LETTERS, "embed": embed}) as store:
        store.put(("n",), "first", {"text": "a"})
        before = store.get(("n",), "first")
        store.put(("n",), "second", {"text": "b"})
        count = num_embedded[0]
        store.put(("n",), "first", {"text": "a"})
        assert store.get(("n",), "first") == before
        assert num_embedded[0] == count
        assert [item.key for item in store.search(("n",))] == ["second", "first"]
        store.put(("n",), "first", {"text": "c"})
        after = store.get(("n",), "first")
        assert after is not None
        assert before is not None
        assert after.created_at == before.created_at
        assert after.updated_at > before.updated_at
        assert [item.key for item in store.search(("n",))] == ["first", "second"]


def test_items_expire_unless_they_are_read(tmp_path):
    now = [1000.0]
    with opened(tmp_path, clock=lambda: now[0], ttl={"default_ttl": 1}) as store:
        for key in ("read", "looked", "searched", "left"):
            store.put(("n",), key, {"text": "a", "key": key})
        store.put(("n", "m"), "kept", {"text": "a"}, ttl=None)
        now[0] += 40
        store.get(("n",), "read")
        store.get(("n",), "looked", refresh_ttl=False)
        store.search(("n",), query="a", filter={"key": "searched"})
        now[0] += 20
        assert {item.key for item in store.search(("n",))} == {"read", "searched", "kept"}
        assert {item.key for item in store.search((), query="a", refresh_ttl=False)} == {"read", "searched", "kept"}
        assert store.get(("n",), "left") is None
        store.put(("n",), "left", {"text": "b"})  # as if it had never been
        store.delete(("n",), "left")
        now[0] += 59.9
        assert store.get(("n",), "read", refresh_ttl=False) is not None
        now[0] += 0.1
        assert store.list_namespaces() == [("n", "m")]
    now[0] += 1
    with opened(tmp_path, clock=lambda: now[0]) as store, store._database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM items").scalar() == 1
        assert connection.exec_driver_sql("SELECT count(*) FROM item_vectors").scalar() == 1


def test_what_is_no_number_is_neither_above_nor_below_one(tmp_path):
    with ChromaMemoryStore(tmp_path) as store:
        for key, year in (("old", 1990), ("new", 2020), ("text", "2020"), ("no", None), ("words", "soon")):
            store.put(("n",), key, {"year": year})
        found = store.search(("n",), filter={"year": {"$gte": 2000}})
        assert [item.key for item in found] == ["text", "new"]


@pytest.mark.parametrize("chosen", [None, {"group": {"$ne": 3}}, {"group": 2}])
def test_candidates_of_chroma_give_the_answers_of_comparing_all(tmp_path, chosen):
    embedder = HashEmbedder(64)
    index: Any = {"dims": 64, "embed": embedder, "fields": ["text", "more[*]"]}
    ops = [
        PutOp(("all", f"part{n % 3}"), f"k{n}", {"text": f"number {n} of {n % 41}", "group": n % 5, "more": [f"{n}"]})
        for n in range(400)
    ]
    with ChromaMemoryStore(tmp_path / "chroma", index=index, exact_limit=20) as store:
        asked: list[Any] = []
        propose = store._chroma.propose

        def note(*given: Any) -> Any:
            asked.append(propose(*given))
            return asked[-1]

        store._chroma.propose = note  # type: ignore[assignment, method-assign]
        with ChromaMemoryStore(tmp_path / "exact", index=index) as exact:
            for each in (store, exact):
                each.batch(ops)
            queries = [
                SearchOp(prefix, chosen, 3, offset, f"number {n} of 7")
                for n in (8, 150, 390)
                for prefix in ((), ("all", "part1"))
                for offset in (0, 2)
            ]
            assert plain(store.batch(queries)) == plain(exact.batch(queries))
            assert any(found is not None for found in asked)
            changes = [
                PutOp(("all", "part1"), f"k{n}", None if n % 2 else {"text": f"number 8 of {n}"}) for n in range(1, 90)
            ]
            for each in (store, exact):
                each.batch(changes)
            assert plain(store.batch(queries)) == plain(exact.batch(queries))
            store.rebuild()
            assert plain(store.batch(queries)) == plain(exact.batch(queries))


def test_without_chromas_files_nothing_is_lost(tmp_path):
    index: Any = {"dims": 64, "embed": HashEmbedder(64), "fields": ["text"]}

    def answer() -> Any:
        with ChromaMemoryStore(tmp_path, index=index, exact_limit=20) as store:
            store.batch([PutOp(("n",), f"k{n}", {"text": f"number {n}"}) for n in range(100)])
            found = store.search((), query="number 7", limit=2)
            assert store._chroma.trouble is None
            assert store._chroma._index is not None
            assert store._chroma._index.count() == 100
            return plain(found)

    first = answer()
    shutil.rmtree(tmp_path / "chroma")
    assert answer() == first
    with ChromaMemoryStore(tmp_path, index=index, exact_limit=20) as store:
        shutil.rmtree(tmp_path / "chroma")
        (tmp_path / "chroma").write_text("no folder")
        with pytest.warns(RuntimeWarning, match=r"searches compare all vectors: the Chroma index .*rebuild"):
            assert plain(store.search((), query="number 7", limit=2)) == first


class State(TypedDict):
    said: Annotated[list[str], lambda one, other: one + other]


def test_a_graph_remembers_across_runs_and_in_both_ways_of_running(tmp_path):
    def listen(state: State, runtime: Runtime) -> dict[str, Any]:
        assert runtime.store is not None
        runtime.store.put(("said",), state["said"][-1], {"text": state["said"][-1]})
        near = runtime.store.search(("said",), query="abba", limit=1)
        return {"said": [near[0].key]}

    async def alisten(state: State, runtime: Runtime) -> dict[str, Any]:
        assert runtime.store is not None
        await runtime.store.aput(("said",), state["said"][-1], {"text": state["said"][-1]})
        near = await runtime.store.asearch(("said",), query="ccf", limit=1)
        return {"said": [near[0].key]}

    def graph(node: Any, store: ChromaMemoryStore) -> Any:
        building = StateGraph(State)
        building.add_node("listen", node)
        building.add_edge(START, "listen")
        building.add_edge("listen", END)
        return building.compile(store=store)

    with opened(tmp_path) as store:
        assert graph(listen, store).invoke({"said": ["abab"]})["said"] == ["abab", "abab"]
        assert graph(listen, store).invoke({"said": ["cdef"]})["said"] == ["cdef", "abab"]
    with opened(tmp_path) as store:
        assert asyncio.run(graph(alisten, store).ainvoke({"said": ["dd"]}))["said"] == ["dd", "cdef"]
        assert asyncio.run(graph(listen, store).ainvoke({"said": ["bc"]}))["said"] == ["bc", "abab"]
