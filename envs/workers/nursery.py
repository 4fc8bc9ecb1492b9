"""The nursery: a small process without threads that forks a worker for every request.

Forking the user's own process would copy its threads' locks in whatever state they are, torch's among them; starting
an interpreter for every worker would take the imports anew and run the user's main script. The nursery has imported
`agentkit.envs` once and nothing else, so a fork takes milliseconds and shares most of its memory.

It keeps the last output of every worker, knows how each ended, and leaves no process behind: a worker inherits the
orphans among its descendants, the nursery those of a worker that died, and kills them. It ends with the process it
serves.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import select
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass, field

from agentkit.envs.workers import processes
from agentkit.envs.workers.channel import Channel

REQUEST = struct.Struct("!cI")
"""What is asked, and a process id; the connection of a worker to fork comes with it."""
FORK, HUNG_UP, KILL, LET_GO = b"f", b"h", b"k", b"l"
TAIL_BYTES = 4096
"""Last output kept of a worker."""
_GRACE_S = 5.0
"""Seconds a worker has to close its environment once nobody needs it."""
_TICK_S = 1.0
_REMEMBERED = 64


@dataclass
class _Charge:
    """A worker, as the nursery sees it."""

    pipe: int | None
    """Reading end of its output; None once it has closed that."""
    tail: bytearray = field(default_factory=bytearray)
    """Its last output."""
    deadline: float | None = None
    """When it is killed, if it has been let go."""


class Nursery:
    """Serves one process over `control` until that hangs up or dies."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._answers = Channel(control)
        self._parent = os.getppid()
        self._charges: dict[int, _Charge] = {}
        self._ended: dict[int, tuple[int, bytes]] = {}
        """Wait status and last output of workers that have ended."""
        self._bell, self._rope = os.pipe()
        """What a child's end writes to, so that `run` wakes up."""
        os.set_blocking(self._rope, False)
        signal.set_wakeup_fd(self._rope, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> socket.socket | None:
        """Serve; returns None at the end, and in each forked worker its connection."""
        self._answers.send("ready")
        while os.getppid() == self._parent:  # else it died and a fork of it holds its end of the connection
            poll = select.poll()
            for source in (self._control.fileno(), self._bell, *self._pipes()):
                poll.register(source, select.POLLIN)
            ready = {source for source, _ in poll.poll(_TICK_S * 1000)}
            for charge in self._charges.values():
                if charge.pipe in ready:
                    _drain(charge)
            if self._bell in ready:
                os.read(self._bell, 4096)
                self._bury()
                self._sweep()
            self._kill_late()
            if self._control.fileno() in ready:
                data, ends, _, _ = socket.recv_fds(self._control, REQUEST.size, 1)
                if len(data) < REQUEST.size:
                    break
                what, pid = REQUEST.unpack(data)
                connection = self._serve(what, pid, ends)
                if connection is not None:
                    return connection
        self._end()
        return None

    def _serve(self, what: bytes, pid: int, ends: list[int]) -> socket.socket | None:
        """Answer a request; returns None, and in a forked worker its connection."""
        if what == FORK:
            connection = socket.socket(fileno=ends[0])
            connection.set_inheritable(False)  # a received descriptor is, and the worker's children must not have it
            try:
                pid = self._fork()
            except OSError as error:  # too many processes, or files
                self._answers.send(str(error))
            else:
                if pid == 0:
                    return connection
                self._answers.send(pid)
            connection.close()
        elif what == LET_GO:
            if pid in self._charges:
                self._charges[pid].deadline = time.monotonic() + _GRACE_S
            self._answers.send(None)
        else:
            if what == HUNG_UP:
                self._await(pid, 0.5)
            if pid in self._charges:
                processes.kill_leader(pid)
                self._await(pid, 1.0)
            status, tail = self._ended.pop(pid, (None, b""))
            self._answers.send([status, tail])
        return None

    def _fork(self) -> int:
        """Fork a worker; returns its process id, and 0 in the worker."""
        pipe, output = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(pipe)
            os.close(output)
            raise
        if pid:
            os.close(output)
            os.set_blocking(pipe, False)
            self._charges[pid] = _Charge(pipe)
            return pid
        parent = os.getppid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        processes.die_with_parent(parent)
        processes.adopt_orphans()
        os.dup2(output, 1)
        os.dup2(output, 2)
        for mine in (pipe, output, self._bell, self._rope, *self._pipes()):
            os.close(mine)
        self._control.close()
        return 0

    def _pipes(self) -> list[int]:
        return [charge.pipe for charge in self._charges.values() if charge.pipe is not None]

    def _await(self, pid: int, limit_s: float) -> None:
        """Wait until a worker has ended and is buried."""
        deadline = time.monotonic() + limit_s
        while pid in self._charges and time.monotonic() < deadline:
            if not self._bury():
                time.sleep(0.0005)

    def _bury(self) -> bool:
        """Reap the workers that have ended; returns whether there was one."""
        ended = [(pid, status) for pid in self._charges for one, status in [os.waitpid(pid, os.WNOHANG)] if one == pid]
        for pid, status in ended:
            processes.kill_group(pid)
            charge = self._charges.pop(pid)
            _drain(charge)
            if charge.pipe is not None:
                os.close(charge.pipe)
            self._ended[pid] = status, bytes(charge.tail)
            while len(self._ended) > _REMEMBERED:
                del self._ended[next(iter(self._ended))]
        if ended:
            self._sweep()
        return bool(ended)

    def _sweep(self) -> None:
        """Kill what workers that have ended leave behind; what a living one starts is never our child."""
        for _ in range(100):  # a killed orphan's own children come next
            orphans = [pid for pid in processes.children(os.getpid()) if pid not in self._charges]
            if not orphans:
                return
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError, ChildProcessError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.0005)

    def _kill_late(self) -> None:
        for pid, charge in self._charges.items():
            if charge.deadline is not None and charge.deadline < time.monotonic():
                processes.kill_leader(pid)

    def _end(self) -> None:
        """Let the workers close their environments, as they do once nobody calls them; kill the others."""
        deadline = time.monotonic() + _GRACE_S
        while self._charges and time.monotonic() < deadline:
            self._bury()
            for charge in self._charges.values():
                _drain(charge)
            time.sleep(0.002)
        for pid in list(self._charges):
            processes.kill_leader(pid)
            self._await(pid, 1.0)
        self._sweep()


def _drain(charge: _Charge) -> None:
    """Take what a worker has written, without waiting; at most a little at a time, for it may never stop."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(16):
            if charge.pipe is None:
                return
            data = os.read(charge.pipe, 1 << 16)
            if not data:
                os.close(charge.pipe)
                charge.pipe = None
            charge.tail += data
            del charge.tail[:-TAIL_BYTES]


def main(control: int) -> None:
    """Be the nursery, and in each fork a worker."""
    import agentkit.envs  # noqa: F401 - what every worker needs
    from agentkit.envs.workers.worker import serve

    end = socket.socket(fileno=control)
    end.set_inheritable(False)
    processes.adopt_orphans()
    gc.collect()
    gc.freeze()  # the collector would write to the pages that workers share
    connection = Nursery(end).run()
    if connection is not None:
        sys.stdout, sys.stderr = (  # without buffers: the last words of a crash are not lost
            io.TextIOWrapper(io.FileIO(fd, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)
            for fd in (1, 2)
        )
        serve(connection)
