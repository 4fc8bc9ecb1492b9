"""Filters: which groups of an iteration are learnt from, and whether others are collected in place of those left out.

A filter sees two numbers a group: the sample variance of its returns, and its success rate. Whole groups stay or go,
never single attempts.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny

from agentkit.training.advantages import Outcomes, within_groups
from agentkit.training.settings import OrOwn, Part

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Filter(Part):
    """Which groups stay."""

    scaling: Literal["none", "linear", "sqrt"] = "none"
    """Factor of the policy loss: 1, the share of groups kept, or its root (RAGEN-2's code; `none` there too)."""
    stop_after: int | None = Field(default=None, ge=1)
    """Iterations in a row without any group to learn from after which training ends; None goes on."""

    @property
    def rounds(self) -> int:
        """Most rounds of collecting in an iteration."""
        return 1

    def kept(self, variance_G: Floats, rate_G: Floats) -> Bools:
        """[G] True for the groups that are learnt from.

        Args:
            variance_G: Σ(R − R̄)²/(n − 1) of each group of n attempts; 0 where all returns are equal.
            rate_G: Share of each group's attempts that succeeded.
        """
        raise NotImplementedError

    def scale(self, kept: int, total: int) -> float:
        """Factor of the policy loss when so many of all groups stay."""
        share = kept / total if total else 0.0
        return {"none": 1.0, "linear": share, "sqrt": math.sqrt(share)}[self.scaling]


class TopShare(Filter):
    """StarPO-S (RAGEN, 2504.20073): the `share` of groups, rounded up, whose returns deviate most; never an equal one.

    >>> TopShare(share=0.5).kept(np.array([0.1, 0.0, 0.3, 0.2]), np.full(4, 0.5)).tolist()
    [False, False, True, True]
    """

    name: Literal["top-share"] = "top-share"
    share: float = Field(default=0.25, gt=0, le=1)

    def kept(self, variance_G: Floats, rate_G: Floats) -> Bools:
        """[G] True for the groups that are learnt from."""
        num = math.ceil(self.share * len(variance_G) - 1e-9)
        return _first(variance_G, num)


class TopP(Filter):
    """RAGEN-2's filter (2604.06268): the fewest groups that hold ρ of all variance of returns; never an equal one.

    >>> TopP(mass=0.9).kept(np.array([0.1, 0.0, 0.3, 0.2, 0.04]), np.full(5, 0.5)).tolist()
    [True, False, True, True, False]
    """

    name: Literal["top-p"] = "top-p"
    mass: float = Field(default=0.9, gt=0, le=1)
    """ρ."""
    stop_after: int | None = Field(default=5, ge=1)
    """Iterations in a row without any group to learn from after which training ends; None goes on."""

    def kept(self, variance_G: Floats, rate_G: Floats) -> Bools:
        """[G] True for the groups that are learnt from."""
        held = np.cumsum(-np.sort(-variance_G))
        enough = self.mass * held[-1] * (1 - 1e-12)  # the last sum and ρ = 1 differ by rounding
        return _first(variance_G, int(np.searchsorted(held, enough)) + 1)


class Dynamic(Filter):
    """Dynamic sampling (DAPO, 2503.14476): groups that all succeed or all fail go, and new tasks come in their place.

    Only as many tasks as are missing are collected in a further round (DAPO collects a whole batch and cuts it). After
    `most_rounds` the iteration learns from what it has.

    >>> Dynamic().kept(np.array([0.1, 0.0, 0.3]), np.array([0.5, 0.0, 1.0])).tolist()
    [True, False, False]
    >>> Dynamic(metric="return").kept(np.array([0.1, 0.0, 0.3]), np.array([0.5, 0.0, 1.0])).tolist()
    [True, False, True]
    """

    name: Literal["dynamic"] = "dynamic"
    most_rounds: int = Field(default=10, ge=1)
    """Most rounds of collecting in an iteration, the first included; 10 in DAPO's code."""
    metric: Literal["success", "return"] = "success"
    """What must differ within a group: success, DAPO's accuracy, which no penalty changes; or the return, for
    environments that reward by degrees."""

    @property
    def rounds(self) -> int:
        """Most rounds of collecting in an iteration."""
        return self.most_rounds

    def kept(self, variance_G: Floats, rate_G: Floats) -> Bools:
        """[G] True for the groups that are learnt from."""
        differs_G = variance_G > 0
        return differs_G & (rate_G > 0) & (rate_G < 1) if self.metric == "success" else differs_G


if TYPE_CHECKING:
    AnyFilter = Filter
else:
    AnyFilter = SerializeAsAny[Annotated[TopShare | TopP | Dynamic, Field(discriminator="name"), OrOwn(Filter)]]
"""A filter; see `Filter`."""


def kept_groups(rule: AnyFilter, outcomes: Outcomes) -> Bools:
    """[G] True for the groups of a batch that are learnt from."""
    return rule.kept(group_variances(outcomes.return_E, outcomes.group_E), _rates(outcomes))


def _rates(outcomes: Outcomes) -> Floats:
    return np.bincount(outcomes.group_E, outcomes.success_E) / np.bincount(outcomes.group_E)


def group_variances(return_E: Floats, group_E: NDArray[np.int64]) -> Floats:
    """[G] sample variance of each group's returns, 0 of one attempt.

    >>> group_variances(np.array([0.0, 1.0, 5.0]), np.array([0, 0, 1])).tolist()
    [0.5, 0.0]
    """
    num = int(group_E.max()) + 1
    deviation_G = within_groups(return_E, group_E, num)[1]
    count_G = np.bincount(group_E, minlength=num)
    return deviation_G**2 * count_G / np.maximum(count_G - 1, 1)


def _first(variance_G: Floats, num: int) -> Bools:
    """[G] True for the `num` greatest above 0; of equal ones the earlier."""
    kept_G = np.zeros(len(variance_G), np.bool_)
    kept_G[np.argsort(-variance_G, kind="stable")[:num]] = True
    return kept_G & (variance_G > 0)
