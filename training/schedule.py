"""Schedules: what a number of the settings is multiplied by as a run goes on. Functions of where a clock stands.

A schedule never changes anything itself: `binding.py` ties one to a number by its name, and `clocks.py` keeps the time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, SerializeAsAny, model_validator

from agentkit.training.settings import OrOwn, Part

Clock = Literal["steps", "tokens", "seconds", "model"]
"""Optimizer steps, the one at hand included; sampled tokens learnt from; seconds of training; Σ‖Δθ‖ of the steps."""


def warmup(step: int, steps: int) -> float:
    """Rises linearly from 1/steps to 1 in the first `steps` steps, then stays.

    >>> [warmup(step, 4) for step in (0, 1, 3, 9)]
    [0.25, 0.5, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / steps) if steps > 0 else 1.0


def cosine_decay(step: int, steps: int, floor: float = 0.1) -> float:
    """Falls from 1 to `floor` along half a cosine, then stays.

    >>> [round(cosine_decay(step, 4, 0.0), 3) for step in (0, 2, 4)]
    [1.0, 0.5, 0.0]
    """
    progress = min(1.0, step / steps) if steps > 0 else 1.0
    return _along_cosine(progress, 1.0, floor)


class Schedule(Part):
    """A factor that depends on the time of a clock; lengths are in the clock's units."""

    clock: Clock = "steps"
    """What time is measured in."""
    warmup: float = Field(default=0.0, ge=0)
    """How long the factor rises linearly from `warmup_from` times its value to that value; the shape begins then."""
    warmup_from: float = Field(default=0.0, ge=0, lt=1)
    """Where the warm-up begins; steps are counted from 1, so that under them no step is taken at 0."""

    @model_validator(mode="after")
    def _has_warmup(self) -> Schedule:
        if self.warmup_from and not self.warmup:
            raise ValueError(f"warmup_from = {self.warmup_from:g} and warmup = 0: there is no warm-up; set warmup")
        return self

    def factor(self, at: float) -> float:
        """The factor when the clock stands at `at`."""
        if at < self.warmup:
            return self.shape(0.0) * (self.warmup_from + (1 - self.warmup_from) * at / self.warmup)
        return self.shape(at - self.warmup)

    def shape(self, at: float) -> float:
        """The factor, `at` counted from the end of the warm-up."""
        raise NotImplementedError

    def bounds(self) -> tuple[float, float]:
        """Least and greatest factor there can be."""
        low, high = self.shape_bounds()
        if self.warmup:
            first = 1.0 if self.clock == "steps" else 0.0
            low = min(low, self.factor(min(first, self.warmup)))
        return low, high

    def shape_bounds(self) -> tuple[float, float]:
        """Least and greatest factor after the warm-up."""
        raise NotImplementedError


class Constant(Schedule):
    """1 throughout: for a warm-up and nothing after it.

    >>> [Constant(warmup=4).factor(step) for step in (1, 2, 4, 9)]
    [0.25, 0.5, 1.0, 1.0]
    """

    name: Literal["constant"] = "constant"

    def shape(self, at: float) -> float:
        """The factor, `at` counted from the end of the warm-up."""
        return 1.0

    def shape_bounds(self) -> tuple[float, float]:
        """Least and greatest factor after the warm-up."""
        return 1.0, 1.0


class Linear(Schedule):
    """From `start` to `end` in a straight line, then `end`. PER's β from 0.4 to 1 is `start=0.4, end=1` of β = 1.

    >>> [Linear(length=4, start=0.4, end=1).factor(at) for at in (0, 2, 4, 9)]
    [0.4, 0.7, 1.0, 1.0]
    """

    name: Literal["linear"] = "linear"
    length: float = Field(gt=0)
    """From the end of the warm-up to where `end` is reached."""
    start: float = Field(default=1.0, ge=0)
    end: float = Field(default=0.0, ge=0)

    def shape(self, at: float) -> float:
        """The factor, `at` counted from the end of the warm-up."""
        progress = min(1.0, at / self.length)
        return self.start * (1 - progress) + self.end * progress

    def shape_bounds(self) -> tuple[float, float]:
        """Least and greatest factor after the warm-up."""
        return min(self.start, self.end), max(self.start, self.end)


