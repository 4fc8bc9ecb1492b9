"""SumTree: draws in proportion to masses, each draw and each change in O(log n) (Schaul et al. 2016, 1511.05952)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from agentkit.errors import ConfigError


class SumTree:
    """Non-negative masses of numbered places, with the sum of every branch.

    A branch is always its left part plus its right one, never a running sum: it depends on the masses alone, not on the
    order in which they came, and a tree that was built anew draws what the old one would have drawn.

    >>> tree = SumTree([1.0, 0.0, 3.0])
    >>> tree.total, tree.find(0.5), tree.find(1.0), tree.find(3.9)
    (4.0, 0, 2, 2)
    """

    def __init__(self, masses: Iterable[float] = ()) -> None:
        leaves = [float(mass) for mass in masses]
        self._build(leaves, max(1, len(leaves)))

    def _build(self, leaves: list[float], at_least: int) -> None:
        if any(not 0 <= mass < float("inf") for mass in leaves):
            raise ConfigError("the masses of a sum tree must be finite and not negative")
        self._size = 1 << (at_least - 1).bit_length()
        sums = [0.0] * self._size + leaves + [0.0] * (self._size - len(leaves))
        for place in range(self._size - 1, 0, -1):
            sums[place] = sums[2 * place] + sums[2 * place + 1]
        self._sums = sums

    @property
    def total(self) -> float:
        """Sum of all masses."""
        return self._sums[1]

    def __getitem__(self, place: int) -> float:
        return self._sums[self._size + place] if place < self._size else 0.0

    def __setitem__(self, place: int, mass: float) -> None:
        if not 0 <= mass < float("inf"):
            raise ConfigError(f"mass {mass} of a sum tree must be finite and not negative")
        if place >= self._size:
            self._build(self._sums[self._size :], place + 1)
        sums, node = self._sums, self._size + place
        sums[node] = float(mass)
        while node > 1:
            node >>= 1
            sums[node] = sums[2 * node] + sums[2 * node + 1]

    def find(self, mass: float) -> int:
        """The place at which the masses so far, summed from the left, first exceed `mass`; 0 ≤ mass < total."""
        sums, node = self._sums, 1
        while node < self._size:
            node *= 2
            # Rounding may leave a little more to look for than is there: an empty branch is never entered.
            if mass >= sums[node] and sums[node + 1] > 0:
                mass -= sums[node]
                node += 1
        return node - self._size

    def draw(self, num: int, rng: np.random.Generator) -> list[int]:
        """Up to `num` different places, each in proportion to the masses that are left."""
        drawn: list[tuple[int, float]] = []
        while len(drawn) < num and self.total > 0:
            place = self.find(rng.random() * self.total)
            drawn.append((place, self[place]))
            self[place] = 0.0
        for place, mass in drawn:
            self[place] = mass
        return [place for place, _ in drawn]
