"""Memories found by the very state they passed through."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentkit.memory import journal, places
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.kinds import Draft, EpisodeBody, FactBody, Source, StepBody, Trust
from agentkit.memory.store import MemoryStore


@pytest.fixture
def store(tmp_path: Path):
    with MemoryStore.open(tmp_path / "store", embedder=HashEmbedder(32), index="exact", gate=None) as store:
        yield store


def walk(name: str, states: Sequence[str], success: bool = True, **changes: object) -> Draft:
    """An episode through states."""
    body = EpisodeBody(
        success=success, episode_return=float(success), actions=("go",) * len(states), state_keys=tuple(states)
    )
    given = {
        "body": body,
        "text": name,
        "keys": {"state": name},
        "env_id": "test/Env-v0",
        "source": Source(writer="environment", name="log", episode_ids=(name,)),
    }
    return Draft(**{**given, **changes})  # type: ignore[arg-type]


def search(store: MemoryStore, state_key: str, k: int = 10, **options: object) -> list[tuple[str, float]]:
    """Text and score of what is found, in order."""
    with store.database.reading() as connection:
        found = places.search(connection, state_key, k, store.scope(connection, **options))  # type: ignore[arg-type]
        memory_of = {row.seq: journal.memory_of(row) for row in journal.rows_of(connection, list(found))}
    return [(memory_of[seq].text, score) for seq, score in found.items()]


def test_nearest_to_success_first_then_what_failed(store):
    store.write([walk("long", "abcd"), walk("lost", "a", success=False), walk("short", "ca")])
    # From a, `long` has 4 actions left: 1/2 + 1/5; `short` has 1: 1/2 + 1/2.
    assert search(store, "a") == [("short", 1.0), ("long", pytest.approx(0.7)), ("lost", 0.5)]
    assert search(store, "d") == [("long", 1.0)]
    assert search(store, "a", k=1) == [("short", 1.0)]
    assert search(store, "z") == []
    assert search(store, "") == []


def test_trust_comes_before_nearness(store):
    store.write([walk("near", "a", trust=Trust.UNTRUSTED), walk("far", "abc", trust=Trust.VERIFIED)])
    assert [name for name, _ in search(store, "a")] == ["far", "near"]


def test_of_several_visits_the_last_counts(store):
    store.write([walk("round", "abab")])
    assert search(store, "a") == [("round", pytest.approx(0.5 + 1 / 3))]


def test_a_step_is_found_by_its_state_and_other_kinds_by_none(store):
    win = StepBody(observation="o", action="go", reward=1.0, next_observation="", terminated=True, state_key="s")
    move = win.model_copy(update={"terminated": False, "reward": 0.0})
    fact = FactBody(subject="s", relation="is", value="s")
    source = Source(writer="environment", episode_ids=("e",), turns=(1,))
    store.write([walk("move", "", body=move), walk("win", "", body=win, source=source), walk("fact", "", body=fact)])
    assert search(store, "s") == [("win", 1.0), ("move", 0.5)]


def test_only_what_is_in_scope_is_found(store):
    store.write([walk("one", "a"), walk("two", "a", env_id="other"), walk("three", "a", task_key="t")])
    snapshot = store.snapshot()
    store.write([walk("four", "a", split="held_out"), walk("five", "a", status="disputed")])
    assert {name for name, _ in search(store, "a")} == {"one", "two", "three", "four"}
    assert [name for name, _ in search(store, "a", env_id="other")] == ["two"]
    assert {name for name, _ in search(store, "a", exclude_tasks=["t"], snapshot=snapshot)} == {"one", "two"}


def test_only_the_version_in_force_is_found(store):
    [first] = store.write([walk("one", "ab")])
    store.write([first.draft(body=first.body.model_copy(update={"state_keys": ("b", "c")}))])
    with store.database.reading() as connection:
        scope = store.scope(connection)
        assert places.search(connection, "a", 9, scope) == {}
        assert list(places.search(connection, "c", 9, scope)) == [2]


def test_what_is_forgotten_has_no_states_left(store, tmp_path):
    store.write([walk("gone", ["secret-state"]), walk("kept", "b")])
    store.forget(episode_id="gone")
    with sqlite3.connect(tmp_path / "store" / "memory.sqlite") as raw:
        assert raw.execute("SELECT state_key FROM places").fetchall() == [("b",)]
    assert search(store, "b") == [("kept", 1.0)]
