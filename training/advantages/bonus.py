"""TurnBonus: a reward for acting at all, early in a run (SPEAR, 2509.22601)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agentkit.training.settings import Settings


class TurnBonus(Settings):
    """μ · min(most, per_turn · turns with a valid action) for each attempt (SPEAR §2.1, the reward of tool calls).

    A turn earns what it adds to the sum, so turns and tokens are paid where they act. The authors let μ fall to 0 along
    half a cosine: `schedules."turn_bonus.coef" = {name = "cosine", start = 1, end = 0, length = 200}`.
    """

    coef: float = Field(default=1.0, ge=0)
    """μ."""
    per_turn: float = Field(default=0.1, gt=0)
    """Reward of a turn whose response held an action that the environment understood; the authors' code's."""
    most: float = Field(default=1.0, gt=0)
    """Greatest reward of an attempt; the authors' code's."""

    def of(self, acted_U: NDArray[np.bool_], starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """[U] what each turn earns.

        Args:
            acted_U: True where a turn had a valid action.
            starts: [E+1] place of each episode's first turn.

        >>> TurnBonus(coef=0.5, most=0.25).of(np.array([True, False, True, True, True]), np.array([0, 4, 5])).round(4)
        array([0.05 , 0.   , 0.05 , 0.025, 0.05 ])
        """
        before_U = np.concatenate([[0], np.cumsum(acted_U)])
        first_U = np.repeat(before_U[starts[:-1]], np.diff(starts))
        paid_U, earlier_U = (
            np.minimum(self.most, self.per_turn * (num_U - first_U)) for num_U in (before_U[1:], before_U[:-1])
        )
        return self.coef * (paid_U - earlier_U)
