"""Hand: the mouse and the keyboard of a display, by the X server's own test extension, and its screenshots."""

from __future__ import annotations

import contextlib
import io
import time
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any

from agentkit.errors import EnvironmentFault, require

BUTTONS = {"left": 1, "right": 3, "up": 4, "down": 5, "scroll left": 6, "scroll right": 7}
NOTCHES = 3
"""Turns of the wheel in a scroll."""
DOUBLE_CLICK_S, NEAR = 0.25, 6
"""Two clicks within this many seconds and pixels are a double click; the applications' settings say the same."""
DRAG_STEPS = 6
"""Motions of a drag; applications see a drag only once the pointer has moved with the button held."""
DRAG_S = 0.2
"""Seconds that each may take them."""
MODIFIERS = {"ctrl": "Control_L", "control": "Control_L", "alt": "Alt_L", "shift": "Shift_L", "super": "Super_L"}
_NAMED = (
    *("Return", "Escape", "Delete", "Insert", "BackSpace", "Tab", "Home", "End"),
    *("Left", "Right", "Up", "Down", "Menu"),
)
KEYS = {
    "enter": "Return",
    "esc": "Escape",
    "del": "Delete",
    "ins": "Insert",
    "space": "space",
    "pageup": "Page_Up",
    "page_up": "Page_Up",
    "pagedown": "Page_Down",
    "page_down": "Page_Down",
    "plus": "plus",
    "minus": "minus",
    **{name.lower(): name for name in (*_NAMED, *(f"F{number}" for number in range(1, 13)))},
}
"""What may be pressed besides single characters, in lower case, and its name in X."""
_WHITE = {"\n": "Return", "\t": "Tab"}


def parse_keys(text: str) -> tuple[str, ...] | None:
    """The keys of a chord such as `ctrl+shift+s`, modifiers first; None if one has no such name.

    >>> parse_keys("ctrl+S"), parse_keys("Enter"), parse_keys("ctrl+"), parse_keys("hyper+x")
    (('Control_L', 's'), ('Return',), None, None)
    """
    *modifiers, last = text.split("+")
    held = [MODIFIERS.get(name.lower()) for name in modifiers]
    if len(last) == 1 and last.isprintable():
        key: str | None = last.lower() if held else last
    else:
        key = KEYS.get(last.lower())
    if key is None or None in held:
        return None
    return (*(name for name in held if name), key)


