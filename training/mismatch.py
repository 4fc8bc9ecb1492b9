"""Mismatch: the policy μ that sampled the tokens is not quite the one that learns: weigh them, or leave them out.

Engines, precisions and stale weights all make log μ and log π_old differ. Corrections carry no gradient and are set
once, before learning.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from agentkit.lazy import lazy_module
from agentkit.training.losses.terms import LOG_RATIO_BOUND, effective_sample_size, means, sums
from agentkit.training.settings import Settings

if TYPE_CHECKING:
    import torch

    from agentkit.training.stream import Stream
else:
    torch = lazy_module("torch")


class TokenTIS(Settings):
    """min(ρ, C) of each token, ρ = π_old/μ: truncated importance sampling."""

    name: Literal["token-tis"] = "token-tis"
    cap: float = Field(default=2.0, gt=0)
    """C; 2 in verl."""

    def weights(self, log_N: torch.Tensor, sequence_N: torch.Tensor) -> torch.Tensor:
        """[N] from log ρ."""
        return log_N.exp().clamp(max=self.cap)


class SequenceTIS(Settings):
    """min(Π ρ, C), the product over the sequence: without bias but for the cap, and of much higher variance."""

    name: Literal["sequence-tis"] = "sequence-tis"
    cap: float = Field(default=2.0, gt=0)
    """C; 2 in verl."""

    def weights(self, log_N: torch.Tensor, sequence_N: torch.Tensor) -> torch.Tensor:
        """[N] from log ρ."""
        product_S = sums(log_N, sequence_N).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
        return product_S.clamp(max=self.cap)[sequence_N]


class IcePop(Settings):
    """ρ of each token if it is within bounds, else 0: tokens the two policies disagree on teach nothing.

    With `low` = 0 it is TRL's `token_mask`.
    """

    name: Literal["icepop"] = "icepop"
    low: float = Field(default=0.5, ge=0)
    """Least ρ kept."""
    high: float = Field(default=5.0, gt=0)
    """Greatest ρ kept."""

    @model_validator(mode="after")
    def _consistent(self) -> IcePop:
        return _ordered(self)

    def weights(self, log_N: torch.Tensor, sequence_N: torch.Tensor) -> torch.Tensor:
        """[N] from log ρ."""
        ratio_N = log_N.exp()
        return torch.where((ratio_N >= self.low) & (ratio_N <= self.high), ratio_N, 0.0)


class SequenceIcePop(Settings):
    """Π ρ of each sequence if it is within bounds, else 0 (TRL's `sequence_mask`)."""

    name: Literal["sequence-icepop"] = "sequence-icepop"
    low: float = Field(default=0.0, ge=0)
    """Least Π ρ kept; TRL sets no bound."""
    high: float = Field(default=3.0, gt=0)
    """Greatest Π ρ kept; TRL's."""

    @model_validator(mode="after")
    def _consistent(self) -> SequenceIcePop:
        return _ordered(self)

    def weights(self, log_N: torch.Tensor, sequence_N: torch.Tensor) -> torch.Tensor:
        """[N] from log ρ."""
        product_S = sums(log_N, sequence_N).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
        return torch.where((product_S >= self.low) & (product_S <= self.high), product_S, 0.0)[sequence_N]


class SequenceMIS(Settings):
    """Leaves out sequences whose Π ρ is out of bounds (`seq_sum_k1` in verl)."""

    name: Literal["seq-mis"] = "seq-mis"
    low: float = Field(default=0.5, gt=0)
    """Least Π ρ kept."""
    high: float = Field(default=2.0, gt=0)
    """Greatest Π ρ kept."""
    counted: ClassVar[bool] = False

    @model_validator(mode="after")
    def _consistent(self) -> SequenceMIS:
        return _ordered(self)

    def kept(self, log_N: torch.Tensor, sequence_N: torch.Tensor, advantage_N: torch.Tensor) -> torch.Tensor:
        """[N] True for the tokens of the sequences that stay."""
        total_S = sums(log_N, sequence_N)
        return ((total_S >= math.log(self.low)) & (total_S <= math.log(self.high)))[sequence_N]


class GeometricRS(Settings):
    """Leaves out sequences whose geometric mean of ρ is out of bounds (`seq_mean_k1` in verl)."""

    name: Literal["geo-rs"] = "geo-rs"
    low: float = Field(default=0.999, gt=0)
    """Least mean kept."""
    high: float = Field(default=1.001, gt=0)
    """Greatest mean kept."""
    counted: ClassVar[bool] = False

    @model_validator(mode="after")
    def _consistent(self) -> GeometricRS:
        return _ordered(self)

    def kept(self, log_N: torch.Tensor, sequence_N: torch.Tensor, advantage_N: torch.Tensor) -> torch.Tensor:
        """[N] True for the tokens of the sequences that stay."""
        mean_S = means(log_N, sequence_N)
        return ((mean_S >= math.log(self.low)) & (mean_S <= math.log(self.high)))[sequence_N]


class K3RS(Settings):
    """Leaves out sequences whose mean of ρ − 1 − log ρ, the k3 estimate of KL(μ‖π_old), is too large."""

    name: Literal["k3-rs"] = "k3-rs"
    most: float = Field(default=0.01, gt=0)
    """Greatest mean kept, in nats."""
    counted: ClassVar[bool] = False

    def kept(self, log_N: torch.Tensor, sequence_N: torch.Tensor, advantage_N: torch.Tensor) -> torch.Tensor:
        """[N] True for the tokens of the sequences that stay."""
        return (means(_k3(log_N), sequence_N) <= self.most)[sequence_N]


class OffPolicy(Settings):
    """Silences bad tokens (Â < 0) of sequences that are off-policy: mean of log μ − log π_old above a bound.

    What the policy would hardly say any more need not be unlearnt (DeepSeek-V3.2, 2512.02556, eq. 9; TRL's
    `off_policy_mask_threshold`). As there, the divisor goes on counting what is silent. Both look at the policy as it
    learns; this is set once, before learning, which is the same in the first optimizer step of an iteration.
    """

    name: Literal["off-policy"] = "off-policy"
    most: float = Field(default=0.5, gt=0)
    """Greatest mean, in nats; TRL's example."""
    counted: ClassVar[bool] = True

    def kept(self, log_N: torch.Tensor, sequence_N: torch.Tensor, advantage_N: torch.Tensor) -> torch.Tensor:
        """[N] False for the tokens that are silent."""
        return (advantage_N >= 0) | (means(-log_N, sequence_N) <= self.most)[sequence_N]


Weighing = Annotated[TokenTIS | SequenceTIS | IcePop | SequenceIcePop, Field(discriminator="name")]
"""How much each token counts."""
Rejection = Annotated[SequenceMIS | GeometricRS | K3RS | OffPolicy, Field(discriminator="name")]
"""What is left out; `counted` says whether divisors go on counting it."""


class Mismatch(Settings):
    """Correction of tokens of μ for π_old (verl's `rollout_correction`), decoupled from the ratio π/π_old of the loss.

    Factors multiply the loss; its divisor counts every token that stays. What is left out leaves both, unless its rule
    has it `counted`. A sequence is an episode.
    """

    weigh: Weighing | None = Field(default_factory=TokenTIS)
    """None counts every token that stays alike."""
    reject: tuple[Rejection, ...] = ()
    """One after the other; a sequence must pass all."""
    normalise: bool = False
    """Divide the factors by their mean over the tokens that stay (verl's batch normalisation)."""

    @model_validator(mode="after")
    def _consistent(self) -> Mismatch:
        if self.weigh is None and not self.reject:
            raise ValueError("weigh = None and reject = () correct nothing; leave mismatch out")
        if self.weigh is None and self.normalise:
            raise ValueError("normalise needs factors; choose weigh, or leave normalise out")
        return self

    def corrected(self, stream: Stream) -> tuple[Stream, dict[str, float]]:
        """(the stream, its tokens weighed or left out; metrics).

        Tokens whose loss the plan sets are left alone: its ratio is to μ already.
        """
        told = stream.old_logp_N, stream.behaviour_logp_N, stream.episode_N, stream.advantage_N
        own_N = (
            torch.ones_like(stream.old_logp_N, dtype=torch.bool) if stream.injected_N is None else ~stream.injected_N
        )
        factor_N, stays_N = torch.ones_like(stream.factor_N), torch.ones_like(own_N)
        factor_N[own_N], stays_N[own_N], found = self.factors(*(each[own_N] for each in told))
        weighed = replace(stream, factor_N=stream.factor_N * factor_N, weight_N=stream.weight_N * stays_N)
        return weighed, found

    def factors(
        self,
        old_logp_N: torch.Tensor,
        behaviour_logp_N: torch.Tensor,
        sequence_N: torch.Tensor,
        advantage_N: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        """([N] factor of each token, ≥ 0 and without gradient; [N] whether it stays; metrics).

        Args:
            old_logp_N: log π_old of each sampled token.
            behaviour_logp_N: log μ of it.
            sequence_N: Its episode.
            advantage_N: Its advantage.

        >>> old, behaviour = torch.tensor([0.4, 0.2]).log(), torch.tensor([0.1, 0.4]).log()
        >>> Mismatch().factors(old, behaviour, torch.tensor([0, 0]), torch.ones(2))[0]
        tensor([2.0000, 0.5000])
        """
        log_N = (old_logp_N - behaviour_logp_N).detach().double().clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
        _, place_N = torch.unique(sequence_N, return_inverse=True)
        stays_N = torch.ones_like(log_N, dtype=torch.bool)
        factor_N = torch.ones_like(log_N) if self.weigh is None else self.weigh.weights(log_N, place_N)
        for rejection in self.reject:
            kept_N = rejection.kept(log_N, place_N, advantage_N)
            if rejection.counted:
                factor_N = factor_N * kept_N
            else:
                stays_N &= kept_N
        if self.normalise and bool(stays_N.any()):
            factor_N = factor_N / factor_N[stays_N].mean().clamp(min=1e-8)
        return (
            factor_N.float(),
            stays_N,
            {
                "mismatch/ess": effective_sample_size(factor_N * stays_N),
                "mismatch/rejected": float(1 - stays_N.double().mean()),
                "mismatch/zeroed": float((factor_N == 0)[stays_N].double().sum()) / max(1, int(stays_N.sum())),
                "mismatch/max_ratio": float(log_N.max().exp()),
                "mismatch/kl_k1": float(-log_N.mean()),
                "mismatch/kl_k3": float(_k3(log_N).mean()),
            },
        )


Band = TypeVar("Band", IcePop, SequenceIcePop, SequenceMIS, GeometricRS)


def _k3(log_N: torch.Tensor) -> torch.Tensor:
    return log_N.exp() - 1 - log_N


def _ordered(bounds: Band) -> Band:
    if not bounds.low < bounds.high:
        raise ValueError(f"low = {bounds.low:g} must be below high = {bounds.high:g}")
    return bounds
