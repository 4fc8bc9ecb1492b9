"""The trainer against TRL's GRPOTrainer and against plain loops, on a CPU with one thread; ratios of CPU seconds.

Run: python benchmarks/training.py [step] [padding] [memory] [credit]; all by default, about five minutes. `step` needs
TRL, which the extra `dev` brings. CPU seconds are the process's own; each figure is the median of some repetitions.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from agentkit.memory.records import Episode, Message, Part, Role, Turn
from agentkit.policies.local import LocalPolicy
from agentkit.policies.policy import Request, Sampling
from agentkit.task import Task
from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.credit import ActFocus, Uniform, weighed
from agentkit.training.forward import forward, measure
from agentkit.training.gradients import policy_gradient
from agentkit.training.packing import MicroBatch, micro_batches, pair_cost
from agentkit.training.rows import Row, build_rows
from agentkit.training.stream import flatten
from agentkit.training.tiny import build_model, build_tokenizer

NUM_PROMPTS, GROUP, LENGTH, VOCABULARY = 4, 8, 64, 1024
SIZES = {"0.8 M": {"hidden": 128, "layers": 3}, "13 M": {"hidden": 384, "layers": 7, "heads": 6}}
REPEATS = 5


def seconds(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median CPU seconds of a call, after one that does not count."""
    call()
    found = []
    for _ in range(repeats):
        begun = time.process_time()
        call()
        found.append(time.process_time() - begun)
    return statistics.median(found)


def tokenizer() -> Any:
    """One with as many tokens as wanted, most of them never seen."""
    words = [f"{a}{b}{c}" for a in "abcdefghij" for b in "klmnopqrst" for c in "uvwxyz"]
    return build_tokenizer([" ".join(words)] * 3, VOCABULARY)


PROMPTS = [f"You stand at {n}. Walk to the goal, avoid the holes, and say where you go." for n in range(NUM_PROMPTS)]


class Ours:
    """A step of the trainer on plain prompts: sample, reward by length, learn."""

    def __init__(self, size: dict[str, int]) -> None:
        torch.manual_seed(0)
        words = tokenizer()
        self.policy = LocalPolicy(build_model(words, **size), words)
        self.config = TrainConfig(credit=Uniform(), entropy_coef=0.0, bottleneck_every=0)
        self.optimizer = torch.optim.AdamW(self.policy.model.parameters(), lr=1e-6)
        self.num_tokens = 0

    def sample(self) -> list[Turn]:
        """The answers to all prompts, a group for each."""

        async def ask() -> list[Any]:
            parts = [(Part(role=Role.OBSERVATION, text=prompt),) for prompt in PROMPTS]
            requests = [
                Request(
                    messages=(Message(speaker="user", parts=part),),
                    sampling=Sampling(max_new_tokens=LENGTH),
                    seed=number * GROUP + copy,
                    world=cast(Any, None),  # nobody looks at it
                )
                for number, part in enumerate(parts)
                for copy in range(GROUP)
            ]
            return await asyncio.gather(*map(self.policy.complete, requests))

        return [
            Turn(
                observation="",
                prompt_ids=done.prompt_ids,
                prompt_roles=done.prompt_roles,
                response=done.text,
                response_ids=done.response_ids,
                response_roles=(Role.OTHER,) * len(done.response_ids),
                logprobs=done.logprobs,
            )
            for done in asyncio.run(ask())
        ]

    def learn(self, turns: Sequence[Turn]) -> None:
        """One optimizer step."""
        task = Task(env_id="none/None-v0", seed=0)
        episodes = [Episode(id=str(n), task=task, turns=(turn,)) for n, turn in enumerate(turns)]
        rows = build_rows(episodes)[0]
        advantage_N = torch.from_numpy(
            np.concatenate([np.full(row.num_sampled, (-1.0) ** row.episode) for row in rows])
        )
        self.optimizer.zero_grad(set_to_none=True)
        policy_gradient(self.policy.model, flatten(rows, advantage_N), range(len(rows)), self.config, 1.0)
        torch.nn.utils.clip_grad_norm_(self.policy.model.parameters(), 1.0)
        self.optimizer.step()
        self.num_tokens = sum(row.num_sampled for row in rows)

    def step(self) -> None:
        """Sample and learn."""
        self.learn(self.sample())


