"""Plans in the trainer: chosen by name, no effect where they find nothing to do, the same again after a break."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from pydantic import ValidationError

from agentkit.errors import ConfigError
from agentkit.training.config import TrainConfig
from agentkit.training.filters import Dynamic
from agentkit.training.learner import Learner
from agentkit.training.metrics import TIMINGS, read_metrics
from agentkit.training.plans import ARPO, R3L, RLEP, XRPO, ExGRPO, Hindsight, Hints, RolloutPlan, SpecRL

ALL: list[Any] = [
    ARPO(),
    RLEP(at_least=1),
    ExGRPO(start_above=0.0),
    ExGRPO(start_above=0.0, shaping=0.1),
    R3L(),
    XRPO(hints=Hints(after=2)),
    Hindsight(),
    Hindsight(strategy="future"),
    SpecRL(),
]


def numbers(folder):
    """A run's metrics without timings and without what the plan says of itself."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if not k.startswith((TIMINGS, "plan/"))} for line in lines]


def test_a_plan_is_chosen_by_name_in_toml_and_reads_back():
    text = """
    [plan]
    name = "xrpo"
    first = 0.25
    [plan.hints]
    source = "text"
    text = "Go down."
    """
    config = TrainConfig(**tomllib.loads(text))
    assert config.plan == XRPO(first=0.25, hints=Hints(source="text", text="Go down."))
    assert TrainConfig.model_validate({"plan": config.plan.model_dump(mode="json")}).plan == config.plan
    for plan in ALL:
        assert TrainConfig.model_validate({"plan": {"name": plan.name}}).plan == type(plan)()
    assert TrainConfig().plan is None
    with pytest.raises(ValidationError, match="arpo"):
        TrainConfig.model_validate({"plan": {"name": "arp"}})
    with pytest.raises(ValidationError, match="extra"):
        TrainConfig.model_validate({"plan": {"name": "r3l", "halves": 3}})


ONCE = {"task_pool": 6, "iterations": 2}
"""Every task once."""


@pytest.fixture(scope="module")
def unplanned(parts, tmp_path_factory):
    """(folder, digest) of a run without a plan."""
    folder = tmp_path_factory.mktemp("unplanned")
    trainer = parts.make_trainer(folder, **ONCE)
    trainer.train()
    trainer.close()
    return folder, parts.digest(trainer.policy.model)


@pytest.mark.parametrize("plan", [ARPO(), RLEP(), ExGRPO(), XRPO(first=1.0), SpecRL()], ids=lambda plan: plan.name)
def test_a_plan_that_finds_nothing_to_do_changes_nothing_to_the_bit(parts, make_trainer, unplanned, tmp_path, plan):
    folder, digest = unplanned
    trainer = make_trainer(tmp_path, plan=plan, **ONCE)
    trainer.train()
    assert numbers(tmp_path) == numbers(folder)
    assert parts.digest(trainer.policy.model) == digest


def test_only_what_was_injected_has_the_plans_own_loss(make_trainer, tmp_path, monkeypatch):
    streams, original = [], Learner.step

    def step(self, config, stream, *rest):
        streams.append(stream)
        return original(self, config, stream, *rest)

    monkeypatch.setattr(Learner, "step", step)
    run = {"task_pool": 4, "group_size": 4, "bottleneck_every": 0, "filter": Dynamic(most_rounds=1)}
    trainer = make_trainer(tmp_path, plan=ExGRPO(start_above=0.0, shaping=0.1), **run)
    injected = 0.0
    while not injected:
        now = {episode.id for episode in trainer.log.episodes()}
        values = trainer.iterate()
        injected = values["plan/injected"] if values.get("tokens/policy") else 0.0
    joined = {streams[-1].episode_ids[i] for i in streams[-1].episode_N[streams[-1].injected_N].tolist()}
    assert joined == now & set(streams[-1].episode_ids)
    assert 1 <= len(joined) <= injected, "the filter may have dropped its group"


@pytest.mark.parametrize("plan", [plan for plan in ALL if plan.name not in ("rlep", "r3l")], ids=lambda plan: plan.name)
def test_a_run_with_a_plan_that_is_broken_off_goes_on_to_the_bit(parts, make_trainer, tmp_path, plan):
    pool = 4 if plan.name == "exgrpo" else 3  # it exchanges tasks for others, the rest come back to the same
    run = {"plan": plan, "task_pool": pool, "group_size": 4, "bottleneck_every": 0}
    whole = make_trainer(tmp_path / "whole", iterations=3, **run)
    whole.train()
    first = make_trainer(tmp_path / "broken", iterations=1, **run)
    first.train()
    first.iterate()  # played and not saved
    first.close()
    second = make_trainer(tmp_path / "broken", iterations=3, **run)
    second.restore()
    second.train()
    assert parts.digest(second.policy.model) == parts.digest(whole.policy.model)
    assert numbers(tmp_path / "broken") == numbers(tmp_path / "whole")
    lines = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    told = sum(value for line in lines for name, value in line.items() if name.startswith("plan/"))
    assert told > 0, "the plan had something to do"


def test_plans_that_do_not_fit_the_run_are_refused_before_it_begins(make_trainer, tmp_path):
    with pytest.raises(ConfigError, match=r"task_pool = None: no task is played twice"):
        make_trainer(tmp_path / "a", plan=SpecRL())
    with pytest.raises(ConfigError, match=r"at_least = 9 exceeds plan.capacity = 8"):
        make_trainer(tmp_path / "b", plan=RLEP(at_least=9), task_pool=6)
    for plan in (ARPO(), RLEP()):
        with pytest.raises(ConfigError, match=rf"plan = '{plan.name}' and task_pool = None: .* no success is ever"):
            make_trainer(tmp_path / plan.name, plan=plan)
    with pytest.raises(ConfigError, match=r"plan.most = 2 is below group_size = 6"):
        make_trainer(tmp_path / "c", plan=XRPO(most=2))


def test_a_folder_is_free_again_after_a_plan_was_refused(make_trainer, tmp_path):
    with pytest.raises(ConfigError, match="task_pool"):
        make_trainer(tmp_path, plan=SpecRL())
    make_trainer(tmp_path)


def test_episodes_scored_again_have_the_policys_log_probabilities(parts, tmp_path):
    ground = parts.make_ground(tmp_path)
    tasks = [episode.task for episode in parts.demonstrations()[:1]]
    played = RolloutPlan().collect(ground, tasks, {}).episodes
    wrong = [
        e.model_copy(
            update={"turns": tuple(t.model_copy(update={"logprobs": (-9.0,) * len(t.logprobs)}) for t in e.turns)}
        )
        for e in played
    ]
    scored = ground.rescored(wrong)
    assert [e.id for e in scored] == [e.id for e in played]
    for episode, right in zip(scored, played, strict=True):
        for turn, other in zip(episode.turns, right.turns, strict=True):
            assert turn.logprobs == pytest.approx(other.logprobs, abs=1e-4)
