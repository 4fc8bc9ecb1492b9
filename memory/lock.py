"""FolderLock: one owner a folder. Two Chroma clients on one folder lose vectors without any error.

The operating system drops an `flock` when its holder dies, however it dies, so a lock is never left behind;
the name written inside only tells the next opener whom to ask.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import weakref
from pathlib import Path

from agentkit.errors import OwnedElsewhereError, RecordError

_PATIENCE_S = 0.3  # for an owner that is just closing
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class FolderLock:
    """Ownership of a folder, held from construction to `close()` or the death of the process.

    Args:
        folder: Made if it is not there; the lock is the file `OWNER.lock` inside.
        wait_s: Seconds to wait for another owner to give it back; a little while in any case, for one just closing.

    Raises:
        OwnedElsewhereError: Another process, or another object in this one, owns the folder.
        RecordError: The folder cannot be written.
    """

    def __init__(self, folder: Path, wait_s: float = 0.0) -> None:
        self.folder = folder
        self._pid = os.getpid()
        self._file: int | None = None
        path = folder / "OWNER.lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RecordError(f"cannot write in {folder} ({error.strerror}); give a writable folder") from error
        try:
            _take(file, folder, max(wait_s, _PATIENCE_S))
            os.truncate(file, 0)
            os.pwrite(file, json.dumps(_name_of_this_process()).encode(), 0)
        except BaseException:
            os.close(file)
            raise
        self._file = file
        _held.add(self)

    def check(self) -> None:
        """Raise unless this process holds the lock.

        Raises:
            OwnedElsewhereError: It was closed, or it is a forked child's copy of its parent's.
        """
        if os.getpid() != self._pid:
            raise OwnedElsewhereError(
                f"{self.folder} belongs to process {self._pid}, from which this one ({os.getpid()}) was "
                "forked; let the parent do the reading and writing, or start workers with the 'spawn' method"
            )
        if self._file is None:
            raise RecordError(f"{self.folder} has been closed; open it again")

    def close(self) -> None:
        """Give the folder back; harmless if done twice, or in a forked child."""
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            os.close(self._file)
            self._file = None

    def _let_go_in_child(self) -> None:
        if self._file is not None:  # else the child's copy would keep the lock alive after the parent's death
            os.close(self._file)
            self._file = None


_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for lock in _held:
        lock._let_go_in_child()


os.register_at_fork(after_in_child=_let_go_in_child)


def _take(file: int, folder: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
        raise OwnedElsewhereError(_owned_elsewhere(file, folder)) from None


def _owned_elsewhere(file: int, folder: Path) -> str:
    try:
        owner = json.loads(os.pread(file, 4096, 0))
        pid, host = int(owner["pid"]), str(owner["host"])
    except (ValueError, KeyError, TypeError):
        return f"{folder} is owned by another process; close it there, or give another folder"
    if pid == os.getpid() and host == socket.gethostname():
        return f"{folder} is already open in this process (pid {pid}); share that object, or close it first"
    return (
        f"{folder} is owned by process {pid} on {host}; close it there or end that process (the lock goes "
        "with it), or give another folder"
    )


def _name_of_this_process() -> dict[str, object]:
    boot_id = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    return {"pid": os.getpid(), "host": socket.gethostname(), "boot_id": boot_id}
