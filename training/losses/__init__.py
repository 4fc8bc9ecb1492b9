"""Losses of sampled and of replayed tokens, KL and entropy terms, reductions. A class each, chosen by its `name`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, SerializeAsAny

from agentkit.training.losses.balance import TrajectoryBalance
from agentkit.training.losses.bapo import BAPO
from agentkit.training.losses.cispo import CISPO
from agentkit.training.losses.clip import Clip
from agentkit.training.losses.covariance import ClipCov, KLCov
from agentkit.training.losses.dppo import DPPO
from agentkit.training.losses.dro import DRO
from agentkit.training.losses.entropy import EPO, SIREN, Bonus, EntropyHistory, EntropyScheme, EntropyStep, Gain
from agentkit.training.losses.gspo import GSPO
from agentkit.training.losses.imitation import SIL, ImitationLoss, Replayed, Shaped, Supervised
from agentkit.training.losses.kl import KL, kl_tokens
from agentkit.training.losses.opmd import OPMD
from agentkit.training.losses.policy import PolicyLoss
from agentkit.training.losses.reduction import Reduction, scales
from agentkit.training.losses.sapo import SAPO
from agentkit.training.losses.spear import SPEAR
from agentkit.training.losses.terms import LOG_RATIO_BOUND, Now, effective_sample_size, ratio
from agentkit.training.losses.vespo import VESPO
from agentkit.training.settings import OrOwn

if TYPE_CHECKING:
    Loss = PolicyLoss
else:
    Loss = SerializeAsAny[
        Annotated[
            Clip | GSPO | CISPO | SAPO | BAPO | ClipCov | KLCov | DPPO | DRO | VESPO | OPMD | TrajectoryBalance,
            Field(discriminator="name"),
            OrOwn(PolicyLoss),
        ]
    ]
"""A policy loss; see `PolicyLoss`."""
if TYPE_CHECKING:
    ReplayLoss = ImitationLoss
else:
    ReplayLoss = SerializeAsAny[
        Annotated[SIL | Shaped | Replayed | SPEAR | Supervised, Field(discriminator="name"), OrOwn(ImitationLoss)]
    ]
"""A loss of replayed tokens; see `ImitationLoss`."""
if TYPE_CHECKING:
    Entropy = EntropyScheme
else:
    Entropy = SerializeAsAny[Annotated[Bonus | EPO | SIREN, Field(discriminator="name"), OrOwn(EntropyScheme)]]
"""An entropy term; see `EntropyScheme`."""

__all__ = [
    "BAPO",
    "CISPO",
    "DPPO",
    "DRO",
    "EPO",
    "GSPO",
    "KL",
    "LOG_RATIO_BOUND",
    "OPMD",
    "SAPO",
    "SIL",
    "SIREN",
    "SPEAR",
    "VESPO",
    "Bonus",
    "Clip",
    "ClipCov",
    "Entropy",
    "EntropyHistory",
    "EntropyScheme",
    "EntropyStep",
    "Gain",
    "ImitationLoss",
    "KLCov",
    "Loss",
    "Now",
    "PolicyLoss",
    "Reduction",
    "ReplayLoss",
    "Replayed",
    "Shaped",
    "Supervised",
    "TrajectoryBalance",
    "effective_sample_size",
    "kl_tokens",
    "ratio",
    "scales",
]
