"""Recall at every step without a new context at every step: what is shown stays until something is clearly better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from agentkit.errors import ConfigError
from agentkit.memory.selection import Candidate

Choose = Callable[[Sequence[Candidate]], Sequence[Candidate]]
"""Candidates -> those to show, e.g. `select` with its budget; it gets them in the order in which they came."""


class Shown(NamedTuple):
    """What is shown at one step, and what changed."""

    candidates: tuple[Candidate, ...]
    """With the scores they came with, in the order of `Choose`."""
    added: tuple[str, ...]
    """Ids that were not shown at the step before."""
    dropped: tuple[str, ...]
    """Ids that no longer are."""
    fresh: tuple[str, ...]
    """Ids shown for the first time in this episode: a policy that sees its whole history needs only these."""
    churn: float
    """Ids added or dropped as a share of those shown before or now; 0 at the first step, and if nothing is shown."""


class Hysteresis:
    """What one episode is shown, step by step; a newcomer takes the place of a shown memory if it beats it by a margin.

    Args:
        margin: How much better a newcomer's score must be: 0.2 is a fifth. 0 keeps nothing back.
    """

    def __init__(self, margin: float = 0.2) -> None:
        if not 0.0 <= margin < float("inf"):
            raise ConfigError(f"margin {margin:g} must be 0 or more, as a share of the score: 0.2 is a fifth")
        self.margin = margin
        self.start()

    def start(self) -> None:
        """Begin another episode: nothing is shown, nothing has been seen."""
        self.shown: tuple[str, ...] = ()
        """Ids shown at the last step."""
        self.seen: set[str] = set()
        """Ids shown at any step of this episode."""
        self._churns: list[float] = []

    @property
    def churn(self) -> float:
        """Mean churn of the steps after the first; 0 if there are none."""
        return sum(self._churns[1:]) / max(1, len(self._churns) - 1)

    def step(self, candidates: Sequence[Candidate], choose: Choose) -> Shown:
        """What `choose` picks if the scores of what is shown are raised by the margin.

        The margin is on scores; a `choose` that weighs more than scores, as `select` does, may still exchange others. A
        shown memory that is not among the candidates goes, as one that scores 0 does: retrieve `shown` again too.
        """
        before = self.shown
        raised = [one._replace(score=one.score * (1 + self.margin)) if one.id in before else one for one in candidates]
        now = tuple(one.id for one in choose(raised))
        added = tuple(id for id in now if id not in before)
        dropped = tuple(id for id in before if id not in now)
        either = len(before) + len(added)
        churn = (len(added) + len(dropped)) / either if either and self._churns else 0.0
        fresh = tuple(id for id in now if id not in self.seen)
        self.shown = now
        self.seen.update(now)
        self._churns.append(churn)
        own = {one.id: one for one in candidates}
        return Shown(tuple(own[id] for id in now), added, dropped, fresh, churn)
