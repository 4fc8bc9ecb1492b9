"""Display: an X server, a message bus, the accessibility registry and a window manager, and the applications on them.

Everything is private: a display number that the server chose, sockets in a folder of the display's own, a home that is
made anew for every episode. Nothing outlives the display, or Python.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from agentkit.envs.desktop import processes, sandbox
from agentkit.envs.desktop.bus import CONFIGURATION, Bus, Call
from agentkit.envs.desktop.hand import DOUBLE_CLICK_S, Hand
from agentkit.errors import EnvironmentFault

WIDTH, HEIGHT = 1024, 640
"""Pixels of the screen."""
START_S = 20.0
"""Seconds that a part of the desktop may take to come up."""
SWEEP_AFTER_S = 60.0
"""Seconds after which the folder of a display that nobody holds is taken for left behind."""
PREFIX = "agentkit-desktop-"
T = TypeVar("T")
REGISTRY = "org.a11y.atspi.Registry"

# No frames, no menus, no keys: the whole screen belongs to the applications, each at a place of its own.
_WINDOWS = """<openbox_config xmlns="http://openbox.org/3.4/rc">
  <focus><focusNew>yes</focusNew><followMouse>no</followMouse></focus>
  <placement><policy>Smart</policy><center>yes</center></placement>
  <desktops><number>1</number><popupTime>0</popupTime></desktops>
  <keyboard><keybind key="A-Tab"><action name="NextWindow"><dialog>none</dialog></action></keybind></keyboard>
  <mouse><context name="Client"><mousebind button="Left" action="Press">
    <action name="Focus"/><action name="Raise"/></mousebind></context></mouse>
  <applications>
    <application class="*"><decor>no</decor></application>
    <application class="*" type="normal"><maximized>yes</maximized></application>
    <application class="Galculator" type="normal"><maximized>no</maximized>
      <position force="yes"><x>-0</x><y>0</y></position></application>
    <application class="Mousepad" type="normal"><maximized>no</maximized>
      <position force="yes"><x>0</x><y>0</y></position><size><width>680</width><height>640</height></size></application>
  </applications>
</openbox_config>
"""
HOME_FILES = {
    ".config/gtk-3.0/settings.ini": "[Settings]\ngtk-cursor-blink=0\ngtk-enable-animations=0\n"
    f"gtk-double-click-time={DOUBLE_CLICK_S * 1000:.0f}\n",
    ".gtkrc-2.0": "gtk-cursor-blink = 0\ngtk-enable-animations = 0\n"
    f"gtk-double-click-time = {DOUBLE_CLICK_S * 1000:.0f}\n",
    ".config/glib-2.0/settings/keyfile": "[org/gnome/gnumeric/toolbars]\nformat-visible=false\nobject-visible=false\n"
    "\n[org/gnome/gnumeric/core/gui/toolbars]\nstandard-visible=false\nformat-visible=false\nobject-visible=false\n",
    ".config/pcmanfm/default/pcmanfm.conf": "[config]\nbm_open_method=0\n[ui]\nview_mode=list\n"
    "side_pane_mode=hidden;places\ncolumns=name:300;\ntoolbar=navigation;home;\nshow_statusbar=0\n",
}
"""What every home holds besides the chore's files: nothing blinks, and the windows show no more than they need to."""
_SERVICES = {
    "message bus": ("dbus-daemon", "--nofork", "--nopidfile", "--config-file={runtime}/bus.conf"),
    "accessibility registry": ("/usr/libexec/at-spi2-registryd",),
    "window manager": ("openbox", "--config-file", "{runtime}/rc.xml", "--sm-disable"),
}


