"""The rules of the text-environment contract, each a function that plays fresh environments.

A rule returns what it saw, None if the environment does not offer the capability, or raises `Finding`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, sqrt
from random import Random
from typing import Any

import gymnasium

from agentkit.envs.contract import INFO_KEYS, SEPARATOR, Expert, Goals, Snapshot, TextEnv
from agentkit.errors import AgentkitError
from agentkit.task import HELD_OUT_OFFSET

NONSENSE = ("", "?!", SEPARATOR, "世界 \x00 " + "z" * 5000)
"""Texts that no environment should understand, and every environment must survive."""
EXPERT_ATTEMPTS = 4
"""Plays of the expert at each seed."""
Step = tuple[str, float, bool, bool, dict[str, Any]]


class Finding(Exception):
    """A broken rule."""


@dataclass(frozen=True)
class Trial:
    """What a rule is given."""

    make: Callable[[], Any]
    """Makes a fresh environment."""
    seeds: tuple[int, ...]
    """Instances to play."""


def _need(condition: object, sentence: str) -> None:
    if not condition:
        raise Finding(sentence)


def _choose(info: dict[str, Any], rng: Random) -> str:
    actions = info["admissible_actions"]
    return actions[int(rng.random() * len(actions))]


def _play(env: Any, seed: int, rng: Random, *, attempt: int = 0, most: int = 1000) -> list[Step]:
    """A random episode; reset's answer comes first, as a step without reward."""
    observation, info = env.reset(seed=seed, options={"attempt": attempt})
    steps: list[Step] = [(observation, 0.0, False, False, info)]
    while not (steps[-1][2] or steps[-1][3]) and len(steps) <= most:
        steps.append(env.step(_choose(steps[-1][4], rng)))
    return steps


def _check_making(trial: Trial) -> str:
    env = trial.make()
    _need(isinstance(env, gymnasium.Env), f"needed a gymnasium.Env, got a {type(env).__name__}")
    _need(isinstance(env, TextEnv), f"{type(env).__name__} is no agentkit.envs.TextEnv; derive it from TextEnv")
    _need(env.instructions.strip(), "`instructions` is empty: players would not know the rules")
    for space in (env.observation_space, env.action_space):
        _need(space.contains("世界"), f"{space} does not accept every string; use agentkit.envs.AnyText")
    return f"a {type(env).__name__}; instructions of {len(env.instructions)} characters"


def _check_info(trial: Trial) -> str:
    env, num = trial.make(), 0
    for seed in trial.seeds:
        for observation, reward, terminated, truncated, info in _play(env, seed, Random(seed)):
            num += 1
            _need(isinstance(observation, str), f"observation is a {type(observation).__name__}, needed str")
            _need(isinstance(info, dict), f"info is a {type(info).__name__}, needed dict")
            for key, kind in INFO_KEYS.items():
                _need(key in info, f"info lacks {key!r}")
                _need(isinstance(info[key], kind), f"info[{key!r}] is {info[key]!r}, needed {kind.__name__}")
            _need(isinstance(reward, (int, float)) and isfinite(reward), f"reward is {reward!r}")
            _need(type(terminated) is type(truncated) is bool, "terminated and truncated must be bool")
            _need(info["state_key"], "info['state_key'] is empty")
            _need(all(isinstance(one, str) for one in info["admissible_actions"]), "an action is no str")
            over = terminated or truncated
            _need(over or info["admissible_actions"], "no admissible action although the episode goes on")
            _need(not info["success"] or terminated, "success without terminated")
            _need(info["valid"], "an admissible action was not understood (valid=False)")
    return f"{num} answers of reset and step have the right types"


def _check_determinism(trial: Trial) -> str:
    for seed in trial.seeds:
        first, second = (_play(trial.make(), seed, Random(seed)) for _ in range(2))
        _need(first == second, f"seed {seed}: the same actions gave two different episodes")
    return f"{len(trial.seeds)} episodes played twice"


def _check_attempts(trial: Trial) -> str:
    env = trial.make()
    for seed in trial.seeds:
        starts = [env.reset(seed=seed, options={"attempt": attempt}) for attempt in (0, 1, 7)]
        _need(starts[0] == starts[1] == starts[2], f"seed {seed}: attempts 0, 1 and 7 begin differently")
    return "attempts 0, 1 and 7 begin in the same state"


def _check_splits(trial: Trial) -> str:
    env = trial.make()
    keys: dict[str, str] = {}
    for split, offset in (("train", 0), ("held_out", HELD_OUT_OFFSET), ("held_out", 0)):
        for seed in trial.seeds:
            _, info = env.reset(seed=seed + offset, options={"split": split})
            owner = keys.setdefault(info["state_key"], split)
            _need(owner == split, f"seed {seed} of {split} begins in a state that {owner} also begins in")
    return f"{len(keys)} different levels, none in both splits"


def _check_options(trial: Trial) -> str:
    for options in ({"splt": "train"}, {"split": "test"}, {"attempt": -1}):
        try:
            trial.make().reset(seed=trial.seeds[0], options=options)
        except AgentkitError:
            continue
        raise Finding(f"reset ignored the wrong options {options}")
    return "unknown options and values are refused"


