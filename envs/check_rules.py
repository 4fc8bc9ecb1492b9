"""The rules of the text-environment contract, each a function that plays the environments of a trial.

A rule returns what it saw, raises `Finding` if it is broken, or `NotChecked` if it says nothing about this
environment. A rule that rests on others is left out where one of those is broken: one fault, one failed row.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, sqrt
from random import Random
from typing import Any

import gymnasium

from agentkit.envs.check_trial import (
    MOST_STEPS,
    Finding,
    NotChecked,
    Step,
    Trial,
    choose,
    need,
    over,
    replay,
    short,
)
from agentkit.envs.contract import INFO_KEYS, SEPARATOR, Expert, Goals, Screen, Snapshot, TextEnv, offers
from agentkit.envs.workers.codec import NotPlain, encode
from agentkit.envs.workers.processes import Usage, usage
from agentkit.errors import AgentkitError

NONSENSE = ("", "?!", SEPARATOR, "世界 \x00 " + "z" * 5000)
"""Texts that no environment should understand, and every environment must survive."""
EXPERT_ATTEMPTS = 4
"""Plays of the expert at a seed where its success is a matter of chance; one where it is certain."""
LEAK_MB = {"own_mb": 32, "descendants_mb": 128}
"""By how many mebibytes the resident memory of the process and of all its descendants may grow while instances are
reset: browsers grow and shrink."""
LEAK_COUNT, LEAK_FEW = 10, 4
"""Threads, processes and open files may each grow by one in so many resets, and by a few in any case."""
LEAK_STEADY = 0.25
"""A leak goes on: in the second half of the resets alone it is more than this share of what is allowed. What is
started once, somewhere on the way, and then stays is none."""
PICTURE_SIDE = (16, 8192)
"""Pixels that a side of a plausible screenshot has, at least and at most."""
_SETTLE_S = 10.0


def _check_making(trial: Trial) -> str:
    env = trial.env.env
    need(isinstance(env, gymnasium.Env), f"needed a gymnasium.Env, got a {type(env).__name__}")
    need(isinstance(env, TextEnv), f"{type(env).__name__} is no agentkit.envs.TextEnv; derive it from TextEnv")
    need(env.instructions.strip(), "`instructions` is empty: players would not know the rules")
    return f"a {getattr(env, 'name', type(env).__name__)}; instructions of {len(env.instructions)} characters"


def _check_answers(trial: Trial) -> str:
    plays = [trial.record(seed, _judge) for seed in trial.seeds]
    return f"{sum(len(play.steps) for play in plays)} answers of reset and step have the right types"


def _judge(answer: Step) -> None:
    observation, reward, terminated, truncated, info = answer
    need(isinstance(observation, str), f"observation is a {type(observation).__name__}, needed str")
    need(isinstance(info, dict), f"info is a {type(info).__name__}, needed dict")
    for key, kind in INFO_KEYS.items():
        need(key in info, f"info lacks {key!r}")
        need(isinstance(info[key], kind), f"info[{key!r}] is {info[key]!r}, needed {kind.__name__}")
    need(isinstance(reward, (int, float)) and isfinite(reward), f"reward is {reward!r}")
    need(type(terminated) is type(truncated) is bool, "terminated and truncated must be bool")
    need(info["state_key"], "info['state_key'] is empty")
    need(all(isinstance(one, str) for one in info["admissible_actions"]), "an action is no str")
    need(over(answer) or info["admissible_actions"], "no admissible action although the episode goes on")
    need(not info["success"] or terminated, "success without terminated")
    need(info["valid"], "an admissible action was not understood (valid=False)")


def _check_spaces(trial: Trial) -> str:
    env = trial.env
    num = 0
    for play in trial.plays.values():
        for observation, _, _, _, info in play.steps:
            need(env.observation_space.contains(observation), f"{env.observation_space} lacks {short(observation)}")
            for action in (*info["admissible_actions"], *NONSENSE):
                need(env.action_space.contains(action), f"{env.action_space} lacks {short(action)}; use AnyText")
            num += 1
    need(env.observation_space.contains("世界"), f"{env.observation_space} does not hold every text; use AnyText")
    return f"{num} observations and their actions are in their spaces"


def _check_determinism(trial: Trial) -> str:
    for play in trial.plays.values():
        parting = trial.differs(trial.other, play)
        need(not parting, f"seed {play.seed}: the same actions gave two different episodes: {parting}")
    return f"{len(trial.plays)} {_episodes(trial)} played twice"


def _check_elsewhere(trial: Trial) -> str:
    if trial.elsewhere is None:
        raise NotChecked("only an id or a task can be played in another process")
    for play in trial.plays.values():
        parting = trial.differs(trial.elsewhere, play)
        need(not parting, f"seed {play.seed}: another process differs: {parting}")
    return f"{len(trial.plays)} {_episodes(trial)} played there too, with other hashes"


def _episodes(trial: Trial) -> str:
    return "episodes" if trial.fixed else "beginnings (registered as nondeterministic)"


def _check_attempts(trial: Trial) -> str:
    for play in trial.plays.values():
        for attempt in (1, 7):
            observation, info = trial.env.reset(seed=play.seed, options={"attempt": attempt})
            need(
                (observation, info) == (play.steps[0][0], play.steps[0][4]),
                f"seed {play.seed}: attempts 0, 1 and 7 begin differently",
            )
    return "attempts 0, 1 and 7 begin in the same state"


def _check_march(trial: Trial) -> str:
    march = trial.go_on_marching()
    return f"{trial.resets} resets, each with a step, of {len(march.first_in)} levels"


def _check_splits(trial: Trial) -> str:
    assert trial.march is not None
    need(trial.march.shared is None, str(trial.march.shared))
    return f"{len(trial.march.first_in)} different levels, none in both splits"


def _check_leaks(trial: Trial) -> str:
    assert trial.march is not None
    before, between, counted = trial.march.before, trial.march.between, trial.march.counted
    if before is None or between is None:
        raise NotChecked("it takes Linux to tell what a process holds, and some resets before it is looked at")
    deadline = time.monotonic() + _SETTLE_S
    after = trial.held()
    while True:
        assert after is not None
        excess = _excess(before, between, after, counted)
        if excess is None:
            break
        need(time.monotonic() < deadline, f"{counted} resets have left behind {excess}")
        time.sleep(0.1)  # what has been let go may take a moment to end
        after = usage()
    memory = after.own_mb + after.descendants_mb - before.own_mb - before.descendants_mb
    return (
        f"{counted} resets: {memory:+.0f} MB, {after.threads - before.threads:+d} "
        f"threads, {after.processes - before.processes:+d} processes, {after.files - before.files:+d} open files"
    )


def _excess(before: Usage, between: Usage, after: Usage, resets: int) -> str | None:
    few = max(LEAK_FEW, resets // LEAK_COUNT)
    counts = {"processes": "processes", "threads": "threads", "files": "open files"}
    for name, most in (dict.fromkeys(counts, few) | LEAK_MB).items():
        more = getattr(after, name) - getattr(before, name)
        if more > most and getattr(after, name) - getattr(between, name) > LEAK_STEADY * most:
            return f"{more:.0f} {counts.get(name, 'MB of memory')}, {most} are allowed"
    return None


def _check_options(trial: Trial) -> str:
    for options in ({"splt": "train"}, {"split": "test"}, {"attempt": -1}):
        try:
            trial.other.reset(seed=trial.seeds[0], options=options)
        except AgentkitError:
            continue
        raise Finding(f"reset ignored the wrong options {options}")
    return "unknown options and values are refused"


def _check_nonsense(trial: Trial) -> str:
    for text in NONSENSE:
        _, before = trial.env.reset(seed=trial.seeds[0])
        observation, _, _, _, after = trial.env.step(text)
        need(not after["valid"], f"{text[:20]!r} counted as understood (valid=True)")
        need(before["state_key"] == after["state_key"], f"{text[:20]!r} changed the state")
        need(isinstance(observation, str), f"{text[:20]!r} gave no text")
    return f"{len(NONSENSE)} texts without meaning change nothing"


def _check_budgets(trial: Trial) -> str:
    env = trial.env
    env.reset(seed=trial.seeds[0])
    for turn in range(1, env.max_turns + 1):
        _, _, terminated, truncated, _ = env.step(NONSENSE[1])
        need(not terminated, f"turn {turn}: terminated although nothing was played")
        need(truncated == (turn == env.max_turns), f"turn {turn} of {env.max_turns}: truncated={truncated}")
    return f"an idle episode is truncated after {env.max_turns} turns"


def _check_reset(trial: Trial) -> str:
    env = trial.env  # used by all the rules before this one
    for play in trial.plays.values():
        _, info = env.reset(seed=play.seed + 2, options={"attempt": 1})
        env.step(choose(info, Random(play.seed)))  # an episode that breaks off
        parting = trial.differs(env, play)
        need(not parting, f"seed {play.seed}: earlier play changed the episode: {parting}")
    return f"a used environment {'plays' if trial.fixed else 'begins'} like a new one"


def _check_snapshot(trial: Trial) -> str:
    env, other = trial.env, trial.other
    if not offers(env, Snapshot):
        raise NotChecked("not offered")
    for seed in trial.seeds:
        rng = Random(seed)
        _, info = env.reset(seed=seed, options={"attempt": seed})
        last = env.step(choose(info, rng))
        saved = env.snapshot()
        frozen = _frozen(saved, seed)
        actions: list[str] = []
        first: list[Step] = []
        while not over(last) and len(actions) < MOST_STEPS:
            actions.append(choose(last[4], rng))
            last = env.step(actions[-1])
            first.append(last)
        need(_frozen(saved, seed) == frozen, f"seed {seed}: playing on changed the snapshot")
        for copy in (env, other):  # one at the end of the episode, one in the middle of another
            copy.restore(saved)
            need(_frozen(copy.snapshot(), seed) == frozen, f"seed {seed}: the snapshot after restore is another one")
            second = replay(copy, tuple(actions))
            need(second == tuple(first), f"seed {seed}: play after restore differs")
    return "play after restore repeats, after the episode's end and in another environment too"


def _frozen(saved: object, seed: int) -> bytes:
    try:
        return encode(saved)
    except NotPlain as error:
        raise Finding(f"seed {seed}: a snapshot must be plain data: {error}") from None


def _check_expert(trial: Trial) -> str:
    env = trial.env
    if not offers(env, Expert):
        raise NotChecked("not offered")
    expected = variance = 0.0
    wins = num = 0
    for seed in trial.seeds:
        for attempt in range(EXPERT_ATTEMPTS):
            env.reset(seed=seed, options={"attempt": attempt})
            chance = env.expert_success()
            need(0.0 <= chance <= 1.0, f"seed {seed}: expert_success() is {chance!r}, no probability")
            won = _play_expert(env, seed)
            need(won or chance < 1.0, f"seed {seed}: the expert failed against its claim")
            need(not won or chance > 0.0, f"seed {seed}: the expert won against its claim")
            expected += chance
            variance += chance * (1 - chance)
            wins += won
            num += 1
            if chance in (0.0, 1.0):
                break
    told = f"the expert won {wins} of {num} episodes and claims {expected:.1f}"
    need(abs(wins - expected) <= 4 * sqrt(variance) + 1e-6, told)
    return told


def _play_expert(env: Any, seed: int) -> bool:
    """Whether the expert wins the episode that has just been reset."""
    for _ in range(MOST_STEPS):
        answer = env.step(env.expert_action())
        need(answer[4]["valid"], f"seed {seed}: the expert's action was not understood")
        if over(answer):
            return answer[4]["success"]
    raise Finding(f"seed {seed}: the expert's episode has not ended after {MOST_STEPS} steps")


def _check_goals(trial: Trial) -> str:
    env, wins = trial.env, 0
    if not offers(env, Goals):
        raise NotChecked("not offered")
    has_expert = offers(env, Expert)
    for seed in trial.seeds:
        for expert in (False, True):
            rng, ended = Random(seed), False
            _, info = env.reset(seed=seed)
            while not ended:
                answer = env.step(env.expert_action() if expert and has_expert else choose(info, rng))
                ended, info = over(answer), answer[4]
                met = env.achieved_goal() == env.desired_goal()
                need(met == info["success"], f"seed {seed}: goal met is {met}, success is {info['success']}")
            wins += info["success"]
    return f"goals agree with success in {2 * len(trial.seeds)} episodes, {wins} of them won"


def _check_screen(trial: Trial) -> str:
    env = trial.env
    if not offers(env, Screen):
        raise NotChecked("not offered")
    sizes = set()
    for seed in trial.seeds[:2]:
        _, info = env.reset(seed=seed)
        sizes.add(_picture_size(env.screenshot()))
        env.step(choose(info, Random(seed)))
        sizes.add(_picture_size(env.screenshot()))
    return "pictures of " + ", ".join(f"{width}x{height}" for width, height in sorted(sizes)) + " pixels"


def _picture_size(data: Any) -> tuple[int, int]:
    """Width and height of a PNG image, in pixels."""
    need(isinstance(data, bytes), f"screenshot() gave a {type(data).__name__}, needed bytes")
    whole = data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR" and b"IEND" in data[-16:]
    need(whole, f"screenshot() gave {len(data)} bytes that are no whole PNG image")
    width, height = struct.unpack_from("!II", data, 16)
    least, most = PICTURE_SIDE
    need(least <= width <= most and least <= height <= most, f"a screenshot of {width}x{height} pixels")
    return width, height


def _check_closing(trial: Trial) -> str:
    return f"{trial.close()} environments were closed"


@dataclass(frozen=True)
class Rule:
    """A rule of the contract."""

    name: str
    """The rule, in words."""
    check: Callable[[Trial], str]
    """Plays; see the module."""
    rests_on: tuple[str, ...] = ()
    """Names of rules without which it says nothing."""


_TYPES, _FIXED, _NONSENSE, _MARCH = (
    "answers have the right types",
    "a seed and actions fix the episode",
    "nonsense is survived",
    "many resets are survived",
)
RULES = (
    Rule("is a text environment", _check_making),
    Rule(_TYPES, _check_answers, ("is a text environment",)),
    Rule("spaces hold what is given", _check_spaces, (_TYPES,)),
    Rule(_FIXED, _check_determinism, (_TYPES,)),
    Rule("another process plays the same", _check_elsewhere, (_FIXED,)),
    Rule("attempts share the level", _check_attempts, (_FIXED,)),
    Rule(_MARCH, _check_march, (_TYPES,)),
    Rule("splits share no level", _check_splits, (_MARCH,)),
    Rule("resets leave nothing behind", _check_leaks, (_MARCH,)),
    Rule("wrong options are refused", _check_options, (_TYPES,)),
    Rule(_NONSENSE, _check_nonsense, (_TYPES,)),
    Rule("turns run out", _check_budgets, (_NONSENSE,)),
    Rule("reset forgets", _check_reset, (_FIXED,)),
    Rule("snapshot and restore", _check_snapshot, (_FIXED,)),
    Rule("expert keeps its promise", _check_expert, (_TYPES,)),
    Rule("goals agree with success", _check_goals, (_TYPES,)),
    Rule("the screen can be seen", _check_screen, (_TYPES,)),
    Rule("can be closed", _check_closing, ("is a text environment",)),
)
"""In the order in which they are checked: each takes the environments as those before it have left them."""