class Hand:
    """Mouse and keyboard of one display."""

    def __init__(self, number: int) -> None:
        """Connect to display `:number`; `EnvironmentFault` if there is none."""
        self._x = require("Xlib.X")
        self._names = require("Xlib.XK")
        self._test = require("Xlib.ext.xtest")
        self._lost = (require("Xlib.error").ConnectionClosedError, OSError)
        try:
            self._display = require("Xlib.display").Display(f":{number}")
        except Exception as error:  # the library raises half a dozen unrelated classes here
            raise EnvironmentFault(f"display :{number} cannot be reached: {error}") from error
        self._root = self._display.screen().root
        low, high = self._display.display.info.min_keycode, self._display.display.info.max_keycode
        mapping = self._display.get_keyboard_mapping(low, high - low + 1)
        self._spare = [low + place for place, keysyms in enumerate(mapping) if not any(keysyms)]
        self._lent: dict[int, int] = {}
        self._clicked_at, self._clicked_s = (-100, -100), 0.0

    def managed(self) -> bool:
        """Whether a window manager has taken the screen."""
        atom = self._display.intern_atom("_NET_SUPPORTING_WM_CHECK")
        return self._root.get_full_property(atom, self._x.AnyPropertyType) is not None

    def click(self, point: tuple[int, int], button: str = "left") -> None:
        """Click at a point, in pixels from the top left; never the second half of a double click."""
        x, y = self._clicked_at
        if max(abs(x - point[0]), abs(y - point[1])) <= NEAR:
            time.sleep(max(0.0, self._clicked_s + DOUBLE_CLICK_S - time.monotonic()))
        self._do(lambda: self._click(point, BUTTONS[button]))
        self._clicked_at, self._clicked_s = point, time.monotonic()

    def double_click(self, point: tuple[int, int], settle: Callable[[float], object]) -> None:
        """Click twice at a point; `settle(most_s)` lets the application follow in between."""
        self.click(point)
        settle(DOUBLE_CLICK_S / 3)
        self._do(lambda: self._click(point, BUTTONS["left"]))
        self._clicked_s = time.monotonic()

    def move(self, point: tuple[int, int]) -> None:
        """Move the pointer."""
        self._do(lambda: self._fake(self._x.MotionNotify, 0, point))

    def drag(self, start: tuple[int, int], end: tuple[int, int], settle: Callable[[float], object]) -> None:
        """Press at `start`, move, release at `end`; `settle(most_s)` lets the applications follow in between."""
        for step in range(DRAG_STEPS + 1):
            x, y = (a + (b - a) * step // DRAG_STEPS for a, b in zip(start, end, strict=True))
            self.move((x, y))
            if step == 0:
                self._do(lambda: self._fake(self._x.ButtonPress, BUTTONS["left"]))
            settle(DRAG_S)
        self._do(lambda: self._fake(self._x.ButtonRelease, BUTTONS["left"]))

    def scroll(self, direction: str, point: tuple[int, int]) -> None:
        """Turn the wheel over a point; `direction` is up, down, left or right."""
        button = BUTTONS.get(f"scroll {direction}") or BUTTONS[direction]
        self._do(lambda: self._click(point, button, NOTCHES))

    def press(self, keys: tuple[str, ...]) -> None:
        """Press keys together, as `parse_keys` names them."""
        self._do(lambda: self._chord([self._keysym(key) for key in keys]))

    def write(self, text: str, settle: Callable[[], object], patient: bool = False) -> str:
        """Type a text; returns the characters that no key can give.

        Args:
            text: what to type.
            settle: lets the applications follow, before keys get other symbols than those they have been read with.
            patient: settle also before a key that was struck already, for applications that cannot follow otherwise.
        """
        keysyms = {character: self._keysym(character) for character in text}
        struck: set[int] = set()
        for character in text:
            keysym = keysyms[character]
            if (patient and keysym in struck) or self._must_recall(keysym):
                self._do(lambda: None)
                settle()
                struck.clear()
            if keysym:
                self._do(partial(self._chord, [keysym]), sync=False)
            struck.add(keysym)
        self._do(lambda: None)
        return "".join(character for character, keysym in keysyms.items() if not keysym)

    def screenshot(self, width: int, height: int) -> bytes:
        """The screen as a PNG image."""
        image = require("PIL.Image")
        raw = self._do(lambda: self._root.get_image(0, 0, width, height, self._x.ZPixmap, 0xFFFFFFFF).data)
        buffer = io.BytesIO()
        image.frombytes("RGB", (width, height), raw, "raw", "BGRX").save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def close(self) -> None:
        """Let go of the display."""
        with contextlib.suppress(*self._lost):
            self._display.close()

    def _do(self, work: Callable[[], Any], sync: bool = True) -> Any:
        """Run `work` and wait until the X server has seen all of it."""
        try:
            result = work()
            if sync:
                self._display.sync()
        except self._lost as error:
            raise EnvironmentFault(f"the desktop's X server is gone: {error}") from error
        return result

    def _fake(self, kind: int, detail: int, point: tuple[int, int] = (0, 0)) -> None:
        self._test.fake_input(self._display, kind, detail, x=point[0], y=point[1])

    def _click(self, point: tuple[int, int], button: int, times: int = 1) -> None:
        self._fake(self._x.MotionNotify, 0, point)
        for _ in range(times):
            self._fake(self._x.ButtonPress, button)
            self._fake(self._x.ButtonRelease, button)

    def _keysym(self, key: str) -> int:
        """The keysym of a key's name or of a character; 0 if it has none."""
        key = _WHITE.get(key, key)
        if len(key) > 1:
            return self._names.string_to_keysym(key)
        code = ord(key)
        if unicodedata.category(key) in ("Cc", "Cs", "Cn"):
            return 0
        return code if 0x20 <= code < 0x100 else 0x01000000 + code

    def _chord(self, keysyms: list[int]) -> None:
        """Hold all, in their order, then let go: shift too where a key's symbol needs it."""
        codes: list[int] = []
        for keysym in keysyms:
            code, shifted = self._key(keysym)
            shift = self._display.keysym_to_keycode(self._names.XK_Shift_L)
            codes += [shift, code] if shifted and shift not in codes else [code]
        for code in codes:
            self._fake(self._x.KeyPress, code)
        for code in reversed(codes):
            self._fake(self._x.KeyRelease, code)

    def _key(self, keysym: int) -> tuple[int, bool]:
        """The key that gives a symbol, and whether with shift; a spare key is lent to symbols that have none."""
        for code, level in self._display.keysym_to_keycodes(keysym):
            if level < 2:
                return code, level == 1
        if keysym not in self._lent:
            self._lend(keysym)
        return self._lent[keysym], False

    def _must_recall(self, keysym: int) -> bool:
        """Whether a symbol needs a spare key and none is left."""
        full = len(self._lent) == len(self._spare)
        return full and keysym not in self._lent and not self._display.keysym_to_keycode(keysym)

    def _lend(self, keysym: int) -> None:
        """Put a symbol on a spare key; when all are lent, all loans are called back."""
        if len(self._lent) == len(self._spare):
            self._lent.clear()
        code = self._spare[len(self._lent)]
        self._display.change_keyboard_mapping(code, [(keysym, keysym)])
        self._display.sync()
        self._lent[keysym] = code
