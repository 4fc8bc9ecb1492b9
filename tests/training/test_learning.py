"""It learns: a bandit in text, where one of three answers is right."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np
import pytest

from agentkit.agent import AgentConfig, build_agent
from agentkit.envs.contract import TextEnv
from agentkit.policies.doubles import RandomPolicy, as_response
from agentkit.policies.local import LocalPolicy
from agentkit.policies.policy import Sampling
from agentkit.rollout import collect
from agentkit.task import make_tasks
from agentkit.training.advantages import GAE, ArCHer
from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.credit import ActFocus, Uniform
from agentkit.training.losses import Clip
from agentkit.training.sft import SftConfig, fine_tune
from agentkit.training.tiny import build_model, build_tokenizer
from agentkit.training.trainer import Trainer

BANDIT = "agentkit-test/Bandit-v0"
COLOURS = ("red", "green", "blue")


class Bandit(TextEnv):
    """One turn; green is right."""

    metadata = {"render_modes": [], "inline": True}  # noqa: RUF012 - Gymnasium's own convention
    instructions = "Name a colour."
    example = "red"

    def __init__(self):
        super().__init__(max_turns=1, max_actions=1, max_actions_per_turn=1)

    def _begin(self, split, seed, attempt):
        self.said = None

    def _parse(self, text):
        return text if text in COLOURS else None

    def _act(self, action):
        self.said = action
        return float(action == "green"), ""

    def _observe(self):
        return "Which?"

    def _outcome(self):
        return None if self.said is None else self.said == "green"

    def _state_key(self):
        return str(self.said)

    def _admissible(self):
        return list(COLOURS)


if BANDIT not in gymnasium.registry:
    gymnasium.register(BANDIT, entry_point=lambda **_: Bandit(), disable_env_checker=True)


@functools.cache
def agent():
    return build_agent(AgentConfig(system=""))


@functools.cache
def guesses():
    return collect(RandomPolicy(), make_tasks(BANDIT, num=24), agent=agent())


@functools.cache
def taught():
    tokenizer = build_tokenizer([as_response(colour) for colour in COLOURS] * 4 + ["Which?"] * 4, 300)
    policy = LocalPolicy(build_model(tokenizer, hidden=32, layers=1, heads=2), tokenizer)
    fine_tune(policy, guesses(), SftConfig(steps=80, rows_per_step=8, learning_rate=1e-2))
    return tokenizer, {name: value.clone() for name, value in policy.model.state_dict().items()}


def successes(folder, **changes):
    """The share of right answers in each iteration."""
    tokenizer, weights = taught()
    policy = LocalPolicy(build_model(tokenizer, hidden=32, layers=1, heads=2), tokenizer)
    policy.model.load_state_dict(weights)
    numbers = {
        "iterations": 24,
        "tasks_per_iteration": 4,
        "group_size": 8,
        "learning_rate": 4e-3,
        "bottleneck_every": 0,
        "checkpoint_every": 100,
    }
    trainer = Trainer(
        policy,
        BANDIT,
        folder,
        TrainConfig(**(numbers | changes)),
        agent=agent(),
        sampling=Sampling(max_new_tokens=16),
    )
    found = []
    trainer.train(on_iteration=lambda number, values: found.append(values["success"]))
    trainer.close()
    return found


NO_REPLAY = ImitationConfig(weight=0)
SETTINGS: dict[str, dict[str, Any]] = {
    "actfocus": {"credit": ActFocus(), "imitation": NO_REPLAY},
    "uniform": {"credit": Uniform(), "imitation": NO_REPLAY},
    "actfocus with replay": {"credit": ActFocus()},
    "ppo": {"advantage": GAE(), "credit": Uniform(), "imitation": NO_REPLAY},
    "archer": {
        "iterations": 28,
        "advantage": ArCHer(warmup_iterations=4, critic_learning_rate=2e-3, critic_episodes=32, critic_width=32),
        "credit": Uniform(),
        "imitation": NO_REPLAY,
    },
    "several steps an iteration": {"imitation": NO_REPLAY, "minibatches": 2, "epochs": 2, "learning_rate": 1.5e-3},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_right_answer_becomes_the_rule(tmp_path, setting):
    found = successes(tmp_path, **SETTINGS[setting])
    assert found[0] < 0.6, "at first it guesses"
    assert np.mean(found[-4:]) > 0.85


def test_imitation_alone_finds_the_right_answer_too(tmp_path, monkeypatch):
    """With the policy's own gradient taken out, what remains is replay of what went well."""
    monkeypatch.setattr(Clip, "tokens", lambda self, now: 0.0 * now.logp_N)
    found = successes(tmp_path, entropy_coef=0.0, imitation=ImitationConfig(weight=1.0))
    assert found[0] < 0.6
    assert np.mean(found[-4:]) > 0.85
