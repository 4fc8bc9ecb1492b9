"""The pool: a nursery and its workers, as the process they serve sees them."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from typing import Any

from agentkit.envs.workers import processes
from agentkit.envs.workers.channel import Channel
from agentkit.envs.workers.codec import NotPlain
from agentkit.envs.workers.nursery import FORK, HUNG_UP, KILL, LET_GO, REQUEST
from agentkit.errors import EnvironmentFault

MAX_IDLE = 64
"""Idle workers kept for the next environment."""
MAX_IDLE_MB = 1024
"""Resident memory beyond which a worker is not kept."""
_START_S = 120.0
"""Seconds the nursery has to start: it imports `agentkit.envs`, and the machine may be busy."""
_ANSWER_S = 30.0
_TOLD = 400
"""Characters of a worker's last output that are quoted."""
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from agentkit.envs.workers.nursery import main; main(int(sys.argv[2]))"
)


class Worker:
    """A worker process that this process may call."""

    def __init__(self, pool: Pool, pid: int, end: socket.socket, kind: object) -> None:
        self.pid = pid
        self.channel = Channel(end)
        self.kind = kind
        """What it has played, hence what it has imported."""
        self._pool = pool

    def __del__(self) -> None:
        # May run anywhere, also where the pool's lock is held: the nursery is told by the next request.
        self.channel.close()
        self._pool.dropped.append(self.pid)


