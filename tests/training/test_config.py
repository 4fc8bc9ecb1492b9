"""Settings: what contradicts itself is refused, naming both."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.credit import ActFocus, Uniform
from agentkit.training.losses import SIL, Clip, Replayed
from agentkit.training.settings import Settings
from agentkit.training.sft import SftConfig

BALANCE = {"loss": {"name": "trajectory-balance"}, "reduction": "seq-mean-token-sum", "credit": {"name": "uniform"}}
STORED = {"plan": {"name": "r3l", "old_logprobs": "stored"}, "loss": {"name": "opmd"}, "imitation": {"weight": 0}}
"""Stored log-probabilities beside a loss that has no ratio to them."""


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (
            {"minibatches": 9, "tasks_per_iteration": 2, "group_size": 4},
            ["minibatches = 9", "group_size", "8 episodes"],
        ),
        ({"task_pool": 3, "tasks_per_iteration": 4}, ["task_pool = 3", "tasks_per_iteration = 4"]),
        (
            {"minibatches": 4, "epochs": 3, "imitation": {"max_staleness": 11}},
            ["minibatches × epochs = 12", "max_staleness = 11"],
        ),
        ({"imitation": {"weight": 0, "capacity": 64}}, ["imitation.weight = 0", "imitation.capacity = 64"]),
        ({"imitation": {"newest_group_only": True}}, ["newest_group_only = true", "task_pool = None"]),
        ({"imitation": {"per_task": 4}, "group_size": 4}, ["per_task = 4", "group_size = 4", "task_pool = None"]),
        (
            {"credit": {"name": "actfocus", "beta": 0, "signal": "nll"}},
            ["credit.beta = 0", "credit.signal = 'nll'"],
        ),
        (
            {"credit": {"name": "product", "factors": ({"name": "actfocus", "beta": 0, "epsilon": 0.1},)}},
            ["credit.beta = 0", "credit.epsilon = 0.1"],
        ),
        (BALANCE | {"advantage": {"name": "gae"}}, ["trajectory-balance", "advantage = 'gae'"]),
        (BALANCE | {"advantage": {"name": "turn-returns"}}, ["trajectory-balance", "advantage = 'turn-returns'"]),
        (BALANCE | {"credit": {"name": "forks"}}, ["trajectory-balance", "credit = 'forks'"]),
        (
            {"plan": {"name": "xrpo", "hints": {"source": "text", "text": "Go.", "turns": 2}}},
            ["hints.source = 'text'", "hints.turns = 2"],
        ),
        (
            {"plan": {"name": "xrpo", "hints": {"keep": True, "old_logprobs": "stored"}}},
            ["hints.keep = true", "hints.old_logprobs = 'stored'"],
        ),
        (
            {"advantage": {"name": "turn-returns", "epsilon": 0.1}},
            ["advantage.epsilon = 0.1", "advantage.std = false"],
        ),
        (
            {"advantage": {"name": "gigpo", "std": False, "epsilon": 0.1}},
            ["advantage.epsilon = 0.1", "advantage.std = false"],
        ),
        (
            {"advantage": {"name": "gae", "whiten": False, "epsilon": 0.1}},
            ["advantage.epsilon = 0.1", "advantage.whiten = false"],
        ),
        (
            {"advantage": {"name": "gae", "value_coef": 0, "value_clip": 0.5}},
            ["advantage.value_coef = 0", "advantage.value_clip = 0.5"],
        ),
        (
            {"advantage": {"name": "gae", "value_coef": 0, "value_rate": 5}},
            ["advantage.value_coef = 0", "advantage.value_rate = 5"],
        ),
        (
            {"plan": {"name": "r3l", "reflection_tokens": 64}},
            ["plan.reflection_tokens = 64", "plan.reflect = 'record'"],
        ),
        ({"plan": {"name": "xrpo", "carry": 0.9}}, ["plan.carry = 0.9", "task_pool = None"]),
        ({"plan": {"name": "xrpo", "first": 1, "most": 20}}, ["plan.first = 1", "group_size = 16", "plan.most"]),
        ({"plan": {"name": "xrpo", "first": 1, "hints": {}}}, ["plan.first = 1", "plan.hints"]),
        ({"plan": {"name": "xrpo", "first": 1, "prior": 2}}, ["plan.first = 1", "plan.prior"]),
        (
            {"plan": {"name": "xrpo", "first": 0.9, "hints": {}}, "group_size": 4},
            ["plan.first = 0.9", "group_size = 4", "plan.hints"],
        ),
        (
            {"imitation": {"loss": {"name": "spear", "dropped": 0, "least": 1}}},
            ["imitation.loss.dropped = 0", "imitation.loss.least = 1"],
        ),
        ({"credit": {"name": "pivot"}}, ["credit = 'pivot'", "plan = 'r3l'"]),
        (
            {"credit": {"name": "product", "factors": ({"name": "pivot"},)}, "plan": {"name": "xrpo"}},
            ["credit = 'pivot'", "plan = 'r3l'"],
        ),
        (
            {"credit": {"name": "pivot"}, "plan": {"name": "r3l", "pivot": "start"}},
            ["credit = 'pivot'", "pivot = 'turn'"],
        ),
        (STORED, ["plan.old_logprobs = 'stored'", "loss = 'opmd'"]),
        (
            STORED | BALANCE | {"advantage": {"name": "rloo"}},
            ["plan.old_logprobs = 'stored'", "loss = 'trajectory-balance'"],
        ),
        (
            {"plan": {"name": "arpo", "old_logprobs": "stored"}, "task_pool": 64, "loss": {"name": "opmd"}},
            ["plan.old_logprobs = 'stored'", "loss = 'opmd'"],
        ),
        (
            {"plan": {"name": "hindsight", "gain": 0.5}, "imitation": {"admit_above": 0.5}},
            ["plan.gain = 0.5", "imitation.admit_above = 0.5"],
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_naming_both(settings, named):
    with pytest.raises(ValidationError) as raised:
        TrainConfig(**settings)
    for words in named:
        assert words in str(raised.value)


@pytest.mark.parametrize(
    "reads",
    [
        {"loss": {"name": "dro"}},
        {"imitation": {"weight": 0.5}},
        {"mismatch": {}},
        {"credit": {"name": "actfocus", "signal": "shift"}},
        {"modifiers": ({"name": "novelty"},)},
        {"modifiers": ({"name": "ace"},)},
    ],
    ids=str,
)
def test_stored_log_probabilities_are_allowed_where_anything_reads_them(reads):
    TrainConfig.model_validate(STORED | reads)


def test_what_a_schedule_leads_to_or_from_zero_is_not_off():
    ramp = {"name": "linear", "start": 0.0, "end": 1.0, "length": 9}
    for name, settings in (
        ("advantage.value_coef", {"advantage": {"name": "gae", "value_clip": 0.5}}),
        ("imitation.loss.dropped", {"imitation": {"loss": {"name": "spear", "least": 1.0}}}),
        ("plan.first", {"plan": {"name": "xrpo", "first": 0.9, "most": 20}}),
        ("imitation.admit_above", {"imitation": {"admit_above": 1.0}, "plan": {"name": "hindsight"}}),
    ):
        start = 0.5 if name == "plan.first" else 0.0
        TrainConfig.model_validate(settings | {"schedules": {name: ramp | {"start": start}}})
    TrainConfig.model_validate(
        {
            "imitation": {"weight": 1.0, "capacity": 64},
            "credit": {"name": "actfocus", "beta": 0.5, "signal": "nll"},
            "schedules": {"imitation.weight": ramp, "credit.beta": ramp},
        }
    )


@pytest.mark.parametrize("settings", [{"horizon": 400}, {"reduction": "seq-mean-token-sum-norm"}])
def test_a_horizon_goes_with_the_reduction_that_reads_it(settings):
    with pytest.raises(ValidationError, match="seq-mean-token-sum-norm needs a horizon"):
        TrainConfig(**settings)


def test_the_limits_of_what_fits_together_are_allowed():
    TrainConfig(minibatches=8, tasks_per_iteration=2, group_size=4)
    TrainConfig(task_pool=4, tasks_per_iteration=4)
    TrainConfig(minibatches=4, epochs=3, imitation=ImitationConfig(max_staleness=12))
    TrainConfig(minibatches=4, epochs=3, imitation=ImitationConfig(weight=0), task_pool=8)
    TrainConfig(imitation=ImitationConfig(newest_group_only=True, per_task=16), task_pool=8)
    TrainConfig(imitation=ImitationConfig(per_task=3), group_size=4)
    TrainConfig.model_validate(BALANCE | {"advantage": {"name": "rloo"}})
    TrainConfig.model_validate({"plan": {"name": "xrpo", "first": 0.8, "most": 5, "hints": {}}, "group_size": 4})
    TrainConfig.model_validate({"plan": {"name": "hindsight", "gain": 0.5}, "imitation": {"admit_above": 0.4}})
    TrainConfig.model_validate({"plan": {"name": "hindsight", "gain": 0.5}, "imitation": {"admit": "any"}})
    TrainConfig.model_validate({"credit": {"name": "pivot"}, "plan": {"name": "r3l"}})


@pytest.mark.parametrize("kind", [TrainConfig, ImitationConfig, SftConfig, ActFocus, Uniform])
def test_unknown_keys_are_refused_and_settings_are_frozen(kind):
    with pytest.raises(ValidationError, match="learning_rat"):
        kind(learning_rat=1.0)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(kind(), next(iter(kind.model_fields)), 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"group_size": 1},
        {"iterations": 0},
        {"learning_rate": 0},
        {"learning_rate": 2.0},
        {"loss": {"low": 1.0}},
        {"kl_coef": -0.1},
        {"imitation": {"loss": {"truncation": 0}}},
        {"credit": {"name": "magic"}},
    ],
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        TrainConfig(**wrong)


def test_settings_survive_json_and_plain_mappings():
    config = TrainConfig(credit=Uniform(), imitation=ImitationConfig(weight=0), task_pool=64)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    chosen = TrainConfig.model_validate({"credit": {"name": "actfocus", "alpha": 0.5}})
    assert chosen.credit == ActFocus(alpha=0.5)


def kinds_below(kind: type[Settings]) -> set[type[Settings]]:
    """All settings that are of this kind."""
    return {kind}.union(*(kinds_below(each) for each in kind.__subclasses__()))


def test_every_part_that_is_written_out_in_full_is_read_back():
    """As runs save it: no part may take a default that is written out for something that was asked for."""
    parts = [Replayed(base="current"), SftConfig(advantage_beta=1.0)]
    for kind in kinds_below(Settings) - {Settings}:
        if kind.__module__.startswith("agentkit.") and not any(f.is_required() for f in kind.model_fields.values()):
            parts.append(kind())
    assert len(parts) > 60
    for part in parts:
        assert type(part).model_validate_json(part.model_dump_json()) == part


def test_the_defaults_are_those_of_the_papers():
    config = TrainConfig()
    assert config.loss == Clip(low=0.2, high=0.28)
    assert (config.entropy_coef, config.kl_coef) == (0.001, 0.0)
    assert (config.tasks_per_iteration, config.group_size, config.format_penalty) == (8, 16, 0.1)
    assert isinstance(config.credit, ActFocus)
    assert (config.credit.alpha, config.credit.beta) == (0.1, 0.5)
    assert config.imitation.loss == SIL(truncation=2.0)


def test_settings_can_be_read_where_torch_is_not_installed():
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(name, name='torch')\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from agentkit.training.config import TrainConfig\n"
        "print(TrainConfig().advantage.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "grpo", done.stderr
