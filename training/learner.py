"""Learner: the optimizer step, and all that one step leaves to the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from agentkit.errors import PolicyFault
from agentkit.training.advantages import GAE
from agentkit.training.clocks import Clocks, distance
from agentkit.training.config import TrainConfig
from agentkit.training.gradients import policy_gradient
from agentkit.training.losses import EntropyHistory
from agentkit.training.models import Models
from agentkit.training.rows import named
from agentkit.training.stream import Stream


class Learner:
    """Takes optimizer steps.

    Args:
        models: Who learns.
        config: The numbers.
        temperature: The sampling temperature.
        rng: For losses that choose among tokens at random.
    """

    def __init__(self, models: Models, config: TrainConfig, temperature: float, rng: np.random.Generator) -> None:
        self.models, self._rng = models, rng
        self.clocks = Clocks(config.model_time)
        self._temperature = temperature
        self.entropies = EntropyHistory()
        self._since = time.perf_counter()
        groups: list[dict[str, Any]] = [{"params": models.learns, "factor": 1.0}]
        if models.values is not None:
            assert isinstance(config.advantage, GAE)
            groups.append({"params": list(models.values.parameters()), "factor": config.advantage.value_rate})
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)

    def begin(self) -> None:
        """Count the seconds of training from here: what the caller did since the last step is none of it."""
        self._since = time.perf_counter()

    def step(
        self,
        config: TrainConfig,
        stream: Stream,
        chosen: list[int],
        iteration: int,
        beside: Callable[[], dict[str, float]] = dict,
        replayed: Sequence[str] = (),
    ) -> dict[str, float]:
        """One optimizer step on some rows of the policy stream; returns metrics, none where nothing has a gradient.

        Args:
            config: The numbers as the schedules have them.
            stream: The policy stream.
            chosen: Indices of the rows of this step; none for a step of other streams alone.
            iteration: Iterations done, this one included.
            beside: Adds the gradients of other streams, and returns their metrics.
            replayed: Ids of the episodes of other streams, to name them in errors; `beside` may still fill it.

        Raises:
            PolicyFault: A loss or the gradient is not finite; no step was taken.
        """
        model = self.models.policy.model
        self.optimizer.zero_grad(set_to_none=True)
        with config.network.learning(model):
            try:
                settings = config, self._temperature, self.entropies, iteration, self.models.values, self._rng
                values = (policy_gradient(model, stream, chosen, *settings) if chosen else {}) | beside()
            except PolicyFault as fault:
                raise PolicyFault(f"iteration {iteration}: {fault}") from fault
        if not values:
            return {}
        everything = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(everything, config.max_grad_norm)
        if not torch.isfinite(norm):
            names = [stream.names(stream.places(chosen))] if chosen else []
            names += [f"replayed {named(replayed)}"] if replayed else []
            raise PolicyFault(
                f"the gradient of iteration {iteration} is not finite, no step was taken; resume from the "
                f"last checkpoint with a lower learning_rate. It was of {' and of '.join(names)}"
            )
        for group in self.optimizer.param_groups:
            group["lr"], group["weight_decay"] = config.learning_rate * group["factor"], config.weight_decay
        learns = self.models.learns
        before = [parameter.detach().clone() for parameter in learns] if config.needs_model_time else []
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # while attempts are played they would only take memory
        self.models.policy.version += 1
        moved, now = distance(before, learns) if before else 0.0, time.perf_counter()
        tokens = sum(value for name, value in values.items() if name.startswith("tokens/"))
        self.clocks.tick(int(tokens), moved, now - self._since)
        self._since = now
        values |= {"model_time": self.clocks.model} if before else {}
        return values | {"grad_norm": float(norm), "learning_rate": config.learning_rate}

    def state(self) -> dict[str, Any]:
        """What the next steps depend on besides weights and optimizer, as JSON values."""
        head = self.models.values
        return {
            "policy_version": self.models.policy.version,
            "entropies": self.entropies.state(),
            "clocks": self.clocks.state(),
            "values": None if head is None else [p.flatten().tolist() for p in head.parameters()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state()` was taken."""
        self.models.policy.version = state["policy_version"]
        self.entropies = EntropyHistory.of(state["entropies"])
        self.clocks.restore(state["clocks"])
        if self.models.values is not None:
            with torch.no_grad():
                for parameter, numbers in zip(self.models.values.parameters(), state["values"], strict=True):
                    parameter.copy_(torch.tensor(numbers).view_as(parameter))
