"""Versions of memories: written, read as of a snapshot, undone, forgotten, and found to be tampered with."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.errors import RecordError
from agentkit.memory import history
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.kinds import Draft, FactBody, FailureBody, InsightBody, Memory, SkillBody, Source, StepBody
from agentkit.memory.store import MemoryStore


def open_store(folder: Path, **options: object) -> MemoryStore:
    return MemoryStore.open(folder, embedder=HashEmbedder(32), **{"index": "exact", **options})  # type: ignore[arg-type]


def fact(subject: str, value: str, **changes: object) -> Draft:
    given = {
        "body": FactBody(subject=subject, relation="is", value=value),
        "text": f"{subject} is {value}",
        "keys": {"state": f"about {subject}"},
        "env_id": "test/Env-v0",
        "source": Source(writer="environment", name="log"),
    }
    return Draft(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path):
    with open_store(tmp_path / "store") as store:
        yield store


def test_a_draft_of_the_same_identity_is_the_next_version_and_saying_it_again_changes_nothing(store):
    [first] = store.write([fact("door", "shut")])
    assert store.write([fact("door", "shut")]) == [first]
    [second] = store.write([fact("door", "open")])
    assert (first.id, first.version, second.version) == (second.id, 1, 2)
    assert [memory.body.value for memory in store.versions(first.id)] == ["shut", "open"]
    assert len(store) == 1
    assert [write.what for write in store.history()] == ["write", "write"]
    assert store.get("m-0") is None


def test_of_several_drafts_of_one_memory_the_last_counts(store):
    store.write([fact("door", "shut"), fact("lamp", "lit"), fact("door", "open")])
    assert sorted(memory.text for memory in store.recall("about", k=9)) == ["door is open", "lamp is lit"]


def test_of_several_revisions_of_one_memory_each_is_a_version_and_undo_takes_back_all(store):
    [shut] = store.write([fact("door", "shut")])
    held = store.snapshot()
    number = store.revise([fact("door", "shut"), *(fact("door", value) for value in ("open", "gone", "shut"))], "three")
    told = [(version.version, version.body.value) for version in store.versions(shut.id)]
    assert told == [(1, "shut"), (2, "open"), (3, "gone"), (4, "shut")]
    assert [(memory.version, memory.text) for memory in store.recall("about", k=9)] == [(4, "door is shut")]
    assert store.get(shut.id, snapshot=held) == shut
    assert (len(store), store.history()[-1].num_versions, store.verify()) == (1, 3, [])
    store.undo(number)
    assert store.get(shut.id) == shut
    assert (len(store), store.verify()) == (1, [])


def test_every_kind_comes_back_as_it_was_written(store):
    bodies = (
        StepBody(observation="a", action="go", reward=0.5, next_observation="b"),
        FactBody(subject="s", relation="r", value="v", num_seen=3),
        InsightBody(condition="c", advice="a", evidence_for=("e1",)),
        SkillBody(name="n", slots=("x",), actions=("take {x}",)),
        FailureBody(signature="loop: go", cause="loop"),
    )
    drafts = [fact("", "", body=body, text=body.kind, keys={"condition": body.kind}) for body in bodies]
    for draft, memory in zip(drafts, store.write(drafts), strict=True):
        assert memory.draft() == draft
        assert store.get(memory.id) == memory
        assert [found.kind for found in store.recall(draft.kind, kinds=[draft.kind])] == [draft.kind]


def test_a_query_may_ask_one_field_and_a_memory_is_found_once_by_its_nearest_key(store):
    store.write([fact("door", "shut", keys={"goal": "open the door", "state": "a dark cave"})])
    store.write([fact("lamp", "lit", keys={"goal": "a dark cave", "state": "light the lamp"})])
    both = store.recall("a dark cave", k=9)
    assert sorted(memory.text for memory in both) == ["door is shut", "lamp is lit"]
    assert [memory.score for memory in both] == pytest.approx([1.0, 1.0], abs=1e-5)
    [nearest, other] = store.recall({"goal": "a dark cave"}, k=9)
    assert nearest.text == "lamp is lit"
    assert other.score is not None
    assert other.score < 0.9


def test_what_is_not_active_or_not_valid_is_not_recalled(store):
    [door] = store.write([fact("door", "shut")])
    store.write([fact("lamp", "lit", valid_from=10.0, valid_to=20.0), fact("cat", "away", status="quarantine")])
    assert [m.text for m in store.recall("about lamp", k=9, at_s=15.0)] == ["lamp is lit", "door is shut"]
    assert [m.text for m in store.recall("about lamp", k=9, at_s=20.0)] == ["door is shut"]
    assert store.decide(door.id, "disputed").version == 2
    assert [m.text for m in store.recall("about door", k=9)] == ["lamp is lit"]
    with pytest.raises(RecordError, match="no memory 'm-1'"):
        store.decide("m-1", "active")


def test_threads_decide_one_after_the_other(store, monkeypatch):
    [door] = store.write([fact("door", "shut")])
    read = store.get

    def read_slowly(*given):
        memory = read(*given)
        time.sleep(0.005)  # so that another thread could write in between
        return memory

    monkeypatch.setattr(store, "get", read_slowly)
    statuses = ["probation", "quarantine", "disputed", "retired"]
    with ThreadPoolExecutor(4) as threads:
        decided = list(threads.map(lambda status: store.decide(door.id, status), statuses))
    assert [memory.status for memory in decided] == statuses
    assert [version.version for version in store.versions(door.id)] == [1, 2, 3, 4, 5]


def test_what_a_source_writes_while_it_is_retracted_comes_after(store, monkeypatch):
    store.write([fact("door", "shut")])
    find = history.influenced
    with ThreadPoolExecutor(1) as threads:
        written = []

        def find_slowly(*given):
            found = find(*given)
            written.append(threads.submit(store.write, [fact("door", "open")]))
            wait(written, timeout=0.05)
            return found

        monkeypatch.setattr(history, "influenced", find_slowly)
        [before] = store.retract("log")
        wait(written)
    assert before.body.value == "shut"
    told = [(version.body.value, version.status) for version in store.versions(before.id)]
    assert told == [("shut", "active"), ("shut", "quarantine"), ("open", "quarantine")]  # no draft lifts that


def test_a_namespace_that_is_not_asked_for_is_hidden_and_one_not_granted_refused(tmp_path):
    with open_store(tmp_path / "store") as store:
        store.write([fact("door", "shut"), fact("door", "open", namespace="other")])
        assert [m.text for m in store.recall("about door", k=9)] == ["door is shut"]
        assert len(store.recall("about door", k=9, namespaces=["", "other"])) == 2
    with open_store(tmp_path / "store", grants=["other"]) as store:
        assert [m.text for m in store.recall("about door", namespaces=["other"])] == ["door is open"]
        for refused in (lambda: store.recall("about door"), lambda: store.write([fact("cat", "away")])):
            with pytest.raises(RecordError, match=r"namespace '' is not granted here; open the store with grants="):
                refused()
        assert len(store) == 2


def test_a_draft_without_a_key_is_refused_whole(store):
    for keys in ({}, {"colour": "red"}):
        with pytest.raises(RecordError, match="needs one or more keys among goal, state, condition"):
            store.write([fact("door", "shut"), fact("lamp", "lit", keys=keys)])
    assert len(store) == 0


def test_a_snapshot_keeps_its_view_and_its_name(store):
    [door] = store.write([fact("door", "shut")])
    named = store.snapshot("before")
    store.write([fact("door", "open"), fact("lamp", "lit")])
    assert [m.text for m in store.recall("about door", k=9, snapshot="before")] == ["door is shut"]
    assert store.get(door.id, snapshot=named).body.value == "shut"
    assert store.get(door.id).body.value == "open"
    with pytest.raises(RecordError, match="the snapshot 'before' is 1-"):
        store.snapshot("before")


Action = tuple[str, str, str]
ACTIONS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.sampled_from(["write", "retire", "undo"])), max_size=12
)


@settings(max_examples=25, deadline=None)
@given(actions=ACTIONS)
def test_a_snapshot_sees_what_the_store_held_then_whatever_comes_later(tmp_path_factory, actions: list[Action]):
    with open_store(tmp_path_factory.mktemp("as_of") / "store") as store:

        def held(snapshot: str | None = None) -> list[tuple[str, int]]:
            return sorted((m.text, m.version) for m in store.recall("about a b c", k=99, snapshot=snapshot))

        seen = []
        for subject, value, what in actions:
            if what == "write":
                store.write([fact(subject, value)])
            elif what == "retire":
                for memory in store.recall(f"about {subject}", k=1):
                    store.decide(memory.id, "retired")
            elif store.history():
                store.undo(store.history()[-1].number)
            seen.append((store.snapshot(), held()))
        assert [(snapshot, held(snapshot)) for snapshot, _ in seen] == seen
        assert store.verify() == []


def test_undo_gives_back_what_was_and_refuses_what_is_built_upon(store):
    store.write([fact("door", "shut")])
    before = [m.draft() for m in store.recall("about", k=9)]
    store.write([fact("door", "open"), fact("lamp", "lit")], "a bad idea")
    [write] = [write for write in store.history() if write.what == "a bad idea"]
    assert write.num_versions == 2
    store.undo(write.number)
    assert [m.draft() for m in store.recall("about", k=9)] == before
    assert store.recall("about door")[0].version == 1
    with pytest.raises(RecordError, match=r"write 3 has changed memory m-.* since write 2; undo 3 first"):
        store.undo(write.number)
    store.undo(3)
    assert sorted(m.text for m in store.recall("about", k=9)) == ["door is open", "lamp is lit"]
    with pytest.raises(RecordError, match="there is no write 99 to undo"):
        store.undo(99)


@pytest.mark.parametrize("index", ["exact", "chroma"])
def test_what_is_forgotten_is_nowhere_and_takes_what_was_made_from_it(tmp_path, index):
    with open_store(tmp_path / "store", index=index) as store:
        secret = fact("SECRETWORD", "hidden", source=Source(writer="tool", name="page", episode_ids=("e1",)))
        [first] = store.write([secret])
        store.write([fact("door", "shut")])
        child = fact("lamp", "SECRETWORD", source=Source(writer="environment", parents=(first.id,)))
        [second] = store.write([child])
        third = fact("cat", "SECRETWORD too", source=Source(writer="environment", parents=(second.id,)))
        store.write([third])
        pinned = store.snapshot()
        receipt = store.forget(source_name="page")
        assert receipt.num_versions == 3
        assert {first.id, second.id} < set(receipt.ids)
        assert [m.text for m in store.recall("SECRETWORD", k=9)] == ["door is shut"]
        assert [m.text for m in store.recall("SECRETWORD", k=9, snapshot=pinned)] == ["door is shut"]
        assert store.get(first.id) is None
        assert store.versions(first.id) == []
        assert store.verify() == []
        assert store.snapshot() == pinned
        assert store.forget(episode_id="e1").num_versions == 0
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            assert b"SECRETWORD" not in path.read_bytes(), path
    with open_store(tmp_path / "store", index=index) as store:
        assert [m.text for m in store.recall("door", k=9)] == ["door is shut"]
        for wrong in ({}, {"id": "a", "episode_id": "b"}):
            with pytest.raises(RecordError, match="exactly one of"):
                store.forget(**wrong)
        with pytest.raises(RecordError, match="is forgotten; that cannot be undone"):
            store.undo(1)


def test_tampering_is_found(store):
    store.write([fact("door", "shut")])
    store.write([fact("lamp", "lit")])

    def change(statement: str) -> None:
        with contextlib.closing(sqlite3.connect(store.folder / "memory.sqlite")) as connection:
            connection.execute(statement)
            connection.commit()

    assert store.verify() == []
    change("UPDATE versions SET draft = replace(draft, 'shut', 'open') WHERE seq = 1")
    assert "version 1 (memory 'm-" in store.verify()[0]
    assert store.recall("about door")[0].body.value == "open"
    change("UPDATE versions SET digest = 'other' WHERE seq = 1")
    assert "the chain of the journal breaks at version 1" in store.verify()[-1]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("SET ended = NULL WHERE seq = 1", ["version 1 ends nowhere and must end at version 3"]),
        ("SET ended = 3 WHERE seq = 2", ["version 2 ends at version 3 and must end nowhere"]),
        ("SET ended = 2 WHERE seq = 1", ["version 1 ends at version 2 and must end at version 3"]),
        (
            "SET ended = CASE seq WHEN 3 THEN 4 END",
            ["version 1 ends nowhere and must end at version 3", "version 3 ends at version 4 and must end nowhere"],
        ),
    ],
)
def test_a_memory_with_two_open_versions_or_none_is_found(store, damage, found):
    store.write([fact("door", "shut"), fact("lamp", "lit")])
    store.write([fact("door", "open")])
    assert store.verify() == []
    with contextlib.closing(sqlite3.connect(store.folder / "memory.sqlite")) as connection:
        connection.execute(f"UPDATE versions {damage}")
        connection.commit()
    problems = sorted(re.sub(r" \(memory 'm-\w+'\)", "", problem) for problem in store.verify())
    assert problems == [f"{one}; restore a copy of the store" for one in found]


def test_a_store_of_an_older_layout_is_refused_with_the_way_out(tmp_path):
    open_store(tmp_path / "store").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "store" / "memory.sqlite")) as connection:
        connection.execute("UPDATE state SET value = '1' WHERE key = 'layout'")
        connection.commit()
    with pytest.raises(RecordError, match="has layout 1, this agentkit knows 3; make the store anew"):
        open_store(tmp_path / "store")


def test_a_memory_is_a_draft_with_a_place(store):
    [memory] = store.write([fact("door", "shut", source=Source(writer="human", episode_ids=("e1", "e2")))])
    assert isinstance(memory, Memory)
    assert (memory.episode_id, memory.key) == ("e1", "about door")
    assert memory.draft(status="disputed").status == "disputed"
