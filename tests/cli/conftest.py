"""What the tests of the command line share: a tiny model folder, a runner, a way to the environments that misbehave."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agentkit.agent import AgentConfig, build_agent
from agentkit.cli.main import app
from agentkit.envs import make_env, make_tasks
from agentkit.policies import ExpertPolicy, LocalPolicy
from agentkit.rollout import collect
from agentkit.training.sft import SftConfig, fine_tune
from agentkit.training.tiny import build_model, build_tokenizer

LAKE = "agentkit/FrozenLake-v0"
PARAMS = {"size": 2, "max_turns": 3}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random language model of 26 thousand parameters, in transformers' format."""
    texts = ["<think>safe</think><answer>Up || Left</answer>"]
    for task in make_tasks(LAKE, num=16):
        env = make_env(task)
        texts += [env.reset(seed=task.seed)[0], env.instructions]
    tokenizer = build_tokenizer(texts)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_model(tokenizer, hidden=32, layers=1, heads=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def warm_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after seeing a noisy expert: sometimes it wins, so that there is something to learn from."""
    policy = LocalPolicy.load(tiny_model)
    tasks = make_tasks(LAKE, num=32, params=PARAMS)
    seen = collect(ExpertPolicy(noise=0.5), tasks, agent=build_agent(AgentConfig(system="")))
    fine_tune(policy, seen, SftConfig(steps=60, rows_per_step=16, learning_rate=0.02))
    folder = tmp_path_factory.mktemp("models") / "warm"
    policy.save(folder)
    return folder


@pytest.fixture
def agentkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command in a folder of its own, from which `bad_envs:…` can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.delenv("AGENTKIT_DEBUG", raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def write_config(tmp_path: Path, tiny_model: Path) -> Callable[..., Path]:
    """Writes a small run configuration, with more lines at its end, and returns its path."""

    def write(more: str = "", model: Path = tiny_model) -> Path:
        path = tmp_path / "lake.toml"
        path.write_text(
            f"""
            out = "run"
            env = {{ id = "{LAKE}", params = {{ size = 2, max_turns = 3 }} }}
            model.path = "{model}"
            agent.system = ""
            sampling.max_new_tokens = 16
            eval.tasks = 4
            [train]
            iterations = 2
            tasks_per_iteration = 2
            group_size = 3
            checkpoint_every = 1
            {more}
            """
        )
        return path

    return write


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 256 KiB."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
        try:
            done = subprocess.run(mount, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command here")
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
