"""Export and import of memories: the same to the byte, all or none, and nothing believed that a file claims."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentkit.errors import RecordError
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.kinds import Draft, FactBody, Source, Trust
from agentkit.memory.store import MemoryStore


def open_store(folder: Path, **options: object) -> MemoryStore:
    return MemoryStore.open(folder, embedder=HashEmbedder(32), index="exact", **options)  # type: ignore[arg-type]


def fact(subject: str, value: str, **changes: object) -> Draft:
    given = {
        "body": FactBody(subject=subject, relation="is", value=value),
        "text": f"{subject} is {value} — 世界",
        "keys": {"state": f"about {subject}", "goal": "know"},
        "env_id": "test/Env-v0",
        "source": Source(writer="human", name="anna"),
        "trust": Trust.TRUSTED,
    }
    return Draft(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    with open_store(tmp_path / "first") as store:
        store.write(
            [fact("door", "shut"), fact("lamp", "lit", status="quarantine"), fact("cat", "here", namespace="n")]
        )
        store.write([fact("door", "open")])
        gone = store.write([fact("fly", "gone")])[0]
        store.decide(gone.id, "retired")
        assert store.export(tmp_path / "memories.jsonl") == 3
    return tmp_path / "memories.jsonl"


def test_exported_imported_and_exported_again_is_the_same_to_the_byte(exported, tmp_path):
    with open_store(tmp_path / "second") as store:
        assert store.take_in(exported) == 3
        assert store.take_in(exported) == 0
        assert store.export(tmp_path / "again.jsonl") == 3
        assert (tmp_path / "again.jsonl").read_bytes() == exported.read_bytes()
        [door] = store.recall("about door")
        assert (door.text, door.version, door.trust) == ("door is open — 世界", 2, Trust.TRUSTED)
        assert [write.what for write in store.history()] == ["import memories.jsonl"]
        store.undo(1)
        assert len(store) == 0


def test_what_a_store_knows_better_becomes_the_next_version(exported, tmp_path):
    with open_store(tmp_path / "second") as store:
        [mine] = store.write([fact("door", "locked")])
        assert store.take_in(exported) == 3
        assert [memory.text for memory in store.versions(mine.id)] == ["door is locked — 世界", "door is open — 世界"]


def test_a_file_is_trusted_no_more_than_the_reader_says(exported, tmp_path):
    with open_store(tmp_path / "second") as store:
        store.take_in(exported, most_trust=Trust.UNTRUSTED)
        assert store.recall("about door")[0].trust is Trust.UNTRUSTED


def test_a_namespace_that_is_not_granted_keeps_the_whole_file_out(exported, tmp_path):
    with open_store(tmp_path / "second", grants=[""]) as store:
        with pytest.raises(RecordError, match="namespace 'n' is not granted"):
            store.take_in(exported)
        assert len(store) == 0


def resealed(path: Path, change) -> None:
    """Change the second line, and the manifest with it, as a forger would."""
    from agentkit.memory.exchange import _digest

    lines = path.read_text().splitlines()
    row = json.loads(lines[1])
    change(row)
    lines[1] = json.dumps(row)
    manifest = json.loads(lines[0]) | {"digest": _digest(lines[1:])}
    path.write_text("\n".join([json.dumps(manifest), *lines[1:]]) + "\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.write_text(path.read_text()[:-20]), "was cut short or changed"),
        (lambda path: path.write_text("".join(path.read_text().splitlines(True)[:-1])), "was cut short or changed"),
        (lambda path: path.write_text(path.read_text().replace("open", "shut")), "was cut short or changed"),
        (lambda path: path.write_text('{"a": 1}\n'), "is no export of memories"),
        (lambda path: path.write_text(""), "is no export of memories"),
        (lambda path: path.write_bytes(b"\xff\xfe\n"), "it is not UTF-8"),
        (lambda path: path.unlink(), "cannot read"),
        (lambda path: path.write_text('{"agentkit_memory": 9, "memories": 0, "digest": ""}\n'), "upgrade agentkit"),
        (lambda path: resealed(path, lambda row: row.update(id="m-0")), "is not the id of what it says"),
        (lambda path: resealed(path, lambda row: row.update(trust=7)), "line 2: trust: Input should be"),
        (lambda path: resealed(path, lambda row: row.pop("body")), "line 2: body: Field required"),
    ],
)
def test_a_file_that_is_not_as_it_was_exported_is_refused_whole(exported, tmp_path, change, words):
    change(exported)
    with open_store(tmp_path / "second") as store:
        with pytest.raises(RecordError, match=words):
            store.take_in(exported)
        assert len(store) == 0
        assert store.history() == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with open_store(tmp_path / "store") as store, pytest.raises(RecordError, match=r"cannot write .*no/such/file"):
        store.export(tmp_path / "no" / "such" / "file")
