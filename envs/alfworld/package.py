"""ALFWorld's own modules, imported without what their import does to the process's environment."""

from __future__ import annotations

import importlib
import os
import threading
from typing import Any

_LOCK = threading.Lock()


def alfworld(module: str) -> Any:
    """The module `alfworld.MODULE`.

    Importing ALFWorld sets `$ALFWORLD_DATA`, which is the user's to set: afterwards it is what it was.
    """
    with _LOCK:
        given = os.environ.get("ALFWORLD_DATA")
        try:
            return importlib.import_module(f"alfworld.{module}")
        finally:
            if given is None:
                os.environ.pop("ALFWORLD_DATA", None)
