"""How much of a batch's gradient is signal, under each credit: what different batches from one policy agree on.

Run from the repository's root: python -m benchmarks.study.signal [--out FOLDER] [--only WORLD ...] [--batches 16].
Nothing is learnt: the clone of each world and seed plays so many batches, and the policy's gradient of each is taken
under every credit. With g_i of batch i, the signal is the mean of g_i·g_j over pairs, the whole the mean of |g_i|²;
their ratio is 1 where batches agree and 0 where a gradient is chance. A credit that only scales the gradient leaves it
as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agentkit.cli.choices import load_folder
from agentkit.cli.settings import validated
from agentkit.policies.policy import Sampling
from agentkit.rollout import collect
from agentkit.task import make_tasks
from agentkit.training.batch import Batch, Estimate, policy_stream
from agentkit.training.config import TrainConfig
from agentkit.training.gradients import policy_gradient
from agentkit.training.models import Models
from benchmarks.study.runs import FULL, Budget, Run, Study, agent_of
from benchmarks.study.worlds import WORLDS

LINES = "signal.jsonl"
CREDITS: dict[str, dict[str, Any]] = {
    "uniform": {"name": "uniform"},
    **{f"actfocus, alpha {alpha}": {"name": "actfocus", "alpha": alpha, "beta": 0.5} for alpha in (0.0, 0.1, 0.3, 1.0)},
    "actfocus, beta 0": {"name": "actfocus", "alpha": 0.1, "beta": 0.0},
}


def gradients(run: Run, study: Study, budget: Budget, num_batches: int) -> tuple[NDArray[np.float64], float]:
    """([C, B, B] products of the gradients of batches for each credit, success of the attempts)."""
    world, policy = WORLDS[run.world], load_folder(study.start(run), training=True)
    sampling = Sampling(max_new_tokens=world.max_new_tokens)
    quiet = {"imitation": {"weight": 0.0}, "entropy_coef": 0.0, "bottleneck_every": 0}
    configs = [validated(TrainConfig, quiet | {"credit": credit}) for credit in CREDITS.values()]
    found: list[list[torch.Tensor]] = [[] for _ in configs]
    won = []
    for number in range(num_batches):
        tasks = make_tasks(world.env_id, "train", budget.tasks, first=number * budget.tasks, params=world.params)
        options = {"agent": agent_of(world), "sampling": sampling, "seed": run.seed}
        episodes = collect(policy, tasks, group_size=budget.attempts, **options)
        won += [episode.success for episode in episodes]
        for config, gradients_B in zip(configs, found, strict=True):
            models = Models(policy, config, sampling.temperature)
            batch = Batch.of(config, episodes)
            stream, _ = policy_stream(batch, Estimate.of(batch, models, config), models, config)
            if stream is None:
                raise SystemExit(f"batch {number} of {run.world} has no group of unlike attempts; choose another world")
            policy.model.zero_grad(set_to_none=True)
            policy_gradient(policy.model, stream, range(len(stream.rows)), config, sampling.temperature)
            gradients_B.append(torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]))
    stacked = [torch.stack(gradients_B).double() for gradients_B in found]
    return torch.stack([each @ each.T for each in stacked]).numpy(), float(np.mean(won))


def signal_share(product_BB: NDArray[np.float64]) -> float:
    """Share of the gradients' mean square that they agree on.

    >>> signal_share(np.array([[2.0, 1.0], [1.0, 2.0]]))
    0.5
    """
    num = len(product_BB)
    agreed = (product_BB.sum() - np.trace(product_BB)) / (num * (num - 1))
    return float(agreed / (np.trace(product_BB) / num))


def less_first(product_CBB: NDArray[np.float64], resamples: int = 1000) -> NDArray[np.float64]:
    """[C, 3] `signal_share` of each credit less that of the first: the difference and its 95 % interval.

    Interval by random halves of the batches, the same ones for all credits: the difference of halves varies as much as
    that of all batches does about the truth (Politis & Romano 1994, subsamples of half the size).
    """
    rng, num = np.random.default_rng(0), product_CBB.shape[1]
    halves = [rng.permutation(num)[: num // 2] for _ in range(resamples)]
    whole_C = np.array([signal_share(product_BB) for product_BB in product_CBB])
    share_CR = np.array([[signal_share(product[np.ix_(half, half)]) for half in halves] for product in product_CBB])
    less_CR = share_CR - share_CR[0]
    around_C2 = np.quantile(less_CR - less_CR.mean(axis=1, keepdims=True), [0.025, 0.975], axis=1).T
    less_C = whole_C - whole_C[0]
    return np.column_stack([less_C, less_C[:, None] + around_C2])


def rows_of(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown: a world and a seed a row, a credit a column."""
    first, *others = CREDITS
    head = [f"{first}: share", *(f"{name}: share, and less {first}" for name in others)]
    rows = [f"| world | seed | success | {' | '.join(head)} |", "|---|---|---|" + "---|" * len(head)]
    for line in lines:
        cells = [f"{line['share'][first]:.3f}"]
        for name in others:
            less, low, high = line["less"][name]
            cells.append(f"{line['share'][name]:.3f}, {less:+.3f} [{low:+.3f}, {high:+.3f}]")
        rows.append(f"| {line['world']} | {line['seed']} | {line['success']:.3f} | {' | '.join(cells)} |")
    return rows


def main() -> int:
    """Measure what has no line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of the study, with its clones")
    parser.add_argument("--only", action="append", help="a world; may be given again")
    parser.add_argument("--seeds", type=int, default=FULL.seeds)
    parser.add_argument("--batches", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    study, path = Study(arguments.out, FULL), arguments.out / LINES
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    for seed in range(arguments.seeds):
        for world in WORLDS:
            chosen = not arguments.only or any(fnmatch(world, pattern) for pattern in arguments.only)
            done = any((line["world"], line["seed"]) == (world, seed) for line in lines)
            run = Run(world, "signal", seed)
            if not chosen or done or not study.start(run).is_dir():
                continue
            product_CBB, success = gradients(run, study, FULL.in_world(world), arguments.batches)
            line = {
                "world": world,
                "seed": seed,
                "success": success,
                "share": dict(zip(CREDITS, map(signal_share, product_CBB), strict=True)),
                "less": dict(zip(CREDITS, less_first(product_CBB).tolist(), strict=True)),
            }
            lines.append(line)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    if not lines:
        where = f"no clone in {str(arguments.out)!r} to measure"
        print(f"{where}; `make study` makes them, or name its --out", file=sys.stderr)
        return 1
    print("\n".join(rows_of(lines)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
