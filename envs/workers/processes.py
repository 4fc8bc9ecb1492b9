"""What Linux tells and does about processes. Elsewhere there is less to tell: empty lists, None, no effect."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@dataclass(frozen=True)
class Usage:
    """What a process and all its descendants hold."""

    own_mb: float
    """Mebibytes of resident memory of the process itself."""
    descendants_mb: float
    """Mebibytes of its descendants; what they share counts for each."""
    threads: int
    """Threads."""
    processes: int
    """Descendants, without the process itself."""
    files: int
    """Open files, sockets and pipes."""


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies."""
    if LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Be killed when the parent's thread that forked this process ends; `parent` is its process id."""
    if LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it died in between


def limit_memory(most_mb: int | None) -> None:
    """Let this process have at most so many mebibytes of private writable memory; None lifts the limit.

    The limit is the kernel's RLIMIT_DATA: memory that is only reserved, shared or read from files does not count.
    Processes started from here on have the same limit, each for itself.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = hard if most_mb is None else most_mb << 20
    resource.setrlimit(resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def private_mb() -> float:
    """Mebibytes that count towards `limit_memory`; 0 where nobody tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) / 1024
    return 0.0


def resident_mb(pid: int) -> float:
    """Mebibytes of memory that a process holds; 0 if it has gone or nobody tells."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB
    except OSError:
        return 0.0


def children(pid: int) -> list[int]:
    """Ids of the children of a process; ended ones that nobody waited for too."""
    found: list[int] = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    except OSError:  # it has gone, or the kernel keeps no such list
        return _by_parent().get(pid, [])
    return found


def descendants(pid: int) -> list[int]:
    """Ids of the children of a process, of their children, and so on; ended ones that nobody waited for too."""
    by_parent = _by_parent()
    found = list(by_parent.get(pid, ()))
    for one in found:  # grows as it is read
        found += by_parent.get(one, ())
    return found


def _by_parent() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name stands in brackets and may hold anything; behind it follow state and parent.
            found.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    return found


def kill_group(leader: int) -> None:
    """Kill a process group, if it still has members."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def kill_leader(leader: int) -> None:
    """Kill a process and its group; the process may be so young that it does not lead one yet."""
    kill_group(leader)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(leader, signal.SIGKILL)


def usage() -> Usage | None:
    """What this process and its descendants hold; None where nobody tells."""
    if not LINUX:
        return None
    others = descendants(os.getpid())
    pids = [os.getpid(), *others]
    return Usage(
        own_mb=resident_mb(os.getpid()),
        descendants_mb=sum(map(resident_mb, others)),
        threads=sum(_entries(pid, "task") for pid in pids),
        processes=len(others),
        files=sum(_entries(pid, "fd") for pid in pids),
    )


def _entries(pid: int, folder: str) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/{folder}"))
    except OSError:
        return 0
