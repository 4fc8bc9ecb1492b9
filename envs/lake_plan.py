"""The exact optimum of FrozenLake under turn budgets, by dynamic programming.

A turn commits to 1..k actions before anything is seen, so the plan maximises over whole action texts: closed
loop between turns, open loop within one. Shapes: S cells, A = 4 actions, N = 4**n action texts of n actions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ACTION_COST, TURN_COST = 1e-9, 1e-10
"""Break ties among equally successful plans: first fewer expected actions, then fewer turns."""


class LakePlan:
    """Best turn and probability of success for every cell and every number of turns and actions left."""

    def __init__(
        self,
        transitions: tuple[tuple[tuple[tuple[float, int], ...], ...], ...],
        goal: int,
        holes: list[int],
        max_actions_per_turn: int,
    ) -> None:
        """Prepare the plan; values are computed when they are asked for.

        Args:
            transitions: [S][A] results as (cumulative probability, next cell).
            goal: cell that ends the episode with success.
            holes: cells that end it without.
            max_actions_per_turn: k, the longest action text.
        """
        num_cells = len(transitions)
        self._k = max_actions_per_turn
        self._move_ASS = np.zeros((4, num_cells, num_cells))
        for cell, actions in enumerate(transitions):
            for action, results in enumerate(actions):
                before = 0.0
                for bound, following in results:
                    self._move_ASS[action, cell, following] += bound - before
                    before = bound
        self._end_S = np.zeros(num_cells)
        self._end_S[goal] = 1.0
        self._open_S = np.ones(num_cells)
        self._open_S[[goal, *holes]] = 0.0
        self._solved: dict[tuple[int, int], tuple[Array, Array, list[tuple[int, ...]]]] = {}

    def success(self, cell: int, turns_left: int, actions_left: int) -> float:
        """Probability in [0, 1] of reaching the goal from `cell` when every turn is the best one."""
        return float(min(1.0, self._solve(turns_left, actions_left)[1][cell]))

    def best_turn(self, cell: int, turns_left: int, actions_left: int) -> tuple[int, ...]:
        """The best turn's actions, each 0 to 3; empty if no turn or no action is left."""
        return self._solve(turns_left, actions_left)[2][cell]

    def _solve(self, turns: int, actions: int) -> tuple[Array, Array, list[tuple[int, ...]]]:
        """[S] score with tie-breaking costs, [S] probability of success, and S best turns."""
        key = (turns, actions)
        if key not in self._solved:
            self._solved[key] = self._improve(turns, actions)
        return self._solved[key]

    def _improve(self, turns: int, actions: int) -> tuple[Array, Array, list[tuple[int, ...]]]:
        """Bellman's equation over action texts: V(t, b) = max over texts of E[V(t - 1, b - length)]."""
        if turns <= 0 or actions <= 0:
            return self._end_S, self._end_S, [()] * len(self._end_S)
        lengths, scores, chances = [], [], []
        for length in range(1, min(self._k, actions) + 1):
            score_S, chance_S, _ = self._solve(turns - 1, actions - length)
            score_NS, chance_NS = score_S[None], chance_S[None]
            for _ in range(length):  # prepend one action: N texts become 4N
                score_NS = self._before(score_NS) - ACTION_COST * self._open_S
                chance_NS = self._before(chance_NS)
            lengths += [(length, number) for number in range(len(score_NS))]
            scores.append(score_NS - TURN_COST * self._open_S)
            chances.append(chance_NS)
        score_NS, chance_NS = np.concatenate(scores), np.concatenate(chances)
        best_S = score_NS.argmax(axis=0)
        cells = np.arange(len(best_S))
        return score_NS[best_S, cells], chance_NS[best_S, cells], [_text(*lengths[n]) for n in best_S]

    def _before(self, value_NS: Array) -> Array:
        """[4N, S] expected value one action earlier; that action is the most significant digit of N."""
        return np.einsum("asz,nz->ans", self._move_ASS, value_NS).reshape(-1, value_NS.shape[1])


def _text(length: int, number: int) -> tuple[int, ...]:
    """The actions of text `number` among those of `length`: its digits to the base 4.

    >>> _text(2, 6)
    (1, 2)
    """
    return tuple(number // 4**place % 4 for place in reversed(range(length)))
