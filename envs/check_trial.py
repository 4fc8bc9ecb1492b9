"""What the rules of the conformance suite share: the environments under test, watched calls, recorded plays."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from random import Random
from typing import Any

from agentkit.envs.contract import METHODS
from agentkit.envs.workers.processes import Usage, usage
from agentkit.task import HELD_OUT_OFFSET

MOST_STEPS = 1000
"""Steps after which a play is taken to be endless."""
LATE_S = 2.0
"""Seconds that a worker has to say itself that a call hangs."""
CALLS = frozenset(("reset", "step", "close", *(name for names in METHODS.values() for name in names)))
"""Methods of an environment that are timed."""
Step = tuple[str, float, bool, bool, dict[str, Any]]


class Finding(Exception):
    """A broken rule."""


class NotChecked(Exception):
    """A rule that says nothing here, and why."""


def need(condition: object, sentence: str) -> None:
    """Raise `Finding` with the sentence unless the condition holds."""
    if not condition:
        raise Finding(sentence)


@dataclass
class Watch:
    """The call under way, for whoever watches from another thread."""

    now: tuple[str, float] | None = None
    """What is called, and since when (`time.monotonic`)."""

    def call(self, what: str, work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The result of `work(...)`, which is the call under way until then."""
        self.now = what, time.monotonic()
        try:
            return work(*arguments, **options)
        finally:
            self.now = None

    def late(self, call_s: float) -> str | None:
        """Which call is longer under way than it may be, if one is."""
        now = self.now
        if now is None or time.monotonic() - now[1] < call_s + LATE_S:
            return None
        return f"{now[0]} did not return within {call_s:g} s"


class Watched:
    """An environment whose calls the watch knows of; anything else is the environment's own."""

    def __init__(self, env: Any, watch: Watch) -> None:
        self.env = env
        self._watch = watch
        self._seed: int | None = None

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.env, name)
        if name not in CALLS:
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            if name == "reset":
                self._seed = options.get("seed")
            return self._watch.call(f"seed {self._seed}: {name}()", value, *arguments, **options)

        return call


@dataclass(frozen=True)
class Play:
    """A random episode."""

    seed: int
    """Its instance, of the train split; attempt 0."""
    actions: tuple[str, ...]
    """[T] what was played."""
    steps: tuple[Step, ...]
    """[T+1] the answers; that of `reset` comes first, as a step without reward."""


@dataclass(frozen=True)
class March:
    """What many resets, each with a step, have shown."""

    first_in: dict[str, str]
    """State key of a start -> the split it was first seen in."""
    shared: str | None
    """An instance whose start belongs to both splits."""
    before: Usage | None
    """What the process held after the first quarter of the resets."""
    between: Usage | None
    """What it held half-way between then and the end."""
    counted: int
    """Resets since the first look, those for the looks that followed included."""


