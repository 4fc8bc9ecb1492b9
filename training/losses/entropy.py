"""Entropy terms: how random the policy shall stay. A class each, chosen by its `name`.

Each sets, once per optimizer step, a weight and perhaps a band for every token's entropy; what a micro-batch adds is
then a sum over its tokens, so the split changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from agentkit.lazy import lazy_module
from agentkit.training.losses.terms import means, sums
from agentkit.training.settings import Part

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


@dataclass(slots=True)
class EntropyHistory:
    """What a run has seen of entropies, as plain numbers: a part of the checkpoint."""

    turns: dict[int, list[float]] = field(default_factory=dict)
    """Number of a turn -> [sum of its mean entropy in each optimizer step, number of such steps]."""
    anchor: float | None = None
    """Entropy that SIREN holds the policy to."""

    def add(self, turn_N: torch.Tensor, entropy_N: torch.Tensor) -> None:
        """Take in the tokens of an optimizer step."""
        known, place_N = torch.unique(turn_N, return_inverse=True)
        for turn, mean in zip(known.tolist(), means(entropy_N, place_N).tolist(), strict=True):
            total = self.turns.setdefault(turn, [0.0, 0.0])
            total[0] += mean
            total[1] += 1

    def mean(self, turn_N: torch.Tensor) -> torch.Tensor:
        """[N] mean over past steps of the entropy at that turn; NaN where there has been none."""
        known, place_N = torch.unique(turn_N, return_inverse=True)
        totals = [self.turns.get(turn, [math.nan, 1.0]) for turn in known.tolist()]
        return torch.tensor([total / count for total, count in totals])[place_N]

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        return {"turns": [[turn, *total] for turn, total in sorted(self.turns.items())], "anchor": self.anchor}

    @classmethod
    def of(cls, state: dict[str, Any]) -> EntropyHistory:
        """From what `state` gave."""
        return cls({int(turn): [total, count] for turn, total, count in state["turns"]}, state["anchor"])


class EntropyStep(NamedTuple):
    """The N tokens of an optimizer step, before it."""

    turn_N: torch.Tensor
    sequence_N: torch.Tensor
    """Number of each token's sequence, 0, 1, …"""
    entropy_N: torch.Tensor | None
    """In nats; None unless the scheme `needs_batch`."""
    history: EntropyHistory
    progress: float
    """Iterations done over half of all."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Σ w·(H − penalty·([low − H]₊ + [H − high]₊)) over the N tokens of an optimizer step, to be divided."""

    weight_N: torch.Tensor
    divisor: float
    penalty: float = 0.0
    low_N: torch.Tensor | None = None
    high_N: torch.Tensor | None = None

    def of(self, entropy_M: torch.Tensor, places_M: torch.Tensor) -> torch.Tensor:
        """The part of the sum that some tokens have, differentiable.

        Args:
            entropy_M: Their entropies.
            places_M: Their places among the step's N tokens.
        """
        device = entropy_M.device
        gain_M = entropy_M
        if self.low_N is not None and self.high_N is not None:
            low_M, high_M = self.low_N[places_M].to(device), self.high_N[places_M].to(device)
            gain_M = gain_M - self.penalty * ((low_M - entropy_M).relu() + (entropy_M - high_M).relu())
        return (self.weight_N[places_M].to(device) * gain_M).sum()


class EntropyScheme(Part):
    """What is added to the loss, times −`entropy_coef`."""

    needs_batch: ClassVar[bool] = False
    """Whether it looks at all entropies of the optimizer step first, which costs a pass without gradient."""

    @property
    def nucleus(self) -> float:
        """Probability mass over which entropies are taken; 1 for the whole distribution."""
        return 1.0

    def fitted(self, step: EntropyStep) -> Gain:
        """The term of an optimizer step."""
        raise NotImplementedError


