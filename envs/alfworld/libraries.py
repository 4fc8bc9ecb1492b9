"""Copies of Fast Downward's library, lent to one engine at a time.

The library keeps the planning task in global variables, so that every game under way needs a copy of its own. A
loaded copy takes 34 MB of address space and cannot be unloaded, therefore copies are used again: a process holds as
many as it has ever played games at once.
"""

from __future__ import annotations

import queue
from typing import Any

_FREE: queue.SimpleQueue[Any] = queue.SimpleQueue()


def borrow() -> Any:
    """A copy that nobody else uses until it is given back."""
    try:
        return _FREE.get_nowait()
    except queue.Empty:
        import fast_downward

        return fast_downward.load_lib()  # copies it into a temporary folder, loads the copy, removes the folder


def give_back(library: Any) -> None:
    """Free what the library holds of its task, and lend it to the next engine."""
    library.cleanup()
    _FREE.put(library)