class Trial:
    """The environments under test, and what they have played.

    Args:
        make: makes a fresh environment.
        make_elsewhere: makes one in another process, with other hashes; None if that cannot be.
        seeds: instances to play.
        resets: how many resets a leak has to show itself.
        watch: is told of every call.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        make_elsewhere: Callable[[], Any] | None,
        seeds: tuple[int, ...],
        resets: int,
        watch: Watch,
    ) -> None:
        self.seeds = seeds
        self.resets = resets
        self.plays: dict[int, Play] = {}
        """The plays of `env` by seed, in the order of `seeds`, from its first episode on."""
        self.march: March | None = None
        self._make = make
        self._make_elsewhere = make_elsewhere
        self._watch = watch
        self._made: list[Watched] = []

    @cached_property
    def env(self) -> Watched:
        """The environment that most rules play; environments may take seconds to make."""
        return self._fresh(self._make)

    @cached_property
    def other(self) -> Watched:
        """A second one, made with the same arguments."""
        return self._fresh(self._make)

    @cached_property
    def elsewhere(self) -> Watched | None:
        """A third one, in another process."""
        return None if self._make_elsewhere is None else self._fresh(self._make_elsewhere)

    def _fresh(self, make: Callable[[], Any]) -> Watched:
        env = Watched(self._watch.call("__init__()", make), self._watch)
        self._made.append(env)
        return env

    def close(self) -> int:
        """Close all environments; returns how many. One that fails does not keep the others from being closed."""
        num, failure = len(self._made), None
        while self._made:
            try:
                self._made.pop().close()
            except Exception as error:  # noqa: BLE001 - raised below
                failure = error
        if failure is not None:
            raise failure
        return num

    def record(self, seed: int, judge: Callable[[Step], None]) -> Play:
        """Play a random episode; `judge` sees every answer before it is relied on."""
        rng = Random(seed)
        actions: list[str] = []
        observation, info = self.env.reset(seed=seed, options={"attempt": 0})
        steps: list[Step] = [(observation, 0.0, False, False, info)]
        judge(steps[-1])
        while not over(steps[-1]) and len(actions) < MOST_STEPS:
            actions.append(choose(steps[-1][4], rng))
            steps.append(self.env.step(actions[-1]))
            judge(steps[-1])
        self.plays[seed] = Play(seed, tuple(actions), tuple(steps))
        return self.plays[seed]

    @property
    def fixed(self) -> bool:
        """Whether the environment's seed and the actions fix the episode; Gymnasium's specification says if not."""
        spec = getattr(self.env.unwrapped, "spec", None)
        return not getattr(spec, "nondeterministic", False)

    def differs(self, env: Any, play: Play) -> str:
        """Play once more in `env`, only the beginning where that alone is fixed; where it parts, or nothing."""
        observation, info = env.reset(seed=play.seed, options={"attempt": 0})
        again = ((observation, 0.0, False, False, info), *replay(env, play.actions if self.fixed else ()))
        first = play.steps if self.fixed else play.steps[:1]
        return "" if again == first else parting(first, again)

    def go_on_marching(self) -> March:
        """Reset many instances of both splits, with a step in each."""
        first_in: dict[str, str] = {}
        shared = before = between = None
        warm = self.resets // 4
        for number in range(self.resets):
            split, offset = (("train", 0), ("held_out", HELD_OUT_OFFSET), ("held_out", 0))[number % 3]
            seed = self.seeds[0] + number // 3 + offset
            _, info = self.env.reset(seed=seed, options={"split": split})
            if first_in.setdefault(info["state_key"], split) != split:
                other = first_in[info["state_key"]]
                shared = shared or f"seed {seed} of {split} begins in a state that {other} also begins in"
            self.env.step(choose(info, Random(number)))
            if number + 1 == warm:
                before = self.held()
            elif number + 1 == (warm + self.resets) // 2:
                between = self.held()
        self.march = March(first_in, shared, before, between, self.resets - warm + 2)
        return self.march

    def held(self) -> Usage | None:
        """What the process holds in the first instance: others may rightly need more threads, or fewer."""
        self.env.reset(seed=self.seeds[0])
        gc.collect()
        return usage()


def over(step: Step) -> bool:
    """Whether an episode has ended with this answer."""
    return step[2] or step[3]


def choose(info: dict[str, Any], rng: Random) -> str:
    """A random admissible action."""
    actions = info["admissible_actions"]
    return actions[int(rng.random() * len(actions))]


def replay(env: Any, actions: tuple[str, ...]) -> tuple[Step, ...]:
    """The answers to actions, up to the end of the episode."""
    steps: list[Step] = []
    for action in actions:
        steps.append(env.step(action))
        if over(steps[-1]):
            break
    return tuple(steps)


def parting(first: tuple[Step, ...], second: tuple[Step, ...]) -> str:
    """Where and in what two plays that differ part."""
    names = ("observation", "reward", "terminated", "truncated", "info")
    for number, (one, two) in enumerate(zip(first, second, strict=False)):
        for name, left, right in zip(names, one, two, strict=True):
            if left != right:
                where = "after reset" if number == 0 else f"after step {number}"
                at = 0
                if isinstance(left, str) and isinstance(right, str):  # of long texts, where they differ
                    same = (one == two for one, two in zip(left, right, strict=False))
                    at = max(0, sum(takewhile(bool, same)) - 20)
                    left, right = left[at:], right[at:]
                return (
                    f"{where}, {name} {f'from character {at} ' if at else ''}is {short(left)} and then {short(right)}"
                )
    return f"one has {len(first) - 1} steps, the other {len(second) - 1}"


def short(value: object) -> str:
    """A value in at most 60 characters, on one line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