def _check_nonsense(trial: Trial) -> str:
    env = trial.make()
    for text in NONSENSE:
        _, before = env.reset(seed=trial.seeds[0])
        observation, _, _, _, after = env.step(text)
        _need(not after["valid"], f"{text[:20]!r} counted as understood (valid=True)")
        _need(before["state_key"] == after["state_key"], f"{text[:20]!r} changed the state")
        _need(isinstance(observation, str), f"{text[:20]!r} gave no text")
    return f"{len(NONSENSE)} texts without meaning change nothing"


def _check_budgets(trial: Trial) -> str:
    env = trial.make()
    env.reset(seed=trial.seeds[0])
    for turn in range(1, env.max_turns + 1):
        _, _, terminated, truncated, _ = env.step(NONSENSE[1])
        _need(not terminated, f"turn {turn}: terminated although nothing was played")
        _need(truncated == (turn == env.max_turns), f"turn {turn} of {env.max_turns}: truncated={truncated}")
    return f"an idle episode is truncated after {env.max_turns} turns"


def _check_reset(trial: Trial) -> str:
    used = trial.make()
    for seed in trial.seeds:
        _play(used, seed + 1, Random(seed), attempt=1)
        used.reset(seed=seed + 2)
        used.step(NONSENSE[1])
        fresh = _play(trial.make(), seed, Random(seed))
        _need(_play(used, seed, Random(seed)) == fresh, f"seed {seed}: earlier play changed the episode")
    return "a used environment plays like a new one"


def _check_snapshot(trial: Trial) -> str | None:
    if not isinstance(trial.make(), Snapshot):
        return None
    env, other = trial.make(), trial.make()
    for seed in trial.seeds:
        rng = Random(seed)
        _, info = env.reset(seed=seed, options={"attempt": seed})
        _, _, terminated, truncated, _ = env.step(_choose(info, rng))
        saved = env.snapshot()
        frozen = pickle.dumps(saved)
        if not (terminated or truncated):
            actions = [_choose(info, rng) for _ in range(3)]
            first = _replay(env, actions)
            _need(pickle.dumps(saved) == frozen, f"seed {seed}: playing on changed the snapshot")
            for copy in (env, other):
                copy.restore(saved)
                _need(_replay(copy, actions) == first, f"seed {seed}: play after restore differs")
    return "play after restore repeats, also in another environment"


def _replay(env: Any, actions: list[str]) -> list[Step]:
    steps: list[Step] = []
    for action in actions:
        steps.append(env.step(action))
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


def _check_expert(trial: Trial) -> str | None:
    if not isinstance(trial.make(), Expert):
        return None
    env = trial.make()
    expected = variance = 0.0
    wins = 0
    for seed in trial.seeds:
        for attempt in range(EXPERT_ATTEMPTS):
            env.reset(seed=seed, options={"attempt": attempt})
            chance = env.expert_success()
            _need(0.0 <= chance <= 1.0, f"seed {seed}: expert_success() is {chance!r}, no probability")
            over, info = False, {"success": False, "valid": True}
            while not over:
                _, _, terminated, truncated, info = env.step(env.expert_action())
                over = terminated or truncated
                _need(info["valid"], f"seed {seed}: the expert's action was not understood")
            _need(info["success"] or chance < 1.0, f"seed {seed}: the expert failed against its claim")
            _need(not info["success"] or chance > 0.0, f"seed {seed}: the expert won against its claim")
            expected += chance
            variance += chance * (1 - chance)
            wins += info["success"]
    num = len(trial.seeds) * EXPERT_ATTEMPTS
    told = f"the expert won {wins} of {num} episodes and claims {expected:.1f}"
    _need(abs(wins - expected) <= 4 * sqrt(variance) + 1e-6, told)
    return told


def _check_goals(trial: Trial) -> str | None:
    if not isinstance(trial.make(), Goals):
        return None
    env, wins = trial.make(), 0
    has_expert = isinstance(env, Expert)
    for seed in trial.seeds:
        for expert in (False, True):
            rng, over = Random(seed), False
            _, info = env.reset(seed=seed)
            while not over:
                action = env.expert_action() if expert and has_expert else _choose(info, rng)
                _, _, terminated, truncated, info = env.step(action)
                over = terminated or truncated
                met = env.achieved_goal() == env.desired_goal()
                _need(met == info["success"], f"seed {seed}: goal met is {met}, success is {info['success']}")
            wins += info["success"]
    return f"goals agree with success in {2 * len(trial.seeds)} episodes, {wins} of them won"


RULES: dict[str, Callable[[Trial], str | None]] = {
    "is a text environment": _check_making,
    "answers have the right types": _check_info,
    "a seed and actions fix the episode": _check_determinism,
    "attempts share the level": _check_attempts,
    "splits share no level": _check_splits,
    "wrong options are refused": _check_options,
    "nonsense is survived": _check_nonsense,
    "turns run out": _check_budgets,
    "reset forgets": _check_reset,
    "snapshot and restore": _check_snapshot,
    "expert keeps its promise": _check_expert,
    "goals agree with success": _check_goals,
}
