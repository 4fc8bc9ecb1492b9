"""What the training tests share: a tiny policy, episodes with made-up tokens, a small training run.

Imported by file, since tests are no package. Run as a script it trains in processes that can be killed: for each
line `FOLDER` on stdin it forks one that goes on from the folder's newest checkpoint, if there is one, and prints
the weights' digest at the end. The fork comes before any file is open, so each child is a fresh process without
paying for the imports again.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode, Role, Turn
from agentkit.policies.doubles import ExpertPolicy
from agentkit.policies.local import LocalPolicy
from agentkit.policies.policy import Sampling
from agentkit.rollout import collect
from agentkit.task import Task, make_tasks
from agentkit.training.advantages import Outcomes
from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.forward import measure
from agentkit.training.plans import Ground
from agentkit.training.sft import SftConfig, fine_tune
from agentkit.training.tiny import build_model, build_tokenizer
from agentkit.training.trainer import Trainer

LAKE = "agentkit/FrozenLake-v0"
PARAMS = {"text": "coords", "max_turns": 2}


@functools.cache
def tokenizer() -> Any:
    """A tokenizer that knows the lake's words."""
    episodes = demonstrations()
    texts = [message.text for episode in episodes for message in episode.turns[-1].messages]
    return build_tokenizer([*texts, *(turn.response for episode in episodes for turn in episode.turns)], 400)


@functools.cache
def demonstrations() -> list[Episode]:
    """Expert play of eight lakes: text only, without token ids."""
    policy = ExpertPolicy(noise=0.3, think=lambda text: "The goal is there.")
    return collect(policy, make_tasks(LAKE, "train", 8, params=PARAMS), group_size=2)


def make_policy(seed: int = 0) -> LocalPolicy:
    """A policy with fresh weights of some 50 thousand parameters."""
    return LocalPolicy(build_model(tokenizer(), hidden=32, layers=1, heads=2, seed=seed), tokenizer())


@functools.cache
def _taught_weights() -> dict[str, torch.Tensor]:
    policy = make_policy()
    fine_tune(policy, demonstrations(), SftConfig(steps=100, rows_per_step=8, learning_rate=1e-2))
    return {name: value.clone() for name, value in policy.model.state_dict().items()}


def make_taught_policy() -> LocalPolicy:
    """A policy that has seen a few demonstrations: most answers are well-formed, some lakes are crossed."""
    policy = make_policy()
    policy.model.load_state_dict(_taught_weights())
    return policy


def make_trainer(folder: Path, *, iterations: int = 4, seed: int = 0, **changes: Any) -> Trainer:
    """A small run on the lake, ready to train."""
    numbers: dict[str, Any] = {
        "iterations": iterations,
        "tasks_per_iteration": 3,
        "group_size": 6,
        "learning_rate": 3e-3,
        "checkpoint_every": 1,
        "bottleneck_every": 2,
        "imitation": ImitationConfig(episodes_per_step=3),
    }
    return Trainer(
        make_taught_policy(),
        LAKE,
        folder,
        TrainConfig(**(numbers | changes)),
        params=PARAMS,
        sampling=Sampling(max_new_tokens=24),
        seed=seed,
    )


def digest(model: Any) -> str:
    """Hash of every weight, to the bit."""
    state = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        state.update(name.encode())
        state.update(value.contiguous().numpy().tobytes())
    return state.hexdigest()


def make_turn(prompt: Any, ids: Any, **changes: Any) -> Turn:
    """A turn with these ids; the logarithm of the probability of id i is −i/100, and its role is i mod 4 + 3."""
    values: dict[str, Any] = {
        "observation": "",
        "prompt_ids": tuple(prompt),
        "prompt_roles": (Role.OBSERVATION,) * len(prompt),
        "response": "",
        "response_ids": tuple(ids),
        "response_roles": tuple(Role(i % 4 + 3) for i in ids),
        "logprobs": tuple(-i / 100 for i in ids),
    }
    return Turn(**(values | changes))


def make_episode(turns: Any = (), name: str = "one", **changes: Any) -> Episode:
    """An episode of these turns."""
    task = Task(env_id="test/Env-v0", seed=0)
    values: dict[str, Any] = {"id": name, "task": task, "turns": tuple(turns), "success": True}
    return Episode(**(values | changes))


def make_outcomes(rewards: Any, groups: Any = None, **changes: Any) -> Outcomes:
    """Outcomes of episodes with these rewards, a list each; one group, a token a turn, all states unknown."""
    starts = np.cumsum([0, *(len(each) for each in rewards)])
    num = int(starts[-1])
    values: dict[str, Any] = {
        "group_E": np.array(groups if groups is not None else [0] * len(rewards), np.int64),
        "return_E": np.array([sum(each) for each in rewards], np.float64),
        "success_E": np.ones(len(rewards), np.bool_),
        "cut_E": np.zeros(len(rewards), np.bool_),
        "starts": starts,
        "reward_U": np.array([reward for each in rewards for reward in each], np.float64),
        "state_U": np.full(num, -1),
        "tokens_U": np.ones(num, np.int64),
        "logp_U": np.zeros(num),
    }
    return Outcomes(**(values | {name: np.array(value) for name, value in changes.items()}))


def make_ground(folder: Path, policy: Any = None, **changes: Any) -> Ground:
    """What a plan works with, on the lake; its log is left open, as a file of a test's folder."""
    policy = policy or make_taught_policy()
    log = EpisodeLog.open(folder / "episodes.sqlite")

    def measured(rows: Any) -> tuple[np.ndarray, np.ndarray]:
        stats = measure(policy.model, rows, 16_384)
        return stats.logp_N.double().numpy(), stats.entropy_N.double().numpy()

    config = TrainConfig(**({"group_size": 6, "tasks_per_iteration": 3} | changes))
    options = {"sampling": Sampling(max_new_tokens=24), "log": log, "seed": 7}
    return Ground(policy, log, config, options, measured, 7)


KILLED_RUN: dict[str, Any] = {"iterations": 6, "checkpoint_every": 2}
"""What the killed runs train."""


def train_in_this_process(folder: Path) -> None:
    """Go on from where the folder stands to the end."""
    trainer = make_trainer(folder, **KILLED_RUN)
    if any((folder / "checkpoints").glob("[0-9]*")):
        trainer.restore()
    trainer.train(on_iteration=lambda number, values: print("iteration", number, flush=True))
    trainer.close()
    print("digest", digest(trainer.policy.model), flush=True)


def main() -> None:
    """Fork a training process for each line on stdin."""
    torch.set_num_threads(1)
    make_taught_policy()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            train_in_this_process(Path(line.strip()))
            os._exit(0)
        print("pid", child, flush=True)
        os.waitpid(child, 0)
        print("dead", flush=True)


if __name__ == "__main__":
    main()
