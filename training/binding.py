"""Binding: schedules tied to numbers of the settings by name, `imitation.weight` or `modifiers.0.coef`.

The setting is the number at factor 1; a schedule multiplies it, and a whole number is then rounded to the nearest. All
is checked before anything runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from agentkit.errors import unknown_name
from agentkit.training.schedule import Schedule

Config = TypeVar("Config", bound=BaseModel)

READ_ONCE = {
    "network": "the network is prepared once",
    "model_time": "it says how a clock is read",
    "retention.share": "what is retained is chosen once",
    "iterations": "it says how long the run is",
    "task_pool": "what is known about tasks is kept for so many",
    "tasks.bins": "what is known about categories is kept for so many",
    "micro_batch_tokens": "it says what fits into memory",
    "checkpoint_every": "a run is saved by it and learns nothing from it",
    "keep_checkpoints": "a run is saved by it and learns nothing from it",
    "bottleneck_every": "the diagnostic is set up once",
    "filter.stop_after": "it says when the run ends",
    "imitation.capacity": "the buffer is made once",
    "imitation.per_task": "the buffer is made once",
    "advantage.value_rate": "the optimizer is made once",
    "advantage.critic_width": "the critic is made once",
    "advantage.warmup_iterations": "no clock runs while the critic learns alone",
}
"""Settings that no schedule can change while a run goes on, and why."""


def scheduled(config: Config, factors: Mapping[str, float]) -> Config:
    """`config` with each named number multiplied by its factor.

    Args:
        config: The settings, whose schedules `check_schedules` has passed.
        factors: By the names of the schedules.
    """
    for name, factor in factors.items():
        parts = name.split(".")
        value: float = reduce(_part, parts, config)  # type: ignore[assignment]
        config = _with(config, parts, _multiplied(value, factor))
    return config


def _multiplied(value: float, factor: float) -> float:
    """The product, of a whole number the nearest one; of two as near the greater.

    >>> _multiplied(8, 0.4), _multiplied(5, 0.5), _multiplied(5.0, 0.5)
    (3, 3, 2.5)
    """
    return math.floor(factor * value + 0.5) if isinstance(value, int) else factor * value


def check_schedules(config: BaseModel, schedules: Mapping[str, Schedule]) -> None:
    """Raise unless every schedule names a number of `config` and never leads it out of its range.

    Raises:
        ValueError: What is named is unknown, no number, read only once, 0, or would leave its range.
    """
    for name, schedule in schedules.items():
        *path, last = name.split(".")
        for prefix, why in READ_ONCE.items():
            if f"{name}.".startswith(f"{prefix}."):
                raise ValueError(f"schedules.{name}: {why}; no schedule can change it")
        owner: Any = config
        for part in path:
            owner = _known(owner, part, name)
        value = _known(owner, last, name)
        if value is None:
            raise ValueError(f"schedules.{name}: the setting is None; give it the value that it has at factor 1")
        if isinstance(value, bool) or not isinstance(value, (float, int)) or not isinstance(owner, BaseModel):
            raise ValueError(f"schedules.{name}: {value!r} is no number of the settings; only those can be scheduled")
        if value == 0:
            raise ValueError(f"schedules.{name}: the setting is 0, which no factor changes; give its greatest value")
        for factor in schedule.bounds():
            _check_value(owner, last, _multiplied(value, factor), name, owner is config)


def _check_value(owner: BaseModel, field: str, value: float, name: str, is_root: bool) -> None:
    """Ranges are intervals, so that their ends are enough; what two fields say together is asked of the owner."""
    info = type(owner).model_fields[field]
    try:
        annotated: Any = Annotated[info.annotation, *info.metadata]
        TypeAdapter(annotated).validate_python(value)
        if not is_root or isinstance(value, int):
            left_out = {field, *(("schedules", "model_time") if is_root else ())}  # the latter is read by the former
            kept = {name: getattr(owner, name) for name in owner.model_fields_set - left_out}
            type(owner).model_validate(kept | {field: value})
    except ValidationError as error:
        raise ValueError(
            f"schedules.{name} would make it {value:g}: {error.errors()[0]['msg']}; change the schedule's ends, or "
            "begin its warm-up above 0 with warmup_from"
        ) from error


def _known(owner: Any, part: str, name: str) -> Any:
    known = _names(owner)
    if part not in known:
        raise ValueError(f"schedules.{name}: {unknown_name('setting', part, known)}")
    return _part(owner, part)


def _names(owner: Any) -> list[str]:
    if isinstance(owner, BaseModel):
        return list(type(owner).model_fields)
    return [str(place) for place in range(len(owner))] if isinstance(owner, tuple) else []


def _part(owner: Any, part: str) -> Any:
    return owner[int(part)] if isinstance(owner, tuple) else getattr(owner, part)


def _with(owner: Any, parts: list[str], value: float) -> Any:
    first, *rest = parts
    inner = _with(_part(owner, first), rest, value) if rest else value
    if isinstance(owner, tuple):
        return tuple(inner if place == int(first) else each for place, each in enumerate(owner))
    return owner.model_copy(update={first: inner})
