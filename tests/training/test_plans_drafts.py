"""Drafts in the trainer: what a second visit keeps of the first."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agentkit.task import make_tasks
from agentkit.training.plans import RolloutPlan, SpecRL

LAKE = "agentkit/FrozenLake-v0"


@pytest.fixture
def ground(parts, tmp_path):
    return parts.make_ground(tmp_path, group_size=4, task_pool=3)


def later(ground, seed):
    """The next iteration's ground: other noise."""
    options = {**ground.options, "seed": seed}
    return type(ground)(ground.policy, ground.log, ground.config, options, ground.measure, seed)


def test_an_unchanged_policy_keeps_every_response_to_the_same_prompt_and_samples_nothing(parts, ground):
    tasks = make_tasks(LAKE, "train", 3, params=parts.PARAMS)
    plan = SpecRL(lenience=1.01)
    state: dict[str, Any] = {}
    first = plan.collect(ground, tasks, state)
    assert first.values["plan/tokens_kept"] == 0
    second = plan.collect(later(ground, 8), tasks, state)
    assert [[t.response_ids for t in e.turns] for e in second.episodes] == [
        [t.response_ids for t in e.turns] for e in first.episodes
    ]
    assert second.values == {"plan/tokens_kept": first.values["plan/tokens_sampled"], "plan/tokens_sampled": 0.0}


def test_the_first_visit_is_that_of_a_run_without_a_plan(parts, ground, tmp_path):
    tasks = make_tasks(LAKE, "train", 3, params=parts.PARAMS)
    first = SpecRL().collect(ground, tasks, {}).episodes
    assert [e.id for e in RolloutPlan().collect(ground, tasks, {}).episodes] == [e.id for e in first]


def test_a_changed_policy_keeps_less_and_records_its_own_log_probabilities(parts, ground):
    tasks = make_tasks(LAKE, "train", 3, params=parts.PARAMS)
    plan = SpecRL()
    state: dict[str, Any] = {}
    first = plan.collect(ground, tasks, state)
    with torch.no_grad():
        for weight in ground.policy.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    ground.policy.version += 1
    second = plan.collect(later(ground, 8), tasks, state)
    kept, sampled = second.values["plan/tokens_kept"], second.values["plan/tokens_sampled"]
    assert 0 < kept < first.values["plan/tokens_sampled"]
    assert kept + sampled == sum(len(t.response_ids) for e in second.episodes for t in e.turns)
    for episode, scored in zip(second.episodes, ground.rescored(second.episodes), strict=True):
        assert {episode.policy, str(episode.policy_version)} == {"local", "1"}
        for turn, right in zip(episode.turns, scored.turns, strict=True):
            assert turn.logprobs == pytest.approx(right.logprobs, abs=1e-4)
    lenient = SpecRL(lenience=3.0).collect(
        later(ground, 8), tasks, {"last": {t.key: [e.id for e in first.episodes if e.task.key == t.key] for t in tasks}}
    )
    assert lenient.values["plan/tokens_kept"] > kept


def test_an_attempt_that_broke_off_is_no_draft(parts, ground):
    tasks = make_tasks(LAKE, "train", 1, params=parts.PARAMS)
    state: dict[str, Any] = {"last": {tasks[0].key: ["", "", "", ""]}}
    found = SpecRL().collect(ground, tasks, state)
    assert found.values["plan/tokens_kept"] == 0
    assert state["last"][tasks[0].key] == [e.id for e in found.episodes]
