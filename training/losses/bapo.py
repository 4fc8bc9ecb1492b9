"""BAPO: clip bounds moved at each optimizer step until good tokens carry their share of the gradient."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from agentkit.training.losses.clip import Clip
from agentkit.training.losses.policy import PolicyLoss
from agentkit.training.losses.terms import Now, ratio


class BAPO(PolicyLoss):
    """Balanced policy optimisation with adaptive clipping (2510.18927), over all tokens of the optimizer step.

    From the tightest bounds on, first the lower bound is raised, which silences bad tokens that have become unlikely,
    then the upper one, which lets good tokens speak that have become likely, until good tokens carry `share` of the
    surrogate: P/(P + N) with P = Σ wρÂ and N = Σ wρ|Â| over the tokens that keep their gradient under the bounds.
    The authors' code counts silenced tokens too, at the value of the bound, which raising the lower bound can only
    increase; the corrected count is what its text intends. Ranges and share are the paper's, the step is the code's.
    """

    name: Literal["bapo"] = "bapo"
    low_least: float = Field(default=0.6, gt=0, lt=1)
    """Lower bound of the ratio at which the search starts."""
    low_most: float = Field(default=0.9, gt=0, lt=1)
    """Highest lower bound."""
    high_least: float = Field(default=1.2, gt=1)
    """Upper bound of the ratio at which the search starts."""
    high_most: float = Field(default=3.0, gt=1)
    """Highest upper bound."""
    step: float = Field(default=0.05, gt=0)
    """By how much a bound moves at a time."""
    share: float = Field(default=0.5, gt=0, lt=1)
    """P/(P + N) at which the search stops."""
    dual: float | None = Field(default=None, gt=1)
    """As `Clip.dual` (3 in the authors' code). The search does not count the bad tokens that it silences."""
    needs_batch: ClassVar[bool] = True

    @model_validator(mode="after")
    def _consistent(self) -> BAPO:
        for least, most in (("low_least", "low_most"), ("high_least", "high_most")):
            if getattr(self, least) > getattr(self, most):
                raise ValueError(f"{least} = {getattr(self, least):g} exceeds {most} = {getattr(self, most):g}")
        return self

    def fitted(self, now: Now, rng: np.random.Generator | None = None) -> Clip:
        """The clip whose bounds the search ends at."""
        ratio_N = ratio(now.logp_N.detach(), now.old_logp_N).double()
        size_N = ratio_N * now.advantage_N.abs()
        if now.weight_N is not None:
            size_N = size_N * now.weight_N
        lows = _places(self.low_least, self.low_most, self.step)
        highs = _places(self.high_least, self.high_most, self.step)
        for low, high in [(low, highs[0]) for low in lows] + [(lows[-1], high) for high in highs[1:]]:
            clip = Clip(low=1 - low, high=high - 1, dual=self.dual)
            kept_N = ~clip.clipped(now)
            good = size_N[kept_N & (now.advantage_N > 0)].sum()
            bad = size_N[kept_N & (now.advantage_N < 0)].sum()
            if good >= self.share * (good + bad):
                break
        return clip


def _places(least: float, most: float, step: float) -> list[float]:
    """least, least + step, … and at last most."""
    inner = [least + step * number for number in range(int((most - least) / step + 1e-9) + 1)]
    return inner if most - inner[-1] < 1e-9 else [*inner, most]
