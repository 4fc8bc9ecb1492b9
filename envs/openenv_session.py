"""A session on an OpenEnv server: one WebSocket, one environment on the other side.

The protocol of openenv-core 0.3, read and recorded from its server. `/reset` and `/step` over HTTP make a new
environment for every request there, so only `/ws` can play an episode; `/schema` says what an action looks like.
Whatever goes wrong is an `EnvironmentFault` that names the address; the connection is then dropped, because an
answer that comes late would be taken for the next one.
"""

from __future__ import annotations

import http.client
import json
import urllib.request
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from agentkit.errors import ConfigError, EnvironmentFault

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that no proxy is asked for."""
SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
LONGEST_QUOTE = 300
"""Characters of a server's words that an error repeats."""
MOST_REWARD = 1e300
"""Anything larger is no reward; neither is NaN, which compares with nothing."""
CLOSE_S = 1.0
"""Seconds that a server is given to say goodbye."""
TOO_BIG = 1009
"""WebSocket close code of a message over the limit (RFC 6455, section 7.4.1)."""


class Answer(NamedTuple):
    """What the server says to a reset or a step."""

    observation: dict[str, Any]
    """Fields of the environment's observation."""
    reward: float
    """Finite; 0 if the server gives none."""
    done: bool
    """Whether the episode is over."""


class Refusal(Exception):
    """The server does not accept an action because it does not fit its schema; says what is wrong with it."""


