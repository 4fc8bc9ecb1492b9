"""What attempts read of a memory: pinned, calm, within a budget, and left to coins that are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from agentkit.attempt import Recalled
from agentkit.errors import ConfigError, RecordError
from agentkit.memory import HashEmbedder, MemoryStore
from agentkit.memory.abstention import Abstention
from agentkit.memory.exposure import Exploration, Exposure
from agentkit.memory.kinds import Draft, EpisodeBody, Source
from agentkit.memory.reader import Reader, ReadSettings
from agentkit.memory.utility import UNKNOWN
from agentkit.policies import ExpertPolicy
from agentkit.recall import MemoryRecall
from agentkit.rollout import collect
from agentkit.task import Task

TASK = Task(env_id="test/Env-v0", seed=0)


@pytest.fixture
def store(tmp_path: Path):
    with MemoryStore.open(tmp_path / "store", embedder=HashEmbedder(), index="exact", gate=None) as store:
        yield store


def case(name: str, seen: str, task: Task = TASK, text: str = "") -> Draft:
    return Draft(
        body=EpisodeBody(success=True, episode_return=1.0, actions=("go",), state_keys=(f"state of {name}",)),
        text=text or f"{name}: {seen}",
        keys={"state": seen},
        env_id=task.env_id,
        task_key=task.key,
        source=Source(writer="environment", episode_ids=(name,)),
    )


def other(seed: int) -> Task:
    return TASK.model_copy(update={"seed": seed})


def cases(number: int) -> list[Draft]:
    return [case(f"case{n}", f"a long corridor with a door and lamp {n}", other(n + 1)) for n in range(number)]


SEEN = "a long corridor with a door and a lamp"


def names(shown: Sequence[Recalled], store: MemoryStore) -> list[str]:
    """The episodes of what is shown."""
    return [memory.episode_id for one in shown if (memory := store.get(one.id)) is not None]


def test_up_to_k_are_shown_and_those_of_the_task_itself_are_hidden(store):
    store.write([case("own", SEEN), *cases(5)])
    assert len(MemoryRecall(store).begin(TASK)(SEEN, "")) == 3
    shown = MemoryRecall(store, k=9).begin(TASK)(SEEN, "")
    assert len(shown) == 5
    assert "own" not in names(shown, store)
    open_recall = MemoryRecall(store, k=9, exclude_task=False)
    assert "own" in names(open_recall.begin(TASK)(SEEN, ""), store)
    assert MemoryRecall(store, k=0).begin(TASK)(SEEN, "") == []


def test_memories_of_other_environments_and_of_other_situations_are_not_shown(store):
    store.write(
        [*cases(1), case("far", "zzz qqq xxx", other(8)), case("env", SEEN, Task(env_id="other/Env-v0", seed=3))]
    )
    assert names(MemoryRecall(store).begin(TASK)(SEEN, ""), store) == ["case0"]


def test_the_very_state_is_found_though_it_looks_different(store):
    store.write([*cases(3), case("same", "quite another beginning", other(9))])
    shown = MemoryRecall(store, k=1).begin(TASK)("zzz qqq", "state of same")
    assert names(shown, store) == ["same"]


def test_all_is_read_from_the_snapshot(store):
    store.write(cases(2))
    recall = MemoryRecall(store, k=9)
    begun = recall.begin(TASK)
    before = begun(SEEN, "")
    store.write([*cases(6), case("case0", "rewritten", other(1))])
    Reader(store).calibrate([(0.99, False)] * 99, alpha=0.5)
    assert begun(SEEN, "") == recall.begin(TASK)(SEEN, "") == before
    assert MemoryRecall(store, k=9, snapshot=recall.snapshot_id).snapshot_id == recall.snapshot_id
    with pytest.raises(RecordError, match="no snapshot"):
        MemoryRecall(store, snapshot="99-nothing")


def test_the_fitted_threshold_holds(store):
    store.write(cases(2))
    fitted = Reader(store).calibrate([(1.0, False)] * 30, alpha=0.1)
    assert isinstance(fitted, Abstention)
    assert fitted.threshold == 1.0
    assert MemoryRecall(store).begin(TASK)(SEEN, "") == []


def test_the_budget_is_kept(store):
    store.write(
        [case(f"c{n}", SEEN, other(n + 1), text=f"{n} " + "lamp " * 40) for n in range(4)]
    )  # 202 bytes: 51 tokens
    assert len(MemoryRecall(store, k=9, budget_tokens=110).begin(TASK)(SEEN, "")) == 2
    assert MemoryRecall(store, k=9, budget_tokens=50).begin(TASK)(SEEN, "") == []
    with pytest.raises(ValueError, match="budget_tokens"):
        MemoryRecall(store, budget_tokens=-1)


def test_what_is_shown_stays_until_something_is_clearly_better(store):
    store.write([case("east", "lamp east corridor", other(1)), case("west", "lamp west corridor", other(2))])
    walk = ["lamp east corridor", "lamp corridor", "lamp corridor west east", "lamp west corridor"]
    calm = MemoryRecall(store, k=1, settings=ReadSettings(margin=0.3)).begin(TASK)
    restless = MemoryRecall(store, k=1, settings=ReadSettings(margin=0.0)).begin(TASK)
    shown = [names(calm(seen, ""), store) for seen in walk]
    assert shown[0] == shown[1] == shown[2] == ["east"]
    assert shown[3] == ["west"]
    assert names(restless(walk[0], ""), store) == ["east"]
    again = MemoryRecall(store, k=1, settings=ReadSettings(margin=0.3)).begin(TASK)
    assert names(again(walk[3], ""), store) == ["west"]  # every attempt begins anew


def test_every_recollection_is_drawn_and_told(store):
    store.write(cases(6))
    told: list[Exposure] = []
    recall = MemoryRecall(store, k=2, exploration=Exploration(holdout=0.25, dropout=0.5), on_exposure=told.append)
    for number in range(100):
        begun = recall.begin(TASK, f"group/{number}", 7)
        shown = [[memory.id for memory in begun(SEEN, "")] for _ in range(2)]
        first, second = told[-2:]
        assert [list(first.shown_ids), list(second.shown_ids)] == shown
        assert shown[0] == shown[1]  # one coin for each memory and episode
        assert first.id != second.id
        assert (first.episode_key, first.task_key, first.context) == (f"group/{number}", TASK.key, TASK.env_id)
        assert first.policy_version == 7
        assert len(first.candidates) == 2
    held = sum(exposure.held_out for exposure in told[::2])
    coins = [candidate.shown for exposure in told[::2] if not exposure.held_out for candidate in exposure.candidates]
    assert 12 <= held <= 38  # 25 expected, standard deviation 4.3
    assert 0.35 <= sum(coins) / len(coins) <= 0.65


def test_coins_that_favour_what_has_helped_choose_among_more_than_there_are_places(store):
    memories = store.write(cases(6))
    told: list[Exposure] = []
    utilities = {memory.id: UNKNOWN.model_copy(update={"chance": 0.0}) for memory in memories}
    recall = MemoryRecall(
        store, k=2, exploration=Exploration(holdout=0.0, dropout=0.0), on_exposure=told.append, utilities=utilities
    )
    assert recall.begin(TASK, "g/0")(SEEN, "") == []
    assert len(told[0].candidates) == 4
    utilities = {id: UNKNOWN.model_copy(update={"chance": 1.0}) for id in utilities}
    recall = MemoryRecall(
        store, k=2, exploration=Exploration(holdout=0.0, dropout=0.0), on_exposure=told.append, utilities=utilities
    )
    assert len(recall.begin(TASK, "g/0")(SEEN, "")) == 2


def test_exploring_without_recording_is_refused(store):
    with pytest.raises(ConfigError, match="give both"):
        MemoryRecall(store, exploration=Exploration())
    with pytest.raises(ConfigError, match="give both"):
        MemoryRecall(store, on_exposure=print)


def test_attempts_of_a_collection_read_it(store):
    tasks = [Task(env_id="agentkit/FrozenLake-v0", seed=seed, params={"size": 2}) for seed in range(3)]
    for episode in collect(ExpertPolicy(), tasks):
        store.add(episode)
    told: list[Exposure] = []
    recall = MemoryRecall(store, exploration=Exploration(holdout=0.0), on_exposure=told.append)
    [played] = collect(ExpertPolicy(), tasks[:1], recall=recall)
    assert played.error is None
    assert played.memory_snapshot == recall.snapshot_id
    assert told[0].episode_key == f"{played.group_id}/{played.attempt}"
    assert played.turns[0].memory_ids == told[0].shown_ids != ()
