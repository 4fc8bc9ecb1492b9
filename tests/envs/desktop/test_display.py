"""A real display: what applications can reach, what a new home forgets, and that nothing is left behind."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from agentkit.envs.desktop import display as displays
from agentkit.envs.desktop import sandbox
from agentkit.envs.desktop.accessibility import Reader
from agentkit.envs.desktop.display import HEIGHT, PREFIX, WIDTH, Display
from agentkit.envs.desktop.view import View
from agentkit.errors import EnvironmentFault

pytestmark = pytest.mark.family("agentkit/Desktop-v0")


def eventually(condition: Callable[[], object], seconds: float = 20) -> bool:
    """Whether `condition` becomes true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def output(display: Display, *argv: str) -> str:
    """What a program prints that runs as the applications do."""
    display.start("program", "sh", "-c", '"$@" > /home/user/output 2>&1', "sh", *argv)
    assert eventually(lambda: "program" in display.ended())
    return (display.home / "output").read_text()


def opened(display: Display, *argv: str) -> tuple[Reader, View]:
    """An application's window, once it is there."""
    reader = Reader(display.bus, WIDTH, HEIGHT, display.path)
    display.start(argv[0], *argv)
    assert eventually(lambda: reader.num_open() == 1)
    display.settle(0.1, 10)
    return reader, reader.read()


