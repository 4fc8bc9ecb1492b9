"""When to recall nothing: a threshold on relevance that keeps memories which do not help from being shown too often."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agentkit.errors import ConfigError
from agentkit.memory.records import Record


class Abstention(Record):
    """A memory is shown if its relevance is greater than `threshold`.

    Split conformal prediction (Vovk, Gammerman & Shafer 2005; Angelopoulos & Bates 2021), as conformal risk control
    (Angelopoulos et al. 2022, theorem 1) with the loss "shown, and did not help":

        P(relevance > threshold and not helpful) <= alpha

    *If* the labelled pairs and the next one are exchangeable (drawn alike, in no special order), and for nothing else:
    the probability is over the labels *and* the next pair, one pair at a time, not given that something is shown, and
    not for every environment or query by itself. Labels must come from recalls that were not cut by a threshold; a
    change of the embedder, of the policy or of what is remembered asks for new ones.
    """

    threshold: float
    """0 shows whatever has any relevance, 1 nothing."""
    alpha: float
    """The share of recalls in which a memory may be shown that does not help."""
    num_labels: int
    num_unhelpful: int

    @classmethod
    def fit(cls, labels: Sequence[tuple[float, bool]], alpha: float = 0.1) -> Abstention:
        """The lowest threshold that keeps the promise, from pairs (relevance in [0, 1], helped).

        Of n labels, floor(alpha · (n + 1)) - 1 may be unhelpful and above the threshold. With fewer than 1/alpha - 1
        labels no threshold can be vouched for, and nothing is shown.

        >>> labels = [(0.9, True), (0.8, False), (0.7, True), (0.6, False), (0.5, False)] + [(0.4, True)] * 4
        >>> Abstention.fit(labels, alpha=0.2).threshold  # floor(0.2 · 10) - 1 = 1 unhelpful one may pass: the 0.8
        0.6

        Raises:
            ConfigError: An `alpha` outside (0, 1), or a relevance outside [0, 1].
        """
        if not 0.0 < alpha < 1.0:
            raise ConfigError(
                f"alpha {alpha:g} must be between 0 and 1: 0.1 lets one recall in ten show what is no help"
            )
        for relevance, _ in labels:
            if not 0.0 <= relevance <= 1.0:
                raise ConfigError(f"relevance {relevance:g} is outside [0, 1]; rescale it first")
        unhelpful = sorted((relevance for relevance, helped in labels if not helped), reverse=True)
        allowed = math.floor(alpha * (len(labels) + 1) + 1e-9) - 1  # 1e-9: 0.29 · 100 is 28.999999999999996
        if allowed < 0:
            threshold = 1.0
        elif allowed >= len(unhelpful):
            threshold = 0.0
        else:
            threshold = unhelpful[allowed]
        return cls(threshold=threshold, alpha=alpha, num_labels=len(labels), num_unhelpful=len(unhelpful))

    def shows(self, relevance: float) -> bool:
        """Whether a memory of this relevance is shown."""
        return relevance > self.threshold
