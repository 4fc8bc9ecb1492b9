"""Sandbox: what the applications of a desktop may see and reach.

Every application runs in namespaces of its own, made by bubblewrap: no network but its own loopback, no processes but
its own, the system's programs read-only, and one folder of the machine to write to, its home. Without bubblewrap
(`sandbox=False`) they run as the user who runs Python, for machines that forbid namespaces.
"""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from pathlib import Path

HOME = "/home/user"
RUNTIME = "/run/user/1000"
UID = 1000
"""Home, runtime folder and user id inside a sandbox."""
_ETC = (
    "alternatives",
    "bash.bashrc",
    "fonts",
    "gtk-2.0",
    "gtk-3.0",
    "ld.so.cache",
    "mime.types",
    "pango",
    "X11",
    "xdg",
)
"""What applications read under /etc."""
_NAMESPACES = ("user", "net", "pid", "ipc", "uts", "cgroup-try")
_PASSWD = f"root:x:0:0:root:/root:/bin/sh\nuser:x:{UID}:{UID}:user:{HOME}:/bin/bash\n"
_GROUP = f"root:x:0:\nuser:x:{UID}:\n"


@lru_cache(maxsize=1)
def namespaces_work() -> bool:
    """Whether bubblewrap may make namespaces here; tried once, which takes some 10 ms."""
    trial = ["bwrap", *_flags("--unshare-"), "--ro-bind", "/", "/", "true"]
    return subprocess.run(trial, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def sandboxed(argv: list[str], folder: Path, display: int) -> list[str]:
    """The command that runs `argv` with nothing but a desktop in reach.

    Args:
        argv: the program and its arguments.
        folder: the desktop's own folder, laid out by `lay_out`.
        display: number of the X display.
    """
    command = ["bwrap", *_flags("--unshare-"), "--die-with-parent", "--new-session", "--hostname", "desktop"]
    command += ["--uid", str(UID), "--gid", str(UID), "--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"]
    for name in ("bin", "sbin", "lib", "lib64"):
        command += ["--symlink", f"usr/{name}", f"/{name}"]
    for name in _ETC:
        command += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for name in ("passwd", "group"):
        command += ["--ro-bind", str(folder / name), f"/etc/{name}"]
    screen = f"/tmp/.X11-unix/X{display}"
    command += ["--tmpfs", "/tmp", "--bind", screen, screen, "--ro-bind-try", *2 * ["/var/cache/fontconfig"]]
    command += ["--bind", str(folder / "home"), HOME, "--bind", str(folder / "run"), RUNTIME, "--chdir", HOME]
    return [*command, "--", *argv]


def bare(argv: list[str]) -> list[str]:
    """The command that runs `argv` unconfined, but ends it when Python ends, and points proxies nowhere."""
    proxies = [f"{scheme}_proxy=http://127.0.0.1:9" for scheme in ("http", "https", "ftp", "all")]
    return ["setpriv", "--pdeathsig", "TERM", "env", *proxies, *argv]


def lay_out(folder: Path) -> None:
    """Make a desktop's folder: `home`, `run`, and who the applications believe to be."""
    (folder / "home").mkdir()
    (folder / "run").mkdir(mode=0o700)
    (folder / "passwd").write_text(_PASSWD)
    (folder / "group").write_text(_GROUP)


def surroundings(home: str, runtime: str, display: int) -> dict[str, str]:
    """The environment variables of a desktop's processes; nothing of this process's own leaks in."""
    bus = f"unix:path={runtime}/bus"
    return {
        "AT_SPI_BUS_ADDRESS": bus,
        "DBUS_SESSION_BUS_ADDRESS": bus,
        "DISPLAY": f":{display}",
        "GIO_USE_VFS": "local",
        "GSETTINGS_BACKEND": "keyfile",  # settings in a text file of the home, no service that remembers them
        "GTK_MODULES": "gail:atk-bridge",
        "HOME": home,
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "TZ": "UTC",
        "USER": "user",
        "XDG_RUNTIME_DIR": runtime,
    }


def _flags(prefix: str) -> list[str]:
    return [prefix + name for name in _NAMESPACES]


def runs_as(sandbox: bool) -> int:
    """User id that a desktop's processes give themselves."""
    return UID if sandbox else os.getuid()
