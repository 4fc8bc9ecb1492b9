"""Binding: schedules tied to numbers of the settings by name, `imitation.weight` or `modifiers.0.coef`.

The setting is the number at factor 1; a schedule multiplies it. All is checked before anything runs.
"""

from __future__ import annotations

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
        config = _with(config, parts, factor * value)
    return config


def check_schedules(config: BaseModel, schedules: Mapping[str, Schedule]) -> None:
    """Raise unless every schedule names a number of `config` and never leads it out of its range.

    Raises:
        ValueError: What is named is unknown, no real number, read only once, 0, or would leave its range.
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
        if not isinstance(value, float) or not isinstance(owner, BaseModel):
            raise ValueError(f"schedules.{name}: {value!r} is no real number; only those can be scheduled")
        if value == 0:
            raise ValueError(f"schedules.{name}: the setting is 0, which no factor changes; give its greatest value")
        for factor in schedule.bounds():
            _check_value(owner, last, factor * value, name, owner is config)


def _check_value(owner: BaseModel, field: str, value: float, name: str, is_root: bool) -> None:
    """Ranges are intervals, so that their ends are enough; what two fields say together is asked of the owner."""
    info = type(owner).model_fields[field]
    try:
        annotated: Any = Annotated[info.annotation, *info.metadata]
        TypeAdapter(annotated).validate_python(value)
        if not is_root:
            kept = owner.model_dump(exclude_unset=True) | {field: value}
            type(owner).model_validate(kept)
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
