"""Injection: which groups get which stored success, worked by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from pydantic import ValidationError

from agentkit.errors import RecordError
from agentkit.training.advantages import GRPO, Outcomes
from agentkit.training.losses import Shaped
from agentkit.training.plans import ARPO, RLEP, ExGRPO
from agentkit.training.plans.plan import named
from agentkit.training.plans.successes import remember, stored_ids
from agentkit.training.rows import build_rows


@pytest.fixture
def group(parts):
    """Groups of made-up attempts with these returns; a return of 1 is a success."""

    def make(returns, seed=0, group_id="g", ids=(3, 5), version=0):
        task = parts.make_episode().task.model_copy(update={"seed": seed})
        return [
            named(
                parts.make_episode(
                    [parts.make_turn([1, 2], [*ids, 10 + number], reward=float(value), action="Up", terminated=True)],
                    task=task,
                    group_id=group_id,
                    success=value == 1,
                    attempt=number,
                    policy_version=version,
                )
            )
            for number, value in enumerate(returns)
        ]

    return make


@pytest.fixture
def ground(parts, tmp_path):
    return parts.make_ground(tmp_path, group_size=4)


def stored(ground, state, episodes):
    ground.log.append_many(episodes)
    remember(state, episodes, 8, 0.1)


def test_arpo_replaces_the_first_attempt_of_a_failed_group_and_of_no_other(ground, group):
    state: dict[str, Any] = {}
    won = group([1, 0, 0, 0], seed=1, group_id="earlier")
    stored(ground, state, won)
    failed, mixed = group([0, 0, 0, 0], seed=1, group_id="now"), group([1, 0, 0, 0], seed=2, group_id="other")
    patched = ARPO(old_logprobs="stored").patch(ground, [*failed, *mixed], state)
    assert [e.id for e in patched.episodes] == [won[0].id, *(e.id for e in [*failed[1:], *mixed])]
    assert patched.episodes[0].group_id == "now"
    assert patched.episodes[0].turns == won[0].turns, "stored log-probabilities and all"
    assert patched.injected == {0}
    assert patched.values == {"plan/injected": 1.0}
    # (1 − 1/4) / √(3/16) = √3, and −(1/4) / √(3/16) = −1/√3 for the rest
    advantage = GRPO().turns(Outcomes.of(patched.episodes[:4]))
    assert advantage == pytest.approx([3**0.5] + [-(3**-0.5)] * 3, abs=1e-5)


def test_arpo_leaves_groups_alone_that_are_alike_and_good_or_bad_and_spread_or_of_unknown_tasks(ground, group):
    state: dict[str, Any] = {}
    stored(ground, state, group([1], seed=1, group_id="earlier"))
    for returns in ([0.3] * 4, [0, 0.15, 0, 0.15], [1, 1, 1, 1]):  # mean too high; deviation 0.075; all solved
        played = group(returns, seed=1, group_id="now")
        assert ARPO().patch(ground, played, dict(state)).injected == frozenset()
    unknown = group([0] * 4, seed=3, group_id="now")
    assert ARPO().patch(ground, unknown, state).episodes == unknown


def test_format_penalties_count_in_the_condition(parts, ground, group):
    state: dict[str, Any] = {}
    stored(ground, state, group([1], seed=1, group_id="earlier"))
    played = group([0] * 4, seed=1, group_id="now")
    wrong = played[0].turns[0].model_copy(update={"valid": False})
    played[0] = played[0].model_copy(update={"turns": (wrong,)})  # −0.1, 0, 0, 0: deviation 0.043
    assert ARPO().patch(ground, played, dict(state)).injected == {0}
    played[1] = played[1].model_copy(update={"turns": (wrong,)})  # −0.1, −0.1, 0, 0: deviation 0.05
    assert ARPO(failed_std=0.0499).patch(ground, played, dict(state)).injected == frozenset()


def test_recomputed_log_probabilities_are_those_of_the_policy_now(ground, group):
    state: dict[str, Any] = {}
    won = group([1], seed=1, group_id="earlier")
    stored(ground, state, won)
    patched = ARPO().patch(ground, group([0] * 4, seed=1, group_id="now"), state)
    injected = patched.episodes[0]
    (row,) = build_rows([injected])[0]
    assert injected.turns[0].logprobs == pytest.approx(ground.measure([row])[0].tolist())
    assert injected.turns[0].logprobs != won[0].turns[0].logprobs
    assert injected.turns[0].response_ids == won[0].turns[0].response_ids


def test_rlep_adds_successes_behind_the_group_and_they_share_its_statistics(ground, group):
    state: dict[str, Any] = {}
    stored(ground, state, group([1, 1, 1, 0], seed=1, group_id="earlier"))
    played = group([0] * 16, seed=1, group_id="now")
    patched = RLEP().patch(ground, played, state)
    assert patched.episodes[:16] == played
    assert patched.injected == {16, 17}
    assert len({e.id for e in patched.episodes[16:]}) == 2
    # two ones among eighteen: mean 1/9, deviation √(8/81)
    advantage = GRPO().turns(Outcomes.of(patched.episodes))
    assert advantage[-1] == pytest.approx(2.8284, abs=1e-3)
    assert advantage[0] == pytest.approx(-0.3536, abs=1e-3)


def test_rlep_wants_two_successes_of_a_task_and_never_this_iterations_own(ground, group):
    state: dict[str, Any] = {}
    stored(ground, state, group([1], seed=1, group_id="earlier"))
    played = group([1, 1, 0, 0], seed=1, group_id="now")
    ground.log.append_many(played)
    assert RLEP().patch(ground, played, state).injected == frozenset()
    again = RLEP().patch(ground, group([0, 0], seed=1, group_id="later"), state)
    assert len(again.injected) == 2


def test_the_store_keeps_the_newest_sound_successes_of_a_task(ground, group):
    state: dict[str, Any] = {}
    many = [e for n in range(5) for e in group([1], seed=1, group_id=f"g{n}", version=n)]
    remember(state, [*many, *group([0.05], seed=1), *group([0], seed=1)], 3, 0.1)
    assert [*state["successes"].values()] == [[e.id for e in many[2:]]]
    with pytest.raises(RecordError, match=r"is to be injected and not in the log .* restore them together"):
        ARPO().patch(ground, group([0] * 4, seed=1), state)


def test_exgrpo_keeps_tasks_solved_in_part_and_retires_those_solved_always(ground, group):
    state: dict[str, Any] = {}
    played = [*group([1, 0, 0, 0], 1, "a"), *group([1, 1, 1, 1], 2, "b"), *group([0] * 4, 3, "c")]
    ground.log.append_many(played)
    plan = ExGRPO()
    plan.patch(ground, played, state)
    keys = [played[place].task.key for place in (0, 4, 8)]
    assert state["solved"] == {keys[0]: 1}
    assert state["retired"] == [keys[1]]
    assert [*state["successes"]] == [keys[0]]
    assert state["started"], "5 of 12 is more than 0.35"
    plan.patch(ground, group([0] * 4, 1, "d"), state)
    assert state["solved"] == {keys[0]: 1}, "a task that was lost again is kept"
    assert state["started"], "once begun, always"


def test_exgrpo_exchanges_tasks_and_gives_them_one_attempt_fewer_and_one_success(parts, tmp_path):
    ground = parts.make_ground(tmp_path, group_size=4, tasks_per_iteration=2)
    tasks = [episode.task for episode in parts.demonstrations()[::2]]
    plan = ExGRPO()
    state: dict[str, Any] = {}
    for place in range(len(tasks)):
        played = plan.collect(ground, [tasks[place]], state).episodes
        plan.patch(ground, played, state)
        if state["solved"]:
            break
    (key,) = state["solved"]
    others = [task for task in tasks if task.key != key][:2]
    assert plan.collect(ground, others, {**state, "started": False}).values == {"plan/experiential": 0.0}
    state["started"] = True
    collected = plan.collect(ground, others, state)
    kept = collected.episodes[0].task.key
    assert kept in [task.key for task in others]
    assert [e.task.key for e in collected.episodes] == [kept] * 4 + [key] * 3
    before = list(state["successes"][key])
    patched = plan.patch(ground, collected.episodes, state)
    assert patched.injected == {7}
    assert patched.episodes[7].id in before
    assert patched.episodes[7].group_id == collected.episodes[4].group_id
    assert "drawn" not in state


def test_exgrpo_draws_tasks_by_the_share_of_their_group_that_succeeded(ground, group, monkeypatch):
    """Groups of four, of which two, three and one succeeded last; σ is an eighth, so 1 to e⁻² to e⁻²."""
    state: dict[str, Any] = {"started": True}
    won = [*group([1], 1, "a"), *group([1], 2, "b"), *group([1], 3, "c")]
    stored(ground, state, won)
    state["solved"] = {episode.task.key: k for episode, k in zip(won, (2, 3, 1), strict=True)}
    plan, rates, weights = ExGRPO(sigma=1 / 8), [], []
    honest = ExGRPO.task_weights

    def task_weights(self, rate_K):
        rates.append(rate_K.tolist())
        weights.append(honest(self, rate_K).tolist())
        return honest(self, rate_K)

    monkeypatch.setattr(ExGRPO, "task_weights", task_weights)
    monkeypatch.setattr("agentkit.training.plans.injection.play_all", lambda policy, orders, **options: [])
    fresh = [*group([0], 4), *group([0], 5)]
    plan.collect(ground, [episode.task for episode in fresh], state)
    assert len(state["fresh"]) == 1
    found = dict(zip(sorted(state["solved"]), zip(rates[0], weights[0], strict=True), strict=True))
    assert [found[episode.task.key][0] for episode in won] == [0.5, 0.75, 0.25]
    assert [found[episode.task.key][1] for episode in won] == pytest.approx([1, math.exp(-2), math.exp(-2)])


def test_exgrpo_lets_any_of_the_tasks_give_way_and_plays_none_twice_in_an_iteration(ground, group, monkeypatch):
    def play_all(policy, orders, **options):
        return [group([0], order.task.seed, f"{order.task.seed}/{options['seed']}")[0] for order in orders]

    monkeypatch.setattr("agentkit.training.plans.injection.play_all", play_all)
    won = [group([1], seed, str(seed))[0] for seed in (1, 2)]
    tasks = [episode.task for episode in (group([0], seed)[0] for seed in (11, 12))]
    kept = set()
    for seed in range(12):
        state: dict[str, Any] = {"started": True}
        stored(ground, state, won)
        state["solved"] = {episode.task.key: 2 for episode in won}
        now = dataclasses.replace(ground, seed=seed)
        ExGRPO().collect(now, tasks, state)
        kept |= set(state["fresh"])
        first, again = dict(state["drawn"]), dataclasses.replace(now, seed=100 + seed)
        ExGRPO().collect(again, tasks, state)
        assert len(first) == 1
        assert len(set(state["drawn"].values())) == len(state["drawn"]) == 2, "another round draws other tasks"
    assert kept == {task.key for task in tasks}


def test_nothing_is_injected_that_was_shown_a_quarantined_memory(parts, ground, group):
    def shown(memory):
        (episode,) = group([1], seed=1, group_id=memory)
        turn = episode.turns[0].model_copy(update={"memory_ids": (memory,)})
        return named(episode.model_copy(update={"turns": (turn,)}))

    state: dict[str, Any] = {}
    good, bad = shown("good"), shown("bad")
    ground.log.append_many([good, bad])
    remember(state, [good, bad], 8, 0.1, quarantined={"bad"})
    assert stored_ids(ground, state, good.task.key) == [good.id]
    remember(state, [bad], 8, 0.1)
    assert stored_ids(ground, state, good.task.key) == [good.id, bad.id]
    later = dataclasses.replace(ground, quarantined=frozenset({"bad"}))
    assert stored_ids(later, state, good.task.key) == [good.id], "it has come into quarantine since"
    failed = group([0, 0, 0, 0], seed=1, group_id="now")
    for seed in range(8):
        patched = ARPO(old_logprobs="stored").patch(dataclasses.replace(later, seed=seed), failed, dict(state))
        assert patched.episodes[0].id == good.id


def test_exgrpo_shapes_the_ratio_to_the_policy_that_sampled_and_no_other():
    with pytest.raises(ValidationError, match=r"plan.shaping = 0.1 and plan.old_logprobs = 'recomputed'"):
        ExGRPO(shaping=0.1, old_logprobs="recomputed")
    assert ExGRPO(shaping=0.2).injected_loss == Shaped(beta=0.2)
    assert ExGRPO().injected_loss is ARPO().injected_loss is None


def test_exgrpo_takes_the_success_that_the_policy_is_surest_of(ground, group):
    plan = ExGRPO()
    state: dict[str, Any] = {}
    won = [*group([1], 1, "a", ids=(3, 5)), *group([1], 1, "b", ids=(40, 41, 42)), *group([1], 1, "c", ids=(7,))]
    ground.log.append_many(won)
    remember(state, won, 8, 0.1)
    state["drawn"] = {"now": won[0].task.key}
    patched = plan.patch(ground, group([0] * 3, 1, "now"), state)
    rows = build_rows(won)[0]
    means = [ground.measure([row])[1].mean() for row in rows]
    assert patched.episodes[3].id == won[means.index(min(means))].id
