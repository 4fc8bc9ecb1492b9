"""WebPage: a page in the shared browser that is read as text and touched by gestures.

Everything slow or impossible ends in a sentence or, where the page itself is broken, in `EnvironmentFault` within
the time limit. Left out: frames inside a page, several windows, file uploads; downloads, pop-ups, permissions and
service workers are refused.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import Coroutine
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from agentkit.envs.gestures import Gesture, Target
from agentkit.envs.web.browser import END_S, OPEN_S, START_S, browser_host
from agentkit.envs.web.elements import Sight, quoted, read_sight
from agentkit.envs.web.keys import key_chord
from agentkit.errors import ConfigError, EnvironmentFault, require

T = TypeVar("T")

GESTURE_MS, WAIT_MS = 500, 1000
"""Milliseconds of the page's own time that a gesture takes, and a `wait`: most animations last 400."""
LEAVE_S = 5.0
"""Seconds that the next document may take to load before the page is read as it is."""
MOST_ELEMENTS, LONGEST_TEXT = 1000, 10_000
"""Elements of a page that are told, and characters of one text; more is cut, and said to be."""
MOST_KEYS = 200
"""Characters of a `type` that are struck key by key; the rest is inserted at once."""
DRAG_STEPS = 8
"""Places where a drag stops between its ends."""
PROBLEMS = {
    "gone": "There is no element {}.",
    "disabled": "Element {} is disabled.",
    "covered": "Element {} is covered by something else.",
    "outside": "Element {} cannot be brought into view.",
    "fixed": "Element {} does not take that.",
    "refused": "Element {} does not accept {}.",
    "still": "Nothing scrolls that way.",
}
"""What the page's scripts say -> what the player is told."""
DIRECTIONS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
"""Word -> (down, along)"""


