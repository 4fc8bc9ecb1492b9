"""Options that several commands share, with the same names and the same words of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Params = Annotated[
    list[str] | None, typer.Option("--param", metavar="KEY=VALUE", help="Argument of the environment; repeatable.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. train.learning_rate=1e-4; repeatable."),
]
PolicyName = Annotated[str, typer.Option("--policy", help="Who acts: random, expert, chat, or a model folder.")]
ChatModel = Annotated[str | None, typer.Option("--model", help="For --policy chat: the endpoint's name of the model.")]
BaseUrl = Annotated[
    str | None, typer.Option("--base-url", help="For --policy chat: address of an OpenAI-compatible endpoint.")
]
Noise = Annotated[
    float | None,
    typer.Option("--noise", min=0, max=1, help="For --policy expert: probability of a random action instead."),
]
Isolate = Annotated[
    bool, typer.Option("--isolate", help="Play in worker processes: an environment that crashes costs one episode.")
]
EnvMemory = Annotated[
    int | None,
    typer.Option("--env-memory-mb", min=1, help="MB of memory an environment may take; it then gets a worker process."),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Embedder = Annotated[
    str | None, typer.Option("--embedder", help="What the memory was made with: minilm (default) or hash.")
]
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The run's settings.")]
