"""Environments that go wrong in every way there is, registered when this module is imported (`worker_toys:toys/…`)."""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy

from agentkit.envs import TextEnv
from agentkit.errors import ConfigError

ACTIONS = ["left", "right"]


class Walk(TextEnv):
    """A random walk of six turns that shows a hash of what was done; each action is worth its place."""

    instructions = "Walk."
    example = "left"

    def __init__(self, max_turns: int = 6) -> None:
        super().__init__(max_turns=max_turns, max_actions=max_turns, max_actions_per_turn=1)
        self.seed, self.past = 0, ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.seed, self.past = seed or 0, f"{seed} {options}"
        self.turns_left = self.actions_left = self.max_turns
        self.trouble("reset")
        return self.shown(), self.about()

    def step(self, action: str) -> Any:
        self.past += action
        self.turns_left -= 1
        self.actions_left -= 1
        self.trouble(action)
        return self.shown(), 0.1 * self.turns_left, False, self.turns_left == 0, self.about()

    def trouble(self, action: str) -> None:
        """What a subclass does when asked for `action`."""

    def shown(self) -> str:
        return hashlib.blake2b(self.past.encode(), digest_size=8).hexdigest()

    def about(self) -> dict[str, Any]:
        return {"success": False, "valid": True, "state_key": self.shown(), "admissible_actions": ACTIONS}


