"""Token credit: how much of the gradient each sampled token gets. Weights multiply the loss, not the advantage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentkit.memory.records import Role

if TYPE_CHECKING:
    import torch


class Uniform(BaseModel):
    """Every sampled token counts the same: the plain token mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["uniform"] = "uniform"
    needs_energy: ClassVar[bool] = False

    def weights(self, role_N: torch.Tensor, energy_N: torch.Tensor | None) -> torch.Tensor:
        """[N] ones."""
        import torch

        return torch.ones(len(role_N))


class ActFocus(BaseModel):
    """The few tokens that act get the gradient, the many that think get little (arXiv 2605.14558, eq. 5 and 16).

    Thought tokens weigh α. Action tokens weigh 1 + β·sigmoid((E − μ)/σ), where E is the energy under the frozen
    reference and μ, σ are its mean and standard deviation over the action tokens of the whole training batch.
    The paper leaves open what format tokens and malformed turns weigh; here both weigh 1, so that the format
    penalty can teach at full strength.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["actfocus"] = "actfocus"
    alpha: float = Field(default=0.1, ge=0, le=1)
    """Weight of thought tokens."""
    beta: float = Field(default=0.5, ge=0)
    """Extra weight of uncertain action tokens."""
    format_weight: float = Field(default=1.0, ge=0)
    """Weight of `<answer>` tags and the end of sequence."""
    other_weight: float = Field(default=1.0, ge=0)
    """Weight of tokens outside the spans, and of all tokens of a malformed turn."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the variance of the energy."""

    @property
    def needs_energy(self) -> bool:
        """Whether a pass of the reference model is needed."""
        return self.beta > 0

    def weights(self, role_N: torch.Tensor, energy_N: torch.Tensor | None) -> torch.Tensor:
        """[N] weight of each sampled token of the training batch.

        Args:
            role_N: [N] `Role` of each token.
            energy_N: [N] energy under the reference; may be None if β is 0.

        >>> import torch
        >>> role = torch.tensor([Role.THOUGHT, Role.ACTION, Role.ACTION, Role.FORMAT])
        >>> ActFocus().weights(role, torch.tensor([9.0, -1.0, 1.0, 9.0])).round(decimals=3).tolist()
        [0.1..., 1.13..., 1.36..., 1.0]
        """
        import torch

        weight_N = torch.full((len(role_N),), self.other_weight)
        weight_N[role_N == Role.THOUGHT] = self.alpha
        weight_N[role_N == Role.FORMAT] = self.format_weight
        action_N = role_N == Role.ACTION
        weight_N[action_N] = 1.0
        if self.beta > 0 and action_N.any():
            if energy_N is None:
                raise ValueError("ActFocus with beta > 0 needs the reference's energy")
            energy = energy_N[action_N].double()
            deviation = ((energy - energy.mean()).square().mean() + self.epsilon).sqrt()
            gate = torch.sigmoid((energy - energy.mean()) / deviation)
            weight_N[action_N] = (1.0 + self.beta * gate).float()
        return weight_N


Credit = Annotated[Uniform | ActFocus, Field(discriminator="name")]
"""A credit scheme, chosen by its `name`."""
