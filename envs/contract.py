"""The text-environment contract: strings in, strings out, on top of Gymnasium.

`TextEnv` holds what every family shares: reading a turn's text, budgets, feedback and `info`. A family adds
its levels and its moves. What else an environment can do is a capability: `Snapshot`, `Expert`, `Goals`,
`Screen`.
"""

from __future__ import annotations

import string
from typing import Any, Protocol, runtime_checkable

import gymnasium
from gymnasium.error import ResetNeeded

from agentkit.errors import AgentkitError, ConfigError, unknown_name
from agentkit.task import SPLITS

SEPARATOR = "||"
"""Stands between the actions of one turn, as in `Right || Down`."""
INFO_KEYS = {"success": bool, "valid": bool, "state_key": str, "admissible_actions": list}
"""Key and type of every entry that `reset` and `step` put into `info`."""
OPTIONS = ("split", "attempt")


class AnyText(gymnasium.spaces.Space[str]):
    """The space of all strings; `gymnasium.spaces.Text` would have to list every character and a length.

    >>> "世界" in AnyText(), 3 in AnyText(), AnyText() == AnyText()
    (True, False, True)
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(dtype=str, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Up to 16 random letters, digits and blanks; masks have no meaning here and raise `ConfigError`."""
        if mask is not None or probability is not None:
            raise ConfigError("AnyText samples without mask and probability; it has no list of characters")
        letters = string.ascii_letters + string.digits + " "
        return "".join(letters[i] for i in self.np_random.integers(len(letters), size=16)).strip()

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string."""
        return isinstance(x, str)

    @property
    def is_np_flattenable(self) -> bool:
        """False: a text of any length has no flat array."""
        return False

    def __repr__(self) -> str:
        return "AnyText()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyText)

    __hash__ = None  # type: ignore[assignment]  # as every Gymnasium space: equal by content, mutable generator


@runtime_checkable
class Snapshot(Protocol):
    """The environment can be put back: retries from a turn, branches, search."""

    def snapshot(self) -> object:
        """The whole state as immutable plain data, budgets and noise included."""

    def restore(self, state: object) -> None:
        """Go back to `state`: from there the same actions give the same observations and rewards.

        `state` may come from another environment that was made with the same arguments.
        """


@runtime_checkable
class Expert(Protocol):
    """The environment knows how it is solved: demonstrations, and the optimum as a yardstick."""

    def expert_action(self) -> str:
        """A whole turn's action text from the current state, also where success is impossible."""

    def expert_success(self) -> float:
        """Probability in [0, 1] that the expert succeeds from the current state with the budgets left."""


@runtime_checkable
class Goals(Protocol):
    """Goals in words, for hindsight relabelling: `achieved == desired` exactly when the task is solved.

    An environment that can also be given one of these goals says so by `metadata["sets_goals"]`: its argument `goal`
    takes it, in the same words, in place of the level's own.
    """

    def desired_goal(self) -> str:
        """What has to be reached."""

    def achieved_goal(self) -> str:
        """What is reached in the current state, in the same words."""


@runtime_checkable
class Screen(Protocol):
    """The environment can be looked at, for models that see."""

    def screenshot(self) -> bytes:
        """What it shows now, as a PNG image."""


CAPABILITIES: dict[str, type] = {"Snapshot": Snapshot, "Expert": Expert, "Goals": Goals, "Screen": Screen}
METHODS: dict[type, tuple[str, ...]] = {
    Snapshot: ("snapshot", "restore"),
    Expert: ("expert_action", "expert_success"),
    Goals: ("desired_goal", "achieved_goal"),
    Screen: ("screenshot",),
}


def offers(env: object, capability: type) -> bool:
    """Whether an environment or its class has the methods of `Snapshot`, `Expert`, `Goals` or `Screen`.

    To be used in place of `isinstance`, which from Python 3.12 on does not see what wrappers and workers hand on.
    """
    return all(hasattr(env, method) for method in METHODS[capability])


