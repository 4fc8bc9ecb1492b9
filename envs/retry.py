"""Retry: an episode of several tries at the same instance, with a plain "try again" between them.

The unary feedback of UFO (arXiv 2507.14295): the player is told that the try failed and nothing else. Where the
paper decays the reward by the turn, `discount` decays it by the try; its penalty for repeated answers is left out.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from agentkit.envs.contract import Expert, Snapshot, TextEnv, offers, whole_number
from agentkit.envs.wrapper import TextWrapper
from agentkit.errors import ConfigError


class Retry(TextWrapper):
    """Starts the instance again when a try is lost or runs out of its budgets; one success is enough.

    A try has the inner environment's budgets, the episode `tries` times those. Try t of attempt a draws the noise
    of the inner attempt `a * tries + t`, so no two tries of a group share their noise. `info` holds `try`, which
    counts from 1; on the turn on which a try fails and another begins, `info` is that of the new try's start.
    """

    def __init__(self, env: TextEnv, *, tries: int = 3, discount: float = 1.0) -> None:
        """Wrap `env`.

        Args:
            env: what to wrap.
            tries: tries in an episode, at least 1.
            discount: every reward of try t (from 0) is multiplied by `discount ** t`; above 0, at most 1.

        Raises:
            ConfigError: `env` is no `TextEnv`, or an argument is out of range.
        """
        super().__init__(env)
        self.tries = whole_number("tries", tries)
        if not isinstance(discount, (int, float)) or isinstance(discount, bool) or not 0 < discount <= 1:
            raise ConfigError(f"discount must be above 0 and at most 1, got {discount!r}")
        self.discount = float(discount)
        self.max_turns = self.tries * env.max_turns
        self.max_actions = self.tries * env.max_actions
        self._seed = self._attempt = self._try = 0
        self._split: dict[str, str] = {}
        self._fresh_success: float | None = None

    @property
    def turns_left(self) -> int:  # type: ignore[override]  # read, never set
        """Turns left in this try and the tries after it."""
        return self.env.turns_left + self._tries_left * self.env.max_turns

    @property
    def actions_left(self) -> int:  # type: ignore[override]
        """Actions left in this try and the tries after it."""
        return self.env.actions_left + self._tries_left * self.env.max_actions

    @property
    def instructions(self) -> str:  # type: ignore[override]
        """The inner environment's, and how tries work."""
        told = f"You have {self.tries} tries, each with these limits: after a failed one the same task starts again."
        return f"{self.env.instructions}\n{told}" if self.tries > 1 else self.env.instructions

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """See `TextEnv.reset`."""
        options = options or {}
        self._attempt = whole_number("attempt", options.get("attempt", 0), least=0)
        self._split = {key: value for key, value in options.items() if key != "attempt"}
        gymnasium.Env.reset(self, seed=seed)  # draws the seeds that the environment alone would draw
        self._seed = int(self.np_random.integers(1 << 31)) if seed is None else seed
        self._try, self._fresh_success = 0, None
        observation, info = self._start()
        if self.tries > 1 and offers(self.env, Expert) and not offers(self.env, Snapshot):
            self._fresh_success = self.env.expert_success()  # type: ignore[attr-defined]
        return observation, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """See `TextEnv.step`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        reward *= self.discount**self._try
        if not (terminated or truncated) or info["success"] or self._tries_left == 0:
            return observation, reward, terminated, truncated, {**info, "try": self._try + 1}
        self._try += 1
        again, start = self._start()
        feedback = f"Try {self._try} of {self.tries} failed. Try again: the same task starts anew."
        return f"{observation}\n{feedback}\n{again}", reward, False, False, {**start, "valid": info["valid"]}

    @property
    def _tries_left(self) -> int:
        return self.tries - self._try - 1

    def _start(self) -> tuple[str, dict[str, Any]]:
        options = {**self._split, "attempt": self._attempt * self.tries + self._try}
        observation, info = self.env.reset(seed=self._seed, options=options)
        return observation, {**info, "try": self._try + 1}

    def _expert_success(self) -> float:
        """Tries are independent: their noise is, and the expert knows nothing of the tries before."""
        here = self.env.expert_success()  # type: ignore[attr-defined]
        return here if self._tries_left == 0 else 1 - (1 - here) * (1 - self._from_start()) ** self._tries_left

    def _from_start(self) -> float:
        """The expert's chance in a whole try, asked for at the start or by going back to it."""
        if self._fresh_success is None:
            env: Any = self.env
            saved = env.snapshot()
            self._start()
            self._fresh_success = float(env.expert_success())
            env.restore(saved)
        return self._fresh_success

    def _memory(self) -> Any:
        return self._seed, tuple(self._split.items()), self._attempt, self._try, self._fresh_success

    def _recollect(self, memory: Any) -> None:
        self._seed, split, self._attempt, self._try, self._fresh_success = memory
        self._split = dict(split)
