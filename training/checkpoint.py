"""Checkpoints: safetensors and JSON, no pickle. Written aside and renamed, so that one is whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agentkit.errors import CheckpointError
from agentkit.training.network import learning_parameters

_MODEL, _OPTIMIZER, _CRITIC, _STATE, _MANIFEST = (
    "model.safetensors",
    "optimizer.safetensors",
    "critic.safetensors",
    "state.json",
    "manifest.json",
)


def save_checkpoint(
    folder: Path,
    iteration: int,
    model: Any,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
    critic: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Write `folder/NNNNNN`; delete all but the newest `keep` checkpoints. Returns the checkpoint's path.

    Args:
        folder: The run's checkpoint folder.
        iteration: Iterations done; names the checkpoint.
        model: Whose parameters are saved: those that learn, tied ones once.
        optimizer: Whose state is saved.
        state: Anything else, as JSON values.
        keep: How many to keep.
        critic: Tensors of a critic, where the run has one.
    """
    final = folder / f"{iteration:06d}"
    aside = folder / f".{iteration:06d}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    weights = {name: value.detach().contiguous() for name, value in learning_parameters(model).items()}
    save_file(weights, aside / _MODEL)
    tensors, scalars = flat_optimizer(optimizer)
    save_file(tensors, aside / _OPTIMIZER)
    if critic is not None:
        save_file(dict(critic), aside / _CRITIC)
    (aside / _STATE).write_text(json.dumps({"iteration": iteration, "optimizer": scalars, **state}))
    manifest = {path.name: _digest(path) for path in sorted(aside.iterdir())}
    (aside / _MANIFEST).write_text(json.dumps(manifest))
    for path in aside.iterdir():
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(aside, final)
    _sync(folder)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def random_state() -> dict[str, Any]:
    """Where torch's own generators stand, the CPU's and those of all GPUs that are in use, as JSON values."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {"torch_rng": torch.get_rng_state().tolist(), "cuda_rng": [state.tolist() for state in devices]}


def restore_random_state(state: dict[str, Any]) -> None:
    """Put torch's generators where `random_state` found them, those of GPUs as far as there are as many."""
    torch.set_rng_state(torch.tensor(state["torch_rng"], dtype=torch.uint8))
    if torch.cuda.is_available():
        for device, values in zip(range(torch.cuda.device_count()), state["cuda_rng"], strict=False):
            torch.cuda.set_rng_state(torch.tensor(values, dtype=torch.uint8), device)


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if (path / _MANIFEST).is_file())


def discard_checkpoints(folder: Path, after: int) -> None:
    """Delete the checkpoints of later iterations: those of a course that the run has left."""
    for path in list_checkpoints(folder):
        if int(path.name) > after:
            shutil.rmtree(path)


def weights_digest(model: Any, *, frozen: bool = False) -> str:
    """Hash of the model's parameters, or of the `frozen` ones among them: equal for equal weights on any device."""
    state = hashlib.sha256()
    for name, value in sorted(model.named_parameters()):
        if frozen and value.requires_grad:
            continue
        state.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        state.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return state.hexdigest()


def latest_checkpoint(folder: Path) -> Path:
    """The newest checkpoint; `CheckpointError` if there is none."""
    found = list_checkpoints(folder)
    if not found:
        raise CheckpointError(f"no checkpoint in {str(folder)!r}; give the folder of a run that saved one")
    return found[-1]


def load_checkpoint(
    path: Path,
    model: Any,
    optimizer: torch.optim.Optimizer,
    check: Callable[[dict[str, Any]], None] = lambda state: None,
) -> dict[str, Any]:
    """Restore model and optimizer in place; returns the rest of the state.

    Args:
        path: The checkpoint.
        model: Its learning parameters are overwritten.
        optimizer: Its state is.
        check: Raises `CheckpointError` if the rest of the state does not fit the run.

    Raises:
        CheckpointError: A file is missing or damaged, or belongs to another model or to an optimizer of other parts;
            nothing has been changed.
    """
    state = _verified(path)
    try:
        weights = load_file(path / _MODEL, device=str(model.device))
        tensors = load_file(path / _OPTIMIZER)  # the optimizer knows which of them belong beside its weights
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {str(path)!r} cannot be read: {error}; use an older one") from error
    own = learning_parameters(model)
    wrong = sorted(
        name
        for name in own.keys() | weights.keys()
        if name not in own or name not in weights or own[name].shape != weights[name].shape
    )
    if wrong:
        raise CheckpointError(
            f"checkpoint {str(path)!r} is of another model: {len(wrong)} parameters differ, e.g. {wrong[0]!r}"
        )
    theirs, ours = (_group_sizes(groups) for groups in (state["optimizer"]["param_groups"], optimizer.param_groups))
    if theirs != ours:
        raise CheckpointError(
            f"checkpoint {str(path)!r} is of an optimizer of {_in_words(theirs)}, this one is of {_in_words(ours)}: "
            "the policy's and, beside advantage = 'gae' alone, a value head's; resume with the run's own `advantage`"
        )
    check(state)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    restore_optimizer(optimizer, tensors, state.pop("optimizer"))
    return state


def load_critic(path: Path) -> dict[str, torch.Tensor]:
    """The critic's tensors of a checkpoint that `load_checkpoint` has passed.

    Raises:
        CheckpointError: It has none.
    """
    try:
        return load_file(path / _CRITIC)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {str(path)!r} holds no critic: {error}; use an older one") from error


def _verified(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        for name in {_MODEL, _OPTIMIZER, _STATE, *manifest}:
            if _digest(path / name) != manifest.get(name):
                raise CheckpointError(
                    f"checkpoint {str(path)!r} is damaged: {name} is not what was written; delete the folder "
                    "and resume from the one before it"
                )
        return json.loads((path / _STATE).read_text())
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"checkpoint {str(path)!r} is incomplete: {error}; delete the folder and resume from the one before it"
        ) from error


def flat_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(its tensors by name, the rest as JSON values)."""
    packed = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value.contiguous()
        for index, entry in packed["state"].items()
        for name, value in entry.items()
    }
    return tensors, {"param_groups": packed["param_groups"]}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], scalars: dict[str, Any]
) -> None:
    """Put an optimizer where `flat_optimizer` found it."""
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": scalars["param_groups"]})


def _group_sizes(groups: Sequence[Mapping[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


def _in_words(sizes: Sequence[int]) -> str:
    return " + ".join(str(size) for size in sizes) + " tensors"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
