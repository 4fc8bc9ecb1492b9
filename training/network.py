"""Network: how the model is held while it learns: which weights, in what precision, at what price in memory."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from agentkit.errors import ConfigError, require
from agentkit.lazy import lazy_module
from agentkit.training.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")

VARIANTS = 48
"""Kinds of a pass that are compiled apart: learning, measured or the reference's, of packs or rows, of one or several,
under one of two precisions; and that for two runs in a process."""


class Lora(Settings):
    """Low-rank adapters (Hu et al. 2021, 2106.09685): W + (α/r)·BA, of which only A and B learn."""

    rank: int = Field(default=16, ge=1)
    """r."""
    alpha: float = Field(default=32.0, gt=0)
    """α; B begins at zero, so an adapter changes nothing before it has learnt."""
    seed: int = 0
    """What A begins with."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that are adapted, e.g. `q_proj`; none for all but the output layer."""


class Network(Settings):
    """How the network is held while it learns. The weights that learn are float32 whatever it computes in."""

    lora: Lora | None = None
    """Learn adapters only; the frozen weights beneath them are the reference. None learns all weights."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What matrix products are computed in; bfloat16 needs half the memory for activations and is fast on GPUs."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""
    compile: bool = False
    """Compile what is computed while learning (`torch.compile`, any lengths), which takes a minute or two at first;
    sampling stays as it is. On one CPU thread a learning step took 0.86 × (0.8 million parameters) and 0.92 × (13
    million) the time. Needs a C++ compiler."""

    def prepare(self, model: Any) -> None:
        """Put adapters in and switch on what is asked for, in place; twice is the same as once.

        Raises:
            ConfigError: The model has no such layers, or drops activations out, which would change what it says, or
                there is no compiler.
        """
        if self.compile:
            _check_compiler()
        if self.lora is not None and not has_adapters(model):
            _adapt(model, self.lora)
        if self.checkpointing:
            rates = {name: module.p for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
            name = next((name for name, rate in rates.items() if rate > 0), None)
            if name is not None or vars(model.config).get("attention_dropout"):
                raise ConfigError(
                    f"checkpointing needs a model without dropout, this one has some ({name or 'attention_dropout'}); "
                    "set it to 0 in the model's config"
                )
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})

    @contextmanager
    def computing(self, model: Any) -> Iterator[None]:
        """While this lasts, passes of the network are in the precision asked for, and compiled if that is asked for."""
        with ExitStack() as stack:
            if self.precision == "bfloat16":
                stack.enter_context(torch.autocast(model.device.type, dtype=torch.bfloat16))
            if self.compile:
                stack.enter_context(_compiled(model.base_model))
            yield

    @contextmanager
    def learning(self, model: Any) -> Iterator[None]:
        """While this lasts, passes of the network are made for a backward pass that follows."""
        with self.computing(model):
            model.train(self.checkpointing)  # transformers keeps all activations of a model in eval mode
            try:
                yield
            finally:
                model.eval()


def _forward(base: Any, *args: Any, **options: Any) -> Any:
    return type(base).forward(base, *args, **options)


@functools.cache
def _compiled_forward() -> Any:
    """One for all models, the reference too: it holds none of them."""
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, VARIANTS)  # beyond it, learning would go on uncompiled
    return torch.compile(_forward, dynamic=True)


@contextmanager
def _compiled(base: Any) -> Iterator[None]:
    """While this lasts, the module is computed by compiled code; its parameters keep their names."""
    before = vars(base).get("forward")
    base.forward = functools.partial(_compiled_forward(), base)
    try:
        yield
    finally:
        del base.forward
        if before is not None:
            base.forward = before


def _check_compiler() -> None:
    """Raise unless there is the compiler that torch will call."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++", "c++"]
    if not any(map(shutil.which, names)):
        raise ConfigError(
            f"network.compile = true needs a C++ compiler, and there is no {' or '.join(names)}; install one, or leave "
            "compile out"
        )


def has_adapters(model: Any) -> bool:
    """Whether there are adapters in the model."""
    return any(hasattr(module, "get_delta_weight") for module in model.modules())


@contextmanager
def without_adapters(model: Any) -> Iterator[None]:
    """While this lasts, the model is what it was before it had adapters."""
    adapted = [module for module in model.modules() if hasattr(module, "get_delta_weight")]
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for module in adapted:
        module.enable_adapters(False)
    try:
        yield
    finally:
        for module in adapted:
            module.enable_adapters(True)
        for parameter, learns in trained:  # switching adapters off and on also decides what learns
            parameter.requires_grad_(learns)


def learning_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """What learns: name -> parameter; tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _adapt(model: Any, lora: Lora) -> None:
    peft = require("peft")
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    head = model.get_output_embeddings()
    linear -= {name.rpartition(".")[2] for name, module in model.named_modules() if module is head}
    unknown = sorted(set(lora.targets) - linear)
    if unknown or not linear:
        raise ConfigError(
            f"the model has no linear layer {unknown[0]!r}; choose among {', '.join(sorted(linear))}"
            if unknown
            else f"{type(model).__name__} has no linear layers to adapt; learn all its weights (lora = None)"
        )
    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=list(lora.targets or sorted(linear))
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lora.seed)
        peft.inject_adapter_in_model(settings, model)
    model.eval()
