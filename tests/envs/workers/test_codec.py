"""Messages: what plain data comes through, what is refused, and what no reader may be made to do."""

from __future__ import annotations

import json
import math
import socket
import struct
from collections import namedtuple
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


def test_a_message_in_pieces_is_put_together_and_a_bad_one_refused() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    data = encode(["x" * 300_000])
    theirs.sendall((struct.pack("!I", len(data)) + data)[:3])
    with pytest.raises(TimeoutError):
        channel.receive(0.01)
    ours, theirs = socket.socketpair()
    channel, other = Channel(ours), Channel(theirs)
    other._end.sendall(struct.pack("!I", 3) + b"1230")
    with pytest.raises(NotPlain, match="1 bytes follow the message"):
        channel.receive(1)
    other._end.sendall(struct.pack("!I", 1 << 31))
    with pytest.raises(NotPlain, match="it announces 2048 MB"):
        channel.receive(1)
    assert channel.silent()
    other.close()
    assert not channel.silent()
    with pytest.raises(EOFError):
        channel.receive(1)
    with pytest.raises(EOFError):
        channel.send("x" * 1_000_000)


def test_a_reader_that_does_not_read_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with pytest.raises(TimeoutError):
        Channel(ours).send("x" * 10_000_000, 0.05)
    theirs.close()
