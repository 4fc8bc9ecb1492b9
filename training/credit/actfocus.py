"""ActFocus: the few tokens that act get the gradient, the many that think get little."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from agentkit.lazy import lazy_module
from agentkit.memory.records import Role
from agentkit.training.credit.scheme import Scheme
from agentkit.training.stream import Stream

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")


class ActFocus(Scheme):
    """Token weights of ActFocus (arXiv 2605.14558, eq. 5 and 16).

    Thought tokens weigh α. Action tokens weigh 1 + β·sigmoid((E − μ)/σ), where E is the energy under the frozen
    reference and μ, σ are its mean and standard deviation over the action tokens of the whole training batch. The
    paper's ablation puts other signals in the place of E (`signal`).
    The paper leaves open what format tokens and malformed turns weigh; here both weigh 1, so that the format
    penalty can teach at full strength.
    """

    name: Literal["actfocus"] = "actfocus"
    alpha: float = Field(default=0.1, ge=0, le=1)
    """Weight of thought tokens."""
    beta: float = Field(default=0.5, ge=0)
    """Extra weight of uncertain action tokens."""
    signal: Literal["energy", "entropy", "nll", "shift"] = "energy"
    """What tells an uncertain action token: the reference's energy, the reference's entropy, −log π_old, or
    log π_old − log π_ref. Without meaning where β = 0."""
    format_weight: float = Field(default=1.0, ge=0)
    """Weight of `<answer>` tags and the end of sequence."""
    other_weight: float = Field(default=1.0, ge=0)
    """Weight of tokens outside the spans, and of all tokens of a malformed turn."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the variance of the signal."""

    @property
    def needs_reference(self) -> bool:
        """Whether a pass of the reference model is needed."""
        return self.beta > 0 and self.signal != "nll"

    def weights(self, stream: Stream) -> torch.Tensor:
        """[N] weight of each sampled token of the training batch."""
        role_N = stream.role_N
        weight_N = torch.full((len(role_N),), self.other_weight)
        weight_N[role_N == Role.THOUGHT] = self.alpha
        weight_N[role_N == Role.FORMAT] = self.format_weight
        action_N = role_N == Role.ACTION
        weight_N[action_N] = 1.0
        if self.beta > 0 and action_N.any():
            signal = self._signal(stream)[action_N].double()
            deviation = ((signal - signal.mean()).square().mean() + self.epsilon).sqrt()
            gate = torch.sigmoid((signal - signal.mean()) / deviation)
            weight_N[action_N] = (1.0 + self.beta * gate).float()
        return weight_N

    def _signal(self, stream: Stream) -> torch.Tensor:
        if self.signal == "nll":
            return -stream.old_logp_N
        if stream.reference is None:
            raise ValueError(f"ActFocus with beta > 0 needs the reference's {self.signal}")
        if self.signal == "shift":
            return stream.old_logp_N - stream.reference.logp_N
        return stream.reference.energy_N if self.signal == "energy" else stream.reference.entropy_N
