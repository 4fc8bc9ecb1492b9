"""Losses of sampled tokens. A class each, chosen by its `name`."""

from __future__ import annotations

from agentkit.training.losses.clip import Clip
from agentkit.training.losses.imitation import imitation_loss, importance
from agentkit.training.losses.policy import PolicyLoss
from agentkit.training.losses.reduction import Reduction, scales
from agentkit.training.losses.terms import LOG_RATIO_BOUND, Now, effective_sample_size, kl_loss, ratio

Loss = Clip
"""A policy loss; see `PolicyLoss`."""

__all__ = [
    "LOG_RATIO_BOUND",
    "Clip",
    "Loss",
    "Now",
    "PolicyLoss",
    "Reduction",
    "effective_sample_size",
    "imitation_loss",
    "importance",
    "kl_loss",
    "ratio",
    "scales",
]
