"""Models: the networks of a run, the policy that learns, its value head and the frozen reference, and what they say."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agentkit.policies.local import LocalPolicy
from agentkit.training.advantages import GAE
from agentkit.training.advantages.values import ValueHead
from agentkit.training.checkpoint import weights_digest
from agentkit.training.config import TrainConfig
from agentkit.training.credit import weighed
from agentkit.training.forward import TokenStats, measure, measure_spans
from agentkit.training.network import learning_parameters, without_adapters
from agentkit.training.rows import Row
from agentkit.training.stream import Stream, flatten


class Models:
    """The policy that learns, a value head where advantages ask for one, and a reference where anything does.

    Args:
        policy: Acts and learns; its model is changed in place.
        config: The numbers.
        temperature: The sampling temperature.
        reference: Frozen model for energy and KL; None for the policy's weights as they are.
    """

    def __init__(self, policy: LocalPolicy, config: TrainConfig, temperature: float, reference: Any = None) -> None:
        self.policy, self._network, self._max_tokens = policy, config.network, config.micro_batch_tokens
        self._temperature = temperature
        config.network.prepare(policy.model)
        self.reference: Any = None
        asked = config.needs_reference or any(modifier.needs_reference for modifier in config.modifiers)
        if asked or config.bottleneck_every > 0 or config.advantage.needs_values == "turn":
            own = reference is None or reference is policy.model
            if own and config.network.lora is not None:
                self.reference = policy.model  # with its adapters switched off
            else:  # a reference that is the learning model itself would freeze it
                self.reference = copy.deepcopy(policy.model) if own else reference
                self.reference.requires_grad_(False).eval()
        self.learns: list[torch.nn.Parameter] = list(learning_parameters(policy.model).values())
        """The policy's parameters that learn."""
        self.values: ValueHead | None = None
        if isinstance(config.advantage, GAE):
            self.values = ValueHead(policy.model.get_output_embeddings().weight.shape[1]).to(policy.model.device)

    def measure(self, rows: Sequence[Row], *, values: bool = False) -> TokenStats:
        """What the policy says of the rows' sampled tokens, in the precision in which it learns.

        Args:
            rows: Any rows.
            values: Whether to ask the value head too.
        """
        head = self.values if values else None
        with self._network.computing(self.policy.model):
            return measure(self.policy.model, rows, self._max_tokens, self._temperature, values=head)

    def measure_reference(self, rows: Sequence[Row]) -> TokenStats:
        """What the reference says of them."""
        own = self.reference is self.policy.model
        with self._network.computing(self.reference), without_adapters(self.reference) if own else nullcontext():
            return measure(self.reference, rows, self._max_tokens, self._temperature)

    def spans(self, rows: Sequence[Row], ends: Sequence[NDArray[np.int64]]) -> list[torch.Tensor]:
        """What the reference has read at the ends of each row's spans: see `measure_spans`."""
        own = self.reference is self.policy.model
        with self._network.computing(self.reference), without_adapters(self.reference) if own else nullcontext():
            return measure_spans(self.reference, rows, ends, self._max_tokens)

    def stream(
        self,
        config: TrainConfig,
        rows: Sequence[Row],
        advantage_N: torch.Tensor,
        reference: TokenStats | None = None,
        *,
        policy: TokenStats | None = None,
        measured: bool = False,
    ) -> Stream:
        """The rows' tokens with their credit, whose statistics are over all of them.

        Args:
            config: The numbers as the schedules have them.
            rows: What is learnt from.
            advantage_N: [N] of each sampled token.
            reference: What the reference says of them, if credit or loss ask it.
            policy: What the policy says of them before it learns, if that is known.
            measured: Whether π_old is measured. Without, it is μ unless `policy` is given or credit asks for it.
        """
        if policy is None and (measured or config.credit.needs_policy):
            policy = self.measure(rows)
        stream = flatten(rows, advantage_N, reference=reference, policy=policy)
        return weighed(config.credit, stream)

    @functools.cached_property
    def reference_digest(self) -> str | None:
        """Hash of the reference's weights; None without one."""
        if self.reference is None or self.reference is self.policy.model:
            return None if self.reference is None else self.frozen_digest
        return weights_digest(self.reference)

    @functools.cached_property
    def frozen_digest(self) -> str | None:
        """Hash of the policy's weights that do not learn; None where all do."""
        frozen = any(not parameter.requires_grad for parameter in self.policy.model.parameters())
        return weights_digest(self.policy.model, frozen=True) if frozen else None
