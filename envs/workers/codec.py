"""What goes between two processes: plain data as JSON, tagged where JSON would lose a type. Never pickle.

None, booleans, numbers, strings, lists and dictionaries with string keys are JSON's own. Tuples, bytes, sets, other
dictionaries, and records (named tuples and dataclasses) are objects with one key that begins with `$`. Records are
only rebuilt where that is asked for; elsewhere they stay a `Record`, so that reading never makes an object of a
foreign class.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_ATOMS = frozenset((str, int, float, bool, type(None)))


class NotPlain(ValueError):
    """A value that is no plain data, or bytes that hold none."""


@dataclass(frozen=True)
class Record:
    """A named tuple or dataclass of the other process."""

    kind: str
    """`module:class`."""
    fields: tuple[Any, ...]
    """Their values, in order."""


def encode(value: Any) -> bytes:
    """The bytes of a value; numpy's scalars become the numbers they hold.

    >>> decode(encode({"at": (1, 2.5), "png": b"x", 3: [None, True]}))
    {'at': (1, 2.5), 'png': b'x', 3: [None, True]}

    Raises:
        NotPlain: something in it is no plain data; says where and what.
    """
    try:
        return json.dumps(_tagged(value, ""), separators=(",", ":")).encode("ascii")
    except NotPlain:
        raise
    except RecursionError:
        raise NotPlain("it is nested too deeply") from None
    except ValueError as error:  # a number with thousands of digits
        raise NotPlain(str(error)) from None


def decode(data: bytes, *, rebuild: bool = False) -> Any:
    """The value that `encode` was given.

    Args:
        data: what `encode` returned.
        rebuild: make records of the classes they name, which must be imported already; else they stay `Record`.

    Raises:
        NotPlain: these are not the bytes of a value.
    """
    try:
        return json.loads(data, object_hook=_rebuilt if rebuild else _untagged)
    except NotPlain:
        raise
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise NotPlain(f"{type(error).__name__}: {error}") from None


def _tagged(value: Any, where: str) -> Any:
    """`value` as what `json` writes; `where` is its path, for the error."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is list:
        return _all(value, where)
    if kind is dict:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {
                key: one if type(one) in _ATOMS else _tagged(one, f"{where}[{key!r}]") for key, one in value.items()
            }
        return {
            "$dict": [[_tagged(key, f"{where} key"), _tagged(one, f"{where}[{key!r}]")] for key, one in value.items()]
        }
    if kind is tuple:
        return {"$tuple": _all(value, where)}
    if kind in (bytes, bytearray):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if kind in (set, frozenset):
        return {f"${kind.__name__}": _all(sorted(value, key=repr), where)}
    return _unusual(value, where)


def _all(values: Any, where: str) -> list[Any]:
    return [one if type(one) in _ATOMS else _tagged(one, f"{where}[{at}]") for at, one in enumerate(values)]


def _unusual(value: Any, where: str) -> Any:
    kind = type(value)
    name = f"{kind.__module__}:{kind.__qualname__}"
    if isinstance(value, Record):
        return {"$record": [value.kind, _all(value.fields, where)]}
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return {"$record": [name, _all(value, where)]}
    if dataclasses.is_dataclass(value):
        return {"$record": [name, _all([getattr(value, one.name) for one in dataclasses.fields(value)], where)]}
    for plain in (bool, int, float, str):
        if isinstance(value, plain):  # an enumeration, numpy's float64
            return plain.__str__(value) if plain is str else plain(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return _tagged(value.item(), where)
    raise NotPlain(f"{where.lstrip() or 'it'} is a {kind.__module__}.{kind.__qualname__}, which is no plain data")


_BUILD: dict[str, Callable[[Any], Any]] = {
    "$tuple": tuple,
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$set": set,
    "$frozenset": frozenset,
    "$dict": dict,
    "$record": lambda parts: Record(parts[0], tuple(parts[1])),
}


def _untagged(found: dict[str, Any]) -> Any:
    if len(found) == 1:
        (tag,) = found
        if tag in _BUILD:
            return _BUILD[tag](found[tag])
    return found


def _rebuilt(found: dict[str, Any]) -> Any:
    value = _untagged(found)
    if not isinstance(value, Record):
        return value
    module, _, path = value.kind.partition(":")
    kind: Any = sys.modules.get(module)
    for name in path.split("."):
        kind = getattr(kind, name, None)
    named_tuple = isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
    if not (named_tuple or (isinstance(kind, type) and dataclasses.is_dataclass(kind))):
        raise NotPlain(f"{value.kind!r} is no named tuple or dataclass of the environment's module")
    return kind(*value.fields)
