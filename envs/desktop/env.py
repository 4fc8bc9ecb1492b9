"""Desktop: chores in real applications, played by mouse and keyboard on a display of one's own.

The observation is the accessibility tree as text; a screenshot is there for players that see. What is judged are the
files and settings that the player leaves, once it says `done`.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from random import Random
from typing import NamedTuple

from gymnasium.error import ResetNeeded

from agentkit.envs.contract import TextEnv
from agentkit.envs.desktop.accessibility import Reader
from agentkit.envs.desktop.chores import Chore, Values, all_chores, listing, pick, resolve
from agentkit.envs.desktop.display import HEIGHT, START_S, WIDTH, Display
from agentkit.envs.desktop.hand import parse_keys
from agentkit.envs.desktop.parts import missing_part
from agentkit.envs.desktop.sandbox import namespaces_work
from agentkit.envs.desktop.sheet import read_cells
from agentkit.envs.gestures import Gesture, Target, parse_gesture, quote, split_gestures
from agentkit.envs.puzzle import draw_level
from agentkit.errors import AgentkitError, ConfigError, EnvironmentFault, MissingPartError, unknown_name

QUIET_S = 0.015
"""Seconds without any activity that count as rest."""
TIMER_S, LONG_TIMER_S = 0.05, 0.6
"""Timers that are waited for, in seconds: applications put off by them what is to come of a gesture; and longer ones at
the start, while a dialog reads folders, and while a key holds a button down."""
SLOW_TO_SELECT, SELECT_S = "pcmanfm", 0.25
"""The file manager, which learns by such a timer what is selected, and ignores keys until then."""
SLOW_KEYS, QUIET_KEYS_S = "galculator", 0.13
"""Title of the calculator, which ignores a key that is struck again within 100 ms; and how long it is left in peace."""
MENU_S = 0.55
"""Seconds from a gesture to a click while a menu is open: within 500 ms applications take it for one with the click
that opened the menu."""
MOST_S, LETTER_S = 2.0, 0.05
"""Seconds after which a busy desktop is looked at anyway; and the seconds more for every letter typed."""
WAIT_S = 0.5
"""Seconds that `wait` lets pass."""
CLICKABLE = ("label", "column header", "terminal")
"""Roles that random play does not click on."""
KINDS = ("click", "double_click", "right_click", "hover", "drag", "type", "press", "scroll", "wait", "done")


class Level(NamedTuple):
    """An instance: a chore and what was drawn for it."""

    chore: str
    values: tuple[tuple[str, str], ...]


class Desktop(TextEnv):
    """Do a chore on a desktop. Implements `Expert` and `Screen`.

    Reward 1 for saying `done` when the chore is done; saying it when it is not ends the episode without.
    """

    metadata = {"render_modes": [], "inline": False, "isolated": False, "most_at_once": 4}  # noqa: RUF012 - as Gymnasium
    example = 'click 3 || type "hello"'

    def __init__(
        self,
        *,
        tasks: str | Iterable[str] = "all",
        max_turns: int = 30,
        max_actions: int = 120,
        max_actions_per_turn: int = 4,
        sandbox: bool = True,
    ) -> None:
        """Make the environment; the desktop comes up at the first reset.

        Args:
            tasks: "all", the name of a chore, or several names.
            max_turns: turns in an episode.
            max_actions: gestures in an episode.
            max_actions_per_turn: gestures that one turn's text may hold.
            sandbox: run the applications without network and with nothing of the machine to write to. False is
                for machines that forbid namespaces: then a player can reach what the user can.

        Raises:
            ConfigError: an unknown chore, or an argument out of range.
            MissingExtraError, MissingPartError: something is not installed, or namespaces are forbidden here.
        """
        super().__init__(max_turns=max_turns, max_actions=max_actions, max_actions_per_turn=max_actions_per_turn)
        self.chores = _choose(tasks)
        self.sandbox = sandbox
        if sandbox and not namespaces_work():
            raise MissingPartError(
                "this machine forbids bubblewrap (bwrap) to make namespaces; allow them (sysctl -w "
                "kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0, in a container "
                "--privileged), or pass sandbox=False: a player can then reach whatever the user can"
            )
        self._display: Display | None = None
        self.instructions = (
            "Do what the goal says in the applications on the screen, then say done: what you saved is judged.\n"
            "Every line of a window is an element with its number, role, name, text (after =) and state.\n"
            "Actions: click N, double_click N, right_click N, hover N, drag N to M, scroll up|down|left|right N; "
            f"`at X Y` in place of a number is a point of the screen ({WIDTH}x{HEIGHT} pixels).\n"
            'type "text" types at the focus (\\n is Enter, \\t is Tab), press ctrl+s presses keys, wait, done.\n'
            f"At most {max_actions_per_turn} a turn, separated by ||, for example: {self.example}\n"
            f"You have {max_turns} turns and {max_actions} actions."
        )

    @classmethod
    def unavailable(cls) -> AgentkitError | None:
        """The first program, library or Python package that is not there, and the command that installs them all."""
        return missing_part()

    def screenshot(self) -> bytes:
        """The screen as a PNG image; `gymnasium.error.ResetNeeded` before the first reset."""
        if self._display is None:
            raise ResetNeeded("the desktop comes up at the first reset(); call it before screenshot()")
        with self._discarding():
            return self._display.hand.screenshot(WIDTH, HEIGHT)

    def expert_action(self) -> str:
        """The next gesture of the chore's script; once something else was played, `done`."""
        return self._script_step() or "done"

    def expert_success(self) -> float:
        """1.0 if the rest of the script fits the turns and actions left, or if the chore is done already; else 0.0."""
        left = min(self.turns_left, self.actions_left)
        if self._astray:
            return float(left >= 1 and self._judged())
        return float(left >= len(self._chore.script) - self._played)

    def close(self) -> None:
        """End the applications and the desktop, and remove its folder."""
        display, self._display = self._display, None
        if display is not None:
            display.close()

    @property
    def _chore(self) -> Chore:
        return self.chores[self.level.chore]

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        self.level = draw_level("Desktop", partial(_levels, chores=self.chores), repr, split, seed)
        self.values: Values = dict(self.level.values)
        self._said_done: bool | None = None
        self._played, self._astray, self._acted_s = 0, False, 0.0
        used = self._display is not None
        with self._discarding():
            try:
                self._open()
            except EnvironmentFault:  # the desktop of the last episode has died since
                if not used:
                    raise
                self.close()
                self._open()

    def _open(self) -> None:
        """Lay out the home, start the applications, wait for their windows."""
        if self._display is None:
            self._display = Display(confined=self.sandbox)
            self._reader = Reader(self._display.bus, WIDTH, HEIGHT, self._display.path)
        self._display.clear(self._chore.files(self.values))
        for number, argv in enumerate(self._chore.applications, 1):
            self._display.start(argv[0], *(part.format(**self.values) for part in argv))
            _await_windows(self._display, self._reader, number)
        self._look(LONG_TIMER_S, START_S)

    def _pieces(self, text: str) -> list[str]:
        return split_gestures(text)

    def _parse(self, text: str) -> Gesture | None:
        gesture = parse_gesture(text)
        if gesture is None or gesture.kind not in KINDS:
            return None
        return None if gesture.kind == "press" and parse_keys(gesture.text) is None else gesture

    def _act(self, action: Gesture) -> tuple[float, str]:
        self._follow_script(action)
        if action.kind == "done":
            self._said_done = self._judged()
            return float(self._said_done), "" if self._said_done else "It is not done."
        with self._discarding():
            remark = self._gesture(action)
            self._acted_s = time.monotonic()
            if action.kind == "wait":
                time.sleep(WAIT_S)
            self._look(most_s=MOST_S + LETTER_S * len(action.text))
        return 0.0, remark

    def _gesture(self, action: Gesture) -> str:
        """Carry out a gesture; returns a remark on what is impossible."""
        display = self._display
        assert display is not None
        points = []
        for target in (action.target, action.end):
            point = None if target is None else self._point(target)
            if isinstance(point, str):
                return point
            points.append(point or (WIDTH // 2, HEIGHT // 2))
        settle = partial(display.settle, QUIET_S)
        hand, point, kind = display.hand, points[0], action.kind
        if kind.endswith("click"):
            if self._now.menu_open:
                time.sleep(max(0.0, self._acted_s + MENU_S - time.monotonic()))
            if kind == "double_click":
                hand.double_click(point, settle)
            else:
                hand.click(point, "left" if kind == "click" else "right")
        elif kind == "hover":
            hand.move(point)
        elif kind == "drag":
            hand.drag(point, points[1], settle)
        elif kind == "scroll":
            hand.scroll(action.text, point)
        elif kind in ("press", "type"):
            slow = any(window.active and window.title == SLOW_KEYS for window in self._now.windows)
            rest = partial(display.settle, QUIET_KEYS_S if slow else QUIET_S, MOST_S)
            if slow:
                rest()
            if kind == "press":
                hand.press(parse_keys(action.text) or ())
            else:
                return self._type(action.text, rest, slow)
        return ""

    def _type(self, text: str, rest: Callable[[], object], patient: bool) -> str:
        """Type a text; returns a remark on what cannot be typed."""
        assert self._display is not None
        lost, hand = "", self._display.hand
        if self._now.shows("dialog", "file dialog") and text:  # at the first letter, it may still move the focus
            lost = hand.write(text[0], rest, patient)
            self._look()
            text = text[1:]
        lost += hand.write(text, rest, patient)
        return f"No key types {', '.join(map(repr, lost))}." if lost else ""

    def _point(self, target: Target) -> tuple[int, int] | str:
        """Where a target is, or what is wrong with it."""
        if isinstance(target, int):
            element = self._view.elements.get(target)
            return f"There is no element {target}." if element is None else element.point
        inside = target[0] < WIDTH and target[1] < HEIGHT
        return target if inside else f"The screen has {WIDTH}x{HEIGHT} pixels."

    def _look(self, soon_s: float = TIMER_S, most_s: float = MOST_S) -> None:
        """Read the screen once it is at rest; again if it is likely to change by itself, by timers not waited for."""
        assert self._display is not None
        if SLOW_TO_SELECT in self._display.applications:
            soon_s = max(soon_s, SELECT_S)
        self._display.settle(QUIET_S, most_s, soon_s)
        self._now = self._reader.read()
        if soon_s < LONG_TIMER_S and (self._now.pressed or self._now.shows("file dialog")):
            self._look(LONG_TIMER_S)

    def _observe(self) -> str:
        assert self._display is not None
        self._view = self._now
        ended = [f"{name} has ended." for name in self._display.ended()]
        return "\n".join([f"Goal: {self._chore.goal.format(**self.values)}", *ended, str(self._view)])

    def _outcome(self) -> bool | None:
        return self._said_done

    def _state_key(self) -> str:
        # A workbook's bytes hold the time at which it was written.
        assert self._display is not None
        files = listing(self._display.home).items()
        home = {path: read_cells(text) if path.endswith(".gnumeric") else text for path, text in files}
        seen = repr((self.level, self._said_done, str(self._view), sorted(home.items())))
        return hashlib.blake2b(seen.encode(), digest_size=16).hexdigest()

    def _admissible(self) -> list[str]:
        usable = [one for one in self._view.elements.values() if "disabled" not in one.states]
        clicks = [f"click {one.number}" for one in usable if one.role not in CLICKABLE]
        words = sorted({value for value in self.values.values() if "\n" not in value})
        return [
            *clicks,
            *(f"type {quote(word)}" for word in words),
            "press Enter",
            "press Escape",
            "press ctrl+s",
            "done",
        ]

    def _judged(self) -> bool:
        assert self._display is not None
        return self._chore.judge(self._display.home, self.values)

    def _script_step(self) -> str | None:
        """What the expert does now; None if it is lost."""
        if self._astray or self._played >= len(self._chore.script):
            return None
        return resolve(self._chore.script[self._played].format(**self.values), self._view)

    def _follow_script(self, action: Gesture) -> None:
        """Go on in the script if `action` is its next step; it is lost for good after any other but `wait`."""
        step = self._script_step()
        if step is not None and parse_gesture(step) == action:
            self._played += 1
        elif action.kind != "wait":
            self._astray = True

    @contextlib.contextmanager
    def _discarding(self) -> Iterator[None]:
        """After a fault, throw the desktop away: the next reset gets a new one."""
        try:
            yield
        except EnvironmentFault:
            self._over = True
            self.close()
            raise


def _choose(tasks: str | Iterable[str]) -> dict[str, Chore]:
    known = all_chores()
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    if names == ["all"]:
        return known
    if not names:
        raise ConfigError("tasks must name at least one chore, got none")
    for name in names:
        if name not in known:
            raise ConfigError(str(unknown_name("chore", str(name), ["all", *known])))
    return {name: known[name] for name in names}


def _levels(rng: Random, chores: dict[str, Chore]) -> Iterator[Level]:
    names = list(chores)
    while True:
        chore = chores[pick(rng, names)]
        yield Level(chore.name, tuple(chore.draw(rng).items()))


def _await_windows(display: Display, reader: Reader, number: int) -> None:
    """Wait until `number` applications have a window."""
    deadline = time.monotonic() + START_S
    while reader.num_open() < number:
        display.check()
        if display.ended() or time.monotonic() > deadline:
            name = list(display.applications)[number - 1]
            raise EnvironmentFault(f"{name} opened no window within {START_S:g} s")
        time.sleep(0.005)
