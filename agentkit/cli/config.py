"""RunConfig: one TOML file for a run. The sections are the library's own settings, plus where things are."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from agentkit.agent import AgentConfig
from agentkit.attempt import Limits
from agentkit.cli.settings import assign, every_key, parse_assignment, validated
from agentkit.errors import CheckpointError, ConfigError
from agentkit.policies.policy import Sampling
from agentkit.training.config import Settings, TrainConfig

SAVED = "config.json"
"""Name of the resolved configuration in a run folder."""
CHANGEABLE = ("train.iterations", "train.learning_rate", "train.checkpoint_every", "train.keep_checkpoints", "eval.")
"""Settings that may change when a run is resumed; all others would make it another run."""


class EnvSection(Settings):
    """What is played."""

    id: str
    """Gymnasium id; `module:id` imports the module first."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the environment."""


class ModelSection(Settings):
    """Who acts and learns."""

    path: Path
    """Folder of a transformers model, relative to the working directory."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of the network; None leaves it to torch, which takes one a core. A tiny network is fastest on one."""


class EvalSection(Settings):
    """How success is measured, at the end of training and by `agentkit eval`."""

    split: Literal["train", "held_out"] = "held_out"
    """Split the panel's tasks are from."""
    tasks: int = Field(default=100, ge=1)
    """Number of tasks in the panel."""
    attempts: int = Field(default=1, ge=1)
    """Attempts at each task."""
    temperature: float = Field(default=1.0, ge=0, le=10)
    """Divides the logits; 0 takes the likeliest token. Other sampling settings are those of `sampling`."""


class MemorySection(Settings):
    """Memory that attempts read; memories of the task that is played are hidden."""

    folder: Path | None = None
    """Folder of the store, relative to the working directory; without one, nothing is recalled."""
    k: int = Field(default=3, ge=1)
    """Most memories shown in one attempt."""
    embedder: Literal["minilm", "hash"] = "minilm"
    """What the store was made with."""
    snapshot: str | None = None
    """State of the store to read; None is the present one. Saved runs have it."""


class RunConfig(Settings):
    """Everything a run depends on."""

    seed: int = 0
    """Seed of everything random."""
    out: Path
    """Run folder, relative to the working directory."""
    env: EnvSection
    model: ModelSection
    agent: AgentConfig = Field(default_factory=AgentConfig)
    sampling: Sampling = Field(default_factory=Sampling)
    limits: Limits = Field(default_factory=Limits)
    train: TrainConfig = Field(default_factory=TrainConfig)
    eval: EvalSection = Field(default_factory=EvalSection)
    memory: MemorySection = Field(default_factory=MemorySection)

    def replace(self, section: str, **values: Any) -> RunConfig:
        """A copy with some settings of a section changed."""
        return self.model_copy(update={section: getattr(self, section).model_copy(update=values)})


def read_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration in a TOML file, changed by `section.key=value` texts.

    Raises:
        ConfigError: The file is missing or no TOML, or a setting is unknown, missing or out of range.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no configuration file {str(path)!r}; give the path of a TOML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no UTF-8 text ({error.reason}); give a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None
    for override in overrides:
        assign(data, *parse_assignment(override))
    return validated(RunConfig, data, where=f"{path}: ")


def save_config(config: RunConfig, folder: Path) -> None:
    """Write the configuration into a run folder, whole or not at all."""
    aside = folder / (SAVED + ".partial")
    aside.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    os.replace(aside, folder / SAVED)


def load_config(folder: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration a run was started with; its run folder is `folder`, wherever that has been moved to.

    Args:
        folder: Run folder.
        overrides: `section.key=value` texts; only settings that may change within a run.

    Raises:
        CheckpointError: The folder holds no run.
        ConfigError: Its configuration is damaged, or an override is not allowed.
    """
    path = folder / SAVED
    if not path.is_file():
        raise CheckpointError(
            f"no run in {str(folder)!r}: it has no {SAVED}; give the folder that `agentkit train` wrote to"
        )
    try:
        data = {**json.loads(path.read_text(encoding="utf-8")), "out": str(folder)}
    except (ValueError, TypeError) as error:  # cut off, no text, or no table
        raise ConfigError(f"{path} is damaged ({error}); restore it, or train anew in another folder") from None
    for override in overrides:
        key, value = parse_assignment(override)
        known = key in every_key(RunConfig) or key.startswith("env.params.")
        if known and not key.startswith(CHANGEABLE):
            raise ConfigError(
                f"{key!r} cannot change in a run that has begun: begin another with `agentkit train`. "
                f"These can: {', '.join(name.rstrip('.') for name in CHANGEABLE)}"
            )
        assign(data, key, value)
    return validated(RunConfig, data, where=f"{path}: ")