def family() -> set[int]:
    """Ids of all processes below this one."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob(PREFIX + "*"))


def test_applications_see_no_network_and_no_files_but_their_home(shared_display: Display) -> None:
    shared_display.clear({})
    reach = "import socket; socket.create_connection(('1.1.1.1', 53), 2)"
    for code, complaint in (
        (reach, "Network is unreachable"),
        ("open('/usr/mark', 'w')", "Read-only file system"),
        ("open('/root/mark', 'w')", "No such file"),
        ("open('/etc/shadow')", "No such file"),
    ):
        assert complaint in output(shared_display, "python3", "-c", code)
    seen = output(shared_display, "python3", "-c", "import os; print(os.getuid(), os.listdir('/home'), os.getcwd())")
    assert seen == "1000 ['user'] /home/user\n"
    assert set(os.listdir("/proc")) - set(output(shared_display, "ls", "/proc").split())


def test_the_machine_s_environment_does_not_leak_in(shared_display: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKIT_TEST_SECRET", "1234")
    shared_display.clear({})
    assert "SECRET" not in output(shared_display, "env")


def test_a_new_home_forgets_files_settings_recent_files_and_the_clipboard(shared_display: Display) -> None:
    display = shared_display
    display.clear({"secret.txt": "the secret\n"})
    opened(display, "mousepad", "secret.txt")
    for keys in (("Control_L", "a"), ("Control_L", "c"), ("Control_L", "r"), ("Escape",), ("Control_L", "s")):
        display.hand.press(keys)
        display.settle(0.05, 2)
    assert eventually(lambda: (display.home / ".local/share/recently-used.xbel").exists())
    old = display.home / ".config/glib-2.0/settings/keyfile"
    old.write_text(old.read_text() + "[org/xfce/mousepad/preferences/view]\nshow-line-numbers=true\n")
    (display.home / "locked").mkdir(mode=0o000)

    display.clear({"other.txt": ""})
    assert sorted(path.name for path in display.home.iterdir() if not path.name.startswith(".")) == ["other.txt"]
    assert "secret" not in "".join(path.read_text() for path in display.home.rglob("*") if path.is_file())
    reader, view = opened(display, "mousepad", "other.txt")
    assert "other.txt" in str(view)
    assert "secret" not in str(view)
    assert "line-numbers" not in old.read_text()
    display.hand.press(("Control_L", "v"))
    display.settle(0.1, 2)
    element = reader.read().find("text")
    assert element is not None
    assert element.value == ""


def test_an_application_and_all_it_started_are_gone_after_clear(shared_display: Display) -> None:
    display = shared_display
    display.clear({})
    before = family()
    opened(display, "lxterminal")
    display.hand.write("setsid nohup sleep 1000 &\n(setsid sleep 1000 &)\n", lambda: None)
    sleeping = lambda: [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "1000"]]
    assert eventually(lambda: len(sleeping()) == 2)
    display.clear({})
    assert eventually(lambda: not sleeping())
    assert family() <= before


def test_closing_leaves_no_process_no_folder_and_no_socket() -> None:
    before, around = family(), folders()
    display = Display(confined=True)
    screen = Path(f"/tmp/.X11-unix/X{display.number}")
    opened(display, "galculator")
    assert family() > before
    assert folders() > around
    assert screen.exists()
    display.close()
    display.close()
    assert family() <= before
    assert folders() <= around
    assert not screen.exists()


def test_forgetting_a_display_closes_it() -> None:
    before, around = family(), folders()
    Display(confined=True)
    assert eventually(lambda: family() <= before and folders() <= around)


def test_a_display_lives_on_when_the_thread_that_made_it_ends() -> None:
    made: list[Display] = []
    thread = threading.Thread(target=lambda: made.append(Display(confined=True)))
    thread.start()
    thread.join()
    time.sleep(0.1)
    made[0].check()
    opened(made[0], "galculator")
    made[0].close()


def test_when_python_is_killed_so_is_the_desktop_and_the_next_one_clears_up() -> None:
    code = (
        "import time\nfrom agentkit.envs.desktop.display import Display\n"
        "display = Display(confined=True)\ndisplay.start('galculator', 'galculator')\n"
        "print(display.home.parent, flush=True)\ntime.sleep(100)"
    )
    python = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert python.stdout is not None
    folder = Path(python.stdout.readline().strip())
    children = psutil.Process(python.pid).children(recursive=True)
    assert len(children) >= 5
    assert folder.is_dir()
    python.send_signal(signal.SIGKILL)
    python.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    os.utime(folder, (0, 0))  # some time later
    Display(confined=True).close()
    assert not folder.exists()


@pytest.mark.parametrize("program", ["Xvfb", "dbus-daemon", "openbox", "at-spi2-registryd"])
def test_a_part_that_dies_is_a_fault_that_names_it(program: str) -> None:
    display = Display(confined=True)
    try:
        below = psutil.Process().children(recursive=True)
        mine = [child for child in below if child.name()[:15] == program[:15] and child.pid in pids_of(display)]
        assert mine
        for child in mine:
            child.kill()
        assert eventually(lambda: dead(display))
    finally:
        display.close()


def pids_of(display: Display) -> set[int]:
    roots = [psutil.Process(child.pid) for child in display._services.values()]
    return {root.pid for root in roots} | {one.pid for root in roots for one in root.children(recursive=True)}


def dead(display: Display) -> bool:
    try:
        display.check()
    except EnvironmentFault as error:
        return "has ended" in str(error)
    return False


def test_an_unconfined_desktop_works_and_leaves_nothing_behind_either() -> None:
    before, around = family(), folders()
    display = Display(confined=False)
    try:
        display.clear({})
        _, view = opened(display, "lxterminal")
        assert view.find("terminal") is not None
        display.hand.write('setsid nohup sleep 1001 &\necho "$HOME" > home\n', lambda: None)
        assert eventually(lambda: (display.home / "home").exists() and (display.home / "home").read_text())
        assert (display.home / "home").read_text() == f"{display.home}\n"
        display.clear({})
        gone = lambda: all(one.info["cmdline"] != ["sleep", "1001"] for one in psutil.process_iter(["cmdline"]))
        assert eventually(gone)
    finally:
        display.close()
    assert family() <= before
    assert folders() <= around


def test_namespaces_are_tried_and_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sandbox.namespaces_work()
    sandbox.namespaces_work.cache_clear()
    monkeypatch.setattr(sandbox, "_NAMESPACES", ("no-such-namespace",))
    assert not sandbox.namespaces_work()
    sandbox.namespaces_work.cache_clear()


def test_what_a_killed_python_left_is_removed_but_nothing_that_is_being_made_or_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(displays.tempfile, "gettempdir", lambda: str(tmp_path))
    being_made, left, held = (tmp_path / f"{displays.PREFIX}{name}" for name in ("young", "left", "held"))
    for folder in (being_made, left, held):
        folder.mkdir()
    with (held / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (left / "lock").touch()
        for folder in (left, held):
            os.utime(folder, (0, 0))
        displays._sweep()
        assert sorted(tmp_path.iterdir()) == sorted([being_made, held])
    assert list(being_made.iterdir()) == [], "not even a lock is put there"
