"""Of a long episode, the passage that matters."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkit.memory.arms import Situation
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.ingestion import ingest
from agentkit.memory.log import EpisodeLog
from agentkit.memory.passages import Passages
from agentkit.memory.reader import Reader
from agentkit.memory.records import Episode, Turn
from agentkit.memory.store import MemoryStore
from agentkit.task import Task

NUM_TURNS, DRAGON = 500, 317


def long_episode(num_turns: int = NUM_TURNS, *, success: bool = True) -> Episode:
    """A long walk past rooms, a dragon in one of them."""
    turns = [
        Turn(
            observation=f"You stand in room number {number} of the castle; a door leads on.",
            response="",
            action=f"walk on {number}",
            state_key=f"s{number}",
        )
        for number in range(num_turns)
    ]
    if num_turns > DRAGON:
        seen = "You stand in a room of the castle; a green dragon sleeps before the door."
        turns[DRAGON] = turns[DRAGON].model_copy(update={"observation": seen, "action": "play the lullaby"})
    return Episode(id="long", task=Task(env_id="test/Castle-v0", seed=1), turns=tuple(turns), success=success)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory):
    with EpisodeLog.open(tmp_path_factory.mktemp("log") / "log.sqlite") as log:
        log.append(long_episode())
        yield log


@pytest.fixture
def store(tmp_path: Path):
    with MemoryStore.open(tmp_path / "store", embedder=HashEmbedder(), index="exact", gate=None) as store:
        store.write(ingest(long_episode(), ["episode"]))
        yield store


def test_the_passage_that_matters_is_shown_where_the_whole_text_does_not_hold_it(store, log):
    [memory] = store.held()
    assert "lullaby" not in memory.text
    situation = Situation(observation="You stand in a hall of the castle. A dragon is asleep here; a door leads on.")
    [whole] = Reader(store).read(situation)
    [read] = Reader(store, log=log).read(situation)
    assert whole.memory.text == memory.text
    assert "a green dragon sleeps" in read.memory.text
    assert f"{DRAGON + 1}. play the lullaby" in read.memory.text
    # Turns 8 · 39 = 312 to 319, counted from 1 in the text.
    assert read.memory.text.startswith("Turns 313 to 320 of 500 of an episode that ended in success.\n")
    assert read.memory.text.count("\nSeen: ") == 8
    assert read.tokens < whole.tokens
    assert (read.memory.id, read.memory.score) == (whole.memory.id, whole.memory.score)


def test_the_very_state_comes_before_words_and_its_last_visit_first(store, log):
    [memory] = store.held()
    passages = Passages(log, num_turns=4)
    found = passages.of(memory, "a green dragon", "s100")
    assert found is not None
    assert (found.first, found.last) == (100, 103)
    same = passages.of(memory, "You stand in room number 498 of the castle; a door leads on.")
    assert same is not None
    assert (same.first, same.last) == (498, 499)


def test_what_was_seen_everywhere_decides_nothing(store, log):
    [memory] = store.held()
    passages = Passages(log)
    assert passages.of(memory, "the castle, a door") is None
    assert passages.of(memory, "") is None
    assert passages.of(memory, "submarine", "nowhere") is None


def test_short_episodes_other_kinds_and_what_is_not_in_the_log_are_shown_whole(store, tmp_path):
    [memory] = store.held()
    with EpisodeLog.open(tmp_path / "short.sqlite") as short:
        episode = long_episode(16, success=False)
        short.append(episode)
        assert Passages(short).of(memory, "room 3", "s3") is None
        found = Passages(short, num_turns=7).of(memory, "room 3", "s3")
        assert found is not None
        assert found.text.startswith("Turns 4 to 10 of 16 of an episode that ended in failure.")
    [fact, *_] = store.write(ingest(long_episode(16), ["fact"]))
    with EpisodeLog.open(tmp_path / "empty.sqlite") as empty:
        assert Passages(empty).of(memory, "a dragon", "s1") is None
        assert Passages(empty).of(fact, "room 3", "s3") is None
