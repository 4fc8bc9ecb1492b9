"""The TOML file: every mistake is told in one line that names the setting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from agentkit.cli.config import RunConfig, load_config, read_config, save_config
from agentkit.cli.plan import count_parameters
from agentkit.cli.run import pinned
from agentkit.cli.settings import every_key, parse_assignment, validated
from agentkit.errors import ConfigError
from agentkit.policies import LocalPolicy
from agentkit.training.credit import ActFocus, Uniform


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.learning_rat=1", "no setting 'train.learning_rat'; did you mean 'learning_rate'?"),
        ("train.imitation.wieght=1", "no setting 'train.imitation.wieght'; did you mean 'weight'?"),
        ("train.credit={name='actfocus',alpa=1}", "no setting 'train.credit.alpa'; did you mean 'alpha'?"),
        ("train.credit={name='uniform',alpha=1}", "no setting 'train.credit.alpha'; did you mean"),
        ("train.credit={name='actfocs'}", "no train.credit.name 'actfocs'; did you mean 'actfocus'?"),
        ("train.credit=uniform", "train.credit = 'uniform': must be a table of settings; the part is chosen by"),
        ("train.filter={name='top-p',mas=1}", "no setting 'train.filter.mas'; did you mean 'mass'?"),
        ("train.plan={num=3}", "setting 'train.plan.name' is missing; choose 'arpo' or 'rlep'"),
        ("train.plan={name='xrpo',hints={name='expert'}}", "no setting 'train.plan.hints.name'; known: 'source'"),
        ("train.modifiers=[{name='ace',alpa=2}]", "no setting 'train.modifiers.0.alpa'; did you mean 'alpha'?"),
        ("train.mismatch={weigh={name='icepop',lo=1}}", "no setting 'train.mismatch.weigh.lo'; did you mean 'low'?"),
        ("train.schedules.kl_coef={name='linear'}", "setting 'train.schedules.kl_coef.length' is missing"),
        ("train.credit={alpha=0.1}", "setting 'train.credit.name' is missing; choose 'uniform' or 'actfocus'"),
        ("learning_rate=1", "no setting 'learning_rate'; did you mean 'train.learning_rate'?"),
        ("zzz=1", "no setting 'zzz'; known: 'seed', 'out', 'env', 'model'"),
        ("env={params={}}", "setting 'env.id' is missing"),
        ("train.learning_rate=5", "train.learning_rate = 5: must be less than or equal to 1"),
        ("train.learning_rate=0", "train.learning_rate = 0: must be greater than 0"),
        ("train.learning_rate=nan", "train.learning_rate = nan: must be"),
        ("train.credit={name='actfocus',alpha=2}", "train.credit.alpha = 2: must be less than or equal to 1"),
        ("train.iterations=many", "train.iterations = 'many': must be a valid integer"),
        ("train.iterations=true", "train.iterations = True: must be a valid integer"),
        ("train.iterations='3'", "train.iterations = '3': must be a valid integer"),
        ("eval.split=heldout", "eval.split = 'heldout': must be 'train' or 'held_out'"),
        ("memory.embedder=word2vec", "memory.embedder = 'word2vec': must be 'minilm' or 'hash'"),
        ("train=3", "train = 3: must be a table of settings"),
        ("train.minibatches=7", "train: minibatches = 7 exceeds tasks_per_iteration × group_size = 6 episodes"),
        ("agent.history=-1", "agent.history = -1: must be greater than or equal to 0"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_needed(
    write_config: Callable[..., Path], override: str, message: str
) -> None:
    path = write_config()
    with pytest.raises(ConfigError) as caught:
        read_config(path, [override])
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_every_problem_has_its_own_line(agentkit: Callable[..., Result], write_config: Callable[..., Path]) -> None:
    path = write_config("entropy_coeff = 1\nkl_coef = -1.5")
    result = agentkit("train", path)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"error: {path}: train.kl_coef = -1.5: must be greater than or equal to 0",
        f"error: {path}: no setting 'train.entropy_coeff'; did you mean 'entropy_coef'?",
    ]


def test_a_syntax_error_names_its_line(agentkit: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "lake.toml").write_text("seed = 1\nout = run\n")
    result = agentkit("train", "lake.toml")
    assert result.exit_code == 1
    assert result.stderr == "error: lake.toml is no TOML: Invalid value (at line 2, column 7)\n"


def test_a_missing_file_is_named(agentkit: Callable[..., Result]) -> None:
    result = agentkit("eval", "none.toml")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: no configuration file 'none.toml'; give the path of a TOML file\n",
    )


def test_sections_are_the_library_s_own_settings(write_config: Callable[..., Path]) -> None:
    config = read_config(
        write_config("credit = { name = 'uniform' }"),
        ["train.learning_rate=1e-4", "train.imitation.weight=0", "env.params.slip=0.2", "limits.env_step_s=5"],
    )
    assert config.train.learning_rate == 1e-4
    assert config.train.imitation.weight == 0
    assert config.train.credit == Uniform()
    assert config.env.params == {"size": 2, "max_turns": 3, "slip": 0.2}
    assert config.limits.env_step_s == 5.0
    assert read_config(write_config(), ["train.credit={name='actfocus'}"]).train.credit == ActFocus()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a = 1e-4", 1e-4),
        ("a=true", True),
        ("a=[1, 2]", [1, 2]),
        ("a=", ""),
        ("a='1'", "1"),
        ("a=x=y", "x=y"),
        ("a=1\nb=2", "1\nb=2"),
    ],
)
def test_a_value_is_read_as_toml_or_taken_as_text(text: str, value: object) -> None:
    assert parse_assignment(text) == ("a", value)


@pytest.mark.parametrize("text", ["a", "=1", ".a=1", "a..b=1", ""])
def test_a_text_without_a_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write KEY=VALUE"):
        parse_assignment(text)


def test_settings_of_nested_and_alternative_sections_are_known_by_their_dotted_keys() -> None:
    assert {"seed", "env.id", "train.credit.alpha", "train.imitation.weight", "memory.k"} <= set(every_key(RunConfig))
    assert len(set(every_key(RunConfig))) > 50


def test_a_saved_configuration_comes_back_as_it_was(write_config: Callable[..., Path], tmp_path: Path) -> None:
    config = read_config(write_config("credit = { name = 'uniform' }"), ["memory.folder=mem", "agent.history=2"])
    save_config(config, tmp_path)
    assert load_config(tmp_path) == config.model_copy(update={"out": tmp_path})


def test_a_damaged_configuration_is_told(agentkit: Callable[..., Result], tmp_path: Path) -> None:
    for damage, message in [
        ("{", "run/config.json is damaged ("),
        ("[1]", "run/config.json is damaged ("),
        (json.dumps({"seed": 1.5}), "run/config.json: seed = 1.5: must be a valid integer"),
    ]:
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "config.json").write_text(damage)
        result = agentkit("resume", "run")
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: {message}")


def test_parameters_are_counted_from_the_file_s_header(tiny_model: Path) -> None:
    model = LocalPolicy.load(tiny_model).model
    assert count_parameters(tiny_model) == sum(value.numel() for value in model.parameters())


def test_a_saved_configuration_names_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"out": "run", "env": {"id": "agentkit/FrozenLake-v0"}, "model": {"path": "model"}}
    config = validated(RunConfig, data | {"train": {"retention": {"log": "earlier.sqlite"}}})
    kept = pinned(config, None)
    assert kept.model.path == tmp_path / "model"
    assert kept.train.retention is not None
    assert kept.train.retention.log == str(tmp_path / "earlier.sqlite"), "a resume may begin in another folder"
