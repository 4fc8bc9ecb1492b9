"""How commands end badly: whatever goes wrong becomes one line that says the way out, and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from agentkit.cli.show import show_error, show_warning
from agentkit.errors import EXTRA_OF, AgentkitError, ConfigError, missing_extra

DEBUG = "AGENTKIT_DEBUG"
"""Environment variable that, set to 1, lets errors through with their traceback."""
INTERRUPTED = 130
"""Exit code of a command stopped by Ctrl-C, as shells have it."""
_WAYS_OUT = {
    errno.ENOSPC: "the disk is full; free space and run the command again, what was recorded is kept",
    errno.EDQUOT: "your disk quota is used up; free space and run the command again, what was recorded is kept",
    errno.EACCES: "permission denied; give a path that you may read and write",
    errno.EROFS: "the file system is read-only; give a path on one that is not",
    errno.ENOENT: "there is no such file or folder; check the path",
    errno.EISDIR: "it is a folder; give a file",
    errno.ENOTDIR: "a part of the path is a file, not a folder; check the path",
    errno.EEXIST: "it exists already; give another path",
}


def explain(error: Exception) -> str:
    """One line for the user: what is wrong and what to do about it.

    >>> explain(OSError(errno.ENOSPC, "No space left on device", "runs/log"))
    "'runs/log': the disk is full; free space and run the command again, what was recorded is kept"
    """
    if isinstance(error, ConfigError):
        return str(error)  # one line a problem
    if isinstance(error, AgentkitError):
        return " ".join(str(error).split())
    if "pydantic" in sys.modules:  # else nothing can have been validated, and importing it takes a while
        from pydantic import ValidationError

        from agentkit.cli.settings import problems

        if isinstance(error, ValidationError):
            return "; ".join(problems(error))
    # safetensors reports a full disk as an error of its own, which is no OSError.
    number = error.errno if isinstance(error, OSError) else None
    if number is None and os.strerror(errno.ENOSPC) in str(error):
        number = errno.ENOSPC
    if number in _WAYS_OUT:
        where = f"{str(error.filename)!r}: " if isinstance(error, OSError) and error.filename else ""
        return where + _WAYS_OUT[number]
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRA_OF:
        return str(missing_extra(error.name))
    said = " ".join(str(error).split())
    if isinstance(error, OSError):
        return f"{said}; check the path, the disk and the connection"
    return f"unexpected {type(error).__name__}: {said}; {DEBUG}=1 shows where it comes from"


class GuardedGroup(TyperGroup):
    """A command group that shows errors and warnings as one line each, whoever runs it: the shell or a test."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command; exit code 1 for an error, 130 for Ctrl-C, 2 (typer's own) for wrong usage."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_: show_warning(" ".join(str(message).split()))
                return super().invoke(ctx)
        except KeyboardInterrupt:
            if os.environ.get(DEBUG) == "1":
                raise
            show_error("stopped; what was recorded is kept", prefix="")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            # Typer's own ways to end a command carry an exit code, or are Abort; it also knows a closed pipe.
            own = hasattr(error, "exit_code") or isinstance(error, (typer.Abort, BrokenPipeError))
            if own or os.environ.get(DEBUG) == "1":
                raise
            show_error(explain(error))
            raise typer.Exit(1) from None
