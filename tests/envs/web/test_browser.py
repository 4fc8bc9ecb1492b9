"""The browser: one a process, started again when it died, gone when the process is. A real one, really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from agentkit.envs import make_env
from agentkit.envs.gestures import Gesture
from agentkit.envs.web import browser
from agentkit.envs.web.browser import browser_host, find_executable
from agentkit.envs.web.env import MiniWoB
from agentkit.envs.web.page import WebPage
from agentkit.errors import ConfigError, EnvironmentFault, MissingExtraError, MissingPartError

Show = Callable[..., WebPage]
family = pytest.mark.family("agentkit/MiniWoB-v0")


def test_a_missing_browser_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    monkeypatch.delenv("AGENTKIT_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = MiniWoB.unavailable()
    assert isinstance(missing, MissingPartError)
    assert "apt-get install --no-install-recommends chromium" in str(missing)
    with pytest.raises(MissingPartError):
        make_env("agentkit/MiniWoB-v0")


def test_the_browser_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "my-chromium"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("AGENTKIT_CHROMIUM", str(program))
    assert find_executable() == str(program)
    monkeypatch.setenv("AGENTKIT_CHROMIUM", str(tmp_path / "nothing"))
    pytest.importorskip("playwright")
    assert "AGENTKIT_CHROMIUM is" in str(MiniWoB.unavailable())


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    missing = MiniWoB.unavailable()
    assert isinstance(missing, MissingExtraError)
    assert "pip install 'agentkit-rl[web]'" in str(missing)


@family
def test_all_pages_share_one_browser(show: Show) -> None:
    first, second = show("a"), show("b")
    host = browser_host()
    starts, pid = host.num_starts, host.pid
    assert first._context is not second._context
    assert first._context.browser is second._context.browser
    assert pid is not None
    assert psutil.pid_exists(pid)
    show("c")
    assert (host.num_starts, host.pid) == (starts, pid)


@family
def test_a_browser_killed_under_a_step_is_a_fault_and_the_next_page_has_another(show: Show, tmp_path: Path) -> None:
    page = show("<button>b</button>")
    pid = browser_host().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EnvironmentFault, match="browser or its page failed"):
        page.perform(Gesture("click", 1))
    page.goto((tmp_path / "page.html").as_uri())
    assert page.observe().text(100) == '[1] button "b"'
    assert browser_host().pid != pid


@family
def test_a_browser_that_hangs_is_replaced(show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "OPEN_S", 1.0)
    monkeypatch.setattr(browser, "END_S", 1.0)
    page = show("<button>b</button>", step_s=2.0)
    pid = browser_host().pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(EnvironmentFault):
            page.screenshot()
        page.goto((tmp_path / "page.html").as_uri())
        assert browser_host().pid != pid
        assert page.observe().text(100) == '[1] button "b"'
    finally:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


@family
def test_a_playwright_that_died_is_replaced(show: Show, tmp_path: Path) -> None:
    page = show("<button>b</button>", step_s=5.0)
    driver = next(child for child in psutil.Process().children() if "playwright" in " ".join(child.cmdline()))
    driver.kill()
    with pytest.raises(EnvironmentFault):
        page.screenshot()
    page.goto((tmp_path / "page.html").as_uri())
    assert page.observe().text(100) == '[1] button "b"'


@family
def test_a_call_that_the_browser_outlives_ends_in_time() -> None:
    import asyncio

    begun = time.monotonic()
    with pytest.raises(EnvironmentFault, match=r"within 0\.2 s"):
        browser_host().run(asyncio.sleep(30), 0.2)
    assert time.monotonic() - begun < 5


@family
def test_pages_of_many_threads_work_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<button onclick='this.innerText = 1 + +this.innerText'>0</button>")

    def count(_: int) -> str:
        page = WebPage(tmp_path.as_uri() + "/", width=100, height=100)
        page.goto((tmp_path / "page.html").as_uri())
        page.observe()
        for _ in range(10):
            page.perform(Gesture("click", 1))
        text = page.observe().text(100)
        page.close()
        return text

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(count, range(4))) == ['[1] button "10" focused'] * 4


@family
def test_a_page_works_under_a_running_event_loop(show: Show) -> None:
    import asyncio

    async def look() -> str:
        return show("<p>hi</p>").observe().text(100)

    assert asyncio.run(look()) == '[1] text "hi"'


PROGRAM = """
import os, sys, time
from agentkit.envs.web import browser
from agentkit.envs.web.browser import browser_host
from agentkit.envs.web.page import WebPage
page = WebPage("file:///", width=100, height=100)
page.goto(sys.argv[1])
print(browser_host().pid, flush=True)
if sys.argv[2] == "stay":
    time.sleep(60)
"""


@family
@pytest.mark.parametrize("end", ["leave", "stay"])
def test_no_process_outlives_ours_however_it_ends(end: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>hi</p>")
    command = [sys.executable, "-c", PROGRAM, (tmp_path / "page.html").as_uri(), end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        chromium = int(program.stdout.readline())
        children = (
            [process.pid for process in psutil.Process(program.pid).children(recursive=True)] if end == "stay" else []
        )
        if end == "stay":
            assert chromium in children
            program.kill()
        code = program.wait(30)
    assert code == (-signal.SIGKILL if end == "stay" else 0)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and any(map(_runs, [chromium, *children])):
        time.sleep(0.1)
    assert [pid for pid in [chromium, *children] if _runs(pid)] == []


def _runs(pid: int) -> bool:
    """Whether the process still does something; a zombie that nobody waits for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@family
def test_a_forked_child_starts_a_browser_of_its_own(show: Show) -> None:
    show("a")
    host = browser_host()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"own" if browser_host() is not host else b"shared")
        os._exit(0)
    os.close(writing)
    assert os.read(reading, 10) == b"own"
    os.close(reading)
    os.waitpid(child, 0)
    assert browser_host() is host


@family
def test_closing_twice_and_before_opening_is_fine(tmp_path: Path) -> None:
    page = WebPage(tmp_path.as_uri(), width=10, height=10)
    page.close()
    page.close()
    with pytest.raises(ConfigError, match="call goto"):
        page.observe()
    assert threading.active_count() < 50