class TextEnv(gymnasium.Env[str, str]):
    """A Gymnasium environment played in text, turn by turn.

    An action text holds up to `max_actions_per_turn` actions separated by `||`; case and white space do not
    matter and empty pieces are ignored. What lies beyond `max_actions_per_turn` (or beyond `max_actions` of
    the episode) is cut and mentioned in the observation. The pieces before the first one that is not
    understood are played; the turn then has `valid=False`, as it has when nothing is understood. Every turn
    counts against `max_turns`, every played action against `max_actions`; running out of either truncates.

    A family implements the underscored hooks `_begin`, `_parse`, `_act`, `_observe`, `_outcome`, `_state_key`
    and `_admissible`; an adapter to another engine may override `reset` and `step` whole.
    """

    metadata: dict[str, Any] = {"render_modes": [], "inline": False, "isolated": False}  # noqa: RUF012 - as Gymnasium
    """`inline`: a step takes microseconds and never blocks, so it may run on an event loop. `isolated`: it may crash
    the process it is in, so that rollouts play it in a worker process. `most_at_once`: so many of them at most should
    be played at the same time; no such entry, no such limit. `sets_goals`: see `Goals`."""
    instructions: str = ""
    """Rules, symbols, actions and limits: what a player must know besides the observations."""
    example: str = ""
    """A well-formed action text, shown when nothing was understood."""

    def __init__(self, *, max_turns: int, max_actions: int, max_actions_per_turn: int) -> None:
        """Validate the budgets.

        Args:
            max_turns: turns in an episode, at least 1.
            max_actions: played actions in an episode, at least 1.
            max_actions_per_turn: actions that one turn's text may hold, at least 1.

        Raises:
            ConfigError: a budget is not a whole number of at least 1.
            MissingExtraError, MissingPartError: what `unavailable` says.
        """
        if (missing := self.unavailable()) is not None:
            raise missing
        self.max_turns = whole_number("max_turns", max_turns)
        self.max_actions = whole_number("max_actions", max_actions)
        self.max_actions_per_turn = whole_number("max_actions_per_turn", max_actions_per_turn)
        if max_actions_per_turn == 1:
            self.example = self.example.partition(SEPARATOR)[0].strip()
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self.turns_left = self.actions_left = 0
        self._over = True

    @classmethod
    def unavailable(cls) -> AgentkitError | None:
        """What is not installed that the family needs, as the error that names the command to install it, or None.

        Told without importing or starting anything heavy: listings ask every family.
        """
        return None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an attempt at an instance.

        Args:
            seed: names the instance within its split; None goes on to a random next one.
            options: `split` ("train" or "held_out", default "train") and `attempt` (at least 0, default 0).
                The level depends on split and seed, the noise of the dynamics on split, seed and attempt.

        Returns:
            The first observation and `info` with the keys of `INFO_KEYS`.

        Raises:
            ConfigError: an unknown option, or a value out of range.
        """
        split, attempt = _read_options(options or {})
        super().reset(seed=seed)
        self._begin(split, int(self.np_random.integers(1 << 31)) if seed is None else seed, attempt)
        self.turns_left, self.actions_left, self._over = self.max_turns, self.max_actions, False
        return self._observe(), self._info(valid=True)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one turn.

        Args:
            action: the turn's action text; any string is allowed.

        Returns:
            Observation (feedback first, if there is any), the sum of the played actions' rewards, terminated,
            truncated, and `info` with the keys of `INFO_KEYS`.

        Raises:
            TypeError: `action` is not a string.
            gymnasium.error.ResetNeeded: the episode is over or was never begun.
        """
        if self._over:
            raise ResetNeeded("the episode is over or was never begun; call reset() before step()")
        if not isinstance(action, str):
            raise TypeError(f"an action is a text such as {self.example!r}, got {action!r}")
        actions, feedback, valid = self._read(action)
        self.turns_left -= 1
        reward = 0.0
        for one in actions:
            gain, remark = self._act(one)
            reward += gain
            self.actions_left -= 1
            if remark:
                feedback.append(remark)
            if self._outcome() is not None:
                break
        terminated = self._outcome() is not None
        truncated = not terminated and (self.turns_left == 0 or self.actions_left == 0)
        self._over = terminated or truncated
        observation = "\n".join(part for part in (*feedback, self._observe()) if part)
        return observation, reward, terminated, truncated, self._info(valid)

    def _read(self, text: str) -> tuple[list[Any], list[str], bool]:
        """The actions to play, the feedback on the text, and whether all of it was understood."""
        pieces = self._pieces(text)
        allowed = min(self.max_actions_per_turn, self.actions_left)
        feedback = [f"Only the first {_count(allowed, 'action')} played."] if len(pieces) > allowed else []
        actions: list[Any] = []
        for piece in pieces[:allowed]:
            parsed = self._parse(piece)
            if parsed is None:
                break
            actions.append(parsed)
        valid = 0 < len(actions) == min(len(pieces), allowed)
        if not valid:
            culprit = pieces[len(actions)] if pieces else text.strip()
            feedback = [self._misread(culprit, bool(actions))]
        return actions, feedback, valid

    def _info(self, valid: bool) -> dict[str, Any]:
        return {
            "success": self._outcome() is True,
            "valid": valid,
            "state_key": self._state_key(),
            "admissible_actions": [] if self._over else self._admissible(),
        }

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        """Put the world into the start state of the instance."""
        raise NotImplementedError

    def _pieces(self, text: str) -> list[str]:
        """The actions of a turn's text, not yet read; a family whose actions quote text may split it otherwise."""
        return [piece for piece in map(str.strip, text.split(SEPARATOR)) if piece]

    def _misread(self, culprit: str, some_played: bool) -> str:
        """Feedback on a piece that was not understood; a family may have words of its own."""
        shown = culprit if len(culprit) <= 40 else culprit[:37] + "..."
        rest = "the actions before it were played." if some_played else f"write for example: {self.example}"
        return f"Not understood: {shown!r}; {rest}"

    def _parse(self, text: str) -> Any:
        """The action that one piece of text means, in any form but None; None if it is not understood."""
        raise NotImplementedError

    def _act(self, action: Any) -> tuple[float, str]:
        """Play one parsed action; returns its reward and a short remark for the player, or ''."""
        raise NotImplementedError

    def _observe(self) -> str:
        """The current state in text; '' if the remarks on the actions have said it all."""
        raise NotImplementedError

    def _outcome(self) -> bool | None:
        """True if solved, False if lost for good, None while it goes on."""
        raise NotImplementedError

    def _state_key(self) -> str:
        """Equal for equal states of equal levels; without counters."""
        raise NotImplementedError

    def _admissible(self) -> list[str]:
        """Single actions that can be played now, never empty while the episode goes on."""
        raise NotImplementedError


def whole_number(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """`value` if it is an int within `least` and `most`, both included; raises `ConfigError` otherwise."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value and (most is None or value <= most):
        return value
    needed = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ConfigError(f"{name} must be a whole number {needed}, got {value!r}")


def _read_options(options: dict[str, Any]) -> tuple[str, int]:
    for key in options:
        if key not in OPTIONS:
            raise ConfigError(str(unknown_name("reset option", str(key), OPTIONS)))
    split = options.get("split", "train")
    if split not in SPLITS:
        raise ConfigError(str(unknown_name("split", str(split), SPLITS)))
    return split, whole_number("attempt", options.get("attempt", 0), least=0)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun} was" if number == 1 else f"{number} {noun}s were"