def trl_step(size: dict[str, int]) -> tuple[float, float]:
    """(CPU seconds of one of TRL's steps, sampled tokens of one)."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    times, counts = [time.process_time()], []

    def reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> Any:
        counts.append(sum(map(len, completion_ids)))
        return [(-1.0) ** number for number in range(len(completion_ids))]

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.process_time())

    words = tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=NUM_PROMPTS * GROUP,
            num_generations=GROUP,
            max_completion_length=LENGTH,
            learning_rate=1e-6,
            beta=0.0,
            max_steps=REPEATS + 2,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            gradient_checkpointing=False,
        )
        data = Dataset.from_list([{"prompt": [{"role": "user", "content": prompt}]} for prompt in PROMPTS])
        trainer = GRPOTrainer(
            build_model(words, **size),
            reward,
            args=settings,
            train_dataset=data,
            processing_class=words,
            callbacks=[Clock()],
        )
        trainer.train()
    return statistics.median(np.diff(times)[1:]), statistics.median(counts)


def step() -> None:
    """A whole step, sampling included, against TRL's."""
    for name, size in SIZES.items():
        ours = Ours(size)
        turns = ours.sample()
        learn = seconds(partial(ours.learn, turns))
        whole = seconds(ours.step)
        theirs, counted = trl_step(size)
        mine, other = ours.num_tokens / whole, counted / theirs
        print(
            f"step, {name}: {mine:,.0f} sampled tokens per CPU second (learning {learn:.2f} of {whole:.2f} s), "
            f"TRL {other:,.0f} ({theirs:.2f} s): {mine / other:.2f} ×"
        )


def long_tailed_rows(num: int, vocabulary: int, longest: int, seed: int = 0) -> list[Row]:
    """Rows of lengths as agents' episodes have them: most short, a few very long; half of the tokens sampled."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, length in enumerate(rng.lognormal(4.5, 1.0, num).clip(16, longest).astype(int)):
        sampled = rng.random(length) < 0.5
        sampled[0] = False
        roles = np.where(rng.random(length) < 0.1, Role.ACTION, Role.THOUGHT).astype(np.int8)
        logprobs = np.where(sampled, -np.log(vocabulary), 0.0).astype(np.float32)
        rows.append(
            Row(number, rng.integers(0, vocabulary, length), sampled, roles, logprobs, np.zeros(length, np.int32))
        )
    return rows


def padding() -> None:
    """Learning from rows of long-tailed lengths: ours, against batches of 8 as they come, padded to the longest."""
    model = build_model(tokenizer(), hidden=128, layers=3, window=2048)
    rows = long_tailed_rows(128, model.config.vocab_size, 2000)
    tokens = sum(map(len, rows))

    def run(batches: Sequence[MicroBatch]) -> None:
        model.zero_grad(set_to_none=True)
        for indices, packs in batches:
            forward(model, [rows[i] for i in indices], packs=packs).logp_N.sum().backward()

    in_order = [MicroBatch(list(range(start, start + 8)), [1] * 8) for start in range(0, len(rows), 8)]
    fitted = micro_batches(rows, 16_384, pair_cost(model))
    ours, padded = seconds(lambda: run(fitted), 3), seconds(lambda: run(in_order), 3)
    computed = sum(max(len(rows[i]) for i in batch.indices) * len(batch.indices) for batch in fitted)
    print(
        f"padding: {tokens / ours:,.0f} tokens per CPU second with {computed / tokens - 1:.1%} of padding, "
        f"{tokens / padded:,.0f} padded as they come: {padded / ours:.2f} ×"
    )


def peak(kind: str) -> None:
    """Run one pass with its backward and print how far resident memory rose, in MB."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=49_152,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config)
    ids = torch.randint(0, 49_152, (2, 2048))
    sampled = np.ones(2048, dtype=bool)
    sampled[0] = False
    zeros = np.zeros(2048, np.int8), np.zeros(2048, np.float32), np.zeros(2048, np.int32)
    rows = [Row(n, ids[n].numpy(), sampled, *zeros) for n in range(2)]
    short = Row(0, ids[0, :9].numpy(), sampled[:9], zeros[0][:9], zeros[1][:9], zeros[2][:9])
    forward(model, [short]).logp_N.sum().backward()
    before = most_resident_mb()
    if kind == "ours":
        stats = forward(model, rows)
        (stats.logp_N.sum() + 0.01 * stats.entropy_N.sum() + 0.0 * stats.energy_N.sum()).backward()
    else:
        logits = model(input_ids=ids, use_cache=False).logits.float()[:, :-1]
        logps = logits.log_softmax(-1)
        entropy = -(logps.exp() * logps).sum(-1)
        energy = -logits.logsumexp(-1)
        (logps.gather(2, ids[:, 1:, None]).sum() + 0.01 * entropy.sum() + 0.0 * energy.sum()).backward()
    print(most_resident_mb() - before)