class Session:
    """Talks to one server; connects when it is first needed and again after a fault."""

    def __init__(self, url: str, *, connect_s: float, answer_s: float, max_bytes: int) -> None:
        """Name the server; nothing is sent yet.

        Args:
            url: address of the server, `http(s)://` or `ws(s)://`, with or without a path.
            connect_s: seconds to wait for a connection, and for the schema.
            answer_s: seconds to wait for an answer.
            max_bytes: longest message that is accepted.

        Raises:
            ConfigError: `url` is no such address.
        """
        parts = _address(url)
        self.url = url
        self.connect_s, self.answer_s, self.max_bytes = connect_s, answer_s, max_bytes
        scheme = SCHEMES[parts.scheme]
        path = parts.path.rstrip("/")
        self._socket_url = f"{scheme}://{parts.netloc}{path}/ws"
        self._schema_url = f"{'https' if scheme == 'wss' else 'http'}://{parts.netloc}{path}/schema"
        self._local = parts.hostname in LOOPBACK
        self._socket: Any = None
        self._open = ExitStack()

    def action_schema(self) -> dict[str, Any]:
        """The JSON schema of an action."""
        handlers = [urllib.request.ProxyHandler({})] if self._local else []
        try:
            with urllib.request.build_opener(*handlers).open(self._schema_url, timeout=self.connect_s) as response:
                raw = response.read(self.max_bytes + 1)
        except (OSError, http.client.HTTPException) as error:
            raise self._fault(
                f"no answer to {self._schema_url} ({error}); start the OpenEnv server, or correct the url"
            ) from error
        if len(raw) > self.max_bytes:
            raise self._fault(f"its schema is longer than {self.max_bytes:,} bytes")
        schema = self._parsed(raw).get("action")
        if not isinstance(schema, dict):
            raise self._fault(f"{self._schema_url} describes no action; it is no OpenEnv server of version 0.3")
        return schema

    def reset(self, data: dict[str, Any]) -> Answer:
        """Begin an episode with the arguments of the environment's own reset."""
        return self._ask({"type": "reset", "data": data})

    def step(self, action: dict[str, Any]) -> Answer:
        """Play an action.

        Raises:
            Refusal: it does not fit the schema; the episode goes on.
            EnvironmentFault: anything else.
        """
        return self._ask({"type": "step", "data": action})

    def close(self) -> None:
        """End the session; the server frees its environment."""
        if self._socket is not None:
            from websockets.exceptions import WebSocketException

            with suppress(WebSocketException, OSError):
                self._socket.send('{"type": "close"}')
                self._socket.recv(timeout=CLOSE_S)  # let the server close first: it logs an error if it comes late
        self._drop()

    def _ask(self, message: dict[str, Any]) -> Answer:
        from websockets.exceptions import ConnectionClosed

        socket, what = self._connected(), message["type"]
        try:
            with suppress(ConnectionClosed):  # a server that turns the session down says why and closes
                socket.send(json.dumps(message))
            raw = socket.recv(timeout=self.answer_s)
        except TimeoutError as error:
            raise self._fault(
                f"no answer to {what} within {self.answer_s:g} s; raise answer_s if it is slow"
            ) from error
        except ConnectionClosed as error:
            if error.sent is not None and error.sent.code == TOO_BIG:
                raise self._fault(
                    f"its answer is over {self.max_bytes:,} bytes; raise max_mb if that is right"
                ) from error
            raise self._fault(f"the session ended at {what} ({error}); see the server's log") from error
        except OSError as error:
            raise self._fault(f"the connection broke at {what} ({error}); see the server's log") from error
        return self._read(what, self._parsed(raw))

    def _connected(self) -> Any:
        if self._socket is None:
            from websockets.exceptions import WebSocketException
            from websockets.sync.client import connect

            try:
                self._socket = self._open.enter_context(
                    connect(
                        self._socket_url,
                        open_timeout=self.connect_s,
                        close_timeout=CLOSE_S,
                        max_size=self.max_bytes,
                        proxy=None if self._local else True,
                    )
                )
            except OSError as error:  # TimeoutError is one
                raise self._fault(
                    f"cannot be reached ({error}); start the OpenEnv server, or correct the url"
                ) from error
            except WebSocketException as error:
                raise self._fault(f"{self._socket_url} is no OpenEnv session ({error}); correct the url") from error
        return self._socket

    def _parsed(self, raw: str | bytes) -> dict[str, Any]:
        try:
            message = json.loads(raw)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise self._fault(f"no JSON object but {_quoted(raw)}; it is no OpenEnv server of version 0.3")
        return message

    def _read(self, what: str, message: dict[str, Any]) -> Answer:
        data = message.get("data")
        if message.get("type") == "error" and isinstance(data, dict):
            code, words = data.get("code"), _quoted(data.get("message"))
            if code == "VALIDATION_ERROR" and what == "step":
                raise Refusal(_mistakes(data.get("errors")))
            if code == "CAPACITY_REACHED":
                raise self._fault(f"{words}; start it with a higher max_concurrent_envs, or play fewer at a time")
            raise self._fault(f"error {code} at {what}: {words}; see the server's log")
        if message.get("type") != "observation" or not isinstance(data, dict):
            raise self._fault(f"no observation but {_quoted(message)}; it is no OpenEnv server of version 0.3")
        observation, reward, done = data.get("observation"), data.get("reward"), data.get("done", False)
        rewarded = reward is None or (isinstance(reward, (int, float)) and abs(reward) <= MOST_REWARD)
        if not isinstance(observation, dict) or not rewarded or not isinstance(done, bool):
            raise self._fault(f"an answer without observation, finite reward and done: {_quoted(data)}")
        return Answer(observation, float(reward or 0.0), done)

    def _fault(self, words: str) -> EnvironmentFault:
        self._drop()
        return EnvironmentFault(f"OpenEnv server {self.url}: {words}")

    def _drop(self) -> None:
        self._socket = None
        with suppress(OSError):
            self._open.close()


def _address(url: Any) -> SplitResult:
    if isinstance(url, str):
        with suppress(ValueError):  # brackets that do not close, a port that is none
            parts = urlsplit(url)
            if parts.scheme in SCHEMES and parts.hostname and parts.port != 0 and not parts.query + parts.fragment:
                return parts
    raise ConfigError(f"url must be the address of a server such as 'http://127.0.0.1:8000', got {url!r}")


def _quoted(words: Any) -> str:
    """A server's words, shortened and escaped: they are data."""
    quoted = repr(words)
    return quoted if len(quoted) <= LONGEST_QUOTE else quoted[: LONGEST_QUOTE - 3] + "..."


def _mistakes(errors: Any) -> str:
    """What pydantic found on the server, as in `message: Field required`."""
    found = [one for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
    told = "; ".join(f"{'.'.join(map(str, one.get('loc') or ['action']))}: {one.get('msg')}" for one in found)
    return (told or "it does not fit the schema")[:LONGEST_QUOTE]
