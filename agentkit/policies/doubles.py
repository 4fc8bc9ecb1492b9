"""Policies that are no language models: for tests, baselines and demonstrations. They are public."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from agentkit.errors import ConfigError, PolicyFault
from agentkit.policies.policy import Completion, Request, World


def as_response(action: str, thought: str = "") -> str:
    """The text of a well-formed response.

    >>> as_response("Up", "The goal is above.")
    '<think>The goal is above.</think><answer>Up</answer>'
    """
    return f"<think>{thought}</think><answer>{action}</answer>"


@dataclass
class ScriptedPolicy:
    """Says given responses in order, or what a function of the request returns."""

    script: Sequence[str] | Callable[[Request], str]
    name: str = "scripted"
    version: int = 0
    _next: int = field(default=0, init=False)

    async def complete(self, request: Request) -> Completion:
        """The next response of the script; `PolicyFault` once it is used up."""
        if callable(self.script):
            return Completion(self.script(request))
        if self._next >= len(self.script):
            raise PolicyFault(f"the script has {len(self.script)} responses and one more was asked for")
        self._next += 1
        return Completion(self.script[self._next - 1])


@dataclass
class RandomPolicy:
    """Uniform over the admissible actions: the floor every result is read against."""

    actions_per_turn: int = 1
    name: str = "random"
    version: int = 0

    def __post_init__(self) -> None:
        if self.actions_per_turn < 1:
            raise ConfigError(f"actions_per_turn must be at least 1, got {self.actions_per_turn}")

    async def complete(self, request: Request) -> Completion:
        """`actions_per_turn` actions drawn independently, joined by `||`."""
        choices = _choices(request.world)
        rng = np.random.default_rng(request.seed)
        picks = rng.integers(len(choices), size=self.actions_per_turn)
        return Completion(as_response(" || ".join(choices[pick] for pick in picks)))


@dataclass
class ExpertPolicy:
    """The environment's own solver; with `noise`, a turn is replaced by a random one with that probability."""

    noise: float = 0.0
    """Probability in [0, 1] that a turn is one uniformly random admissible action instead."""
    think: Callable[[str], str] | None = None
    """What to think, given the text of the last user message; nothing if None."""
    name: str = "expert"
    version: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise ConfigError(f"noise is a probability in [0, 1], got {self.noise}")

    async def complete(self, request: Request) -> Completion:
        """The expert's (or the random) action as a well-formed response."""
        rng = np.random.default_rng(request.seed)
        if rng.random() < self.noise:
            choices = _choices(request.world)
            action = choices[int(rng.integers(len(choices)))]
        else:
            action = await request.world.expert_action()
        thought = self.think(request.messages[-1].text) if self.think else ""
        return Completion(as_response(action, thought))


def _choices(world: World) -> list[str]:
    choices = list(world.admissible_actions)
    if not choices:
        raise PolicyFault("random play needs info['admissible_actions'], and it is empty")
    return choices
