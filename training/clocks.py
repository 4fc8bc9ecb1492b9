"""Clocks: how far a run has come, in steps, tokens, seconds and in how far its weights have moved."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import Field

from agentkit.lazy import lazy_module
from agentkit.training.schedule import Intensity, Schedule
from agentkit.training.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


class ModelTime(Settings):
    """How model time is read (FOREVER, 2601.03938): a step lasts as long as the weights move, ‖θ_t − θ_{t−1}‖₂."""

    opening: int = Field(default=24, ge=1)
    """S: optimizer steps at the start whose lengths make up a day, and whose mean is the usual length of a step."""
    smoothing: float = Field(default=0.05, gt=0, le=1)
    """λ: how much the newest step counts in the running mean of their lengths."""


@dataclass
class Clocks:
    """Where the four clocks stand; plain numbers, so that a checkpoint holds them exactly."""

    settings: ModelTime = field(default_factory=ModelTime)
    steps: int = 0
    """Optimizer steps taken."""
    tokens: int = 0
    """Sampled tokens learnt from, replayed ones included."""
    seconds: float = 0.0
    """Seconds of training, those before a resume included."""
    model: float = 0.0
    """Σ‖Δθ‖ over the steps, where it is measured."""
    opening: float = 0.0
    """Σ‖Δθ‖ over the opening steps: a day."""
    mean: float = 0.0
    """Running mean of ‖Δθ‖ since the opening."""

    def tick(self, tokens: int = 0, moved: float = 0.0, seconds: float = 0.0) -> None:
        """One optimizer step is done: it learnt from so many tokens, moved the weights so far and took so long."""
        self.steps += 1
        self.seconds += seconds
        self.tokens += tokens
        self.model += moved
        if self.steps <= self.settings.opening:
            self.opening += moved
            self.mean = self.opening / self.steps
        else:
            self.mean += self.settings.smoothing * (moved - self.mean)

    @property
    def intensity(self) -> float:
        """Running mean of ‖Δθ‖ over that of the opening, r of FOREVER; 1 until the opening is over."""
        if self.steps <= self.settings.opening or self.opening == 0:
            return 1.0
        return self.mean * self.settings.opening / self.opening

    @property
    def days(self) -> float:
        """Model time in days of the opening's length; 0 until that length is known."""
        return self.model / self.opening if self.steps >= self.settings.opening and self.opening > 0 else 0.0

    def read(self, schedule: Schedule) -> float:
        """What the schedule's clock shows for the step at hand."""
        if isinstance(schedule, Intensity):
            return self.intensity
        return float(self.steps + 1 if schedule.clock == "steps" else getattr(self, schedule.clock))

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "settings"}

    def restore(self, state: dict[str, Any]) -> None:
        """Stand where `state()` was taken."""
        for name, value in state.items():
            setattr(self, name, value)


def distance(before: Iterable[torch.Tensor], after: Iterable[torch.Tensor]) -> float:
    """‖after − before‖₂ over all tensors, in double precision, so that small steps of coarse weights do not vanish.

    >>> distance([torch.zeros(2)], [torch.tensor([3.0, 4.0])])
    5.0
    """
    pairs = zip(before, after, strict=True)
    squares = [float((new.detach().double() - old.double()).square().sum()) for old, new in pairs]
    return math.sqrt(sum(squares))