class Display:
    """A running desktop.

    Attributes:
        home: the folder that is the applications' home.
        hand: mouse, keyboard and screenshots.
        bus: connection to the bus on which applications describe themselves.
        applications: what was started since the last `clear`, by name.
    """

    def __init__(self, *, confined: bool) -> None:
        """Start it.

        Args:
            confined: whether what runs on it runs in a sandbox.

        Raises:
            EnvironmentFault: a part of it does not come up.
        """
        _sweep()
        self._confined = confined
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = (self._folder / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        sandbox.lay_out(self._folder)
        self.home = self._folder / "home"
        self.applications: dict[str, subprocess.Popen[bytes]] = {}
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        self._tear_down = weakref.finalize(
            self, _tear_down, self._services, self.applications, self._folder, self._lock, confined
        )
        try:
            self._start_services()
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> str:
        """The home, as the applications see it."""
        return sandbox.HOME if self._confined else str(self.home)

    def start(self, name: str, *argv: str) -> None:
        """Start an application; its windows appear some time later."""
        self.applications[name] = self._spawn(argv)

    def clear(self, files: dict[str, str]) -> None:
        """End the applications and put a new home in the place of the old one.

        Args:
            files: path in the home -> contents; `HOME_FILES` are there too.
        """
        processes.end(self.applications.values())
        if not self._confined:
            processes.end_marked(_mark(self._folder), sparing=[child.pid for child in self._services.values()])
        self.applications.clear()
        for entry in self.home.iterdir():
            _remove(entry)
        for path, text in (HOME_FILES | files).items():
            file = self.home / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def ended(self) -> list[str]:
        """Names of the applications that have ended."""
        return [name for name, child in self.applications.items() if child.poll() is not None]

    def close(self) -> None:
        """End everything and remove the display's folder; also done when it is forgotten, and when Python ends."""
        for connection in ("hand", "bus"):
            if hasattr(self, connection):
                getattr(self, connection).close()
        self._tear_down()

    def settle(self, quiet_s: float, most_s: float, soon_s: float = 0) -> bool:
        """Wait until nothing on the desktop is busy any more; see `processes.await_rest`.

        The timers are those of the applications.
        """
        self.check()
        services, applications = (
            [child.pid for child in children.values() if child.poll() is None]
            for children in (self._services, self.applications)
        )
        return processes.await_rest([*services, *applications], quiet_s, most_s, applications, soon_s)

    def check(self) -> None:
        """Raise `EnvironmentFault` if a part of the desktop has died."""
        for name, child in self._services.items():
            if child.poll() is not None:
                raise EnvironmentFault(f"the desktop's {name} has ended with status {child.returncode}")

    def _start_services(self) -> None:
        self.number = self._start_server()
        runtime = sandbox.RUNTIME if self._confined else str(self._folder / "run")
        (self._folder / "run/bus.conf").write_text(CONFIGURATION.format(socket=f"{runtime}/bus"))
        (self._folder / "run/rc.xml").write_text(_WINDOWS)
        for name, argv in _SERVICES.items():
            self._services[name] = self._spawn([part.format(runtime=runtime) for part in argv])
            if name == "message bus":
                self.bus = self._await(name, self._connect)
        self.hand = Hand(self.number)
        self._await("window manager", self.hand.managed)
        # Applications answer for their whole tree at once only while somebody listens to some event.
        listen = Call(
            REGISTRY, "/org/a11y/atspi/registry", REGISTRY, "RegisterEvent", "sass", ("object:text-nothing", [], "")
        )
        self._await("accessibility registry", lambda: self.bus.ask([listen], 1)[0] is not None)

    def _connect(self) -> Bus:
        return Bus(self._folder / "run/bus", sandbox.runs_as(self._confined))

    def _start_server(self) -> int:
        read, write = os.pipe()
        try:
            argv = ["Xvfb", "-displayfd", str(write), "-nolisten", "tcp", "-noreset"]
            argv += ["-screen", "0", f"{WIDTH}x{HEIGHT}x24"]
            self._services["X server"] = processes.start(sandbox.bare(argv), pass_fds=[write], **_SILENT)
        finally:
            os.close(write)
        with os.fdopen(read, "rb") as numbers:
            number = numbers.readline().strip()  # ends, empty, if the server dies
        if not number:
            raise EnvironmentFault("the desktop's X server (Xvfb) did not start")
        return int(number)

    def _spawn(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        home, runtime = (
            (sandbox.HOME, sandbox.RUNTIME) if self._confined else (str(self.home), str(self._folder / "run"))
        )
        around = sandbox.surroundings(home, runtime, self.number)
        if self._confined:
            command = sandbox.sandboxed(list(argv), self._folder, self.number)
        else:
            command = sandbox.bare(list(argv))
        return processes.start(command, env=around, cwd=self.home, **_SILENT)

    def _await(self, name: str, attempt: Callable[[], T]) -> T:
        """The first true value of `attempt`, which may fail with an OSError until the part is up."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            self.check()
            with contextlib.suppress(OSError):
                if result := attempt():
                    return result
            time.sleep(0.002)
        raise EnvironmentFault(f"the desktop's {name} did not come up within {START_S:g} s")


_SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def _tear_down(
    services: dict[str, subprocess.Popen[bytes]],
    applications: dict[str, subprocess.Popen[bytes]],
    folder: Path,
    lock: IO[str],
    confined: bool,
) -> None:
    """End everything and remove the folder."""
    server = services.pop("X server", None)
    processes.end([*applications.values(), *services.values()])
    if not confined:
        processes.end_marked(_mark(folder))
    if server is not None:
        processes.end([server], signal.SIGTERM)  # asked politely, it takes its socket and its lock with it
    lock.close()
    shutil.rmtree(folder, ignore_errors=True)


def _mark(folder: Path) -> str:
    """What the environment of every process of an unconfined desktop holds."""
    return f"HOME={folder / 'home'}"


def _sweep() -> None:
    """Remove folders whose Python was killed before it could: nobody holds their lock.

    A young one is left alone: whoever makes it may not have come to lock it yet.
    """
    for folder in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime < SWEEP_AFTER_S:
                continue
            with (folder / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        for folder, _, _ in os.walk(entry):
            os.chmod(folder, 0o700)  # a player may have forbidden it to us
        shutil.rmtree(entry)
    else:
        entry.unlink()
