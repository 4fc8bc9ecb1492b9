"""Messages: what plain data comes through, what is refused, and what no reader may be made to do."""

from __future__ import annotations

import json
import math
import socket
import struct
import threading
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.envs.workers.channel import Channel
from agentkit.envs.workers.codec import NotPlain, Record, decode, encode

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.just("$tuple"), inner)
        | st.frozensets(st.integers() | st.text())
        | st.sets(st.binary())
    ),
    max_leaves=20,
)

Point = namedtuple("Point", "x y")


@dataclass(frozen=True)
class Level:
    walls: tuple[int, ...]
    at: Point


def same(one: Any, other: Any) -> bool:
    return one == other and repr(one) == repr(other)  # types too: 1 == 1.0 == True


@given(PLAIN)
def test_plain_data_comes_back_as_it_was(value: Any) -> None:
    assert decode(encode(value)) == value
    if not isinstance(value, (set, frozenset)):
        assert type(decode(encode(value))) is type(value)


@pytest.mark.parametrize("value", [0.1 + 0.2, 5e-324, -0.0, math.inf, "\ud800 \x00 世", {"$bytes": "x"}, (), [()], {}])
def test_the_last_bit_survives(value: Any) -> None:
    assert same(decode(encode(value)), value)
    assert math.isnan(decode(encode(math.nan)))


def test_records_are_rebuilt_only_where_that_is_asked_for() -> None:
    level = Level((1, 2), Point(3, 4.5))
    there = decode(encode(level))
    assert isinstance(there, Record)
    assert there.kind.endswith(":Level")
    assert there.fields == ((1, 2), Record(f"{__name__}:Point", (3, 4.5)))
    assert decode(encode(there), rebuild=True) == level  # by way of the other process


@pytest.mark.parametrize("kind", ["os:system", "builtins:eval", "subprocess:Popen", "nowhere:Class", "os", ""])
def test_nothing_but_a_record_class_is_ever_called(kind: str) -> None:
    data = json.dumps({"$record": [kind, ["true"]]}).encode()
    with pytest.raises(NotPlain, match="is no named tuple or dataclass"):
        decode(data, rebuild=True)
    assert decode(data) == Record(kind, ("true",))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "it is a builtins.object, which is no plain data"),
        ({"a": [1, {2: print}]}, r"\['a'\]\[1\]\[2\] is a builtins.builtin_function_or_method"),
        pytest.param(10**5000, "4300 digits", id="long number"),
    ],
)
def test_what_is_not_plain_is_named_with_its_place(value: Any, words: str) -> None:
    with pytest.raises(NotPlain, match=words):
        encode(value)


def test_endless_nesting_is_refused_both_ways() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(NotPlain, match="nested too deeply"):
        encode(deep)
    with pytest.raises(NotPlain, match="RecursionError"):
        decode(b"[" * 100_000 + b"]" * 100_000)
    while deep:  # or its end would recurse, too
        deep = deep[0]


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"{", b'{"$bytes":3}', b'{"$tuple":4}', b'{"$record":[]}', b"nul"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(NotPlain):
        decode(data)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Channel(ours), theirs


def test_a_message_in_pieces_is_put_together(ends: tuple[Channel, socket.socket]) -> None:
    channel, other = ends
    value = ["x" * 300_000]
    sender = threading.Thread(target=other.sendall, args=(struct.pack("!I", len(encode(value))) + encode(value),))
    sender.start()
    assert channel.receive(10) == value
    sender.join()
    assert channel.silent()
    other.sendall(struct.pack("!I", 5)[:3])
    with pytest.raises(TimeoutError):
        channel.receive(0.01)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (struct.pack("!I", 3) + b"1230", "1 bytes follow the message"),
        (struct.pack("!I", 1 << 31), "it announces 2048 MB, over the 64 MB"),
        (struct.pack("!I", 3) + b"abc", "JSONDecodeError"),
    ],
)
def test_what_is_no_message_on_the_line_is_refused(
    data: bytes, words: str, ends: tuple[Channel, socket.socket]
) -> None:
    channel, other = ends
    other.sendall(data)
    with pytest.raises(NotPlain, match=words):
        channel.receive(1)


def test_the_other_side_may_be_gone_or_not_read(ends: tuple[Channel, socket.socket]) -> None:
    channel, other = ends
    with pytest.raises(TimeoutError):
        channel.send("x" * 10_000_000, 0.05)
    other.close()
    assert not channel.silent()
    with pytest.raises(EOFError):
        channel.receive(1)
    with pytest.raises(EOFError):
        channel.send("x")
    channel.close()
    with pytest.raises(EOFError):
        channel.send("x")
