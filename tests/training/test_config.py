"""Settings: what contradicts itself is refused, naming both."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.credit import ActFocus, Uniform
from agentkit.training.losses import SIL, Clip
from agentkit.training.sft import SftConfig


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
    ],
)
def test_settings_that_contradict_each_other_are_refused_naming_both(settings, named):
    with pytest.raises(ValidationError) as raised:
        TrainConfig(**settings)
    for words in named:
        assert words in str(raised.value)


@pytest.mark.parametrize("settings", [{"horizon": 400}, {"reduction": "seq-mean-token-sum-norm"}])
def test_a_horizon_goes_with_the_reduction_that_reads_it(settings):
    with pytest.raises(ValidationError, match="seq-mean-token-sum-norm needs a horizon"):
        TrainConfig(**settings)


def test_the_limits_of_what_fits_together_are_allowed():
    TrainConfig(minibatches=8, tasks_per_iteration=2, group_size=4)
    TrainConfig(task_pool=4, tasks_per_iteration=4)
    TrainConfig(minibatches=4, epochs=3, imitation=ImitationConfig(max_staleness=12))
    TrainConfig(minibatches=4, epochs=3, imitation=ImitationConfig(max_staleness=1, weight=0))


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
