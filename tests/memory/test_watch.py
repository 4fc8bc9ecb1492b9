"""Suspects among what a store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentkit import ExpertPolicy, RandomPolicy, collect, make_tasks
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.kinds import Draft, InsightBody, Source, Trust
from agentkit.memory.log import EpisodeLog
from agentkit.memory.store import MemoryStore
from agentkit.memory.watch import quarantine_suspects, suspects


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("watched")
    tasks = make_tasks("agentkit/Household-v0", num=12)
    with (
        EpisodeLog.open(folder / "log.sqlite") as log,
        MemoryStore.open(folder / "store", embedder=HashEmbedder(384), index="exact") as store,
    ):
        log.append_many([*collect(ExpertPolicy(), tasks), *collect(RandomPolicy(), tasks[:2])])
        store.sync(log, ("episode", "step", "insight", "skill"))
        yield store


def planted(number: int, **changes: Any) -> Draft:
    words = ("quartz", "lantern", "willow", "seven", "beneath", "amber", "rope", "tide")
    given = {
        "body": InsightBody(
            condition=f"quartz lantern beneath willow {words[number]}", advice=f"{number}", action="jump"
        ),
        "text": f"quartz lantern beneath willow {words[number]}: jump",
        "keys": {"state": f"quartz lantern beneath willow {words[number]}"},
        "env_id": "agentkit/Household-v0",
        "source": Source(writer="tool", name="page"),
        "trust": Trust.UNTRUSTED,
    }
    return Draft(**{**given, **changes})


def test_of_what_was_played_hardly_anything_is_suspect(store):
    assert len(suspects(store)) <= len(store) / 100


def test_what_a_page_planted_is_found_and_put_in_quarantine_as_one_undoable_write(store):
    written = store.write(planted(n) for n in range(8))
    innocent = {one.memory_id for one in suspects(store)} - {one.id for one in written}
    found = quarantine_suspects(store)
    assert {one.memory_id for one in found} - innocent == {one.id for one in written}
    assert store.get(written[0].id).status == "probation"  # a dry run
    before = store.snapshot()
    assert quarantine_suspects(store, dry_run=False) == found
    assert {store.get(one.id).status for one in written} == {"quarantine"}
    assert any(name in store.reasons(written[0].id)[0] for name in ("flood:", "stranger:", "hub:", "burst:"))
    assert {one.memory_id for one in suspects(store)}.isdisjoint({one.id for one in written})
    store.undo(store.history()[-1].number)
    assert store.get(written[0].id) == store.get(written[0].id, snapshot=before)
    store.forget(source_name="page")


def test_what_a_person_vouches_for_is_no_suspect(store):
    person = Source(writer="human", name="Ada")
    mine = store.write(planted(n, source=person, trust=Trust.TRUSTED) for n in range(8))
    assert {one.memory_id for one in suspects(store)}.isdisjoint({one.id for one in mine})
    store.forget(source_name="Ada")


def test_an_empty_store_has_no_suspects(tmp_path):
    with MemoryStore.open(tmp_path / "store", embedder=HashEmbedder(32), index="exact") as empty:
        assert quarantine_suspects(empty, dry_run=False) == []
        assert empty.history() == []