class WebPage:
    """A tab with cookies and storage of its own; opened by the first `goto`."""

    def __init__(self, prefix: str, *, width: int, height: int, ignore: str = "", step_s: float = 15.0) -> None:
        """Make the page; no browser starts yet.

        Args:
            prefix: beginning of every address that it may load, e.g. `http://127.0.0.1:8000/`.
            width: pixels of its view.
            height: pixels of its view.
            ignore: CSS selector of what `observe` leaves out.
            step_s: seconds that a call may take before the page counts as broken.
        """
        self.prefix = prefix
        self.width, self.height = width, height
        self.step_s = step_s
        self._ignore = ignore
        self._context: Any = None
        self._page: Any = None
        self._session: Any = None
        self._said: list[str] = []
        self._refused = False
        self._broken = False
        self._clipboard = ""
        self._pointer: tuple[float, float] = (0, 0)

    def goto(self, url: str) -> None:
        """Load `url` and wait until it is there; opens the page, or another one in place of a broken one.

        Raises:
            ConfigError: `url` does not begin with `prefix`.
            EnvironmentFault: it does not load.
            MissingExtraError, MissingPartError: Playwright or Chromium is not installed.
        """
        if not self._allows(url):
            raise ConfigError(f"this page loads only what begins with {self.prefix!r}, got {url!r}")
        if self._broken:
            self.close()
        if self._page is None:
            self._run(self._open(), OPEN_S + START_S)
        self._run(self._goto(url))

    def observe(self) -> Sight:
        """What the page shows; at most `MOST_ELEMENTS` elements, with texts of at most `LONGEST_TEXT` characters."""
        limits = {"ignore": self._ignore, "most": MOST_ELEMENTS, "longest": LONGEST_TEXT}
        return read_sight(self.evaluate("limits => __agentkit.observe(limits)", limits))

    def perform(self, gesture: Gesture) -> str:
        """Do what `gesture` says; returns what there is to say about it, or '' if it was simply done.

        Raises:
            EnvironmentFault: the page or its browser broke.
        """
        self._opened(self._page)
        return self._run(self._perform(gesture))

    def screenshot(self) -> bytes:
        """What the page's view shows, as PNG."""
        answer = self._run(self._opened(self._session).send("Page.captureScreenshot", {"format": "png"}))
        return base64.b64decode(answer["data"])

    def evaluate(self, script: str, argument: Any = None) -> Any:
        """What a JavaScript function makes of `argument` in the page, as plain data that the page may have forged."""
        return self._run(self._opened(self._page).evaluate(script, argument))

    def pass_time(self, milliseconds: int) -> None:
        """Let the page's own time go on."""
        self._opened(self._page)
        self._run(self._settle(milliseconds))

    def close(self) -> None:
        """Close the page; `goto` would open it again."""
        context, session = self._context, self._session
        self._context = self._page = self._session = None
        self._broken = False
        if context is not None:
            with contextlib.suppress(EnvironmentFault):
                browser_host().run(_close(context, session), 3 * END_S)

    def _run(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        try:
            return browser_host().run(work, timeout_s or self.step_s)
        except EnvironmentFault:
            self._broken = True
            raise

    def _opened(self, part: T | None) -> T:
        """`part` of the open page."""
        if part is None:
            raise ConfigError("the page is not open; call goto() first")
        return part

    def _allows(self, url: str) -> bool:
        return url.startswith(self.prefix) and ".." not in unquote(url)

    async def _open(self) -> None:
        self._context = await browser_host().open_context(
            viewport={"width": self.width, "height": self.height},
            accept_downloads=False,
            service_workers="block",
            permissions=[],
            locale="en-US",
            timezone_id="UTC",
            reduced_motion="reduce",
        )
        await self._context.add_init_script(script=_page_script())
        await self._context.route("**/*", self._admit)
        await self._context.route_web_socket("**/*", lambda socket: socket.close())
        self._page = await self._context.new_page()
        self._session = await self._context.new_cdp_session(self._page)
        self._page.on("dialog", self._answer)
        self._context.on("page", self._shut)

    async def _goto(self, url: str) -> None:
        # The mouse waits in the same corner before every page, or the page would feel where the last one left it.
        self._pointer = (self.width - 1, self.height - 1)
        await self._page.mouse.move(*self._pointer)
        await self._page.goto(url, wait_until="load", timeout=self.step_s * 1000)
        self._clipboard = ""
        self._said.clear()

    async def _admit(self, route: Any) -> None:
        """Let a request through, or refuse it; a refused navigation leaves the page where it is."""
        with contextlib.suppress(require("playwright.async_api").Error):  # the page went away meanwhile
            if self._allows(route.request.url):
                await route.continue_()
            elif route.request.is_navigation_request():
                self._refused = True
                await route.fulfill(status=204)
            else:
                await route.abort()

    async def _answer(self, dialog: Any) -> None:
        """Dismiss a dialog, which would hold the page up, and remember what it said."""
        with contextlib.suppress(require("playwright.async_api").Error):
            if len(self._said) < 3:
                self._said.append(f"The page says: {quoted(dialog.message[:200])}")
            await (dialog.accept() if dialog.type == "beforeunload" else dialog.dismiss())

    async def _shut(self, popup: Any) -> None:
        """Close a window that the page opened."""
        with contextlib.suppress(require("playwright.async_api").Error):
            await popup.close()

    async def _perform(self, gesture: Gesture) -> str:
        problem = await self._do(gesture)
        if not problem:
            if gesture.kind in ("type", "press", "drag"):  # they may scroll, of which the page hears a frame later
                await self._page.evaluate("() => __agentkit.frame()")
            await self._settle(WAIT_MS if gesture.kind == "wait" else GESTURE_MS)
        remarks = [problem, *self._said, "That address cannot be opened here." if self._refused else ""]
        self._said, self._refused = [], False
        return " ".join(filter(None, remarks))

    async def _do(self, gesture: Gesture) -> str:
        """Do the gesture without waiting for what comes of it; returns why it cannot be done, or ''."""
        match gesture.kind:
            case "click" | "double_click" | "right_click" | "hover":
                return await self._point(gesture)
            case "drag":
                return await self._drag(gesture)
            case "fill" | "select":
                return await self._write(gesture)
            case "type":
                await self._page.keyboard.type(gesture.text[:MOST_KEYS])
                if rest := gesture.text[MOST_KEYS:]:
                    await self._page.keyboard.insert_text(rest)
            case "press":
                return await self._press(gesture.text)
            case "scroll":
                return await self._scroll(gesture)
        return ""

    async def _place(self, target: Target | None) -> tuple[float, float] | str:
        """Where to point, or why one cannot."""
        if isinstance(target, tuple):
            if target[0] < self.width and target[1] < self.height:
                return target
            return f"The point {target[0]} {target[1]} is outside the page, which is {self.width} by {self.height}."
        answer = await self._page.evaluate("number => __agentkit.locate(number)", target)
        return _problem(answer, target) or (float(answer["x"]), float(answer["y"]))

    async def _point(self, gesture: Gesture) -> str:
        place = await self._place(gesture.target)
        if isinstance(place, str):
            return place
        self._pointer, mouse = place, self._page.mouse
        match gesture.kind:
            case "click":
                await mouse.click(*place)
            case "double_click":
                await mouse.dblclick(*place)
            case "right_click":
                await mouse.click(*place, button="right")
            case "hover":
                await mouse.move(*place)
        return ""

    async def _drag(self, gesture: Gesture) -> str:
        await self._place(gesture.target)  # brings the beginning into view, so that looking for the end keeps it there
        end, begin = await self._place(gesture.end), await self._place(gesture.target)
        if isinstance(begin, str) or isinstance(end, str):
            return begin if isinstance(begin, str) else str(end)
        self._pointer, mouse = end, self._page.mouse
        await mouse.move(*begin)
        await mouse.down()
        await mouse.move(*end, steps=DRAG_STEPS)
        await mouse.up()
        return ""

    async def _write(self, gesture: Gesture) -> str:
        script = "focus" if gesture.kind == "fill" else "choose"
        answer = await self._page.evaluate(
            f"([number, text]) => __agentkit.{script}(number, text)", [gesture.target, gesture.text]
        )
        if problem := _problem(answer, gesture.target, gesture.text):
            return problem
        if gesture.kind == "fill" and not answer.get("done"):
            if gesture.text:
                await self._page.keyboard.insert_text(gesture.text)
            else:
                await self._page.keyboard.press("Delete")
        return ""

    async def _press(self, keys: str) -> str:
        chord = key_chord(keys)
        if chord is None:
            return f"There is no key {quoted(keys[:40])}."
        # The browser's clipboard is shared by all pages; this one belongs to the page.
        if chord in ("Control+c", "Control+x"):
            self._clipboard = str(await self._page.evaluate("() => __agentkit.selection()"))
            if chord == "Control+x":
                await self._page.keyboard.press("Delete")
        elif chord == "Control+v":
            await self._page.keyboard.insert_text(self._clipboard)
        else:
            await self._page.keyboard.press(chord)
        return ""

    async def _scroll(self, gesture: Gesture) -> str:
        number = gesture.target if isinstance(gesture.target, int) else None
        point = gesture.target if isinstance(gesture.target, tuple) else None
        answer = await self._page.evaluate(
            "([number, point, down, along]) => __agentkit.scroll(number, point, down, along)",
            [number, point, *DIRECTIONS[gesture.text]],
        )
        return _problem(answer, number)

    async def _settle(self, milliseconds: int) -> None:
        """Let the page's time pass; where it is leaving for another document, wait until that has loaded."""
        error_type = require("playwright.async_api").Error
        until = time.monotonic() + LEAVE_S
        changed = False
        await self._feel()
        while time.monotonic() < until and not self._refused:
            try:
                ran, busy = await self._page.evaluate(
                    "async ms => [await __agentkit.advance(ms), __agentkit.busy()]", milliseconds
                )
                if not busy:
                    return await self._feel() if ran or changed else None
            except error_type:
                if self._page.is_closed() or not self._context.browser.is_connected():
                    raise
            changed, milliseconds = True, 0
            await asyncio.sleep(0.01)
        await self._page.evaluate("() => __agentkit.stay()")

    async def _feel(self) -> None:
        """Let the page feel the resting mouse.

        When something moves under it, the browser tells the page so with some later frame. Moving the mouse to where
        it is tells it now (with the next frame), so that no page depends on how fast this computer draws.
        """
        await self._page.mouse.move(*self._pointer)


def _problem(answer: Any, number: Target | None, text: str = "") -> str:
    """What the player is told if a script of the page reports a problem, else ''."""
    problem = answer.get("problem")
    return PROBLEMS[problem].format(number, quoted(text[:40])) if problem else ""


async def _close(context: Any, session: Any) -> None:
    """Close a context whose scripts may be running for ever."""
    if session is not None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(session.send("Runtime.terminateExecution"), END_S)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(context.close(), END_S)


@cache
def _page_script() -> str:
    """What runs in every document before its own scripts."""
    folder = Path(__file__).parent
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in ("clock.js", "look.js", "touch.js"))
