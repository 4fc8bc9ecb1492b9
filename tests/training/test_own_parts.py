"""Parts of one's own, given in Python: they are used as they are, and written out with the other settings."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import Field, ValidationError

from agentkit.memory.records import Role
from agentkit.training.advantages import Estimator, Modifier
from agentkit.training.config import TrainConfig
from agentkit.training.credit import ActFocus, Product, Scheme
from agentkit.training.filters import Filter
from agentkit.training.losses import PolicyLoss
from agentkit.training.plans import Patched, RolloutPlan
from agentkit.training.schedule import Linear, Schedule
from agentkit.training.tasks import Sampler


class Signs(Estimator):
    """+1 for a return above the group's mean, −1 below."""

    name: Literal["signs"] = "signs"

    def turns(self, outcomes):
        means_G = np.bincount(outcomes.group_E, outcomes.return_E) / np.bincount(outcomes.group_E)
        return outcomes.per_turn(np.sign(outcomes.return_E - means_G[outcomes.group_E]))


class Doubled(Modifier):
    """Twice as much."""

    name: Literal["doubled"] = "doubled"

    def turns(self, advantage_U, outcomes):
        return 2 * advantage_U


class OnlyActions(Scheme):
    """Only action tokens."""

    name: Literal["only-actions"] = "only-actions"
    weight: float = Field(default=1.0, gt=0)

    def weights(self, stream):
        return self.weight * (stream.role_N == Role.ACTION).float()


class Plain(PolicyLoss):
    """−Â log π, no ratio."""

    name: Literal["plain"] = "plain"

    def tokens(self, now):
        return -now.advantage_N * now.logp_N


class Remembering(RolloutPlan):
    """Leaves everything as it is, and counts."""

    name: Literal["remembering"] = "remembering"

    def patch(self, ground, played, state):
        state["seen"] = state.get("seen", 0) + len(played)
        return Patched(list(played), values={"plan/seen": float(state["seen"])})


class Everything(Filter):
    """Keeps all groups that differ."""

    name: Literal["everything"] = "everything"

    def kept(self, variance_G, rate_G):
        return variance_G > 0


class Last(Sampler):
    """The last tasks of the pool, always the same."""

    name: Literal["last"] = "last"

    def pick(self, beliefs, num, taken, rng):
        return [*range(len(beliefs.won_T) - num, len(beliefs.won_T))]


class Halved(Schedule):
    """Half, always."""

    name: Literal["halved"] = "halved"

    def shape(self, at):
        return 0.5

    def shape_bounds(self):
        return 0.5, 0.5


OWN: dict[str, Any] = {
    "advantage": Signs(),
    "modifiers": (Doubled(),),
    "credit": OnlyActions(weight=0.5),
    "loss": Plain(),
    "plan": Remembering(),
    "filter": Everything(),
}


def test_a_run_with_parts_of_ones_own_learns_and_goes_on_from_its_checkpoint(parts, make_trainer, tmp_path):
    whole = make_trainer(tmp_path / "whole", iterations=3, **OWN)
    seen = []
    whole.train(lambda iteration, values: seen.append(values["plan/seen"]))
    assert seen == [18.0, 36.0, 54.0]
    first = make_trainer(tmp_path / "parts", iterations=2, **OWN)
    first.train()
    first.close()
    second = make_trainer(tmp_path / "parts", iterations=3, **OWN)
    second.restore()
    second.train()
    assert parts.digest(second.policy.model) == parts.digest(whole.policy.model)


def test_own_parts_are_what_is_computed_with(parts, tmp_path):
    config = TrainConfig(**OWN)
    outcomes = parts.make_outcomes([[1.0], [0.0], [0.0, 0.0]])
    advantage_U = config.modifiers[0].turns(config.advantage.turns(outcomes), outcomes)
    assert advantage_U.tolist() == [2.0, -2.0, -2.0, -2.0]
    assert config.credit is OWN["credit"]
    assert Product(factors=(ActFocus(), OnlyActions())).factors[1] == OnlyActions()


def test_settings_with_own_parts_are_written_out_whole():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = TrainConfig(**OWN).model_dump(mode="json")
    assert written["credit"] == {"name": "only-actions", "weight": 0.5}
    assert written["plan"] == {"name": "remembering"}
    assert written["modifiers"] == [{"name": "doubled"}]


def test_a_part_of_another_kind_is_refused():
    with pytest.raises(ValidationError, match="credit"):
        TrainConfig(credit=Plain())  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="schedules"):
        TrainConfig(schedules={"kl_coef": OnlyActions()})  # type: ignore[dict-item]
    assert isinstance(TrainConfig(schedules={"learning_rate": Linear(length=3, end=0.5)}), TrainConfig)


def test_files_choose_among_the_names_that_are_known():
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        TrainConfig(plan={"name": "remembering"})  # type: ignore[arg-type]


def test_a_task_sampler_and_a_schedule_of_ones_own_are_used(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, task_pool=4, tasks=Last(), schedules={"learning_rate": Halved()})
    assert trainer.iterate()["learning_rate"] == pytest.approx(1.5e-3)
    played = {episode.task.seed for episode in trainer.log.episodes()}
    assert len(played) == 3
    assert 0 not in {seed % 4 for seed in played}