class Cosine(Schedule):
    """From `start` to `end` along half a cosine, then `end`.

    SPEAR's ramps (2509.22601, authors' code): imitation rises over `length = 200` with `start = 0, end = 1`, the
    reward of a tool call falls with `start = 1, end = 0`.

    >>> [round(Cosine(length=4, start=0, end=1).factor(at), 3) for at in (0, 1, 2, 4, 9)]
    [0.0, 0.146, 0.5, 1.0, 1.0]
    """

    name: Literal["cosine"] = "cosine"
    length: float = Field(gt=0)
    """From the end of the warm-up to where `end` is reached."""
    start: float = Field(default=1.0, ge=0)
    end: float = Field(default=0.1, ge=0)

    def shape(self, at: float) -> float:
        """The factor, `at` counted from the end of the warm-up."""
        return _along_cosine(min(1.0, at / self.length), self.start, self.end)

    def shape_bounds(self) -> tuple[float, float]:
        """Least and greatest factor after the warm-up."""
        return min(self.start, self.end), max(self.start, self.end)


class WSD(Schedule):
    """Warm-up, stable, decay (MiniCPM, 2404.06395): 1 for `stable`, then down to `end` within `decay`, then `end`.

    The decay is a line, or 1 − √progress ("sqrt", Hägele et al. 2024, 2405.18392).

    >>> [WSD(warmup=2, stable=4, decay=4, end=0).factor(at) for at in (1, 2, 6, 7, 10)]
    [0.5, 1.0, 1.0, 0.75, 0.0]
    """

    name: Literal["wsd"] = "wsd"
    stable: float = Field(ge=0)
    decay: float = Field(gt=0)
    decay_shape: Literal["linear", "sqrt"] = "linear"
    end: float = Field(default=0.1, ge=0, le=1)

    def shape(self, at: float) -> float:
        """The factor, `at` counted from the end of the warm-up."""
        progress = min(1.0, max(0.0, (at - self.stable) / self.decay))
        if self.decay_shape == "sqrt":
            progress = math.sqrt(progress)
        return 1 - (1 - self.end) * progress

    def shape_bounds(self) -> tuple[float, float]:
        """Least and greatest factor after the warm-up."""
        return self.end, 1.0


