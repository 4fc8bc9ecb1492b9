"""Advantages: how much better a turn went than expected. A class each, chosen by its `name`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, SerializeAsAny

from agentkit.training.advantages.archer import ArCHer
from agentkit.training.advantages.batch import ReinforcePlusPlus
from agentkit.training.advantages.bonus import TurnBonus
from agentkit.training.advantages.estimator import Estimator
from agentkit.training.advantages.gae import GAE, TokenEstimate
from agentkit.training.advantages.gigpo import GiGPO
from agentkit.training.advantages.group import GRPO, MCGRPO, RLOO, DrGRPO
from agentkit.training.advantages.modifiers import ACE, CANON, Amplify, Modifier, Novelty, Spread
from agentkit.training.advantages.outcomes import Outcomes, group_indices, within_groups
from agentkit.training.advantages.turns import UIS1, TurnReturns
from agentkit.training.settings import OrOwn

if TYPE_CHECKING:
    Advantage = Estimator
else:
    Advantage = SerializeAsAny[
        Annotated[
            GRPO | DrGRPO | RLOO | MCGRPO | ReinforcePlusPlus | TurnReturns | GiGPO | UIS1 | GAE | ArCHer,
            Field(discriminator="name"),
            OrOwn(Estimator),
        ]
    ]
"""An `Estimator`: `turns(outcomes) -> [U]`, or, where it `needs_values`, `estimate`."""

if TYPE_CHECKING:
    AnyModifier = Modifier
else:
    AnyModifier = SerializeAsAny[
        Annotated[ACE | CANON | Amplify | Novelty | Spread, Field(discriminator="name"), OrOwn(Modifier)]
    ]
"""A change of advantages after the estimator; see `Modifier`."""

__all__ = [
    "ACE",
    "CANON",
    "GAE",
    "GRPO",
    "MCGRPO",
    "RLOO",
    "UIS1",
    "Advantage",
    "Amplify",
    "AnyModifier",
    "ArCHer",
    "DrGRPO",
    "Estimator",
    "GiGPO",
    "Modifier",
    "Novelty",
    "Outcomes",
    "ReinforcePlusPlus",
    "Spread",
    "TokenEstimate",
    "TurnBonus",
    "TurnReturns",
    "group_indices",
    "within_groups",
]
