"""The ledger: what is written down of exposures and outcomes, and what follows from it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentkit.errors import ConfigError, RecordError
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.exposure import Candidate, Exploration, Exposure, environment_outcomes, episode_key
from agentkit.memory.kinds import Draft, InsightBody, Source
from agentkit.memory.log import EpisodeLog
from agentkit.memory.provenance import why
from agentkit.memory.records import Episode, Turn
from agentkit.memory.store import MemoryStore
from agentkit.memory.utility import UNKNOWN, estimate_holdout, estimate_utility
from agentkit.task import Task


@pytest.fixture
def store(tmp_path: Path):
    with MemoryStore.open(tmp_path / "store", embedder=HashEmbedder(64), index="exact") as opened:
        yield opened


def played(number: int, success: bool, *, error: str | None = None, group: str = "") -> Episode:
    task = Task(env_id="lake", seed=number % 7, split="train")
    group = group or f"g{number // 4}"
    return Episode(
        id=f"e{number}",
        task=task,
        group_id=group,
        attempt=number % 4,
        turns=(Turn(observation="a lake", response="go", action="go"),),
        success=success,
        error=error,
    )


def draws(num: int, seed: int = 0, policy_version: int = 0) -> list[Exposure]:
    exploration = Exploration(holdout=0.2, dropout=0.3, seed=seed)
    ranked = [("good", 0.9), ("idle", 0.8), ("rare", 0.1)]
    return [
        exploration.draw(
            episode_key(f"g{n // 4}", n % 4),
            ranked[: 2 + n % 2],
            3,
            task_key=f"t{n % 7}",
            policy_version=policy_version,
        )
        for n in range(num)
    ]


def episodes_of(exposures: list[Exposure]) -> list[Episode]:
    return [played(n, ("good" in one.shown_ids) != (n % 5 == 0)) for n, one in enumerate(exposures)]


def insight(condition: str, *parents: str, episode: str = "e1") -> Draft:
    return Draft(
        body=InsightBody(condition=condition, advice=f"mind {condition}", evidence_for=(episode,)),
        text=f"when {condition}, mind {condition}",
        keys={"condition": condition},
        env_id="lake",
        source=Source(writer="environment", name="log", episode_ids=(episode,), parents=parents),
    )


def test_the_ledger_says_what_the_estimators_say_of_the_same_records(store: MemoryStore) -> None:
    exposures = draws(300)
    episodes = episodes_of(exposures)
    assert store.ledger.record_many(exposures[:200]) == 200
    assert store.ledger.settle(episodes[:150]) == 150
    outcomes = environment_outcomes(episodes)
    first = {key: outcomes[key] for key in list(outcomes)[:150]}
    assert store.ledger.utilities() == estimate_utility(exposures[:200], first)
    for one in exposures[200:]:  # what comes later is added to what was read
        store.ledger.record(one)
    store.ledger.settle(episodes[150:])
    assert store.ledger.utilities() == estimate_utility(exposures, outcomes)
    assert store.ledger.effect_of_memory() == estimate_holdout(exposures, outcomes)
    assert store.ledger.utilities()["good"].low > 0
    assert store.ledger.counts() == {"exposures": 300, "outcomes": 300, "judgements": 0, "both": 300}
    assert store.ledger.exposures(exposures[7].episode_key) == [exposures[7]]


def test_ledgers_are_kept_with_the_store_and_apart_from_its_versions(tmp_path: Path) -> None:
    exposures = draws(80)
    with MemoryStore.open(tmp_path / "s", embedder=HashEmbedder(64), index="exact") as store:
        before = store.snapshot()
        store.ledger.record_many(exposures)
        store.ledger.settle(episodes_of(exposures))
        found = store.ledger.utilities()
        assert store.snapshot() == before
        assert store.history() == []
    with MemoryStore.open(tmp_path / "s", embedder=HashEmbedder(64), index="exact") as store:
        assert store.ledger.utilities() == found
        assert store.ledger.record_many(exposures) == 0  # twice is the same as once
        assert store.ledger.utilities() == found
        assert store.verify() == []
    with pytest.raises(RecordError, match="closed"):
        _ = store.ledger


def test_what_has_no_counterpart_is_kept_and_not_counted(store: MemoryStore) -> None:
    exposures = draws(8)
    store.ledger.record_many(exposures)
    assert store.ledger.utilities() == {}
    assert store.ledger.effect_of_memory() == UNKNOWN
    store.ledger.settle([played(400, True)])
    assert store.ledger.utilities(["good"]) == {"good": UNKNOWN}
    store.ledger.settle(episodes_of(exposures))
    assert store.ledger.utilities(["good"])["good"].num_shown > 0
    assert store.ledger.counts()["both"] == 8


def test_the_first_outcome_of_an_attempt_stays_and_one_that_broke_off_failed(store: MemoryStore) -> None:
    exposure = draws(1)[0]
    store.ledger.record(exposure)
    assert store.ledger.settle([played(0, False, error="the browser died")]) == 1
    again = played(0, True).model_copy(update={"id": "played again"})
    assert store.ledger.settle([again]) == 0
    utility = store.ledger.utilities(["good"])["good"]
    assert {utility.mean_shown, utility.mean_hidden} <= {0.0, None}


def test_sync_settles_failures_too_and_comes_back_for_more(store: MemoryStore, tmp_path: Path) -> None:
    exposures = draws(40)
    episodes = episodes_of(exposures)
    store.ledger.record_many(exposures)
    with EpisodeLog.open(tmp_path / "log.sqlite") as log:
        log.append_many(episodes[:30])
        store.sync(log)
        assert store.ledger.counts()["outcomes"] == 30
        log.append_many(episodes[30:])
        assert store.ledger.settle_from(log) == 10
        assert store.ledger.settle_from(log) == 0
    assert store.ledger.utilities() == estimate_utility(exposures, environment_outcomes(episodes))


def test_what_a_model_judges_is_kept_apart(store: MemoryStore) -> None:
    exposures = draws(40)
    store.ledger.record_many(exposures)
    store.ledger.settle(episodes_of(exposures))
    before = store.ledger.utilities()
    store.ledger.judge({one.episode_key: 1.0 for one in exposures}, "a model")
    assert store.ledger.utilities() == before
    judged = store.ledger.judgements("a model")
    assert len(judged) == 40
    assert {outcome.judge for outcome in judged.values()} == {"model"}
    with pytest.raises(ConfigError, match="judgement of episode 'g0/0' is 2"):
        store.ledger.judge({"g0/0": 2.0}, "a model")


def test_many_threads_write_the_same_and_others_without_loss(store: MemoryStore) -> None:
    exposures = draws(60)
    faults: list[BaseException] = []

    def write(own: list[Exposure]) -> None:
        try:
            for one in own:
                store.ledger.record(one)
                store.ledger.utilities()
        except BaseException as fault:  # noqa: BLE001 - told below
            faults.append(fault)

    threads = [threading.Thread(target=write, args=(exposures[n % 3 * 20 : n % 3 * 20 + 20],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert store.ledger.counts()["exposures"] == 60
    store.ledger.settle(episodes_of(exposures))
    expected = estimate_utility(exposures, environment_outcomes(episodes_of(exposures)))
    found = store.ledger.utilities()
    assert {id: one.num_shown for id, one in found.items()} == {id: one.num_shown for id, one in expected.items()}


def test_contexts_and_versions_are_looked_at_one_by_one(store: MemoryStore) -> None:
    old, new = draws(40, policy_version=0), draws(40, seed=1, policy_version=100)
    renamed = [one.model_copy(update={"episode_key": f"n{one.episode_key}", "context": "kitchen"}) for one in new]
    episodes = episodes_of(old)
    later = [one.model_copy(update={"id": f"n{one.id}", "group_id": f"n{one.group_id}"}) for one in episodes_of(new)]
    store.ledger.record_many([*old, *renamed])
    store.ledger.settle([*episodes, *later])
    everything, outcomes = [*old, *renamed], environment_outcomes([*episodes, *later])
    assert store.ledger.utilities(context="kitchen") == estimate_utility(everything, outcomes, context="kitchen")
    aged = estimate_utility(everything, outcomes, policy_version=100, half_life=50.0)
    assert store.ledger.utilities(policy_version=100) == aged
    assert store.ledger.chances(["good", "none"], "kitchen")["none"] == 0.5
    counted = store.ledger.utilities()["rare"]
    assert store.ledger.num_coins()["rare"] == counted.num_shown + counted.num_hidden


def test_ids_that_utf8_cannot_carry_are_kept_apart(store: MemoryStore) -> None:
    odd = [f"m\ud800{n}" for n in range(2)]
    exposures = [
        Exploration(dropout=0.5, holdout=0.0).draw(episode_key(f"g\udfff{n}", 0), [(odd[n % 2], 1.0)], 1)
        for n in range(20)
    ]
    store.ledger.record_many(exposures)
    store.ledger.settle([played(4 * n, n % 3 == 0, group=f"g\udfff{n}") for n in range(20)])
    assert store.ledger.counts()["both"] == 20
    assert [one.num_shown + one.num_hidden for one in store.ledger.utilities().values()] == [10, 10]


def test_forgetting_a_memory_cuts_its_exposures_and_leaves_those_of_others(store: MemoryStore, tmp_path: Path) -> None:
    doomed = store.write([insight("doomed ice", episode="e900")])[0].id
    other = store.write([insight("other fire", episode="e901")])[0].id
    child = store.write([insight("child of ice", doomed, episode="e902")])[0].id
    exploration = Exploration(holdout=0.2, dropout=0.4)
    exposures = [
        exploration.draw(episode_key(f"g{n // 4}", n % 4), [(doomed, 0.77), (other, 0.5), (child, 0.4)], 3)
        for n in range(80)
    ]
    store.ledger.record_many(exposures)
    store.ledger.settle(episodes_of(exposures))
    before, whole = store.ledger.utilities(), store.ledger.effect_of_memory()
    assert set(store.forget(id=doomed).ids) == {doomed, child}
    after = store.ledger.utilities()
    assert after == {other: before[other]}
    assert store.ledger.effect_of_memory() == whole
    assert store.ledger.shown(doomed) == (0, 0)
    (left,) = store.ledger.exposures(exposures[0].episode_key)
    assert [one.memory_id for one in left.candidates] == [other]
    assert store.ledger.record_many(exposures) == 0  # it does not come back


def test_forgetting_an_episode_takes_its_exposures_and_its_outcome(store: MemoryStore, tmp_path: Path) -> None:
    exposures = draws(12)
    store.ledger.record_many(exposures)
    store.ledger.settle(episodes_of(exposures))
    store.ledger.judge({exposures[3].episode_key: 0.5}, "a model")
    store.forget(episode_id="e3")
    assert store.ledger.counts() == {"exposures": 11, "outcomes": 11, "judgements": 0, "both": 11}
    assert store.ledger.exposures(exposures[3].episode_key) == []
    outcomes = environment_outcomes(episodes_of(exposures))
    kept = [one for number, one in enumerate(exposures) if number != 3]
    assert store.ledger.utilities() == estimate_utility(kept, outcomes)


def test_why_knows_all_ancestors_episodes_writes_and_exposures(store: MemoryStore) -> None:
    root = store.write([insight("root of ice", episode="e1")])[0].id
    middle = store.write([insight("wet stone", root, episode="e2")])[0].id
    leaf = store.write([insight("green leaf", middle, root, episode="e3")], "a lesson")[0].id
    store.decide(leaf, "quarantine")
    coin = Candidate(memory_id=leaf, score=1.0, propensity=0.5, shown=True, position=0)
    store.ledger.record(Exposure(id="x", episode_key="g/0", candidates=(coin,)))
    found = why(store, leaf)
    assert [(one.id, one.depth) for one in found.ancestors] == [(middle, 1), (root, 1)]
    assert set(found.episode_ids) == {"e1", "e2", "e3"}
    assert [one.what for one in found.versions] == ["a lesson", "decide quarantine"]
    assert found.status == "quarantine"
    assert found.reasons[0] == f"quarantine since write {found.versions[1].write} (decide quarantine)"
    assert (found.num_shown, found.num_hidden, found.utility) == (1, 0, UNKNOWN)
    store.decide(middle, "retired")
    assert f"made from {middle}, which is no longer recalled" in why(store, leaf).reasons
    assert why(store, middle).ancestors[0].text == "when root of ice, mind root of ice"
    with pytest.raises(RecordError, match="'m-none' is not in this store"):
        why(store, "m-none")
    store.forget(id=leaf)
    with pytest.raises(RecordError, match="is forgotten: only its id is left"):
        why(store, leaf)


def test_why_answers_within_ten_milliseconds(store: MemoryStore) -> None:
    ids = [store.write([insight("number 0 of many", episode="e0")])[0].id]
    for number in range(1, 12):
        ids.append(store.write([insight(f"link {'x' * number}", ids[-1], episode=f"e{number}")])[0].id)
    exposures = draws(500)
    store.ledger.record_many(exposures)
    store.ledger.settle(episodes_of(exposures))
    why(store, ids[-1])
    taken = []
    for _ in range(15):
        begun = time.perf_counter()
        assert len(why(store, ids[-1]).ancestors) == 11
        taken.append(time.perf_counter() - begun)
    assert sorted(taken)[7] < 0.05  # 3 ms where nothing else runs


def test_the_command_line_explains_counts_and_evicts(tmp_path: Path) -> None:
    from agentkit.cli.main import app

    folder = tmp_path / "store"
    with MemoryStore.open(folder, embedder=HashEmbedder()) as store:
        first = store.write([insight("thin ice"), insight("deep water"), insight("a locked door")])[0].id
        exposures = draws(60)
        store.ledger.record_many(exposures)
        store.ledger.settle(episodes_of(exposures))
    options = ["--embedder", "hash"]
    run = CliRunner().invoke
    stats = run(app, ["memory", "stats", str(folder), *options]).output
    assert "60 exposures, 60 outcomes, 60 episodes with both" in stats
    assert "held out" in stats
    told = json.loads(run(app, ["memory", "why", str(folder), first, "--json", *options]).output)
    assert (told["id"], told["status"], told["episode_ids"]) == (first, "active", ["e1"])
    assert "active since write 1" in run(app, ["memory", "why", str(folder), first, *options]).output
    plan = run(app, ["memory", "evict", str(folder), "--keep", "1", "--pin", first, *options]).output
    assert "1 memories kept, 2 would be retired; add --apply" in plan
    done = run(app, ["memory", "evict", str(folder), "--keep", "1", "--pin", first, "--apply", *options]).output
    assert "2 retired in write 2" in done
    undone = run(app, ["memory", "undo", str(folder), "2", *options]).output
    assert "3 memories" in undone
