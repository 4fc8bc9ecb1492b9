"""Episodic memory: what it recalls, what it hides, and how it gets over crashes and damage."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.errors import OwnedElsewhereError, RecordError, UnknownNameError
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.index import ChromaIndex
from agentkit.memory.journal import chain_at, read_state
from agentkit.memory.log import EpisodeLog
from agentkit.memory.store import MemoryStore
from agentkit.task import Task

PLACES = ["a frozen lake", "a kitchen with a fridge", "a shop for shoes", "a dark cave with bats"]


def open_exact(folder, **options):
    return MemoryStore.open(folder, embedder=HashEmbedder(64), index="exact", **options)


def open_chroma(folder, **options):
    return MemoryStore.open(folder, embedder=HashEmbedder(64), index="chroma", **options)


def many(make_episode, number, **options):
    return [
        make_episode(f"e{n}", observation=f"{PLACES[n % 4]} number {n} {n * 7919 % 1000}", seed=n, turns=1, **options)
        for n in range(number)
    ]


@pytest.fixture
def memory(tmp_path):
    with open_exact(tmp_path / "store") as memory:
        yield memory


def test_a_success_is_recalled_by_its_situation(memory, make_episode):
    for n, place in enumerate(PLACES):
        assert memory.add(make_episode(f"e{n}", observation=place, seed=n)) is not None
    best, second = memory.recall("the kitchen and its fridge", k=2)
    assert best.episode_id == "e1"
    assert best.key == PLACES[1]
    assert best.text.splitlines() == [
        PLACES[1],
        "1. go 0",
        "2. go 1",
        "Outcome: success after 2 turns, return 1.",
    ]
    assert best.score is not None
    assert second.score is not None
    assert 1 >= best.score > second.score
    exact = memory.recall(PLACES[3], k=1)[0]
    assert exact.score == pytest.approx(1.0, abs=1e-5)


def test_failures_are_passed_over_and_twice_is_once(memory, make_episode):
    assert memory.add(make_episode("bad", success=False)) is None
    assert len(memory) == 0
    assert memory.recall("anything") == []
    first = memory.add(make_episode())
    assert memory.add(make_episode()) == first
    assert len(memory) == 1
    assert memory.recall("anything", k=0) == []


def test_scope_hides_other_environments_splits_and_the_task_under_test(memory, make_episode):
    for n in range(6):
        env_id, split = f"env{n % 2}", "held_out" if n >= 4 else "train"
        memory.add(make_episode(f"e{n}", seed=n, env_id=env_id, split=split))

    def ids(**scope):
        return sorted(found.episode_id for found in memory.recall("a frozen lake", k=9, **scope))

    assert ids() == [f"e{n}" for n in range(6)]
    assert ids(env_id="env0") == ["e0", "e2", "e4"]
    assert ids(split="train") == ["e0", "e1", "e2", "e3"]
    tasks = [Task(env_id="env0", seed=0), Task(env_id="env1", seed=1).key]
    assert ids(exclude_tasks=tasks, split="train") == ["e2", "e3"]
    assert ids(exclude_tasks=tasks[1]) == ids(exclude_tasks=[tasks[1]]) == ["e0", "e2", "e3", "e4", "e5"]
    assert ids(env_id="elsewhere") == []


def test_equal_scores_are_ordered_by_id(memory, make_episode):
    for n in range(9):
        memory.add(make_episode(f"e{n}", seed=n))
    found = [m.id for m in memory.recall("a frozen lake", k=9)]
    assert found == sorted(found)
    assert [m.id for m in memory.recall("a frozen lake", k=4)] == found[:4]


def test_a_snapshot_sees_nothing_later_and_names_the_content(memory, make_episode, tmp_path):
    empty = memory.snapshot()
    memory.add(make_episode("e0"))
    pinned = memory.snapshot()
    memory.add(make_episode("e1"))
    assert memory.recall("a frozen lake", snapshot=empty) == []
    assert [m.episode_id for m in memory.recall("a frozen lake", snapshot=pinned)] == ["e0"]
    assert len(memory.recall("a frozen lake")) == 2
    with open_exact(tmp_path / "twin") as twin, open_exact(tmp_path / "other") as other:
        twin.add(make_episode("e0"))
        other.add(make_episode("e9"))
        assert twin.snapshot() == pinned
        for foreign in (other.snapshot(), "1-empty", "0-", "nonsense", "7-empty"):
            with pytest.raises(RecordError, match="no snapshot of this memory store"):
                memory.recall("a frozen lake", snapshot=foreign)


def test_sync_takes_from_a_log_what_is_new(memory, make_episode, tmp_path):
    with EpisodeLog.open(tmp_path / "log.sqlite") as log:
        assert memory.sync(log) == 0
        log.append_many(many(make_episode, 100))
        log.append(make_episode("bad", success=False))
        memory.add(log.get("e3"))
        assert memory.sync(log) == 99
        assert memory.sync(log) == 0
        log.append(make_episode("late"))
        log.append(make_episode("worse", success=False))
        assert memory.sync(log) == 1
        assert memory.recall("a frozen lake", k=1)[0].episode_id == "late"
        with memory._journal.reading() as connection:  # nothing is read twice, failures included
            assert read_state(connection)[f"cursor:{log.id}"] == "103" == str(log.last_seq)
    with EpisodeLog.open(tmp_path / "second.sqlite") as second:  # another log has numbers of its own
        second.append(make_episode("other"))
        assert memory.sync(second) == 1
    assert len(memory) == 102


def test_ten_megabytes_and_broken_unicode_are_taken(memory, make_episode):
    memory.add(make_episode("big", observation="lava " * 2_000_000))
    memory.add(make_episode("odd", observation="ice \ud800 \0 \U0001f600"))
    big = memory.recall("lava " * 2_000_000, k=1)[0]
    assert big.episode_id == "big"
    assert "of 10000000 characters]" in big.key
    assert "of 10000000 characters]" in big.text
    assert len(big.text) <= 8_000
    assert memory.recall("ice \udfff", k=1)[0].episode_id == "odd"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.integers(0, 2)), max_size=12), st.integers(1, 5))
def test_recall_equals_a_full_sort(make_episode, tmp_path_factory, cases, k):
    embedder = HashEmbedder(64)
    with open_exact(tmp_path_factory.mktemp("store")) as memory:
        made = {}
        for n, (place, env) in enumerate(cases):
            added = memory.add(make_episode(f"e{n}", observation=place, env_id=f"env{env}", seed=n))
            made[added.id] = added
        query = embedder.embed(["a frozen cave"])[0].astype(np.float64)
        scores = {m.id: round(float(embedder.embed([m.key])[0] @ query), 6) for m in made.values()}
        in_scope = [id for id, m in made.items() if m.env_id == "env1"]
        expected = sorted(in_scope, key=lambda id: (-scores[id], id))[:k]
        assert [m.id for m in memory.recall("a frozen cave", k, env_id="env1")] == expected


@pytest.mark.parametrize("opener", [open_exact, open_chroma])
def test_a_large_scope_is_answered_by_the_index_and_agrees_with_comparing_all(opener, make_episode, tmp_path):
    with opener(tmp_path / "store", exact_limit=50) as memory, EpisodeLog.open(tmp_path / "log") as log:
        log.append_many(many(make_episode, 300))
        pinned_at = 200
        log_ids = [e.id for e in log.episodes()]
        memory.sync(log)
        for query in ("a frozen lake number 12", "bats in number 99"):
            by_index = memory.recall(query, k=5)
            memory._exact_limit = 10_000
            by_comparing = memory.recall(query, k=5)
            memory._exact_limit = 50
            assert [m.score for m in by_index] == pytest.approx([m.score for m in by_comparing], abs=0.02)
            assert {m.id for m in by_index[:2]} <= {m.id for m in by_comparing}
        with memory._journal.reading() as connection:
            pinned = f"{pinned_at}-{chain_at(connection, pinned_at)}"
        seen = {m.episode_id for m in memory.recall("a shop for shoes", k=20, snapshot=pinned)}
        assert len(seen) == 20
        assert seen <= set(log_ids[:pinned_at])


def test_the_index_is_not_asked_for_small_scopes(make_episode, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(ChromaIndex, "query", lambda self, vector, k: asked.append(k) or [])  # type: ignore[func-returns-value]
    with open_chroma(tmp_path / "store", exact_limit=5) as memory:
        for episode in many(make_episode, 5):
            memory.add(episode)
        assert memory.recall("a frozen lake")
        assert asked == []
        memory.add(make_episode("last"))
        assert len(memory.recall("a frozen lake")) == 3  # nothing proposed: compares all after all
        assert asked


def test_another_embedder_is_refused_until_the_store_is_embedded_anew(make_episode, tmp_path):
    with open_chroma(tmp_path / "store") as memory:
        memory.add(make_episode())
        pinned = memory.snapshot()
    with pytest.raises(RecordError, match=r"'hash-2-dim64', not 'hash-2-dim32'.*rebuild=True"):
        MemoryStore.open(tmp_path / "store", embedder=HashEmbedder(32))
    with MemoryStore.open(tmp_path / "store", embedder=HashEmbedder(32), rebuild=True) as memory:
        assert memory.verify() == []
        assert memory.recall("a frozen lake", snapshot=pinned)[0].score == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(RecordError, match="hash-2-dim32"):
        open_chroma(tmp_path / "store")
    with pytest.raises(UnknownNameError, match="did you mean 'chroma'"):
        MemoryStore.open(tmp_path / "store", embedder=HashEmbedder(32), index="chrome")


def test_a_second_process_and_a_forked_child_are_kept_out(make_episode, tmp_path):
    with open_exact(tmp_path / "store") as memory:
        memory.add(make_episode())
        code = (
            "import sys; from agentkit.memory import MemoryStore, HashEmbedder\n"
            "MemoryStore.open(sys.argv[1], embedder=HashEmbedder(64), index='exact')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(memory.folder)], capture_output=True, text=True, check=False
        )
        assert f"owned by process {os.getpid()}" in done.stderr
        assert "OwnedElsewhereError" in done.stderr
        child = os.fork()
        if child == 0:
            try:
                memory.recall("a frozen lake")
            except OwnedElsewhereError:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(memory.recall("a frozen lake")) == 1
    with pytest.raises(RecordError, match="has been closed"):
        memory.recall("a frozen lake")
    memory.close()


def segment_of(store: Path) -> Path:
    """The folder with the vectors of the only index of a store."""
    return next(path.parent for path in store.glob("chroma/*/*/data_level0.bin"))


@pytest.fixture(scope="module")
def sound_store(tmp_path_factory, make_episode):
    """A store large enough for Chroma to have written its vectors to files; copy it before use."""
    folder = tmp_path_factory.mktemp("sound") / "store"
    with open_chroma(folder) as memory, EpisodeLog.open(folder.parent / "log") as log:
        log.append_many(many(make_episode, 1200))
        assert memory.sync(log) == 1200
        assert memory.verify() == []
        assert memory.trouble is None
    return folder


def delete_segment(store: Path) -> None:
    shutil.rmtree(segment_of(store))


def truncate_vectors(store: Path) -> None:
    path = segment_of(store) / "data_level0.bin"
    os.truncate(path, path.stat().st_size // 3)


def truncate_labels(store: Path) -> None:
    os.truncate(segment_of(store) / "index_metadata.pickle", 100)


def overwrite_database(store: Path) -> None:
    next(store.glob("chroma/*/chroma.sqlite3")).write_bytes(b"no database at all" * 999)


@pytest.mark.parametrize("damage", [delete_segment, truncate_vectors, truncate_labels, overwrite_database])
def test_a_damaged_index_is_noticed_worked_around_and_healed(sound_store, tmp_path, damage):
    store = tmp_path / "store"
    shutil.copytree(sound_store, store)
    damage(store)
    with pytest.warns(RuntimeWarning, match=r"recalls compare all memories: .*rebuild"):
        memory = open_chroma(store, exact_limit=100)
    with memory:
        assert memory.trouble is not None
        query = "a kitchen with a fridge number 5 595"
        assert memory.recall(query, k=1)[0].key == query
        assert memory.verify() == [memory.trouble]
        memory.rebuild()
        assert memory.trouble is None
        assert memory.verify() == []
        assert memory.recall(query, k=1)[0].key == query
    with open_chroma(store) as memory:
        assert memory.trouble is None
        assert [path.name for path in (store / "chroma").iterdir()] == ["2"]


def test_an_index_that_breaks_while_in_use_costs_no_memory(sound_store, tmp_path, make_episode):
    store = tmp_path / "store"
    shutil.copytree(sound_store, store)
    with open_chroma(store, exact_limit=100) as memory, EpisodeLog.open(tmp_path / "log") as log:
        overwrite_database(store)
        log.append(make_episode("late", observation="an entirely new place"))
        with pytest.warns(RuntimeWarning, match="recalls compare all memories"):
            assert memory.sync(log) == 1
        assert memory.recall("an entirely new place", k=1)[0].episode_id == "late"
        memory.rebuild()
        assert memory.verify() == []


def test_a_store_closed_in_order_is_opened_without_a_second_process(sound_store, tmp_path, monkeypatch):
    store = tmp_path / "store"
    shutil.copytree(sound_store, store)
    monkeypatch.setattr("agentkit.memory.shelf.inspect", None)
    for _ in range(2):
        with open_chroma(store) as memory:
            assert memory.trouble is None


def test_verify_finds_what_the_index_lacks_while_open(sound_store, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(sound_store, store)
    with open_chroma(store) as memory:
        memory._keeper._index.delete(["7"])
        assert "lacks 1 vectors and has 0 too many" in memory.verify()[0]
        memory.rebuild()
        assert memory.verify() == []


def test_verify_finds_a_foreign_vector(memory, make_episode):
    memory.add(make_episode())
    with contextlib.closing(sqlite3.connect(memory.folder / "memory.sqlite")) as connection:
        connection.execute("UPDATE vectors SET fingerprint = 'other'")
        connection.commit()
    assert "not of this embedder" in memory.verify()[0]
    memory.rebuild()
    assert memory.verify() == []


def test_after_a_kill_the_index_catches_up_with_the_journal(make_episode, tmp_path):
    store = tmp_path / "store"
    code = (
        f"import sys, os; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from factory import make_episode\n"
        "from agentkit.memory import MemoryStore, HashEmbedder\n"
        "memory = MemoryStore.open(sys.argv[1], embedder=HashEmbedder(64))\n"
        "for n in range(300): memory.add(make_episode(f'e{n}', observation=f'place {n}', seed=n, turns=1))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store)], check=False)
    assert done.returncode == -signal.SIGKILL
    with open_chroma(store) as memory:
        assert memory.trouble is None
        assert len(memory) == 300
        assert memory._keeper._index.count() == 300
        assert memory.verify() == []


def test_a_rebuild_cut_short_leaves_the_store_as_it_was(sound_store, tmp_path, monkeypatch):
    store = tmp_path / "store"
    shutil.copytree(sound_store, store)

    class Failing(HashEmbedder):
        def __init__(self):
            super().__init__(32)

        def embed(self, texts):
            if "number 1000" in " ".join(texts):
                raise RuntimeError("the power failed")
            return super().embed(texts)

    with pytest.raises(RuntimeError, match="the power failed"):
        MemoryStore.open(store, embedder=Failing(), rebuild=True)
    with open_chroma(store) as memory:
        assert memory.verify() == []
        assert [path.name for path in (store / "chroma").iterdir()] == ["1"]


def test_after_a_kill_while_it_forgets_the_store_opens_sound_without_what_was_forgotten(make_episode, tmp_path):
    store = tmp_path / "store"
    code = (
        f"import sys, os; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from factory import make_episode\n"
        "from agentkit.memory import MemoryStore, HashEmbedder\n"
        "memory = MemoryStore.open(sys.argv[1], embedder=HashEmbedder(64))\n"
        "for n in range(300): memory.add(make_episode(f'e{n}', observation=f'place {n}', seed=n, turns=1))\n"
        "memory._keeper.apply()\n"
        "memory.rebuild = lambda: os.kill(os.getpid(), 9)\n"
        "memory.forget(episode_id='e7')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store)], check=False)
    assert done.returncode == -signal.SIGKILL
    with warnings.catch_warnings(), open_chroma(store) as memory:
        warnings.simplefilter("error")
        assert len(memory) == 299
        assert memory.verify() == []
        assert len(list((store / "chroma").iterdir())) == 1
