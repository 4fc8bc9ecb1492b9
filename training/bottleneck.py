"""The action-bottleneck diagnostic: does the energy of the tokens that act foretell how outcomes spread?

ActFocus (arXiv 2605.14558, §3): over groups of attempts at the same task, the Spearman correlation between the
group's mean token energy and the variance of its returns, for all sampled tokens, thoughts only, actions only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentkit.memory.records import Episode, Role
from agentkit.training.advantages import group_indices
from agentkit.training.rows import Row

MIN_GROUPS = 30
"""With fewer groups a rank correlation says too little to be reported."""


@dataclass(frozen=True, slots=True)
class GroupEnergy:
    """What one group contributes."""

    return_variance: float
    energy_all: float
    """Mean over attempts of the attempt's mean energy; the paper does not say whether it pools tokens instead."""
    energy_thought: float
    """NaN if the group has no such token."""
    energy_action: float


def group_energy(
    returns: Sequence[float], roles: Sequence[NDArray[np.int8]], energies: Sequence[NDArray[np.float32]]
) -> GroupEnergy:
    """The group's entry, from the return, the token roles [N] and energies [N] of each attempt."""

    def mean(role: Role | None) -> float:
        means = []
        for role_N, energy_N in zip(roles, energies, strict=True):
            chosen = energy_N if role is None else energy_N[role_N == role]
            if len(chosen):
                means.append(float(chosen.mean()))
        return float(np.mean(means)) if means else float("nan")

    return GroupEnergy(float(np.var(returns)), mean(None), mean(Role.THOUGHT), mean(Role.ACTION))


def group_energies(
    episodes: Sequence[Episode], rows: Sequence[Row], energy_N: NDArray[np.float32]
) -> list[GroupEnergy]:
    """The entries of all groups of at least two attempts with tokens.

    Args:
        episodes: The attempts.
        rows: Their rows, all of them.
        energy_N: Energy of the rows' sampled tokens, row after row.
    """
    ends = np.cumsum([row.num_sampled for row in rows])
    roles: dict[int, list[NDArray[np.int8]]] = defaultdict(list)
    energies: dict[int, list[NDArray[np.float32]]] = defaultdict(list)
    for row, end in zip(rows, ends, strict=True):
        role_N = row.roles[row.sampled]
        roles[row.episode].append(role_N)
        energies[row.episode].append(energy_N[end - len(role_N) : end])
    known = [[index for index in indices if index in roles] for indices in group_indices(episodes)]
    return [
        group_energy(
            [episodes[index].episode_return for index in indices],
            [np.concatenate(roles[index]) for index in indices],
            [np.concatenate(energies[index]) for index in indices],
        )
        for indices in known
        if len(indices) > 1
    ]


class Diagnosis:
    """Gathers groups in the iterations before a report, and reports every so many iterations.

    Args:
        every: Iterations between reports; 0 for none.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.groups: list[GroupEnergy] = []

    def is_due(self, iteration: int) -> bool:
        """Whether the iteration's groups are wanted: it is one of the last five before a report."""
        return self.every > 0 and iteration % self.every in {0, *range(max(1, self.every - 4), self.every)}

    def report(self, iteration: int) -> dict[str, float | None]:
        """The metrics, if the iteration is one for a report; too few groups are kept for the next one."""
        if not self.every or iteration % self.every:
            return {}
        found = bottleneck(self.groups)
        if len(self.groups) >= MIN_GROUPS:
            self.groups = []
        return found

    def state(self) -> list[list[float]]:
        """The groups gathered, as JSON values."""
        return [[g.return_variance, g.energy_all, g.energy_thought, g.energy_action] for g in self.groups]

    def restore(self, state: Sequence[Sequence[float]]) -> None:
        """Go on with the groups of `state()`."""
        self.groups = [GroupEnergy(*values) for values in state]


def bottleneck(groups: Sequence[GroupEnergy]) -> dict[str, float | None]:
    """Spearman's ρ for each subset of tokens; None with fewer than 30 groups or without any spread."""
    variance = np.array([group.return_variance for group in groups])
    found: dict[str, float | None] = {}
    for name in ("all", "thought", "action"):
        energy = np.array([getattr(group, f"energy_{name}") for group in groups])
        known = ~np.isnan(energy)
        enough = known.sum() >= MIN_GROUPS
        found[f"bottleneck/{name}"] = spearman(energy[known], variance[known]) if enough else None
    return found


def spearman(x_N: NDArray[np.float64], y_N: NDArray[np.float64]) -> float | None:
    """Pearson's correlation of the ranks, ties at their mean rank; None if either has no spread.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 15.0]))
    0.5
    """

    def rank(values: NDArray[np.float64]) -> NDArray[np.float64]:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        last = np.cumsum(counts)
        return (last - (counts - 1) / 2)[inverse]

    a, b = rank(np.asarray(x_N)), rank(np.asarray(y_N))
    if a.std() == 0 or b.std() == 0:
        return None
    return round(float(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std())), 12)
