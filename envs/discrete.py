"""Discrete: any Gymnasium environment with a Discrete action space, played in words.

Gymnasium knows no splits, attempts or success. Splits are made from seeds, attempts from the generator that the
environment draws its noise from, success from the rewards; docs/environments/wrappers.md says what that guarantees.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from math import ceil
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator

from agentkit.envs.contract import SEPARATOR, TextEnv, whole_number
from agentkit.envs.games import GAMES, Game
from agentkit.envs.space_words import in_words, plain, trouble_telling
from agentkit.errors import AgentkitError, ConfigError, MissingExtraError, require, unknown_name

RENDERS = ("ansi", "words", "rgb_array")
SOLVED = ("ended", "reached")
DEFAULT_STEPS = 100
"""Actions in an episode of an environment that is registered without a limit."""
LONGEST_RULES = 1000
"""Characters of an environment's own description that players are shown."""


class Discrete(TextEnv):
    """A Gymnasium environment in text. Implements `Snapshot`, and `Screen` with `render="rgb_array"`.

    A snapshot is the list of actions played; going back plays them again, so it needs an environment that is
    deterministic given its seed. The key of a state is its observation within the instance.
    """

    def __init__(
        self,
        *,
        env_id: str,
        env_params: dict[str, Any] | None = None,
        actions: Sequence[str] | None = None,
        fields: Sequence[str] | None = None,
        rules: str | None = None,
        render: str | None = None,
        success_reward: float | None = None,
        solved: str | None = None,
        max_turns: int | None = None,
        max_actions: int | None = None,
        max_actions_per_turn: int = 1,
    ) -> None:
        """Make the environment; what is None is taken from `GAMES`, then from the environment itself.

        Args:
            env_id: Gymnasium id, also as `module:id`.
            env_params: keyword arguments for `gymnasium.make`.
            actions: names of the actions, in the order of their numbers; else `action 0`, `action 1`, ...
            fields: names of the numbers of an observation, for observations in words.
            rules: what the player is told; else the first paragraph of the environment's docstring.
            render: "ansi" shows the environment's drawing, "words" the observation; "rgb_array" shows words and
                offers screenshots. None takes "ansi" where the environment has it, else "words".
            success_reward: sum of rewards that a solved episode has reached; else the registered
                `reward_threshold`.
            solved: "ended" asks for that sum when the environment terminates; "reached" ends the episode as soon as
                the sum is there, for tasks of survival, which the environment ends only when they fail.
            max_turns: turns in an episode; as many as `max_actions` needs if None.
            max_actions: actions in an episode; the registered `max_episode_steps`, or 100, if None.
            max_actions_per_turn: actions that one turn's text may hold.

        Raises:
            ConfigError: an unknown environment or argument, an action space that is not Discrete, observations
                that cannot be told, or no rule of success.
            MissingExtraError: the environment needs a package that is not installed.
        """
        spec = _spec(env_id)
        game = GAMES.get(spec.name, Game())
        if max_actions is None:
            max_actions = spec.max_episode_steps or DEFAULT_STEPS
        if max_turns is None:
            per_turn = whole_number("max_actions_per_turn", max_actions_per_turn)
            max_turns = ceil(whole_number("max_actions", max_actions) / per_turn)
        super().__init__(max_turns=max_turns, max_actions=max_actions, max_actions_per_turn=max_actions_per_turn)
        self.env_id = env_id
        self.success_reward = _success_reward(env_id, success_reward, game, spec)
        self.solved = game.solved if solved is None else solved
        if self.solved not in SOLVED:
            raise ConfigError(str(unknown_name("solved", str(solved), SOLVED)))
        self.text = _text(spec, render)
        self._env = _make(env_id, env_params or {}, None if self.text == "words" else self.text)
        try:
            self.actions = _action_names(self._env.action_space, game.actions if actions is None else actions)
            self.fields = tuple(game.fields if fields is None else fields)
            trouble = trouble_telling(self._env.observation_space)
            if trouble and self.text != "ansi":
                raise ConfigError(trouble)
        except AgentkitError as error:
            self._env.close()
            raise type(error)(f"{env_id}: {error}") from None
        if self.text == "rgb_array":
            self.screenshot = self._screenshot  # an attribute of those that have it: capabilities are looked up
        self.example = f" {SEPARATOR} ".join((self.actions * 2)[: min(2, max_actions_per_turn)])
        self.instructions = _instructions(self, rules or game.rules or _described(self._env))
        self._has_words = trouble is None
        self._instance: tuple[str, int, int] = ("train", 0, 0)
        self._played: list[int] = []
        self._observation: Any = None
        self._return = 0.0
        self._terminated = self._stopped = False

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def snapshot(self) -> object:
        """Instance, actions played and budgets as nested tuples of strings and numbers."""
        return self._instance, tuple(self._played), self.turns_left, self.actions_left, self._over

    def restore(self, state: object) -> None:
        """Go back to a `snapshot` of an environment made with the same arguments, by playing its actions again.

        Raises:
            ConfigError: `state` is no snapshot of this class.
        """
        if not isinstance(state, tuple) or len(state) != 5:
            raise ConfigError(f"restore() needs what snapshot() returned, got {type(state).__name__}")
        instance, played, turns_left, actions_left, over = state
        self._begin(*instance)
        for action in played:
            self._act(action)
        self.turns_left, self.actions_left, self._over = turns_left, actions_left, over

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        """The start depends on split and seed; the noise from here on, on the attempt too."""
        self._instance = (split, seed, attempt)
        self._played = []
        self._return, self._terminated, self._stopped = 0.0, False, False
        self._observation, _ = self._env.reset(seed=_number_of(f"{split}|{seed}"))
        noise = np.random.PCG64(_number_of(f"{split}|{seed}|{attempt}"))
        self._env.unwrapped.np_random = np.random.Generator(noise)

    def _parse(self, text: str) -> int | None:
        words = " ".join(text.lower().split())
        names = [name.lower() for name in self.actions]
        if words in names:
            return names.index(words)
        return int(words) if words in map(str, range(len(names))) else None

    def _act(self, action: int) -> tuple[float, str]:
        if self._stopped:  # earlier in this turn; the rest of it is not played
            return 0.0, ""
        self._played.append(action)
        first = int(self._env.action_space.start)  # type: ignore[attr-defined]  # Discrete, as checked
        self._observation, reward, self._terminated, truncated, _ = self._env.step(first + action)
        self._return += float(reward)
        if truncated:  # by the environment itself: as if the turns had run out
            self._stopped = True
            self.turns_left = 0
        return float(reward), ""

    def _observe(self) -> str:
        if self.text == "ansi":
            return plain(str(self._env.render()))
        return in_words(self._env.observation_space, self._observation, self.fields)

    def _outcome(self) -> bool | None:
        if self.solved == "reached" and self._return >= self.success_reward:
            return True
        return self._return >= self.success_reward if self._terminated else None

    def _state_key(self) -> str:
        if self._has_words:  # a drawing may hide a part of the state, or show the last action
            told = in_words(self._env.observation_space, self._observation, exact=True)
        else:
            told = self._observe()
        split, seed, _ = self._instance
        return hashlib.blake2b(f"{self.env_id}|{split}|{seed}|{told}".encode(), digest_size=8).hexdigest()

    def _admissible(self) -> list[str]:
        return list(self.actions)

    def _screenshot(self) -> bytes:
        """What the environment draws, as a PNG image."""
        try:
            frame: Any = self._env.render()
        except gymnasium.error.DependencyNotInstalled as error:
            raise MissingExtraError(f"{self.env_id} cannot draw: {error}") from error
        file = io.BytesIO()
        require("PIL.Image").fromarray(np.asarray(frame, np.uint8)).save(file, format="PNG")
        return file.getvalue()


