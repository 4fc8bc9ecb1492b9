"""Advantages: how much better a turn went than expected. A class each, chosen by its `name`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agentkit.training.advantages.archer import ArCHer
from agentkit.training.advantages.batch import ReinforcePlusPlus
from agentkit.training.advantages.bonus import TurnBonus
from agentkit.training.advantages.estimator import Estimator
from agentkit.training.advantages.gae import GAE, TokenEstimate
from agentkit.training.advantages.gigpo import GiGPO
from agentkit.training.advantages.group import GRPO, MCGRPO, RLOO, DrGRPO
from agentkit.training.advantages.modifiers import ACE, CANON, Amplify, Novelty, Spread
from agentkit.training.advantages.outcomes import Outcomes, group_indices, within_groups
from agentkit.training.advantages.turns import UIS1, TurnReturns

Advantage = Annotated[
    GRPO | DrGRPO | RLOO | MCGRPO | ReinforcePlusPlus | TurnReturns | GiGPO | UIS1 | GAE | ArCHer,
    Field(discriminator="name"),
]
"""An `Estimator`: `turns(outcomes) -> [U]`, or, where it `needs_values`, `estimate`."""

Modifier = Annotated[ACE | CANON | Amplify | Novelty | Spread, Field(discriminator="name")]
"""A change of advantages after the estimator: `turns(advantage_U, outcomes) -> [U]`. It says what has to be asked
before: the frozen reference (`needs_reference`), the policy before it learns (`needs_entropy`)."""

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
