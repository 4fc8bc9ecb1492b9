"""Memories on probation are played: what helps is promoted, what harms is put away, chance does neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkit import ExpertPolicy, RandomPolicy, collect, make_tasks
from agentkit.errors import ConfigError
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.kinds import Draft, FactBody, InsightBody, Memory, SkillBody, Source, Trust
from agentkit.memory.promotion import PromotionSettings, judge, promote, wilson
from agentkit.memory.slots import abstract
from agentkit.memory.store import MemoryStore
from agentkit.promotion import FollowPolicy, player

LAKE = "agentkit/FrozenLake-v0"


def open_store(folder: Path) -> Any:
    return MemoryStore.open(folder, embedder=HashEmbedder(32), index="exact")


def draft(body, env_id: str = "test/Env-v0", **changes: Any) -> Draft:
    given = {
        "body": body,
        "text": f"do {body.model_dump_json()}",
        "keys": {"condition": "here"},
        "env_id": env_id,
        "source": Source(writer="model"),
        "trust": Trust.UNTRUSTED,
    }
    return Draft(**{**given, **changes})


def skill(*actions: str, name: str = "walk") -> SkillBody:
    return SkillBody(name=name, actions=actions)


def test_the_score_interval_is_as_worked_by_hand():
    # z = 2, 4 of 4: centre (1 + 0.5) / 2 = 0.75, reach sqrt(1 * 0 + 1 / 4) / 2 = 0.25
    assert wilson(4, 4, 2.0) == pytest.approx((0.5, 1.0))
    assert wilson(0, 4, 2.0) == pytest.approx((0.0, 0.5))


def test_pairs_decide():
    worse, better = [False] * 40, [True] * 40
    assert judge("m", better, worse).outcome == "promoted"
    assert judge("m", worse, better).outcome == "harmful"
    assert judge("m", better, better).outcome == "open"
    assert judge("m", [True] * 24 + [False] * 16, [True] * 20 + [False] * 20).outcome == "open"  # 4 gained, none lost
    with pytest.raises(ConfigError, match="needed are pairs"):
        judge("m", [True], [])


@pytest.mark.parametrize("base", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("effect", [-0.2, 0.0])
def test_bad_skills_are_falsely_promoted_in_less_than_five_of_a_hundred(base, effect):
    rng = np.random.default_rng(0)
    promoted = 0
    for _ in range(1000):
        without = rng.random(40) < base
        with_it = rng.random(40) < max(base + effect, 0.0)
        promoted += judge("m", with_it.tolist(), without.tolist()).outcome == "promoted"
    assert promoted / 1000 < 0.05


def test_good_skills_are_found():
    rng = np.random.default_rng(0)
    outcomes = [
        judge("m", (rng.random(40) < 0.8).tolist(), (rng.random(40) < 0.3).tolist()).outcome for _ in range(300)
    ]
    assert outcomes.count("promoted") / 300 > 0.9


def test_what_helps_is_verified_what_harms_is_put_away_and_the_rest_waits(tmp_path):
    with open_store(tmp_path / "store") as store:
        written = store.write(
            [
                draft(skill("help", "now")),
                draft(skill("harm", "now")),
                draft(InsightBody(condition="c", advice="nothing", action="wait")),
                draft(InsightBody(condition="c", advice="only words")),
                draft(FactBody(subject="a", relation="b", value="c")),
            ]
        )
        good, bad, idle = written[:3]

        def play(memory: Memory | None, seed: int) -> bool:
            if memory is not None and memory.id == good.id:
                return True
            return seed % 2 == 0 and (memory is None or memory.id != bad.id)

        trials = promote(store, play, env_id="test/Env-v0")
        assert {one.memory_id: one.outcome for one in trials} == {
            good.id: "promoted",
            bad.id: "harmful",
            idle.id: "open",
        }
        assert (store.get(good.id).status, store.get(good.id).trust) == ("active", Trust.VERIFIED)
        assert store.get(bad.id).status == "quarantine"
        assert store.get(idle.id) == idle
        assert store.reasons(good.id) == ("played again: 40 of 40 succeeded with it, 20 of 40 without",)
        assert [one.memory_id for one in promote(store, play, env_id="test/Env-v0")] == [idle.id]
        with pytest.raises(ConfigError, match="is no skill or insight with an action of test/Env-v0"):
            promote(store, play, env_id="test/Env-v0", ids=[written[4].id])


def test_the_budget_ends_the_trials(tmp_path):
    with open_store(tmp_path / "store") as store:
        store.write(draft(skill("go", str(n))) for n in range(5))
        played: list[int] = []

        def play(memory: Memory | None, seed: int) -> bool:
            played.append(seed)
            return False

        settings = PromotionSettings(num_seeds=4, most_plays=13)
        assert len(promote(store, play, env_id="test/Env-v0", settings=settings)) == 2
        assert len(played) == 12
        assert promote(store, play, env_id="test/Other-v0") == []


def test_on_fixed_maps_the_way_to_the_goal_is_promoted_and_a_way_elsewhere_is_not(tmp_path):
    task = make_tasks(LAKE, num=2)[1]
    (solved,) = collect(ExpertPolicy(), [task])
    way = [turn.action or "" for turn in solved.turns]
    with open_store(tmp_path / "store") as store:
        good, bad = store.write([draft(skill(*way), LAKE), draft(skill("Right", "Right", name="elsewhere"), LAKE)])
        promote(store, player([task], RandomPolicy()), env_id=LAKE, settings=PromotionSettings(num_seeds=20))
        assert (store.get(good.id).status, store.get(good.id).trust) == ("active", Trust.VERIFIED)
        assert store.get(bad.id).status in ("probation", "quarantine")


def test_an_insight_is_followed_where_its_condition_is_seen():
    task = make_tasks(LAKE, num=1)[0]
    (played,) = collect(RandomPolicy(), [task])
    (condition,) = abstract([f"Seen: {played.turns[0].observation}"]).templates
    body = InsightBody(condition=condition, advice="go left", action="Left")
    memory = Memory(**draft(body, LAKE).model_dump(), id="m-1")
    (followed,) = collect(FollowPolicy(memory, RandomPolicy(), task), [task])
    assert followed.turns[0].action == "Left"
    assert followed.success
    other = memory.model_copy(update={"body": body.model_copy(update={"condition": "Seen: nothing of the sort"})})
    (not_followed,) = collect(FollowPolicy(other, RandomPolicy(), task), [task])
    assert [turn.action for turn in not_followed.turns] == [turn.action for turn in played.turns]


def test_a_skill_with_slots_is_followed_with_the_things_at_hand():
    body = SkillBody(name="look", slots=("object_1",), actions=("go to {object_1}", "open {object_1}"))
    household = make_tasks("agentkit/Household-v0", num=1)[0]
    memory = Memory(**draft(body, household.env_id).model_dump(), id="m-1")
    (played,) = collect(FollowPolicy(memory, ExpertPolicy(), household), [household])
    first = played.turns[0].action or ""
    assert first.startswith("go to ")
    assert all(turn.valid for turn in played.turns)


def test_what_recommends_nothing_cannot_be_followed():
    memory = Memory(**draft(FactBody(subject="a", relation="b", value="c")).model_dump(), id="m-1")
    with pytest.raises(ConfigError, match="recommends no action; give a skill or an insight"):
        FollowPolicy(memory, RandomPolicy(), make_tasks(LAKE)[0])
    with pytest.raises(ConfigError, match="there is no task"):
        player([], RandomPolicy())
