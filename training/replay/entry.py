"""Entry: one past episode that may be learnt from again, by its name and what was true of it when it was admitted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One episode worth learning from again."""

    number: int
    """Order of admission."""
    episode_id: str
    """Its id in the episode log."""
    advantage: float
    """R − b at admission, b the mean return of its group."""
    policy_version: int
    """Optimizer steps behind the policy that acted."""
    task: str = ""
    """Key of its task."""
    group: str = ""
    """Id of its group."""
    episode_return: float = 0.0
    """R, penalties included, as the advantages of its iteration had it."""
    mean_logp: float = 0.0
    """Mean log-probability of its sampled tokens under the policy that acted."""
    slot: int = 0
    """Its place among the leaves of the sum tree."""
    turn_advantages: tuple[float, ...] = ()
    """What the run's estimator gave each of its turns; empty where every turn counts as R − b."""
