"""Names that load on first use (PEP 562), so that importing a package costs nothing until it is used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from agentkit.errors import EXTRA_OF, missing_extra, require


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package.

    Args:
        package: Its name.
        homes: Public name -> module that defines it. A package of an extra that is not installed becomes a
            `MissingExtraError` that says how to install it.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(import_module(homes[name]), name)
        except ModuleNotFoundError as error:
            if error.name not in EXTRA_OF:
                raise
            raise missing_extra(error.name) from error

    return get, lambda: sorted({*homes, *vars(sys.modules[package])})


class _LazyModule(ModuleType):
    """A module that is imported when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(require(self.__name__), name)


def lazy_module(name: str) -> Any:
    """The module of that name, imported at first use, so that settings can be read where it is not installed.

    >>> lazy_module("math").sqrt(4.0)
    2.0
    """
    return _LazyModule(name)
