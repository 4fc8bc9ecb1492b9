"""Counts of visits, exact and by likeness."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from agentkit.errors import ConfigError
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode, Turn
from agentkit.memory.store import MemoryStore
from agentkit.memory.visits import Clusters, Hashing, Visits
from agentkit.task import Task


def walk(name: str, *states: str, split: str = "train") -> Episode:
    task = Task(env_id="lake", seed=0, split=split)
    turns = tuple(Turn(observation=f"at {state}", response="", state_key=state) for state in states)
    return Episode(id=name, task=task, turns=turns)


def test_every_turn_is_a_visit_and_the_bonus_falls_with_the_root_of_their_number() -> None:
    visits = Visits()
    visits.see(walk("one", "a", "b", "a", ""))
    assert (visits.count("a"), visits.count("b"), visits.count("c"), len(visits)) == (2, 1, 0, 2)
    assert visits.bonus("c") == pytest.approx(10.0)
    assert visits.bonus("a", 3.0) == pytest.approx(3 / 2.01**0.5)
    assert visits.bonus("c") > visits.bonus("b") > visits.bonus("a")
    assert visits.counts() == {"a": 2, "b": 1}


def test_counts_made_anew_from_the_log_are_those_that_grew_with_it(tmp_path: Path) -> None:
    with EpisodeLog.open(tmp_path / "log.sqlite") as log:
        log.append(walk("one", "a", "b"))
        growing = Visits()
        assert growing.update(log) == 1
        log.append_many([walk("two", "b", "c"), walk("exam", "z", split="test")])
        assert growing.update(log) == 1
        assert growing.update(log) == 0
        assert growing.counts() == Visits.of(log).counts() == {"a": 1, "b": 2, "c": 1}
        assert Visits.of(log, split="test").counts() == {"z": 1}


def test_states_that_look_alike_share_a_name_and_fewer_bits_tell_less_apart() -> None:
    embedder = HashEmbedder(64)
    texts = [f"a room with {thing} and {number} doors" for thing in ("a key", "fire", "an owl") for number in range(9)]
    names = {bits: Hashing(embedder, bits).names(texts) for bits in (1, 4, 16)}
    assert [len(set(found)) for found in names.values()] == sorted(len(set(found)) for found in names.values())
    assert len(set(names[1])) <= 2
    assert Hashing(embedder, 16).names(texts) == names[16]
    assert Hashing(embedder, 16, seed=1).names(texts) != names[16]
    assert Hashing(embedder).names([]) == []
    visits = Visits()
    visits.add(names[4])
    assert sum(visits.counts().values()) == len(texts)
    with pytest.raises(ConfigError, match="0 bits"):
        Hashing(embedder, 0)


def test_clusters_are_the_keys_of_a_store(tmp_path: Path) -> None:
    with MemoryStore.open(tmp_path / "store", embedder=HashEmbedder(64), index="exact") as store:
        with pytest.raises(ConfigError, match="is empty"):
            Clusters.of(store)
        for number, place in enumerate(("a frozen lake", "a kitchen with a fridge")):
            store.add(walk(f"e{number}", place).model_copy(update={"success": True}))
        clusters = Clusters.of(store)
    seen = HashEmbedder(64).embed(["the kitchen and its fridge", "at a frozen lake", "a lake"])
    assert clusters.names_of(seen) == ["1", "0", "0"]
    with pytest.raises(ConfigError, match=r"shape \(3,\)"):
        Clusters(np.zeros(3))


def test_counting_is_cheap() -> None:
    states = [f"state {number % 997}" for number in range(100_000)]
    visits, begun = Visits(), time.process_time()
    for start in range(0, len(states), 20):
        visits.add(states[start : start + 20])
    assert 100_000 / (time.process_time() - begun) > 50_000
    assert visits.count("state 0") == 101
