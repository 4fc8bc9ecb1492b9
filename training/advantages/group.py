"""Advantages of whole episodes against their group: every turn of an episode has the same one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentkit.training.advantages.outcomes import Floats, Outcomes, within_groups
from agentkit.training.settings import Settings


class GRPO(Settings):
    """(R − mean) / (std + ε) within the group (Shao et al. 2024, 2402.03300; ActFocus eq. 13).

    The papers leave the kind of standard deviation open; this is the population's, so that one success among two
    attempts gives ±1. A group without variance, and a group of one, gives zeros.
    """

    name: Literal["grpo"] = "grpo"
    epsilon: float = Field(default=1e-6, gt=0)

    def turns(self, outcomes: Outcomes) -> Floats:
        """[U] advantage of each turn."""
        centred_E, deviation_G = within_groups(outcomes.return_E, outcomes.group_E, outcomes.num_groups)
        return outcomes.per_turn(centred_E / (deviation_G[outcomes.group_E] + self.epsilon))
