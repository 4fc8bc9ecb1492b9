"""Advantages: how much better a turn went than expected. A class each, chosen by its `name`."""

from __future__ import annotations

from agentkit.training.advantages.group import GRPO
from agentkit.training.advantages.outcomes import Outcomes, group_indices, within_groups

Advantage = GRPO
"""An advantage estimator: `turns(outcomes) -> [U]`."""

__all__ = ["GRPO", "Advantage", "Outcomes", "group_indices", "within_groups"]
