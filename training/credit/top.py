"""Schemes that keep the top share of all tokens of the batch and give the rest weight 0."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from agentkit.lazy import lazy_module
from agentkit.training.credit.scheme import Scheme
from agentkit.training.stream import Stream

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


class Forks(Scheme):
    """Only the tokens where the policy was least certain: the forks of the way (80/20 rule, 2506.01939).

    The top share by the entropy of the policy before it learns, over the whole batch and all rows that are learnt
    from, before it is split into steps. The divisor of the loss goes on counting all tokens, as in the paper and in
    TRL's `top_entropy_quantile`: what is left out makes the step smaller.
    """

    name: Literal["forks"] = "forks"
    share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the tokens that are kept; the paper's 20 %."""
    needs_policy: ClassVar[bool] = True
    counted: ClassVar[bool] = False

    def weights(self, stream: Stream) -> torch.Tensor:
        """[N] 1 at the tokens kept, 0 elsewhere."""
        return top_share(_entropies(stream, self.name), self.share)


class D3S(Scheme):
    """Only the tokens with the largest |A|·H, H the policy's entropy (D³S, the level of tokens).

    Its level of rollouts is the modifier `spread`. The divisor of the loss counts the tokens kept: the others are no
    part of the sample. D³S (2509.22115) relaxes the share over the training, which a schedule of `credit.share` does;
    its value is our choice.
    """

    name: Literal["d3s"] = "d3s"
    share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the tokens that are kept."""
    needs_policy: ClassVar[bool] = True

    def weights(self, stream: Stream) -> torch.Tensor:
        """[N] 1 at the tokens kept, 0 elsewhere."""
        return top_share(stream.advantage_N.abs() * _entropies(stream, self.name), self.share)


def top_share(value_N: torch.Tensor, share: float) -> torch.Tensor:
    """[N] 1 at the largest ⌈share·N⌉ values and at those equal to the least of them, 0 elsewhere.

    >>> top_share(torch.tensor([1.0, 5.0, 2.0, 5.0, 0.0]), 0.2).tolist()
    [0.0, 1.0, 0.0, 1.0, 0.0]
    """
    num = len(value_N)
    if num == 0:
        return torch.ones(0)
    kept = math.ceil(share * num - 1e-9)  # 0.07 · 100 is a little more than 7 in binary
    return (value_N >= value_N.kthvalue(num - kept + 1).values).float()


def _entropies(stream: Stream, name: str) -> torch.Tensor:
    if stream.policy is None:
        raise ValueError(f"the credit scheme {name!r} needs the policy's entropy")
    return stream.policy.entropy_N
