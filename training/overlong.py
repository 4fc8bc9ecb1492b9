"""Overlong: what happens to responses and episodes that come near a limit or are cut by one (DAPO, 2503.14476)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from agentkit.memory.records import Episode
from agentkit.training.settings import Settings

OverlongFilter = Literal["responses", "episodes"]
"""What is left out of the loss because a limit cut it (§3.4, overlong filtering): `responses` that reached the token
limit, which is the source's where an episode is one response; or whole `episodes` that hold such a response or were
truncated before the environment ended them, our choice for episodes of many."""


class OverlongPenalty(Settings):
    """DAPO's soft overlong punishment (eq. 13) of each response of n sampled tokens, times `factor`:

    0 up to L_max − L_cache, then (n − (L_max − L_cache)) / L_cache, and 1 beyond L_max. In the source an
    episode is a response; here each response of an episode is judged by itself, as a malformed one is.
    """

    max_length: int = Field(ge=1)
    """L_max in tokens: from here on the penalty is whole; 20,480 in the source."""
    cache_length: int = Field(ge=1)
    """L_cache in tokens: over so many before L_max the penalty grows; 4,096 in the source."""
    factor: float = Field(default=1.0, gt=0)
    """The whole penalty; the source's 1 is for rewards of ±1."""

    @property
    def free_length(self) -> int:
        """Longest response that loses nothing."""
        return self.max_length - self.cache_length

    @model_validator(mode="after")
    def _consistent(self) -> OverlongPenalty:
        if self.cache_length > self.max_length:
            raise ValueError(
                f"cache_length = {self.cache_length} exceeds max_length = {self.max_length}: even an empty response "
                "would be overlong"
            )
        return self

    def of(self, tokens_U: NDArray[np.int64]) -> NDArray[np.float64]:
        """[U] what responses of so many tokens lose.

        >>> OverlongPenalty(max_length=20, cache_length=4).of(np.array([16, 17, 20, 30])).tolist()
        [0.0, 0.25, 1.0, 1.0]
        """
        return self.factor * np.clip((tokens_U - self.free_length) / self.cache_length, 0.0, 1.0)


def uncut_turns(episodes: Sequence[Episode], overlong: OverlongFilter) -> list[NDArray[np.bool_]]:
    """For each episode, [T] True at the turns that stay in the loss."""
    if overlong == "responses":
        return [np.array([turn.finish != "length" for turn in episode.turns], np.bool_) for episode in episodes]
    cut = [any(turn.finish == "length" or turn.truncated for turn in episode.turns) for episode in episodes]
    return [np.full(len(episode.turns), not each) for episode, each in zip(episodes, cut, strict=True)]
