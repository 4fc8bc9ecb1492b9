"""Evidence of harm that may be looked at as often as one likes: wagers against the claim that a memory does none.

Whoever looks at a 95 % interval after every episode sees it cross zero sooner or later. A wager does not wear out: play
starts with 1 and stakes a part of what there is on every coin, at odds that are fair if the memory does no harm.
Then it reaches 20 with probability 1/20 at most, at any time (Ville's inequality; Waudby-Smith & Ramdas 2023, §4).
"""

from __future__ import annotations

import numpy as np

from agentkit.memory.trials import Floats, Ints

HARMFUL = 20.0
"""Evidence at which a memory counts as harmful: one in twenty harmless ones gets there at most, ever."""
STAKES = (0.5, 1.0, 2.0, 4.0)
"""Parts that are staked on a score; the best is the effect over the variance of outcomes, e.g. 0.3 / 0.2. What is known
only afterwards is not chosen: a quarter is played with each."""
MOST_STAKED = 0.9
"""Most that may be lost at once, as a part of what there is."""
_MOST = 600.0  # logarithm above which a float would overflow


def wager(memory_U: Ints, num_memories: int, score_U: Floats, most_U: Floats) -> Floats:
    """What the play against each memory has come to; [M], 1 where nothing was played.

    Each play multiplies what there is by 1 − stake · score, which is 1 or less on average if the mean score is 0 or
    more, given all that was before.

    Args:
        memory_U: [U] memory of each score.
        num_memories: M.
        score_U: [U] its mean is not below 0 if the memory does no harm.
        most_U: [U] the greatest that the score could have been, known before it was.

    >>> wager(np.array([0, 0, 0]), 2, np.array([-1.0, -1.0, -1.0]), np.ones(3)).round(2).tolist()
    [5.99, 1.0]
    """
    grown = []
    for stake in STAKES:
        staked_U = np.minimum(stake, MOST_STAKED / np.maximum(most_U, 1e-12))
        grown.append(np.bincount(memory_U, np.log1p(-staked_U * score_U), num_memories))
    return np.exp(np.minimum(np.logaddexp.reduce(grown), _MOST)) / len(STAKES)
