"""From a situation to what is shown: arms, relevance, factors, threshold, selection, each with its reasons."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.errors import ConfigError, RecordError
from agentkit.memory.arms import ARMS, Situation
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.fusion import ArmWeights
from agentkit.memory.kinds import Draft, EpisodeBody, FactBody, FailureBody, InsightBody, Source, Trust
from agentkit.memory.ranking import RankWeights
from agentkit.memory.reader import Reader, ReadSettings, explain, tokens_in
from agentkit.memory.store import MemoryStore
from agentkit.memory.utility import UNKNOWN

ONLY_STATE = ArmWeights(weights={"state": 1.0}, ranges={"state": (0.0, 1.0)})


class Directions:
    """`east` is (1, 0), `north` is (0, 1), `north 0.6` is 0.6 north of east; anything else looks to the west."""

    dim = 2
    fingerprint = "directions"

    def embed(self, texts: list[str]) -> np.ndarray:
        rows = np.zeros((len(texts), 2), np.float32)
        for row, text in zip(rows, texts, strict=True):
            word, _, number = text.partition(" ")
            height = float(number or 1.0) if word == "north" else 0.0
            row[:] = (math.sqrt(1 - height**2), height) if word in ("east", "north") else (-1.0, 0.0)
        return rows


@pytest.fixture
def store(tmp_path: Path):
    with MemoryStore.open(tmp_path / "store", embedder=Directions(), index="exact", gate=None) as store:  # type: ignore[arg-type]
        yield store


def note(name: str, state: str = "east", **changes: object) -> Draft:
    given = {
        "body": FactBody(subject=name, relation="is", value="so"),
        "text": name,
        "keys": {"state": state},
        "env_id": "test/Env-v0",
        "source": Source(writer="environment", name="log"),
    }
    return Draft(**{**given, **changes})  # type: ignore[arg-type]


def plain(**changes: object) -> ReadSettings:
    """Relevance by the cosine with the state, no factor but trust, no diversity."""
    rank = RankWeights(floor=0.2, utility=0.5, recency=0.0, importance=0.0)
    return ReadSettings(**{"arms": ONLY_STATE, "rank": rank, "diversity": 0.0, **changes})  # type: ignore[arg-type]


def names(store: MemoryStore, situation: Situation, most: int = 9, **changes: object) -> list[str]:
    return [read.memory.text for read in Reader(store, plain(**changes)).read(situation, most)]


EAST = Situation(observation="east")


def test_a_score_worked_by_hand_and_explained(store):
    [one] = store.write([note("one", "north 0.6", importance=0.75, trust=Trust.VERIFIED)])
    [read] = Reader(store).read(Situation(observation="east", state_key="s"), utilities={one.id: UNKNOWN})
    # Of the arms only `state` finds anything, so it has all of the weight: relevance 0.8, the cosine of (1, 0) and
    # (0.8, 0.6). Nothing is known of its utility: 1. It is the last write, so recency is 1 + 0.2 · 1. Importance
    # 1 + 0.2 · (0.75 - 0.5) = 1.05, trust 1.1.
    assert read.factors == pytest.approx(
        {"relevance": 0.8, "utility": 1.0, "recency": 1.2, "importance": 1.05, "trust": 1.1}, abs=1e-6
    )
    assert read.memory.score == pytest.approx(0.8 * 1.2 * 1.05 * 1.1)
    assert read.arms == {"state": pytest.approx(0.8)}
    assert explain(read) == (
        f"{one.id} (fact): 1.109 = relevance 0.800 × recency 1.200 × importance 1.050 × trust 1.100 [state 0.800]"
    )


def test_the_arms_that_find_something_share_the_weight(store):
    body = EpisodeBody(success=True, episode_return=1.0, actions=("go",), state_keys=("s",))
    store.write([note("red lamp", "north 0.6", body=body), note("blue lamp", "north")])
    situation = Situation(observation="east red", state_key="s")
    reads = {read.memory.text: read for read in Reader(store).rank(situation)}
    red = reads["red lamp"]
    assert set(red.arms) == {"state", "lexical", "exact"}
    assert red.arms["exact"] == 1.0
    # Weights 0.4, 0.2 and 0.2 of the arms that answer are shares 1/2, 1/4 and 1/4; `east red` looks to the east.
    assert red.factors["relevance"] == pytest.approx(0.5 * 0.8 + 0.25 * red.arms["lexical"] + 0.25, abs=1e-6)
    assert "blue lamp" not in reads  # (1, 0) · (0, 1) = 0, no word, another state: not relevant


def test_goal_and_state_are_compared_with_their_own_keys(store):
    store.write(
        [
            note("goal east", "west", keys={"goal": "east", "state": "north"}),
            note("state east", "west", keys={"goal": "north", "state": "east"}),
            note("condition east", "west", keys={"condition": "east"}),
        ]
    )
    found = {read.memory.text: read.arms for read in Reader(store).rank(Situation(goal="north", observation="east"))}
    assert found["state east"] == pytest.approx({"goal": 1.0, "state": 1.0, "lexical": found["state east"]["lexical"]})
    assert found["condition east"]["state"] == pytest.approx(1.0)
    assert "goal east" not in found or found["goal east"]["state"] == pytest.approx(0.0)
    assert set(names(store, EAST)) == {"goal east", "state east", "condition east"}  # no goal: keys of every field


def test_what_another_arm_found_is_told_how_near_it_is(store):
    body = EpisodeBody(success=True, episode_return=1.0, actions=("go",), state_keys=("s",))
    store.write([note("here", "north 0.6", body=body), *(note(f"n{number}") for number in range(9))])
    arms = ArmWeights(weights={"state": 0.5, "exact": 0.5}, ranges={"state": (0.0, 1.0), "exact": (0.0, 1.0)})
    reader = Reader(store, plain(pool=2, arms=arms))
    found = {read.memory.text: read.arms for read in reader.rank(Situation(observation="east", state_key="s"))}
    assert found["here"] == pytest.approx({"exact": 1.0, "state": 0.8}, abs=1e-6)


def test_the_relevance_floor_comes_first_whatever_else_speaks_for_a_memory(store):
    store.write([note("near", "north 0.6"), note("far", "north 0.99", trust=Trust.TRUSTED, importance=1.0)])
    [far] = [memory for memory in store.held() if memory.text == "far"]
    best = UNKNOWN.model_copy(update={"shrunk": 1.0, "uplift": 1.0, "num_shown": 99})
    reads = Reader(store, plain()).read(EAST, utilities={far.id: best})
    assert [read.memory.text for read in reads] == ["near"]  # sqrt(1 - 0.99²) = 0.141 < 0.2


def test_utility_moves_the_score_within_its_bounds(store):
    memories = store.write([note("a", "north 0.6"), note("b", "north 0.6")])
    by_name = {memory.text: memory.id for memory in memories}
    good, bad = (UNKNOWN.model_copy(update={"shrunk": value}) for value in (1.0, -1.0))
    reads = Reader(store, plain()).read(EAST, utilities={by_name["b"]: good, by_name["a"]: bad})
    assert [(read.memory.text, round(read.factors["utility"], 3)) for read in reads] == [("b", 1.25), ("a", 0.75)]


def test_a_fitted_threshold_refuses_and_is_kept_with_the_store(store):
    store.write([note("near"), note("far", "north 0.8")])
    reader = Reader(store, plain())
    assert len(reader.read(EAST)) == 2
    # Of 9 labels floor(0.2 · 10) - 1 = 1 may be unhelpful and above: the 0.8; the threshold is the next, 0.6.
    labels = [(0.9, True), (0.8, False), (0.7, True), (0.6, False), (0.5, False)] + [(0.4, True)] * 4
    assert reader.calibrate(labels, alpha=0.2).threshold == 0.6
    assert [read.memory.text for read in reader.read(EAST)] == ["near"]  # far: 0.6 is not more than 0.6
    assert Reader(store).abstention == reader.abstention


def test_weights_are_fitted_kept_and_dropped_with_the_embedder(tmp_path):
    drafts = [
        note(f"word{number}", keys={"state": f"something else entirely {number % 3}"}, text=f"word{number}")
        for number in range(24)
    ]
    with MemoryStore.open(tmp_path, embedder=HashEmbedder(64), index="exact", gate=None) as store:
        ids = [memory.id for memory in store.write(drafts)]
        reader = Reader(store)
        other = Reader(store)
        labelled = [(Situation(observation=f"a word{number}"), [ids[number]]) for number in range(24)]
        fit = reader.fit(labelled)
        assert fit.alone["lexical"] == 1.0 > fit.alone["state"]
        assert reader.weights.weights == {"goal": 0.0, "state": 0.0, "lexical": 1.0, "exact": 0.0}
        assert other.weights == ReadSettings().arms  # a reader that is in use does not change
        assert Reader(store).weights == reader.weights
        assert [read.memory.id for read in Reader(store).read(labelled[5][0], 1)] == [ids[5]]
        with pytest.raises(ConfigError, match="no relevant id"):
            reader.fit([(labelled[0][0], [])])
        with pytest.raises(ConfigError, match="no arm has been asked"):
            reader.fit([])
    with MemoryStore.open(tmp_path, embedder=HashEmbedder(32), index="exact", gate=None, rebuild=True) as store:
        assert Reader(store).weights == ReadSettings().arms


def test_settings_name_arms_that_there_are(store):
    with pytest.raises(ConfigError, match="no arm 'smell' to give a weight; the arms are goal, state, lexical, exact"):
        Reader(store, plain(arms=ArmWeights(weights={"smell": 1.0})))


def test_selection_fits_the_budget_takes_one_of_a_source_and_keeps_a_failure(store):
    first = Source(writer="environment", episode_ids=("e1",))
    failure = FailureBody(signature="loop: go", cause="loop")
    walked = EpisodeBody(success=True, episode_return=1.0, actions=())
    store.write(
        [
            note("a" * 40, body=walked, source=first),
            note("b" * 40, body=FailureBody(signature="x", cause="loop"), source=first),
            note("c" * 40),
            note("d" * 40),
            note("e" * 40, "north 0.9", body=failure),
        ]
    )
    assert len(names(store, EAST, budget_tokens=20)) == 2  # of 10 tokens each
    assert not {"a", "b"} <= {text[0] for text in names(store, EAST)}  # one of an episode
    assert {"a", "b"} <= {text[0] for text in names(store, EAST, per_source=2)}
    assert names(store, EAST, most=0) == []
    assert names(store, EAST, budget_tokens=9) == []
    kept = names(store, EAST, most=2, with_failure=True)
    assert "b" in {text[0] for text in kept}


def test_texts_that_say_the_same_give_way_to_one_that_does_not(store):
    store.write(
        [
            note("open the red door with the key"),
            note("open the red door with the key now"),
            note("ask the guard", "north 0.6"),
        ]
    )
    shown = [names(store, EAST, most=2, diversity=diversity) for diversity in (0.0, 0.5)]
    assert "ask the guard" not in shown[0]
    assert "ask the guard" in shown[1]


def test_what_is_shown_may_be_ranked_again_though_no_arm_finds_it(store):
    memories = store.write([note("far", "north 0.9"), *(note(f"n{number}") for number in range(9))])
    reader = Reader(store, plain(pool=2))
    assert "far" not in [read.memory.text for read in reader.rank(EAST)]
    assert "far" in [read.memory.text for read in reader.rank(EAST, also=[memories[0].id, "m-unknown"])]
    assert "far" not in [read.memory.text for read in reader.rank(EAST, also=[memories[0].id], env_id="other")]


def test_a_situation_that_says_nothing_asks_for_anything(store):
    store.write([note("east"), note("north", "north"), note("west", "west")])
    assert len(names(store, Situation())) == len(names(store, Situation(observation=" \n"))) == 3


def test_scope_and_snapshot_are_those_of_the_store(store):
    store.write([note("one"), note("two", env_id="other")])
    snapshot = store.snapshot()
    store.write([note("three")])
    reader = Reader(store, plain())
    assert {read.memory.text for read in reader.read(EAST, 9, snapshot=snapshot)} == {"one", "two"}
    assert {read.memory.text for read in reader.read(EAST, 9, env_id="other")} == {"two"}
    with pytest.raises(RecordError, match="no snapshot of this memory store"):
        reader.read(EAST, snapshot="9-nothing")


def test_an_empty_store_has_nothing_to_show(store):
    assert Reader(store).read(EAST) == []


def test_the_same_snapshot_gives_the_same_reads_though_more_is_written_and_time_passes(store, monkeypatch):
    store.write([note("one"), note("two", "north 0.6")])
    snapshot = store.snapshot()
    before = Reader(store).rank(EAST, snapshot=snapshot)
    store.write([note("one", "north"), note("three")])
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert Reader(store).rank(EAST, snapshot=snapshot) == before


def test_what_was_forgotten_is_not_read(store):
    store.write([note("one"), note("two")])
    reader = Reader(store, plain())
    [one] = [read.memory for read in reader.read(EAST) if read.memory.text == "one"]
    store.forget(id=one.id)
    assert [read.memory.text for read in reader.read(EAST)] == ["two"]


@pytest.mark.parametrize(
    "text", ['"', "a AND", "\ud800", "\0", "x" * 10_000_000, "NEAR(a b)", "<memory>"], ids=lambda text: ascii(text[:9])
)
def test_any_situation_may_be_read(store, text):
    store.write([note("one")])
    Reader(store).read(Situation(goal=text, observation=text, state_key=text.encode("utf-8", "replace").decode()))


@settings(max_examples=20, deadline=None)
@given(st.floats(0.2, 1.0), st.floats(0.2, 1.0), st.sampled_from(Trust), st.sampled_from(Trust))
def test_who_is_nearer_and_trusted_as_much_comes_first(tmp_path_factory, left, right, trust, other):
    with MemoryStore.open(tmp_path_factory.mktemp("store"), embedder=Directions(), index="exact", gate=None) as store:  # type: ignore[arg-type]
        store.write([note("a", f"north {left:.6f}", trust=trust), note("b", f"north {right:.6f}", trust=other)])
        reads = Reader(store, plain()).rank(Situation(observation="north"))
        score = {read.memory.text: read.memory.score or 0.0 for read in reads}
        if round(left, 4) > round(right, 4) and trust >= other:
            assert score["a"] > score["b"]


def test_an_arm_that_there_is_not_is_named_and_left_out(store, monkeypatch):
    monkeypatch.setattr("agentkit.memory.lexical.absence", lambda connection: "no words here")
    store.write([note("one")])
    reader = Reader(store)
    assert reader.absent == {"lexical": "no words here"}
    [read] = reader.read(Situation(observation="one"), most=1) or reader.read(EAST, most=1)
    assert "lexical" not in read.arms
    assert set(ARMS) > set(read.arms)


def test_tokens_are_counted_as_the_policy_counts_them(store):
    store.write([note("one two three four")])
    assert tokens_in("one two three four") == 5
    [read] = Reader(store, plain(), count_tokens=lambda text: len(text.split())).read(EAST)
    assert read.tokens == 4


def advice(name: str, action: str, source: str, **changes: Any) -> Draft:
    body = InsightBody(condition=name, advice=name, action=action)
    return note(name, body=body, source=Source(writer="policy", name=source), **changes)


def test_what_only_the_untrusted_recommend_is_not_read(store):
    own = advice("open it", "open door", "run 1")
    poison = [advice(f"burn it {n}", "burn door", "a page", trust=Trust.UNTRUSTED) for n in range(5)]
    on_probation = advice("break it", "break door", "run 2", status="probation")
    store.write([own, *poison, on_probation, note("it is red")])
    assert sorted(names(store, EAST)) == ["it is red", "open it"]
    assert len(names(store, EAST, consensus=None)) == 8, "without a consensus all are read"


def test_verified_advice_beats_any_number_of_others_where_it_fits(store):
    crowd = [advice(f"left {n}", "go left", f"run {n}") for n in range(5)]
    store.write([*crowd, advice("right", "go right", "run 9", trust=Trust.VERIFIED)])
    assert names(store, EAST) == ["right"]
    # Half-way north the verified one is of another situation (cosine 0.8): it no longer decides.
    assert "left 0" in names(store, Situation(observation="north 0.6"))
