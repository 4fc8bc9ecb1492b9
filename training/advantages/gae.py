"""GAE: advantages of single tokens from a value head, as PPO uses them."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from agentkit.errors import PolicyFault
from agentkit.training.advantages.estimator import Estimator
from agentkit.training.advantages.outcomes import Floats, Ints, Outcomes, discounted_sums


class TokenEstimate(NamedTuple):
    """What values of tokens lead to."""

    advantage_N: Floats
    """Advantage of each token, whitened if asked for."""
    target_N: Floats
    """λ-return of each token, what its value should have been: advantage before whitening + value."""


class GAE(Estimator):
    """Σ_k (γλ)^k δ, δ = r + γV' − V, over the sampled tokens of an episode (Schulman et al. 2016, 1506.02438, eq. 16).

    Prompt tokens between the turns are no steps: the token after a turn's last one is the next turn's first. The
    reward of a turn is earned by its last token. γ = λ = 1 is the setting of RAGEN and ActFocus (eq. 12).
    """

    name: Literal["gae"] = "gae"
    needs_values: ClassVar[Literal["token", "turn"] | None] = "token"
    gamma: float = Field(default=1.0, ge=0, le=1)
    """Discount of a token."""
    lam: float = Field(default=1.0, ge=0, le=1)
    """λ: 0 trusts the values, 1 the rewards."""
    whiten: bool = True
    """Whether advantages are brought to mean 0 and deviation 1 over the batch's tokens, as PPO codes do; the source
    paper does not."""
    bootstrap: bool = True
    """Whether an episode that a limit cut goes on in its value, as a limit that the policy does not see asks for (Pardo
    et al. 2018, 1712.00378). False where running out of turns is a loss, as RAGEN's and ActFocus's code has it."""
    value_clip: float = Field(default=0.2, gt=0)
    """How far a value may move from its old one before `value_loss` stops pulling; PPO's own ε."""
    value_coef: float = Field(default=0.5, ge=0)
    """Factor of the value loss, where head and policy share a network (Schulman et al. 2017, eq. 9, c₁)."""
    value_rate: float = Field(default=10.0, gt=0)
    """Learning rate of the value head as a multiple of the policy's: 1e-5 to 1e-6 in RAGEN and ActFocus."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the standard deviation of the whitening."""

    @model_validator(mode="after")
    def _consistent(self) -> GAE:
        self._need_divided("whiten", self.epsilon)
        return self

    def estimate(
        self, outcomes: Outcomes, turn_N: Ints, value_N: Floats, *, after_E: Floats | None = None
    ) -> TokenEstimate:
        """Advantages and value targets of all sampled tokens of the batch, before it is split into steps.

        Args:
            outcomes: What the turns earned.
            turn_N: Place of each token's turn among the U, in the order of sampling, so it never falls.
            value_N: Value of what stands before each token, from the hidden state that predicts it.
            after_E: Value of what follows each episode's last token: of the next observation, where a limit cut the
                episode. By default 0: it is over.

        Raises:
            PolicyFault: A value is not finite.
        """
        if not len(turn_N) == len(value_N) or np.any(np.diff(turn_N) < 0):
            raise ValueError("turn_N and value_N need the same length, and turn_N the order of sampling")
        if not np.isfinite(value_N).all():
            raise PolicyFault("a value is not finite, so the value head is broken; resume from the last checkpoint")
        starts = np.searchsorted(turn_N, outcomes.starts)
        filled = np.flatnonzero(np.diff(starts))  # episodes with tokens
        next_N = np.append(value_N[1:], 0.0)
        next_N[starts[1:][filled] - 1] = 0.0 if after_E is None else after_E[filled]
        delta_N = _token_rewards(outcomes, turn_N, starts) + self.gamma * next_N - value_N
        advantage_N = discounted_sums(delta_N, starts, self.gamma * self.lam)
        target_N = advantage_N + value_N
        if self.whiten and len(advantage_N):
            centred_N = advantage_N - advantage_N.mean()
            advantage_N = centred_N / (np.sqrt(np.mean(centred_N**2)) + self.epsilon)
        return TokenEstimate(advantage_N, target_N)


def _token_rewards(outcomes: Outcomes, turn_N: Ints, starts: Ints) -> Floats:
    """[N] each turn's reward at its last token, or, of a turn without tokens, at the episode's last one before it."""
    last_U = np.searchsorted(turn_N, np.arange(len(outcomes.reward_U)), side="right") - 1
    earned_U = last_U >= starts[outcomes.episode_U]  # what came before the first token was no token's doing
    return np.bincount(last_U[earned_U], outcomes.reward_U[earned_U], len(turn_N)).astype(np.float64, copy=False)
