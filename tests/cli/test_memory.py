"""`agentkit memory`: what there is, what it says, and how it is mended, moved and erased."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from agentkit.envs import make_tasks
from agentkit.memory import Draft, EpisodeLog, HashEmbedder, MemoryStore, Source, Trust
from agentkit.memory.kinds import FactBody
from agentkit.policies import ExpertPolicy
from agentkit.rollout import collect

Command = Callable[..., Result]
HASH = ("--embedder", "hash")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "memory"
    with EpisodeLog.open(folder.parent / "log.sqlite") as log:
        collect(ExpertPolicy(), make_tasks("agentkit/FrozenLake-v0", num=4, params={"size": 3}), log=log)
        with MemoryStore.open(folder, embedder=HashEmbedder()) as memory:
            memory.sync(log)
    return folder


@pytest.fixture
def store(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "memory"))


def said(result: Result, code: int = 0) -> str:
    assert result.exit_code == code, result.output
    return result.output


def ids(agentkit: Command, store: Path) -> list[str]:
    return re.findall(r"m-[0-9a-f]{16}", said(agentkit("memory", "search", store, "P", "--k", 9, *HASH)))


def test_stats_count_kinds_and_list_writes(agentkit: Command, store: Path) -> None:
    shown = said(agentkit("memory", "stats", store, *HASH))
    assert re.search(r"episode +active +4", shown)
    assert re.search(r"4 memories in 1 writes; snapshot 4-[0-9a-f]{16}", shown)
    assert "sync" in shown


def test_a_memory_is_shown_with_its_source(agentkit: Command, store: Path) -> None:
    first = ids(agentkit, store)[0]
    shown = said(agentkit("memory", "show", store, first, *HASH))
    assert "Outcome: success" in shown
    assert "'writer': 'environment'" in shown
    assert "there is no memory 'm-1'" in said(agentkit("memory", "show", store, "m-1", *HASH), 1)


def test_the_doctor_finds_a_lost_index_and_repairs_it(agentkit: Command, store: Path) -> None:
    assert "4 memories, all in order" in said(agentkit("memory", "doctor", store, *HASH))
    for folder in (store / "chroma").iterdir():
        for file in folder.rglob("*"):
            if file.is_file():
                file.write_bytes(b"nonsense")
    assert "chroma" in said(agentkit("memory", "doctor", store, *HASH), 1).lower()
    assert "the index was made anew" in said(agentkit("memory", "doctor", store, "--repair", *HASH))
    assert "4 memories, all in order" in said(agentkit("memory", "doctor", store, *HASH))


def test_a_snapshot_gets_a_name_and_a_write_is_undone(agentkit: Command, store: Path) -> None:
    assert "before is snapshot 4-" in said(agentkit("memory", "snapshot", store, "before", *HASH))
    assert "write 2 undoes write 1; 0 memories" in said(agentkit("memory", "undo", store, 1, *HASH))
    assert "there is no write 9" in said(agentkit("memory", "undo", store, 9, *HASH), 1)
    with MemoryStore.open(store, embedder=HashEmbedder()) as memory:
        assert len(memory.recall("P", k=9, snapshot="before")) == 4


def test_what_is_forgotten_is_gone(agentkit: Command, store: Path) -> None:
    first, *others = ids(agentkit, store)
    assert f"erased 1 memories (1 versions)\n{first}" in said(agentkit("memory", "forget", store, "--id", first, *HASH))
    assert ids(agentkit, store) == others
    assert "exactly one of" in said(agentkit("memory", "forget", store, *HASH), 1)


def test_memories_move_to_another_store_with_the_trust_they_are_given(
    agentkit: Command, store: Path, tmp_path: Path
) -> None:
    file, other = tmp_path / "memories.jsonl", tmp_path / "other"
    assert "4 memories in" in said(agentkit("memory", "export", store, file, *HASH))
    assert "4 new memories, 4 in" in said(agentkit("memory", "import", other, file, "--trust", 0, *HASH))
    assert sorted(ids(agentkit, other)) == sorted(ids(agentkit, store))
    with MemoryStore.open(other, embedder=HashEmbedder()) as memory:
        assert {found.trust for found in memory.recall("P", k=9)} == {0}
    file.write_text(file.read_text()[:-5])
    assert "was cut short or changed" in said(agentkit("memory", "import", other, file, *HASH), 1)


def test_a_log_teaches_the_kinds_that_are_asked_for(agentkit: Command, built: Path, tmp_path: Path) -> None:
    log, folder = built.parent / "log.sqlite", tmp_path / "taught"
    assert "4 new memories" in said(agentkit("memory", "build", log, "--out", folder, *HASH))
    assert "new memories" in said(agentkit("memory", "build", log, "--out", folder, "--kinds", "episode, step", *HASH))
    assert re.search(r"step +active", said(agentkit("memory", "stats", folder, *HASH)))
    wrong = said(agentkit("memory", "build", log, "--out", folder, "--kinds", "insigt", *HASH), 1)
    assert "did you mean 'insight'" in wrong


def test_suspects_are_listed_and_put_in_quarantine_on_demand(agentkit: Command, store: Path) -> None:
    text = "quartz lantern beneath willow"
    with MemoryStore.open(store, embedder=HashEmbedder()) as memory:
        memory.write(
            Draft(
                body=FactBody(subject=f"{n}", relation="is", value="so"),
                text=f"{text} {n}",
                keys={"state": f"{text} {n}"},
                env_id="agentkit/FrozenLake-v0",
                source=Source(writer="tool", name="page"),
                trust=Trust.UNTRUSTED,
            )
            for n in range(12)
        )
    assert "12 suspects\n" in said(agentkit("memory", "doctor", store, "--suspects", *HASH))
    assert "12 suspects put in quarantine" in said(agentkit("memory", "doctor", store, "--quarantine", *HASH))
    assert re.search(r"fact +quarantine +12", said(agentkit("memory", "stats", store, *HASH)))