class Bonus(EntropyScheme):
    """The plain token mean of the entropy."""

    name: Literal["bonus"] = "bonus"

    def fitted(self, step: EntropyStep) -> Gain:
        """The term of an optimizer step."""
        return Gain(torch.ones(len(step.turn_N)), len(step.turn_N))


class EPO(EntropyScheme):
    """Entropy mean less β_k × α × what leaves the corridor [κ_l·H̄, κ_r·H̄] (EPO, 2509.22576v2).

    H̄ is the mean of all past steps' entropies at the same turn of the episode: a band per turn, as in the authors'
    code; the paper's is one for all. The penalty is the paper's, linear outside the band and so with a gradient; the
    code's is a constant and has none. Means are over the tokens of a turn, then turns, then episodes. The weight is
    β_k = 1 + exp(−γ·k/⌊K/2⌋) in iteration k of K. A turn that no step has had yet has no band. γ is our choice: the
    paper gives none.
    """

    name: Literal["epo"] = "epo"
    low: float = Field(default=0.0, ge=0)
    """κ_l: 0 in the reported runs, that is no lower bound."""
    high: float = Field(default=2.0, gt=0)
    """κ_r."""
    penalty: float = Field(default=0.1, gt=0)
    """α: 0.1 on ALFWorld, 0.05 on ScienceWorld."""
    decay: float = Field(default=1.0, ge=0)
    """γ: how fast β_k falls from 2 to 1."""

    @model_validator(mode="after")
    def _consistent(self) -> EPO:
        if not self.low < self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        return self

    def fitted(self, step: EntropyStep) -> Gain:
        """The term of an optimizer step."""
        pairs, turn_of_N = torch.unique(torch.stack([step.sequence_N, step.turn_N]), dim=1, return_inverse=True)
        tokens_T = sums(torch.ones(len(turn_of_N)), turn_of_N)
        turns_S = sums(torch.ones(pairs.shape[1]), pairs[0])
        weight_N = 1 / (len(turns_S) * turns_S[step.sequence_N] * tokens_T[turn_of_N])
        mean_N = step.history.mean(step.turn_N)
        strength = self.penalty * (1 + math.exp(-self.decay * step.progress))
        low_N = torch.where(mean_N.isnan(), -math.inf, self.low * mean_N)
        high_N = torch.where(mean_N.isnan(), math.inf, self.high * mean_N)
        return Gain(weight_N.float(), 1.0, strength, low_N, high_N)


class SIREN(EntropyScheme):
    """−(H̄ − anchor)², H̄ over the likely words at the least certain tokens (SIREN, 2509.25133).

    Entropies are those of the top-p nucleus, renormalised; H̄ is their mean over the `share` of the step's tokens where
    they are highest; the anchor is H̄ at the run's first step. So neither nonsense words nor sure tokens are made more
    random, and randomness is held, not driven up. The parts are the paper's; the numbers, the renormalisation and that
    the share is of the step's tokens are our choice.
    """

    name: Literal["siren"] = "siren"
    top_p: float = Field(default=0.9, gt=0, lt=1)
    """Probability mass of the nucleus."""
    share: float = Field(default=0.2, gt=0, le=1)
    """Part of the tokens that count."""
    needs_batch: ClassVar[bool] = True

    @property
    def nucleus(self) -> float:
        """Probability mass over which entropies are taken."""
        return self.top_p

    def fitted(self, step: EntropyStep) -> Gain:
        """The term of an optimizer step; the first one's mean becomes the anchor."""
        if step.entropy_N is None:
            raise ValueError("SIREN needs the entropies of the whole step")
        num = max(1, round(self.share * len(step.entropy_N)))
        peak_N = step.entropy_N >= step.entropy_N.topk(num).values[-1]
        mean = float(step.entropy_N[peak_N].double().mean())
        if step.history.anchor is None:
            step.history.anchor = mean
        # −(H̄ − a)² has the gradient −2(H̄ − a) of every entropy in the mean.
        return Gain(-2 * (mean - step.history.anchor) * peak_N.float(), float(peak_N.sum()))