class Infinite(Schedule):
    """For runs without a known end (Ibrahim et al. 2024, 2403.08763): a cosine from 1 down to `plateau`, then flat.

    A last decay in a line to `end` begins after `flat`, if that is set, and takes `decay`.

    >>> schedule = Infinite(cooldown=2, plateau=0.5, flat=4, decay=2, end=0.1)
    >>> [round(schedule.factor(at), 2) for at in (0, 1, 2, 6, 7, 8)]
    [1.0, 0.75, 0.5, 0.5, 0.3, 0.1]
    """

    name: Literal["infinite"] = "infinite"
    cooldown: float = Field(gt=0)
    plateau: float = Field(default=0.5, gt=0, le=1)
    flat: float | None = Field(default=None, ge=0)
    """None stays on the plateau for good."""
    decay: float | None = Field(default=None, gt=0)
    end: float = Field(default=0.1, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Infinite:
        if (self.flat is None) != (self.decay is None):
            raise ValueError(f"flat = {self.flat} and decay = {self.decay}: a last decay needs both; set both or none")
        if self.flat is None and "end" in self.changed:
            raise ValueError(f"end = {self.end:g} and flat = None: the plateau has no end; set flat and decay")
        if self.end > self.plateau:
            raise ValueError(f"end = {self.end:g} is above plateau = {self.plateau:g}: that would be no decay")
        return self

    def shape(self, at: float) -> float:
        """The factor, `at` counted from the end of the warm-up."""
        if self.flat is not None and self.decay is not None and at > self.cooldown + self.flat:
            progress = min(1.0, (at - self.cooldown - self.flat) / self.decay)
            return self.plateau * (1 - progress) + self.end * progress
        return _along_cosine(min(1.0, at / self.cooldown), 1.0, self.plateau)

    def shape_bounds(self) -> tuple[float, float]:
        """Least and greatest factor after the warm-up."""
        return self.plateau if self.flat is None else self.end, 1.0


class REX(Schedule):
    """(1 − p) / (½ + ½(1 − p)), p the part of `length` that is over (Chen et al. 2021, 2107.04197); not below `end`.

    >>> [round(REX(length=4).factor(at), 3) for at in (0, 2, 3, 4)]
    [1.0, 0.667, 0.4, 0.0]
    """

    name: Literal["rex"] = "rex"
    length: float = Field(gt=0)
    """From the end of the warm-up to 0."""
    end: float = Field(default=0.0, ge=0, lt=1)

    def shape(self, at: float) -> float:
        """The factor, `at` counted from the end of the warm-up."""
        left = 1 - min(1.0, at / self.length)
        return max(self.end, left / (0.5 + 0.5 * left))

    def shape_bounds(self) -> tuple[float, float]:
        """Least and greatest factor after the warm-up."""
        return self.end, 1.0


class Cyclic(Schedule):
    """Between 1 and `low` again and again: a triangle from `low` up and down (Smith 2017, 1506.01186), or half a cosine
    down from 1 and back up at once ("restarts", Loshchilov & Hutter 2017, 1608.03983).

    >>> [Cyclic(period=4, low=0.5).factor(at) for at in (0, 1, 2, 3, 4)]
    [0.5, 0.75, 1.0, 0.75, 0.5]
    """

    name: Literal["cyclic"] = "cyclic"
    period: float = Field(gt=0)
    low: float = Field(default=0.1, ge=0, lt=1)
    wave: Literal["triangle", "restarts"] = "triangle"

    def shape(self, at: float) -> float:
        """The factor, `at` counted from the end of the warm-up."""
        progress = (at % self.period) / self.period
        if self.wave == "restarts":
            return _along_cosine(progress, 1.0, self.low)
        return self.low + (1 - self.low) * (1 - abs(2 * progress - 1))

    def shape_bounds(self) -> tuple[float, float]:
        """Least and greatest factor after the warm-up."""
        return self.low, 1.0


class Intensity(Schedule):
    """clip(1 + γ(r − 1), low, high), r how far the weights move a step now over how far at first (FOREVER, 2601.03938).

    Its clock shows r itself: see `Clocks.intensity`. The source gives no γ; 1 is our choice.

    >>> [Intensity().factor(ratio) for ratio in (0.2, 1.0, 2.0, 9.0)]
    [0.5, 1.0, 2.0, 3.0]
    """

    name: Literal["intensity"] = "intensity"
    sensitivity: float = Field(default=1.0, ge=0)
    """γ."""
    low: float = Field(default=0.5, ge=0)
    high: float = Field(default=3.0, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Intensity:
        if not self.low < self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        if {"clock", "warmup", "warmup_from"} & self.changed:
            raise ValueError("intensity follows the size of the updates, not a clock; leave out clock and warmup")
        return self

    def shape(self, at: float) -> float:
        """The factor for the ratio `at`."""
        return min(self.high, max(self.low, 1 + self.sensitivity * (at - 1)))

    def shape_bounds(self) -> tuple[float, float]:
        """Least and greatest factor after the warm-up."""
        return self.low, self.high


if TYPE_CHECKING:
    AnySchedule = Schedule
else:
    AnySchedule = SerializeAsAny[
        Annotated[
            Constant | Linear | Cosine | WSD | Infinite | REX | Cyclic | Intensity,
            Field(discriminator="name"),
            OrOwn(Schedule),
        ]
    ]
"""A schedule; see `Schedule`."""


def _along_cosine(progress: float, start: float, end: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
