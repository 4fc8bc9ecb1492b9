"""Plans: which attempts an iteration plays, and what is made of them before learning."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, SerializeAsAny

from agentkit.training.plans.allocation import XRPO, Hints
from agentkit.training.plans.drafts import SpecRL
from agentkit.training.plans.hindsight import Hindsight
from agentkit.training.plans.injection import ARPO, RLEP, ExGRPO
from agentkit.training.plans.plan import Collected, Ground, Patched, RolloutPlan, State
from agentkit.training.plans.retries import R3L
from agentkit.training.plans.splices import AgentR
from agentkit.training.settings import OrOwn

if TYPE_CHECKING:
    Plan = RolloutPlan
else:
    Plan = SerializeAsAny[
        Annotated[
            ARPO | RLEP | ExGRPO | R3L | XRPO | Hindsight | SpecRL, Field(discriminator="name"), OrOwn(RolloutPlan)
        ]
    ]
"""A plan by name: `collect(ground, tasks, state)` plays, `patch(ground, played, state)` changes the groups."""

__all__ = [
    "ARPO",
    "R3L",
    "RLEP",
    "XRPO",
    "AgentR",
    "Collected",
    "ExGRPO",
    "Ground",
    "Hindsight",
    "Hints",
    "Patched",
    "Plan",
    "RolloutPlan",
    "SpecRL",
    "State",
]