class Odd(Exception):
    """Holds what cannot be pickled, and has much to say."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.lock = threading.Lock()


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Narrow(ConfigError):
    """Known to this module only."""


class Colour(Enum):
    RED = "red"


class Place(NamedTuple):
    row: int
    column: int


def segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def loop() -> None:
    while True:
        pass


def leave_child(fork: bool) -> int:
    """Starts a process that outlives us, in a session of its own; returns its id."""
    if fork:
        if (pid := os.fork()) == 0:
            os.setsid()
            time.sleep(600)
        return pid
    return subprocess.Popen(["sleep", "600"], start_new_session=True).pid


class Trouble(Walk):
    """Does what its action says."""

    def trouble(self, action: str) -> None:
        word, _, rest = action.partition(" ")
        if word == "segfault":
            segfault()
        elif word == "abort":
            print("no way on", rest, file=sys.stderr)
            os.abort()
        elif word == "leave":
            os._exit(3)
        elif word == "exit":
            raise SystemExit("bye")
        elif word == "loop":
            loop()
        elif word == "sleep":
            time.sleep(float(rest))
        elif word == "sleep_in_c":
            ctypes.CDLL(None).usleep(600_000_000)  # holds no lock of Python's, hears no signal
        elif word == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        elif word == "allocate":
            self.hoard = bytearray(int(rest) << 20)
        elif word == "gnaw":
            self.hoard_bit_by_bit = [bytearray(1 << 20) for _ in range(int(rest))]
        elif word == "raise":
            raise Odd(rest * 100_000)
        elif word == "speechless":
            raise Speechless
        elif word == "narrow":
            raise Narrow("too narrow")
        elif word == "print":
            print("garbage \x1b[31m\udcff" * 1000)
            os.write(1, b"\xff\x00 bytes" * 20_000)
            sys.stderr.write("and the last word")
        elif word == "scribble":  # into whatever is open, our own connection among them
            for file in range(3, 64):
                try:
                    os.write(file, b"\xff\xff\xff\xff scribble")
                except OSError:
                    continue
        elif word == "be":
            os.close(1)
            os.close(2)
        elif word == "hang_up":
            os.closerange(3, 64)
            time.sleep(600)
        elif word in ("child", "fork"):
            Path(rest).write_text(str(leave_child(word == "fork")))
            segfault()
        elif word == "child_and_hang":
            Path(rest).write_text(str(leave_child(False)))
            time.sleep(600)

    def about(self) -> dict[str, Any]:
        odd: dict[str, Any] = {
            "object": object(),
            "numpy": {"reward": numpy.float32(0.5), "num": numpy.int64(3), "flag": numpy.bool_(True)},
            "array": numpy.zeros(2),
            "enum": Colour.RED,
            "large": "x" * (65 << 20),
            "keys": {1: (2, 3), "$tuple": [4], "place": Place(1, 2), "set": {5}, "bytes": b"\x00\xff"},
        }
        word = self.past.rpartition("give ")[2]
        more = {"odd": odd[word]} if word in odd else {}
        return {**super().about(), **more}


class Sometimes(Walk):
    """Where the variable TOYS_TROUBLE is set, every third seed crashes or hangs on its third turn."""

    def trouble(self, action: str) -> None:
        if self.turns_left != 3 or self.seed % 3 != 1 or "TOYS_TROUBLE" not in os.environ:
            return
        way = self.seed // 3 % 5
        if way == 0:
            segfault()
        elif way == 1:
            os._exit(1)
        elif way == 2:
            os.abort()
        elif way == 3:
            subprocess.Popen(["sleep", "600"], start_new_session=True)
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.seed // 3 % 2:
            loop()
        else:
            time.sleep(600)


class Told(Walk):
    """Every capability, and everything that a worker could get wrong."""

    metadata = {"render_modes": [], "inline": True, "isolated": True}  # noqa: RUF012 - Gymnasium's own convention

    def trouble(self, action: str) -> None:
        self.instructions = f"Walk from {self.seed}."

    def snapshot(self) -> object:
        return Place(1, 2), frozenset({3}), self.seed, self.past, self.turns_left, self.actions_left, 0.1 + 0.2

    def restore(self, state: Any) -> None:
        place, some, *rest, number = state
        self.seed, self.past, self.turns_left, self.actions_left = rest
        assert (type(place), some, number) == (Place, frozenset({3}), 0.1 + 0.2)

    def expert_action(self) -> str:
        return "left"

    def expert_success(self) -> float:
        return 0.1 + 0.2

    def desired_goal(self) -> str:
        return "世界"

    def achieved_goal(self) -> str:
        return "elsewhere"

    def screenshot(self) -> bytes:
        return bytes(range(256))


class Surroundings(Walk):
    """Shows where it is."""

    def shown(self) -> str:
        return repr([os.getcwd(), os.environ.get("TOYS_WORD"), os.getpid(), random.random(), numpy.random.random()])


class Whim(Walk):
    """Shows what it likes once it was played, and may say so when it is registered."""

    def shown(self) -> str:
        return f"start {self.seed}" if self.turns_left == self.max_turns else str(random.SystemRandom().random())


class Hashed(Walk):
    """Depends on the order of a set."""

    def shown(self) -> str:
        return "".join({f"word {number}" for number in range(20)})


class Fragile(Walk):
    """Asks for a worker, and needs it from the second instance on."""

    metadata = {"render_modes": [], "inline": False, "isolated": True}  # noqa: RUF012 - Gymnasium's own convention

    def trouble(self, action: str) -> None:
        if self.seed == 1:
            segfault()
        elif self.seed == 2:
            time.sleep(600)


class Unmakeable(Walk):
    def __init__(self, how: str = "raise") -> None:
        if how == "raise":
            raise OSError("no browser")
        if how == "sleep":
            time.sleep(600)
        segfault()


class Clingy(Walk):
    def close(self) -> None:
        raise OSError("busy")


class Tidy(Walk):
    """Leaves a file behind when it is closed."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def close(self) -> None:
        Path(self.path).write_text("closed")


class Latent(Walk):
    """Takes as long as a remote service: median 0.1 s, at most 2 s, drawn from the seed and the turn."""

    def trouble(self, action: str) -> None:
        draw = random.Random(f"{self.seed} {self.turns_left}")
        time.sleep(min(2.0, 0.1 * draw.lognormvariate(0.0, 1.0)))


for name in (
    "Walk",
    "Trouble",
    "Sometimes",
    "Told",
    "Surroundings",
    "Hashed",
    "Whim",
    "Fragile",
    "Unmakeable",
    "Clingy",
    "Tidy",
    "Latent",
):
    if f"toys/{name}-v0" not in gymnasium.registry:
        gymnasium.register(f"toys/{name}-v0", entry_point=f"{__name__}:{name}", disable_env_checker=True)