class Pool:
    """Hires out workers. Threads may share it; a fork of this process gets nothing of it.

    Args:
        hash_seed: PYTHONHASHSEED of the workers; None leaves it as it is here.
    """

    def __init__(self, *, hash_seed: int | None = None) -> None:
        self.dropped: deque[int] = deque()
        """Process ids of workers that were let go without a word."""
        self._hash_seed = hash_seed
        self._lock = threading.RLock()
        self._idle: list[Worker] = []
        self._all: weakref.WeakSet[Worker] = weakref.WeakSet()
        self._nursery: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._answers: Channel | None = None
        self._stderr: Any = None

    def hire(self, kind: object) -> Worker:
        """A worker: an idle one that has played the same kind, else a new one.

        Raises:
            EnvironmentFault: no process can be started.
        """
        with self._lock:
            for worker in reversed(self._idle):
                if worker.kind == kind:
                    self._idle.remove(worker)
                    if worker.channel.silent():
                        return worker
                    self.end(worker)
                    return self.hire(kind)
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    pid = self._ask(FORK, 0, theirs)
                if not isinstance(pid, int):
                    raise EnvironmentFault(f"no worker process can be started: {pid}")
            except BaseException:
                ours.close()
                raise
            worker = Worker(self, pid, ours, kind)
            self._all.add(worker)
            return worker

    def release(self, worker: Worker, resident_mb: float) -> None:
        """Take back a worker without an environment; it is kept unless it has grown too large."""
        with self._lock:
            if resident_mb <= MAX_IDLE_MB:
                self._idle.append(worker)
            else:
                self._let_go(worker)
            while len(self._idle) > MAX_IDLE:
                self._let_go(self._idle.pop(0))

    def end(self, worker: Worker, *, hung_up: bool = False) -> str:
        """Kill a worker and all its descendants; tells how it ended, in words.

        Args:
            worker: who.
            hung_up: it is dying of itself; wait for that, so as to tell of what.
        """
        worker.channel.close()
        with self._lock:
            if worker not in self._all:  # see `forget`
                return "belongs to the process that this one was forked from"
            if not self._alive():  # its workers were killed with it
                processes.kill_group(worker.pid)
                return "was killed with the process that started it"
            status, tail = self._ask(HUNG_UP if hung_up else KILL, worker.pid)
        return _how(status) + _quoted(tail)

    def close(self) -> None:
        """End all workers and the nursery, and wait for that; environments still open are closed in their workers."""
        with self._lock:
            for worker in list(self._all):
                worker.channel.close()
            self._idle.clear()
            self._stop()

    def forget(self) -> None:
        """In a fork of the process: let go of what belongs to the original, without a word to anyone."""
        self._lock = threading.RLock()
        for worker in list(self._all):
            worker.channel.close()
        self._idle.clear()
        self._all.clear()
        if self._control is not None:
            self._control.close()
        if self._nursery is not None:
            self._nursery.returncode = 0  # not our child: nothing to wait for
        self._nursery = self._control = self._answers = None

    def _let_go(self, worker: Worker) -> None:
        worker.channel.close()
        if self._alive():
            self._ask(LET_GO, worker.pid)

    def _alive(self) -> bool:
        return self._nursery is not None and self._nursery.poll() is None

    def _ask(self, what: bytes, pid: int, end: socket.socket | None = None) -> Any:
        """The nursery's answer to a request; started if there is none, and again if it dies of a request to fork."""
        for _ in range(2):
            if not self._alive():
                self._start()
            assert self._control is not None
            assert self._answers is not None
            try:
                while self.dropped:
                    self._control.sendall(REQUEST.pack(LET_GO, self.dropped.popleft()))
                    self._answers.receive(_ANSWER_S)
                if end is None:
                    self._control.sendall(REQUEST.pack(what, pid))
                else:
                    socket.send_fds(self._control, [REQUEST.pack(what, pid)], [end.fileno()])
                return self._answers.receive(_ANSWER_S)
            except (OSError, EOFError, NotPlain):  # TimeoutError is an OSError
                self._stop(kill=True)
                if what != FORK:
                    return [None, b""]  # it took all its workers along
            except BaseException:  # interrupted: the answer would be taken for the next one's
                self._stop(kill=True)
                raise
        raise EnvironmentFault("the process that starts workers died, and so did the one started in its place")

    def _start(self) -> None:
        self._stop()
        ours, theirs = socket.socketpair()
        # One thread for numpy's linear algebra: many workers share the machine, and a fork takes no threads along.
        environ = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **os.environ}
        if self._hash_seed is not None:
            environ["PYTHONHASHSEED"] = str(self._hash_seed)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the nursery
        self._nursery = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for us; the nursery ends when we do
            env=environ,
        )
        theirs.close()
        self._control, self._answers = ours, Channel(ours)
        try:
            self._answers.receive(_START_S)
        except (TimeoutError, EOFError, NotPlain) as error:
            self._nursery.kill()
            complaint = self._complaint()
            self._stop()
            raise EnvironmentFault(f"the process that starts workers did not start: {complaint or error}") from None

    def _complaint(self) -> str:
        """The last line that the nursery wrote to stderr."""
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _stop(self, *, kill: bool = False) -> None:
        nursery, self._nursery = self._nursery, None
        if self._control is not None:
            self._control.close()
            self._control = self._answers = None
        if nursery is None:
            return
        self._stderr.close()
        if kill:
            nursery.kill()
        try:
            nursery.wait(15)
        except subprocess.TimeoutExpired:
            nursery.kill()
            nursery.wait()


def _how(status: int | None) -> str:
    """A wait status in words."""
    if status is None:
        return "was killed"
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
    return f"died by signal {-code} ({name})"


def _quoted(tail: bytes) -> str:
    """The end of a worker's output on one line, as it stands in a message."""
    text = " | ".join(line.strip() for line in tail.decode(errors="replace").splitlines() if line.strip())
    text = "".join(char if char.isprintable() else "?" for char in text)
    if not text:
        return ""
    return "; its last output: " + (text if len(text) <= _TOLD else "..." + text[-_TOLD:])


_shared: Pool | None = None
_shared_lock = threading.Lock()


def shared_pool() -> Pool:
    """The pool of this process."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Pool()
            atexit.register(_shared.close)
        return _shared


def _after_fork() -> None:
    global _shared, _shared_lock
    _shared_lock = threading.Lock()
    if _shared is not None:
        with contextlib.suppress(Exception):
            _shared.forget()
    _shared = None


os.register_at_fork(after_in_child=_after_fork)