def most_resident_mb() -> float:
    """Most memory that this process has had resident; `ru_maxrss` would count its parent's from before it began."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) / 1024


def memory() -> None:
    """Peak memory of log-probability, entropy, energy and backward at 2 × 2,048 tokens and 49,152 words."""
    found = {}
    for kind in ("ours", "naive"):
        command = [sys.executable, __file__, "--peak", kind]
        found[kind] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    print(
        f"memory at 2 × 2,048 tokens, vocabulary 49,152: {found['ours']:,.0f} MB, "
        f"all logits at once {found['naive']:,.0f} MB: {found['ours'] / found['naive']:.2f} ×"
    )


def credit() -> None:
    """A step with ActFocus against one with uniform credit, with a KL term, which needs the reference, and without."""
    import copy

    model = build_model(tokenizer(), hidden=128, layers=3, window=2048)
    reference = copy.deepcopy(model)
    rows = long_tailed_rows(64, model.config.vocab_size, 800)
    advantage_N = torch.ones(sum(row.num_sampled for row in rows))

    def run(config: TrainConfig) -> None:
        asked = config.credit.needs_reference or config.kl_coef > 0
        stats = measure(reference, rows, config.micro_batch_tokens) if asked else None
        stream = weighed(config.credit, flatten(rows, advantage_N, reference=stats))
        model.zero_grad(set_to_none=True)
        policy_gradient(model, stream, range(len(rows)), config, 1.0)

    for words, kl in (("with a KL term", 0.1), ("without", 0.0)):
        quiet: dict[str, Any] = {"kl_coef": kl, "imitation": ImitationConfig(weight=0)}
        focus, uniform = TrainConfig(credit=ActFocus(), **quiet), TrainConfig(credit=Uniform(), **quiet)
        pairs = [(seconds(partial(run, focus), 1), seconds(partial(run, uniform), 1)) for _ in range(REPEATS)]
        ratio = statistics.median(one / other for one, other in pairs)
        print(f"ActFocus against uniform, {words}: {ratio:.3f} × the CPU seconds of a step")


def main() -> None:
    """Print what is asked for."""
    tables = {"step": step, "padding": padding, "memory": memory, "credit": credit}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", choices=[*tables, []], help="all by default")
    parser.add_argument("--peak", choices=["ours", "naive"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        return peak(options.peak)
    for name in options.tables or tables:
        tables[name]()


if __name__ == "__main__":
    main()
