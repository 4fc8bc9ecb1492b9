"""Token credit: how much of the gradient each sampled token gets. Weights multiply the loss, not the advantage.

A class each, chosen by its `name`; the weights of several multiply.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, SerializeAsAny

from agentkit.training.credit.actfocus import ActFocus
from agentkit.training.credit.scheme import Scheme
from agentkit.training.credit.top import D3S, Forks
from agentkit.training.credit.turns import Pivot, Recalled
from agentkit.training.settings import OrOwn, Settings
from agentkit.training.stream import Stream


class Uniform(Scheme):
    """Every sampled token counts the same: the plain token mean."""

    name: Literal["uniform"] = "uniform"


if TYPE_CHECKING:
    Factor = Scheme
else:
    Factor = SerializeAsAny[
        Annotated[Uniform | ActFocus | Forks | D3S | Recalled | Pivot, Field(discriminator="name"), OrOwn(Scheme)]
    ]
"""A credit scheme; see `Scheme`."""


class Product(Settings):
    """Several schemes at once: their weights multiply."""

    name: Literal["product"] = "product"
    factors: tuple[Factor, ...] = Field(min_length=1)

    @property
    def needs_reference(self) -> bool:
        """Whether one of them needs a pass of the reference model."""
        return any(factor.needs_reference for factor in self.factors)

    @property
    def needs_policy(self) -> bool:
        """Whether one of them needs a pass of the policy before it learns."""
        return any(factor.needs_policy for factor in self.factors)


if TYPE_CHECKING:
    Credit = Scheme | Product
else:
    Credit = SerializeAsAny[
        Annotated[
            Uniform | ActFocus | Forks | D3S | Recalled | Pivot | Product, Field(discriminator="name"), OrOwn(Scheme)
        ]
    ]
"""A scheme, or several."""


def weighed(credit: Credit, stream: Stream) -> Stream:
    """The stream, its tokens' losses multiplied by the weights of a scheme."""
    weight_N, factor_N = stream.weight_N, stream.factor_N
    for scheme in credit.factors if isinstance(credit, Product) else (credit,):
        if scheme.counted:
            weight_N = weight_N * scheme.weights(stream)
        else:
            factor_N = factor_N * scheme.weights(stream)
    return replace(stream, weight_N=weight_N, factor_N=factor_N)


__all__ = [
    "D3S",
    "ActFocus",
    "Credit",
    "Factor",
    "Forks",
    "Pivot",
    "Product",
    "Recalled",
    "Scheme",
    "Uniform",
    "weighed",
]
