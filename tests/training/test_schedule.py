"""Schedules: by hand, in their bounds, on each clock, tied to numbers by name; what does not fit raises at once."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkit.training.advantages import GRPO
from agentkit.training.binding import scheduled
from agentkit.training.clocks import Clocks, ModelTime, distance
from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.replay.selection import Priority
from agentkit.training.schedule import (
    REX,
    WSD,
    Constant,
    Cosine,
    Cyclic,
    Infinite,
    Intensity,
    Linear,
    cosine_decay,
    warmup,
)

STEPS = st.integers(0, 500)


@given(STEPS, st.integers(0, 300))
def test_plain_schedules_stay_in_bounds_and_move_one_way(step, steps):
    assert 0 < warmup(step, steps) <= warmup(step + 1, steps) <= 1
    assert 0.1 - 1e-12 <= cosine_decay(step + 1, steps) <= cosine_decay(step, steps) <= 1


def test_the_decay_ends_at_its_floor():
    assert warmup(0, 0) == 1.0
    assert cosine_decay(50, 50) == pytest.approx(0.1)
    assert cosine_decay(999, 50, floor=0.3) == pytest.approx(0.3)


BY_HAND: dict[str, tuple[Any, dict[float, float]]] = {
    "warm-up": (Constant(warmup=4), {1: 0.25, 3: 0.75, 4: 1, 99: 1}),
    "warm-up from": (Constant(warmup=4, warmup_from=0.2), {0: 0.2, 2: 0.6, 4: 1}),
    "linear": (Linear(warmup=2, length=4, end=0.2), {1: 0.5, 2: 1, 3: 0.8, 6: 0.2, 9: 0.2}),
    "cosine": (Cosine(length=6, end=0), {0: 1, 2: 0.75, 3: 0.5, 4: 0.25, 6: 0, 7: 0}),
    "spear rises": (Cosine(length=200, start=0, end=1), {50: 0.5 * (1 - math.sqrt(0.5)), 100: 0.5, 200: 1, 999: 1}),
    "wsd": (WSD(warmup=2, stable=4, decay=4, end=0.2), {1: 0.5, 6: 1, 8: 0.6, 10: 0.2, 12: 0.2}),
    "wsd sqrt": (WSD(stable=4, decay=4, end=0, decay_shape="sqrt"), {4: 1, 5: 0.5, 8: 0}),
    "infinite": (Infinite(cooldown=4, plateau=0.4), {0: 1, 2: 0.7, 4: 0.4, 9999: 0.4}),
    "infinite, ended": (Infinite(cooldown=4, plateau=0.4, flat=2, decay=2, end=0), {6: 0.4, 7: 0.2, 8: 0, 9: 0}),
    "rex": (REX(length=10, end=0.1), {0: 1, 5: 2 / 3, 8: 1 / 3, 10: 0.1}),
    "triangle": (Cyclic(period=8, low=0.2), {0: 0.2, 2: 0.6, 4: 1, 6: 0.6, 8: 0.2, 12: 1}),
    "restarts": (Cyclic(period=6, low=0, wave="restarts"), {0: 1, 2: 0.75, 5.999: 0, 6: 1, 9: 0.5}),
    "intensity": (Intensity(sensitivity=2), {1: 1, 1.5: 2, 0.5: 0.5, 3: 3}),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_factors_by_hand(case):
    schedule, expected = BY_HAND[case]
    assert {at: schedule.factor(at) for at in expected} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("case", BY_HAND)
@given(at=st.floats(1, 1e4))
def test_no_factor_leaves_the_bounds_that_are_checked(case, at):
    schedule = BY_HAND[case][0]
    low, high = schedule.bounds()
    assert low - 1e-12 <= schedule.factor(at) <= high + 1e-12


def test_bounds_are_reached():
    """Bounds that were too wide would refuse what is fine."""
    for schedule, _ in BY_HAND.values():
        low, high = schedule.bounds()
        found = [schedule.factor(at) for at in np.linspace(0 if "warm" in schedule.name else 1e-9, 1100, 110_001)]
        if schedule.warmup == 0:
            assert (min(found), max(found)) == pytest.approx((low, high), abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "numbers", "words"),
    [
        (Constant, {"warmup_from": 0.5}, ["warmup_from = 0.5", "warmup = 0"]),
        (Infinite, {"cooldown": 3, "flat": 3}, ["flat = 3", "decay = None"]),
        (Infinite, {"cooldown": 3, "end": 0.2}, ["end = 0.2", "flat = None"]),
        (Infinite, {"cooldown": 3, "flat": 1, "decay": 1, "plateau": 0.2, "end": 0.3}, ["end = 0.3", "plateau = 0.2"]),
        (Intensity, {"low": 3, "high": 2}, ["low = 3", "high = 2"]),
        (Intensity, {"clock": "tokens"}, ["leave out clock"]),
        (Linear, {"length": 0}, ["greater than 0"]),
        (WSD, {"stable": 1, "decay": 1, "end": 2}, ["less than or equal to 1"]),
    ],
)
def test_schedules_that_contradict_themselves_are_refused(kind, numbers, words):
    with pytest.raises(ValidationError) as caught:
        kind(**numbers)
    assert all(word in str(caught.value) for word in words)


def test_clocks_by_hand():
    clocks = Clocks(ModelTime(opening=2, smoothing=0.5))
    assert clocks.read(Constant()) == 1  # the step at hand counts
    for moved in (1.0, 3.0):
        clocks.tick(tokens=10, moved=moved, seconds=0.25)
    assert [clocks.read(Constant(clock=name)) for name in ("steps", "tokens", "seconds", "model")] == [3, 20, 0.5, 4]
    assert (clocks.days, clocks.intensity) == (1.0, 1.0)
    clocks.tick(tokens=5, moved=6.0)  # running mean 2 -> 4, a day is 4, a step at first moved by 2
    assert (clocks.model, clocks.days, clocks.intensity) == (10.0, 2.5, 2.0)
    assert clocks.read(Intensity()) == 2.0
    again = Clocks(ModelTime(opening=2, smoothing=0.5))
    again.restore(json.loads(json.dumps(clocks.state())))
    assert again == clocks


def test_without_a_day_nothing_is_due_and_nothing_intense():
    clocks = Clocks(ModelTime(opening=3))
    clocks.tick(moved=5.0)
    assert (clocks.days, clocks.intensity) == (0.0, 1.0)


def test_small_steps_of_coarse_weights_are_seen():
    before = [torch.full((4,), 1000.0)]
    after = [before[0] + 2**-14 * 1000]
    assert distance(before, after) == pytest.approx(2 * 1000 * 2**-14, rel=1e-6)
    many = [torch.full((10_000,), 1e-4)]
    assert distance([torch.zeros(10_000)], many) == pytest.approx(1e-2, rel=1e-6)


def test_any_number_can_be_scheduled_however_deep():
    config = TrainConfig(
        kl_coef=0.2,
        imitation=ImitationConfig(select=Priority(beta=1.0)),
        schedules={
            "kl_coef": Linear(length=4),
            "imitation.select.beta": Linear(length=10, start=0.4, end=1),
            "loss.high": Constant(warmup=2),
        },
    )
    found: Any = scheduled(config, {"kl_coef": 0.5, "imitation.select.beta": 0.7, "loss.high": 0.5})
    assert (found.kl_coef, found.imitation.select.beta, found.loss.high) == (0.1, 0.7, 0.14)
    assert (config.kl_coef, config.imitation.select) == (0.2, Priority(beta=1.0))
    assert dataclasses.is_dataclass(Clocks)


def test_whole_numbers_are_rounded_to_the_nearest():
    config = TrainConfig(
        group_size=8,
        imitation=ImitationConfig(episodes_per_step=5, select=Priority()),
        schedules={
            "group_size": Linear(length=4, start=0.25, end=1),
            "imitation.episodes_per_step": Linear(length=4, start=0.1, end=1),
        },
    )
    found = [
        scheduled(config, {name: schedule.factor(at) for name, schedule in config.schedules.items()})
        for at in (0, 1, 2, 4)
    ]
    assert [each.group_size for each in found] == [2, 4, 5, 8]  # 2, 3.5, 5, 8
    assert [each.imitation.episodes_per_step for each in found] == [1, 2, 3, 5]  # 0.5, 1.625, 2.75, 5
    assert all(isinstance(each.group_size, int) for each in found)


def test_a_scheduled_group_grows_as_the_run_goes_on(make_trainer, tmp_path):
    grows = Linear(length=2, start=0.5, end=1)
    trainer = make_trainer(
        tmp_path, iterations=3, group_size=4, schedules={"group_size": grows}, imitation={"weight": 0}
    )
    played = []
    for _ in range(2):
        before = len(trainer.log)
        trainer.iterate()
        played.append((len(trainer.log) - before) // 3)
    assert played == [3, 4]  # steps 1 and 2: factors ¾ and 1


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "an unknown name": ({"learning_rat": Constant()}, {}, "did you mean 'learning_rate'"),
    "an unknown part": ({"imitation.wait": Constant()}, {}, "no setting 'wait'"),
    "a part of a number": ({"learning_rate.x": Constant()}, {}, "no setting 'x'"),
    "no number": ({"reduction": Constant()}, {}, "'token-mean' is no number"),
    "a switch": ({"advantage.whiten": Constant()}, {"advantage": {"name": "gae"}}, "True is no number"),
    "a part, not a number": ({"imitation": Constant()}, {}, "is no number"),
    "a whole number below its least": (
        {"minibatches": Linear(length=4)},
        {},
        "would make it 0: Input should be greater",
    ),
    "whole numbers against each other": (
        {"minibatches": Linear(length=4, start=0.25, end=2)},
        {"minibatches": 4, "tasks_per_iteration": 2, "group_size": 2},
        r"would make it 8: .*minibatches = 8 exceeds tasks_per_iteration × group_size = 4",
    ),
    "the length of the run": ({"iterations": Constant()}, {}, "it says how long the run is"),
    "the size of an adapter": ({"network.lora.rank": Constant()}, {"network": {"lora": {}}}, "is prepared once"),
    "the size of the buffer": ({"imitation.capacity": Constant()}, {}, "the buffer is made once"),
    "nothing to multiply": ({"kl_coef": Constant(warmup=3)}, {}, "the setting is 0"),
    "None": ({"imitation.max_staleness": Constant()}, {"imitation": {"max_staleness": None}}, "the setting is None"),
    "beyond the range at the end": (
        {"learning_rate": Linear(length=4)},
        {},
        "would make it 0: Input should be greater",
    ),
    "beyond the range at the start": (
        {"learning_rate": Constant(clock="tokens", warmup=4)},
        {},
        "would make it 0: Input should be greater than 0; .* warmup_from",
    ),
    "beyond the range above": (
        {"imitation.select.beta": Linear(length=4, end=3)},
        {"imitation": {"select": {"name": "priority"}}},
        "would make it 1.2: Input should be less than or equal to 1",
    ),
    "against another number": (
        {"loss.low": Constant(warmup=3), "loss.cap": Constant()},
        {"loss": {"name": "bapo"}},
        "schedules.loss",
    ),
    "read once": ({"network.x": Constant()}, {}, "the network is prepared once"),
    "a clock's own number": ({"model_time.smoothing": Constant()}, {}, "how a clock is read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_schedules_that_do_not_fit_are_refused_before_anything_runs(case):
    schedules, numbers, words = REFUSED[case]
    with pytest.raises(ValidationError, match=words):
        TrainConfig(schedules=schedules, **numbers)


def test_a_model_time_that_nobody_reads_is_refused():
    with pytest.raises(ValidationError, match="nothing reads it"):
        TrainConfig(model_time=ModelTime(opening=3))
    assert TrainConfig(model_time=ModelTime(), schedules={"learning_rate": Constant(clock="model")}).needs_model_time


def test_the_trainers_numbers_follow_their_schedules_and_go_on_after_a_resume(parts, tmp_path):
    changes = {
        "schedules": {
            "learning_rate": WSD(warmup=2, stable=1, decay=4),
            "entropy_coef": Cosine(clock="tokens", length=2000),
            "imitation.weight": Linear(clock="model", length=1.0, start=0.2, end=1),
            "format_penalty": Intensity(),
        },
        "model_time": ModelTime(opening=2),
        "advantage": GRPO(),
        "bottleneck_every": 0,
        "imitation": ImitationConfig(episodes_per_step=2),
    }
    whole = parts.make_trainer(tmp_path / "whole", iterations=4, **changes)
    rates: list[float] = []
    whole.train(on_iteration=lambda number, values: rates.append(values.get("learning_rate", math.nan)))
    whole.close()
    steps = whole.policy.version
    assert whole.learner.clocks.steps == steps >= 3
    assert [r for r in rates if not math.isnan(r)] == pytest.approx([3e-3 * f for f in (0.5, 1, 1, 0.775)][:steps])
    assert whole.learner.clocks.model > 0
    part = parts.make_trainer(tmp_path / "part", iterations=2, **changes)
    part.train()
    part.close()
    again = parts.make_trainer(tmp_path / "part", iterations=4, **changes)
    again.restore()
    assert again.learner.clocks == part.learner.clocks
    assert again.learner.clocks.seconds > 0
    again.train()
    again.close()
    same = ("steps", "tokens", "model", "opening", "mean")
    assert [getattr(again.learner.clocks, name) for name in same] == [
        getattr(whole.learner.clocks, name) for name in same
    ]
    assert parts.digest(again.policy.model) == parts.digest(whole.policy.model)
