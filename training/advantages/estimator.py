"""Estimator: what every advantage offers."""

from __future__ import annotations

from typing import ClassVar, Literal

from agentkit.errors import ConfigError
from agentkit.training.advantages.outcomes import Floats, Outcomes
from agentkit.training.settings import Part


class Estimator(Part):
    """How much better turns went than expected; a subclass each, chosen by its `name`."""

    needs_values: ClassVar[Literal["token", "turn"] | None] = None
    """What a critic has to value first; such an estimator is asked by its `estimate`, not by `turns`."""

    def turns(self, outcomes: Outcomes) -> Floats:
        """[U] advantage of each turn, shared by its tokens.

        Raises:
            ConfigError: The estimator needs values of a critic, or something the outcomes do not hold.
        """
        raise ConfigError(
            f"{type(self).__name__} needs a critic's value of each {self.needs_values}; give them to its `estimate`"
        )

    def _need_divided(self, switch: str, epsilon: float) -> None:
        """Refuse an `epsilon` that would be ignored: `switch` says whether a standard deviation divides."""
        if not getattr(self, switch) and "epsilon" in self.changed:
            raise ValueError(
                f"advantage.epsilon = {epsilon} and advantage.{switch} = false: no standard deviation divides; leave "
                f"epsilon out, or set {switch} = true"
            )
