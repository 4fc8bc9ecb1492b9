"""The browser: one headless Chromium for the whole process, shared by all pages.

Playwright's asynchronous face runs on an event loop in a thread of its own, so that pages may be used from any thread,
and from threads that have an event loop themselves. The browser starts when the first page opens, is started again
if it died, and ends with the process.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from agentkit.errors import AgentkitError, EnvironmentFault, MissingPartError, lacking, require

T = TypeVar("T")

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome")
"""Names that are looked for on the PATH; `AGENTKIT_CHROMIUM` comes first."""
FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-quic",
    "--disable-smooth-scrolling",
    "--disable-sync",
    "--no-first-run",
    # Nothing leaves this computer: no name resolves but localhost, every other connection goes through a proxy that
    # is not there, and WebRTC may not go round it.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    "--proxy-server=http://127.0.0.1:9",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
)
START_S, OPEN_S, END_S = 60.0, 20.0, 5.0
"""Seconds that the browser may take to start; to open a page, before it counts as hung; to end, before it is killed."""


def missing_browser(*packages: str) -> AgentkitError | None:
    """What is not installed: the first of `packages`, or the browser; told without starting anything."""
    return lacking(*packages) or (None if find_executable() else _no_browser())


def find_executable() -> str | None:
    """Path of the Chromium to use, or None."""
    given = os.environ.get("AGENTKIT_CHROMIUM")
    return next(filter(None, map(shutil.which, (given,) if given else EXECUTABLES)), None)


def _no_browser() -> MissingPartError:
    if given := os.environ.get("AGENTKIT_CHROMIUM"):
        return MissingPartError(
            f"AGENTKIT_CHROMIUM is {given!r}, which is no program; give Chromium's path or unset it"
        )
    return MissingPartError(
        "no Chromium on the PATH; run: apt-get install --no-install-recommends chromium (or set AGENTKIT_CHROMIUM)"
    )


class BrowserHost:
    """Runs coroutines beside one Chromium; its methods may be called from any thread."""

    def __init__(self) -> None:
        self.num_starts = 0
        self.pid: int | None = None
        self._loop = asyncio.new_event_loop()
        self._playwright: Any = None
        self._browser: Any = None
        self._starting = asyncio.Lock()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="agentkit-browser").start()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """What `work` returns, within `timeout_s` seconds.

        Raises:
            EnvironmentFault: it takes longer, or the browser or the page died under it.
        """
        error_type = require("playwright.async_api").Error
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout_s), self._loop)
        try:
            return future.result()
        except TimeoutError as error:
            raise EnvironmentFault(f"the page did not answer within {timeout_s:g} s") from error
        except concurrent.futures.CancelledError as error:
            raise EnvironmentFault("the browser was closed") from error
        except error_type as error:
            raise EnvironmentFault(f"the browser or its page failed: {str(error).splitlines()[0]}") from error
        except BaseException:  # a key that interrupts the waiting thread, say
            future.cancel()
            raise

    async def open_context(self, **settings: Any) -> Any:
        """A new browser context (cookies, storage and cache of its own); starts the browser if none lives.

        Raises:
            MissingPartError: there is no Chromium.
        """
        error_type = require("playwright.async_api").Error
        async with self._starting:
            if self._browser is not None and self._browser.is_connected():
                try:
                    return await asyncio.wait_for(self._browser.new_context(**settings), OPEN_S)
                except (TimeoutError, error_type):
                    pass  # it hangs, or Playwright's own process died: a new one is started below
            await self._end()
            await self._start()
            return await self._browser.new_context(**settings)

    def close(self) -> None:
        """End the browser and wait for it; the next page starts another."""
        with contextlib.suppress(EnvironmentFault):
            self.run(self._end(), 3 * END_S)

    async def _start(self) -> None:
        executable = find_executable()
        if executable is None:
            raise _no_browser()
        self._playwright = await require("playwright.async_api").async_playwright().start()
        self._browser = await self._playwright.chromium.launch(
            executable_path=executable,
            headless=True,
            args=list(FLAGS),
            timeout=START_S * 1000,
            handle_sigint=False,  # Ctrl+C is for the program to handle; the browser ends with it
            handle_sigterm=False,
            handle_sighup=False,
        )
        session = await self._browser.new_browser_cdp_session()
        processes = (await session.send("SystemInfo.getProcessInfo"))["processInfo"]
        await session.detach()
        self.pid = next(int(process["id"]) for process in processes if process["type"] == "browser")
        self.num_starts += 1

    async def _end(self) -> None:
        browser, playwright, pid = self._browser, self._playwright, self.pid
        self._browser = self._playwright = self.pid = None
        for thing, end in ((browser, "close"), (playwright, "stop")):
            if thing is not None:
                try:
                    await asyncio.wait_for(getattr(thing, end)(), END_S)
                except Exception:  # noqa: BLE001 - it is dead or hangs; what is left of it is killed
                    if pid is not None:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)


_host: BrowserHost | None = None
_making = threading.Lock()


def browser_host() -> BrowserHost:
    """The process's browser host, made on first use."""
    global _host
    with _making:
        if _host is None:
            _host = BrowserHost()
            atexit.register(_host.close)
        return _host


def _forget() -> None:
    """In a forked child the host's thread does not exist, and the browser is the parent's."""
    global _host, _making
    if _host is not None:
        atexit.unregister(_host.close)
    _host, _making = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
