"""A learning step on one GPU: all weights of a network of Qwen3-0.6B's shape, by the trainer's own `policy_gradient`.

Run: python benchmarks/gpu.py [--peak TFLOPS]; without a GPU it says so. `--tiny` runs the same code on a CPU in
seconds, with a small network. A step is 16 rows of 1,024 tokens, half of them sampled, then AdamW; each figure is the
median of five steps after two that do not count. MFU counts what must be multiplied and nothing that is computed
twice: 6 for each weight and token (the output layer's only at the sampled tokens), and attention's pairs.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from typing import Any, NamedTuple

import numpy as np
import torch

from agentkit.memory.records import Role
from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.credit import Uniform
from agentkit.training.gradients import policy_gradient
from agentkit.training.network import Network
from agentkit.training.rows import Row
from agentkit.training.stream import Stream, flatten

COUNTED, BEFORE = 5, 2
H100 = 989.0
"""TFLOP/s of an H100 or H200 in bfloat16, dense, as its maker says."""


class Size(NamedTuple):
    """A network, and what it learns from in a step."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    head: int
    """Numbers of a head."""
    vocabulary: int
    rows: int
    length: int
    """Tokens of a row."""


QWEN3 = Size(1024, 3072, 28, 16, 8, 128, 151_936, 16, 1024)
TINY = Size(32, 96, 2, 4, 2, 8, 512, 4, 32)


def build(size: Size, device: str) -> Any:
    """The network, with random weights in float32."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_heads,
        head_dim=size.head,
        max_position_embeddings=size.length,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen3ForCausalLM(config).eval()


def make_stream(size: Size) -> Stream:
    """Rows of random tokens, no two beginning alike, half of each sampled; one advantage a row."""
    rng = np.random.default_rng(0)
    sampled = np.arange(size.length) >= size.length // 2
    logprobs = np.where(sampled, -np.log(size.vocabulary), 0.0).astype(np.float32)
    roles, turns = np.full(size.length, int(Role.ACTION), np.int8), np.zeros(size.length, np.int32)
    rows = [
        Row(number, rng.integers(0, size.vocabulary, size.length), sampled, roles, logprobs, turns)
        for number in range(size.rows)
    ]
    return flatten(rows, torch.tensor([(-1.0) ** row.episode for row in rows]).repeat_interleave(int(sampled.sum())))


def flops(model: Any, size: Size) -> float:
    """Floating-point operations that a step's forward and backward pass need."""
    tokens = size.rows * size.length
    head = model.get_output_embeddings().weight.numel()  # tied: the embedding's weights, which cost nothing to look up
    body = sum(parameter.numel() for parameter in model.parameters()) - head
    pairs = tokens * size.length / 2
    attention = 3 * 4 * pairs * size.layers * size.heads * size.head  # scores and sums, once forward and twice backward
    return 6.0 * (body * tokens + head * tokens / 2) + attention


def measure(size: Size, network: Network, device: str) -> tuple[float, float, float]:
    """(seconds of a step, operations of one, peak memory in GiB, 0 on a CPU)."""
    model, stream = build(size, device), make_stream(size)
    network.prepare(model)
    config = TrainConfig(
        credit=Uniform(), entropy_coef=0.0, bottleneck_every=0, imitation=ImitationConfig(weight=0), network=network
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    on_gpu, times = device == "cuda", []
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(BEFORE + COUNTED):
        begun = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with network.learning(model):
            policy_gradient(model, stream, range(size.rows), config, 1.0)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    return statistics.median(times[BEFORE:]), flops(model, size), peak


def main() -> None:
    """Print a line for each way of holding the network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak", type=float, default=H100, help="TFLOP/s that the GPU is said to reach in bfloat16")
    parser.add_argument("--tiny", action="store_true", help="a small network on the CPU, not compiled")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        print("gpu: there is none, so nothing is measured; --tiny runs the same code on the CPU")
        return
    size, device = (TINY, "cpu") if options.tiny else (QWEN3, "cuda")
    name = "CPU" if options.tiny else torch.cuda.get_device_name()
    print(f"{name}: {size.rows} rows of {size.length:,} tokens, half sampled; all weights learn, in bfloat16")
    for compiled, checkpointing in itertools.product((False,) if options.tiny else (False, True), (False, True)):
        network = Network(precision="bfloat16", checkpointing=checkpointing, compile=compiled)
        words = f"{'compiled' if compiled else 'as it is'}, activations {'computed again' if checkpointing else 'kept'}"
        try:
            seconds, needed, peak = measure(size, network, device)
        except torch.OutOfMemoryError:
            print(f"{words}: out of memory")
            continue
        share = needed / seconds / (options.peak * 1e12)
        memory = "" if options.tiny else f", peak memory {peak:.1f} GiB"
        print(f"{words}: {size.rows * size.length / seconds:,.0f} tokens/s, MFU {share:.2%}{memory}", flush=True)


if __name__ == "__main__":
    main()
