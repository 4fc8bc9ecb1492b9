"""Bus: a D-Bus connection that sends many calls at once and waits for the answers together.

A screen is described by some hundred answers; asked for one after the other, each would cost a round trip through the
bus and the application.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from agentkit.errors import EnvironmentFault, require

CONFIGURATION = """<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>
</busconfig>
"""
"""Of the bus daemon: no service folders, so that nothing is started behind our back."""


class Call(NamedTuple):
    """A method call."""

    name: str
    """Bus name of whom to call."""
    path: str
    interface: str
    method: str
    signature: str = ""
    """D-Bus signature of `body`."""
    body: tuple[Any, ...] = ()


class Bus:
    """A connection to a message bus over a Unix socket."""

    def __init__(self, path: Path, uid: int) -> None:
        """Connect.

        Args:
            path: the bus's socket.
            uid: our user id, as the bus daemon sees it.

        Raises:
            OSError: nobody listens there.
            EnvironmentFault: the daemon turns us away.
        """
        self._wire = require("jeepney")
        self._parser = require("jeepney.low_level").Parser()
        self._serials = count(1)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(5)
        self._socket.connect(str(path))
        self._socket.sendall(b"\0AUTH EXTERNAL " + str(uid).encode().hex().encode() + b"\r\n")
        if not self._socket.recv(4096).startswith(b"OK"):
            raise EnvironmentFault(f"the message bus of the desktop does not accept user {uid}")
        self._socket.sendall(b"BEGIN\r\n")
        bus = "org.freedesktop.DBus"
        self.ask([Call(bus, "/org/freedesktop/DBus", bus, "Hello")], 5)

    def ask(self, calls: Sequence[Call], timeout_s: float) -> list[tuple[Any, ...] | None]:
        """The answers to `calls`, in their order; None where there was an error or nothing within `timeout_s`.

        Raises:
            EnvironmentFault: the bus is gone.
        """
        serials = [next(self._serials) for _ in calls]
        deadline = time.monotonic() + timeout_s
        answers: dict[int, tuple[Any, ...] | None] = {}
        try:
            self._socket.sendall(b"".join(map(self._message, calls, serials)))
            missing = set(serials)
            while missing:
                serial, body = self._receive(deadline)
                missing.discard(serial)
                answers[serial] = body
        except TimeoutError:
            pass
        except OSError as error:
            raise EnvironmentFault(f"the message bus of the desktop is gone: {error}") from error
        return [answers.get(serial) for serial in serials]

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _message(self, call: Call, serial: int) -> bytes:
        address = self._wire.DBusAddress(call.path, call.name, call.interface)
        message = self._wire.new_method_call(address, call.method, call.signature or None, call.body)
        return message.serialise(serial=serial)

    def _receive(self, deadline: float) -> tuple[int, tuple[Any, ...] | None]:
        """Serial of the call that the next message answers (0 for a signal), and its body or None for an error."""
        while (message := self._parser.get_next_message()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            data = self._socket.recv(1 << 18)
            if not data:
                raise ConnectionResetError("closed by the other side")
            self._parser.add_data(data)
        serial = message.header.fields.get(self._wire.HeaderFields.reply_serial, 0)
        good = message.header.message_type is self._wire.MessageType.method_return
        return serial, message.body if good else None
