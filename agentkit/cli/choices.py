"""From names on the command line to the parts they stand for, each checked before anything is done."""

from __future__ import annotations

import importlib.util
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agentkit.cli.show import show_warning
from agentkit.errors import AgentkitError, ConfigError, EnvironmentFault, PolicyFault, RecordError, unknown_name

if TYPE_CHECKING:
    from agentkit.attempt import Limits
    from agentkit.memory.embedders import Embedder
    from agentkit.memory.log import EpisodeLog
    from agentkit.memory.store import MemoryStore
    from agentkit.policies.local import LocalPolicy
    from agentkit.policies.policy import Policy

POLICIES = ("random", "expert", "chat")
"""Policies with a name; anything else is a model folder."""
EMBEDDERS = ("minilm", "hash")

T = TypeVar("T")
MAKE_S = 60.0
"""Seconds that making an environment may take."""


def check_env(env_id: str, params: dict[str, Any], limits: Limits | None = None) -> int:
    """Make the environment once, so that a wrong name or argument is told before anything is played.

    Returns the number of actions that one turn may hold: random play fills it.

    Args:
        env_id: Gymnasium id; `module:id` imports the module first.
        params: Arguments of the environment.
        limits: Say whether it is played in a worker process.

    Raises:
        UnknownNameError, ConfigError, EnvironmentFault: It cannot be made.
    """
    from agentkit.envs.workers import open_env

    if ":" in env_id and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # `module:id` finds modules in the working directory, as `python -m` does

    def actions_per_turn() -> int:
        isolate, memory_mb = (limits.isolate, limits.env_memory_mb) if limits else (False, None)
        env = open_env(env_id, isolate=isolate, step_s=MAKE_S, memory_mb=memory_mb, **params)
        env.close()
        return env.max_actions_per_turn

    try:
        return within(MAKE_S, actions_per_turn, f"making {env_id!r}")
    except AgentkitError:
        raise
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{env_id!r}: cannot import {error.name!r}; install it, or run where it is or put its folder on PYTHONPATH"
        ) from error
    except Exception as error:
        raise EnvironmentFault(f"{env_id!r} cannot be made: {type(error).__name__}: {error}") from error


def within(limit_s: float, work: Callable[[], T], what: str) -> T:
    """What `work` returns or raises; `EnvironmentFault` if it takes longer, for an environment may hang."""
    outcome: list[tuple[T | None, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)  # a hung one does not keep the command from ending
    thread.start()
    thread.join(limit_s)
    if not outcome:
        raise EnvironmentFault(f"{what} took longer than {limit_s:g} s: the environment hangs, or is too slow for this")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def open_policy(
    name: str,
    actions_per_turn: int,
    *,
    model: str | None = None,
    base_url: str | None = None,
    noise: float | None = None,
) -> Policy:
    """The policy of that name, or of the model folder at that path.

    Args:
        name: One of `POLICIES`, or a folder.
        actions_per_turn: What random play does in a turn; the environment's most, as in the random baseline.
        model, base_url: Of a chat endpoint.
        noise: Of the expert.

    Raises:
        UnknownNameError: There is no such policy.
        ConfigError: An option that this policy does not have, or one that it lacks.
        PolicyFault: The folder cannot be loaded.
    """
    if name != "chat" and (model or base_url):
        raise ConfigError(f"--model and --base-url are for --policy chat, not {name!r}")
    if name != "expert" and noise is not None:
        raise ConfigError(f"--noise is for --policy expert, not {name!r}")
    if name == "random":
        from agentkit.policies.doubles import RandomPolicy

        return RandomPolicy(actions_per_turn)
    if name == "expert":
        from agentkit.policies.doubles import ExpertPolicy

        return ExpertPolicy(noise=noise or 0.0)
    if name == "chat":
        if not model:
            raise ConfigError("--policy chat needs --model NAME: the endpoint's name of the model")
        from agentkit.policies.chat import ChatPolicy

        return ChatPolicy(model, base_url=base_url)
    if not Path(name).is_dir():
        if "/" in name:
            raise PolicyFault(f"no model folder {name!r}; check the path, or choose of {', '.join(POLICIES)}")
        raise unknown_name("policy or model folder", name, POLICIES)
    return load_folder(Path(name))


def use_threads(threads: int | None) -> None:
    """Compute with so many CPU threads; None changes nothing."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def load_folder(folder: Path, *, training: bool = False, threads: int | None = None) -> LocalPolicy:
    """The model in a folder, in float32 if it is to be trained; `PolicyFault` if there is none.

    Without the bars that transformers draws between ours.
    """
    import torch
    from transformers.utils import logging

    from agentkit.policies.local import LocalPolicy

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    use_threads(threads)
    return LocalPolicy.load(folder, dtype=torch.float32 if training else None)


def open_log(path: str) -> EpisodeLog:
    """An episode log that is there; `RecordError` if it is not, where `EpisodeLog.open` would make one."""
    from agentkit.memory.log import EpisodeLog

    if "://" not in path and not Path(path).is_file():
        raise RecordError(f"no episode log {path!r}; `agentkit collect --out {path}` makes one")
    return EpisodeLog.open(path)


def make_embedder(name: str | None) -> Embedder:
    """The embedder of that name; MiniLM for None."""
    from agentkit.memory.embedders import HashEmbedder, MiniLMEmbedder

    if name not in (None, *EMBEDDERS):
        raise unknown_name("embedder", name, EMBEDDERS)
    return HashEmbedder() if name == "hash" else MiniLMEmbedder()


@contextmanager
def open_memory(
    folder: Path, embedder: str | None, *, make: bool = False, rebuild: bool = False, index: str | None = None
) -> Iterator[MemoryStore]:
    """A memory store for the length of a block.

    Args:
        folder: Where it is.
        embedder: Name of what it was made with.
        make: Make it if it is not there.
        rebuild: Make its index and vectors anew.
        index: Where its index is; by default where it last was.

    Raises:
        RecordError: There is none, or it cannot be opened.
    """
    from agentkit.memory.store import MemoryStore

    if not make and not (folder / "memory.sqlite").is_file():
        raise RecordError(f"no memory in {str(folder)!r}; `agentkit memory build LOG --out {folder}` makes one")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # said below, in one line
        index = index if importlib.util.find_spec("chromadb") else "exact"
        memory = MemoryStore.open(folder, embedder=make_embedder(embedder), index=index, rebuild=rebuild)
    with memory:
        if memory.trouble is not None:
            show_warning(f"{memory.trouble}. Until `agentkit memory build --rebuild`, all memories are compared")
        yield memory


def first_error(failed: Sequence[str], num: int) -> AgentkitError:
    """What to raise when some of `num` attempts failed."""
    return AgentkitError(f"{len(failed)} of {num} attempts failed, the first with: {failed[0]}")