def _spec(env_id: Any) -> EnvSpec:
    if not isinstance(env_id, str):
        raise ConfigError(f"env_id must be a Gymnasium id such as 'CliffWalking-v1', got {env_id!r}")
    try:
        return gymnasium.spec(env_id)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ConfigError(f"no Gymnasium environment {env_id!r}: {error}") from error


def _make(env_id: str, params: dict[str, Any], render_mode: str | None) -> gymnasium.Env[Any, Any]:
    """The environment without a limit of its own: `TextEnv` counts the actions."""
    try:
        return gymnasium.make(
            env_id, disable_env_checker=True, max_episode_steps=-1, **{"render_mode": render_mode, **params}
        )
    except gymnasium.error.DependencyNotInstalled as error:
        raise MissingExtraError(f"{env_id} cannot be made: {error}") from error
    except (gymnasium.error.Error, TypeError, ValueError) as error:
        raise ConfigError(f"{env_id} cannot be made with {params}: {error}") from error


def _text(spec: EnvSpec, render: str | None) -> str:
    creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(str(spec.entry_point))
    modes = getattr(creator, "metadata", {}).get("render_modes", ())
    if render is None:
        return "ansi" if "ansi" in modes else "words"
    if render not in RENDERS:
        raise ConfigError(str(unknown_name("render", str(render), RENDERS)))
    if render != "words" and modes and render not in modes:
        raise ConfigError(f"{spec.id} has no render mode {render!r}, only {', '.join(modes)}; take render='words'")
    return render


def _success_reward(env_id: str, given: float | None, game: Game, spec: EnvSpec) -> float:
    for reward in (given, game.success_reward, spec.reward_threshold):
        if reward is not None:
            if isinstance(reward, (int, float)) and not isinstance(reward, bool):
                return float(reward)
            raise ConfigError(f"success_reward must be a number, got {reward!r}")
    raise ConfigError(f"{env_id} does not say what solves it; name the sum of rewards, e.g. success_reward=1")


def _action_names(space: gymnasium.Space[Any], names: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(space, gymnasium.spaces.Discrete):
        raise ConfigError(f"its actions are {space}, not Discrete; wrap it so that actions are numbered")
    num = int(space.n)
    names = tuple(names) or tuple(f"action {number}" for number in range(num))
    words = {" ".join(name.lower().split()) for name in names if isinstance(name, str) and SEPARATOR not in name}
    if len(names) != num or len(words - {""}) != num:
        raise ConfigError(f"actions must be {num} different names without {SEPARATOR}, got {list(names)}")
    return tuple(" ".join(name.split()) for name in names)


def _described(env: gymnasium.Env[Any, Any]) -> str:
    """The first paragraph of the environment's docstring."""
    paragraph = (type(env.unwrapped).__doc__ or "").strip().partition("\n\n")[0]
    return " ".join(paragraph.split())[:LONGEST_RULES]


def _instructions(env: Discrete, rules: str) -> str:
    if env.solved == "reached":
        solved = f"Solved as soon as the rewards add up to {env.success_reward:g}."
    elif env.success_reward == -np.inf:
        solved = "Solved when the game ends before you run out of turns."
    else:
        solved = f"Solved if the rewards add up to at least {env.success_reward:g} when the game ends."
    most = env.max_actions_per_turn
    turn = "One a turn" if most == 1 else f"At most {most} a turn, separated by {SEPARATOR}"
    return (
        f"{rules}\n{solved}\nActions: {', '.join(env.actions)}. {turn}, for example: {env.example}\n"
        f"You have {env.max_turns} turns and {env.max_actions} actions."
    ).strip()


def _number_of(text: str) -> int:
    """A seed of 31 bits."""
    digest = hashlib.blake2b(f"Discrete|{text}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
