"""A simulated world whose memories have effects that are known, and the log of what was shown in it and how it ended.

What is relevant there is relevant to easy tasks or to hard ones, so counting the successes of a memory measures its
tasks. Each memory adds its effect to the success of any task it is shown in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agentkit.memory.exposure import Exploration, Exposure, Outcome
from agentkit.memory.utility import UNKNOWN, Utility, estimate_utility

REFIT_EVERY = 50
"""Episodes after which the chances that Thompson sampling goes by are estimated anew."""


@dataclass
class World:
    """Tasks of unequal easiness, memories of known effects, and the log.

    Args:
        seed: Everything is drawn from it.
        num_tasks, num_memories, num_candidates: How many there are, and how many of them a task finds relevant.
        effect: What a helping memory adds and a harming one takes away.
        share: Share of the memories that help, and of those that harm; the others do nothing.
    """

    seed: int
    num_tasks: int = 40
    num_memories: int = 30
    num_candidates: int = 4
    effect: float = 0.2
    share: float = 0.15
    exposures: list[Exposure] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        signs = self.rng.choice([1, -1, 0], self.num_memories, p=[self.share, self.share, 1 - 2 * self.share])
        self.effects = {f"m{number}": self.effect * sign for number, sign in enumerate(signs.tolist())}
        home = self.rng.random(self.num_memories)
        self.ranked: list[list[tuple[str, float]]] = []
        self.base: list[float] = []
        for _ in range(self.num_tasks):
            easiness = self.rng.random()
            nearness = np.exp(-np.abs(home - easiness) / 0.2)
            chances = nearness / nearness.sum()
            picked = self.rng.choice(self.num_memories, self.num_candidates, replace=False, p=chances)
            scores = nearness[picked] * (0.5 + 0.5 * easiness)
            self.ranked.append([(f"m{picked[place]}", float(scores[place])) for place in np.argsort(-scores)])
            effects = np.array([self.effects[id] for id, _ in self.ranked[-1]])
            low, high = -effects[effects < 0].sum(), 1 - effects[effects > 0].sum()  # success stays within 0 and 1
            self.base.append(float(low + (high - low) * (0.1 + 0.8 * easiness)))

    def task(self) -> int:
        """A task, drawn at random."""
        return int(self.rng.integers(self.num_tasks))

    def success(self, task: int, shown: Sequence[str]) -> float:
        """Probability of success."""
        return self.base[task] + sum(self.effects[id] for id in shown)

    def play(self, task: int, shown: Sequence[str]) -> float:
        """1 for success, 0 for failure."""
        return float(self.rng.random() < self.success(task, shown))

    def regret(self, task: int, shown: Sequence[str], places: int) -> float:
        """Success with the best choice of at most `places` candidates, less that with what was shown."""
        effects = sorted((self.effects[id] for id, _ in self.ranked[task]), reverse=True)
        best = self.base[task] + sum(effect for effect in effects[:places] if effect > 0)
        return best - self.success(task, shown)

    def run(
        self,
        exploration: Exploration,
        places: int,
        chances: Mapping[str, float] | None = None,
        num_coins: Mapping[str, int] | None = None,
    ) -> Exposure:
        """Draw, play and record an episode."""
        task = self.task()
        name = str(len(self.exposures))
        exposure = exploration.draw(
            name, self.ranked[task], places, chances=chances, num_coins=num_coins, task_key=str(task)
        )
        self.exposures.append(exposure)
        self.outcomes[name] = Outcome(value=self.play(task, exposure.shown_ids))
        return exposure

    def run_many(
        self, exploration: Exploration, episodes: int, *, places: int = 4, thompson: bool = False
    ) -> list[float]:
        """Run so many episodes; returns the regret of each."""
        chances: dict[str, float] | None = {} if thompson else None
        regrets = []
        for number in range(episodes):
            if thompson and number and number % REFIT_EVERY == 0:
                found = self.estimate()
                chances = {id: found.get(id, UNKNOWN).chance for id in self.effects}
            exposure = self.run(exploration, places, chances)
            regrets.append(self.regret(int(exposure.task_key), exposure.shown_ids, places))
        return regrets

    def estimate(self) -> dict[str, Utility]:
        """Utilities from the log so far."""
        return estimate_utility(self.exposures, self.outcomes)
