"""One end of a connection between two processes that ask and answer in turn."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

from agentkit.envs.workers.codec import NotPlain, decode, encode

MAX_BYTES = 64 << 20
"""Most bytes of one message."""
_LENGTH = struct.Struct("!I")
_CHUNK = 1 << 16


class Channel:
    """Sends and receives values over a stream socket, each behind its length in four bytes.

    Args:
        end: a connected socket, owned from here on.
        rebuild: as for `decode`.
    """

    def __init__(self, end: socket.socket, *, rebuild: bool = False) -> None:
        self._end = end
        self._rebuild = rebuild

    def send(self, value: Any, limit_s: float | None = None) -> None:
        """Send a value.

        Raises:
            NotPlain: it is no plain data or too large; nothing has been sent.
            TimeoutError: the other side does not read.
            EOFError: the other side has gone.
        """
        data = encode(value)
        if len(data) > MAX_BYTES:
            raise NotPlain(f"it takes {len(data) >> 20} MB, over the {MAX_BYTES >> 20} MB that fit into a message")
        try:
            self._end.settimeout(limit_s)
            self._end.sendall(_LENGTH.pack(len(data)) + data)
        except OSError as error:
            raise _plainly(error) from None

    def receive(self, limit_s: float | None = None) -> Any:
        """The next value.

        Raises:
            TimeoutError: it did not come within `limit_s` seconds.
            EOFError: the other side has gone.
            NotPlain: what came is no message.
        """
        deadline = None if limit_s is None else time.monotonic() + limit_s
        data = self._more(deadline)
        while len(data) < _LENGTH.size:
            data += self._more(deadline)
        (length,) = _LENGTH.unpack_from(data)
        if length > MAX_BYTES:
            raise NotPlain(f"it announces {length >> 20} MB, over the {MAX_BYTES >> 20} MB that fit into a message")
        if len(data) < _LENGTH.size + length:
            whole = bytearray(data)
            while len(whole) < _LENGTH.size + length:
                whole += self._more(deadline)
            data = bytes(whole)
        if len(data) > _LENGTH.size + length:
            raise NotPlain(f"{len(data) - _LENGTH.size - length} bytes follow the message")
        return decode(data[_LENGTH.size :], rebuild=self._rebuild)

    def _more(self, deadline: float | None) -> bytes:
        # A late reader still gets what has come in the meantime: with no time left, one look is taken.
        try:
            self._end.settimeout(None if deadline is None else max(0.0, deadline - time.monotonic()))
            data = self._end.recv(_CHUNK)
        except OSError as error:
            raise _plainly(error) from None
        if not data:
            raise EOFError("the other side has gone")
        return data

    def silent(self) -> bool:
        """Whether the other side is there and has said nothing since the last message."""
        try:
            self._end.settimeout(0.0)
            self._end.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Hang up."""
        self._end.close()


def _plainly(error: OSError) -> Exception:
    if isinstance(error, (TimeoutError, BlockingIOError)):
        return TimeoutError("no answer in time")
    return EOFError(str(error))
