"""Every recipe is read by the command line's reader and trains, and what it is named after takes part."""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentkit.agent import build_agent
from agentkit.cli.config import RunConfig, load_config, read_config, save_config
from agentkit.memory.log import EpisodeLog
from agentkit.policies.policy import Sampling
from agentkit.rollout import collect
from agentkit.task import make_tasks
from agentkit.training.trainer import Trainer

FOLDER = Path(__file__).parents[2] / "examples" / "recipes"
USED: dict[str, dict[str, tuple[str, str]]] = {
    "ace": {"modifiers.0": ("ace", "turns")},
    "actfocus": {"credit": ("actfocus", "weights")},
    "archer": {"advantage": ("archer", "estimate")},
    "arpo": {"plan": ("arpo", "patch")},
    "bapo": {"loss": ("bapo", "fitted")},
    "canon": {"modifiers.0": ("canon", "turns")},
    "cispo": {"loss": ("cispo", "tokens")},
    "d3s": {
        "credit": ("d3s", "weights"),
        "modifiers.0": ("spread", "turns"),
        "schedules.credit.share": ("linear", "factor"),
    },
    "dapo": {"filter": ("dynamic", "kept"), "loss": ("clip", "tokens")},
    "dots_rr": {"tasks": ("difficulty", "pick"), "imitation.select": ("groups", "pick")},
    "drgrpo": {"advantage": ("dr-grpo", "turns")},
    "epo": {"entropy": ("epo", "fitted"), "schedules.learning_rate": ("cosine", "factor")},
    "exgrpo": {"plan": ("exgrpo", "patch")},
    "forever": {"schedules.retention.anchor": ("intensity", "factor")},
    "forks": {"credit": ("forks", "weights")},
    "gigpo": {"advantage": ("gigpo", "turns")},
    "grpo": {"advantage": ("grpo", "turns")},
    "gspo": {"loss": ("gspo", "tokens")},
    "hindsight": {"plan": ("hindsight", "patch"), "imitation.loss": ("sil", "weighted")},
    "lora": {},
    "luspo": {"loss": ("gspo", "tokens")},
    "mcgrpo": {"advantage": ("mc-grpo", "turns")},
    "mopps": {"tasks": ("mopps", "pick")},
    "p2value": {"imitation.select": ("p2value", "masses"), "imitation.loss": ("supervised", "weighted")},
    "per": {"imitation.select": ("priority", "masses"), "schedules.imitation.select.beta": ("linear", "factor")},
    "ppo": {"advantage": ("gae", "estimate")},
    "r3l": {"plan": ("r3l", "collect"), "credit": ("pivot", "weights"), "loss": ("opmd", "tokens")},
    "ragen2": {"filter": ("top-p", "kept")},
    "reinforce++": {"advantage": ("reinforce++", "turns")},
    "repo": {"imitation.select": ("highest", "pick"), "imitation.loss": ("surrogate", "weighted")},
    "rlep": {"plan": ("rlep", "patch")},
    "rloo": {"advantage": ("rloo", "turns")},
    "sapo": {"loss": ("sapo", "tokens")},
    "sec": {"tasks": ("sec", "pick")},
    "siren": {"entropy": ("siren", "fitted")},
    "spear": {
        "loss": ("clip-cov", "pick"),
        "imitation.loss": ("spear", "weighted"),
        "schedules.imitation.weight": ("cosine", "factor"),
        "schedules.turn_bonus.coef": ("cosine", "factor"),
    },
    "spec_rl": {"plan": ("spec-rl", "collect")},
    "ssr": {"imitation.select": ("advantage", "masses"), "imitation.loss": ("surrogate", "weighted")},
    "starpo_s": {"filter": ("top-share", "kept")},
    "tba": {"loss": ("trajectory-balance", "tokens"), "schedules.loss.beta": ("linear", "factor")},
    "tis": {"mismatch.weigh": ("token-tis", "weights")},
    "turn_returns": {"advantage": ("turn-returns", "turns")},
    "uis1": {"advantage": ("ui-s1", "turns")},
    "vade": {"tasks": ("vade", "pick")},
    "xrpo": {"plan": ("xrpo", "collect"), "modifiers.0": ("novelty", "turns")},
}
"""Recipe -> where its parts are in the settings, their names, and the method that must be called."""
PROOF = {
    "dots_rr": "tokens/imitation",
    "forever": "tokens/retention",
    "hindsight": "plan/relabelled",
    "p2value": "tokens/imitation",
    "per": "tokens/imitation",
    "r3l": "plan/retries",
    "repo": "tokens/imitation",
    "exgrpo": "plan/injected",
    "rlep": "plan/injected",
    "spear": "tokens/imitation",
    "ssr": "tokens/imitation",
    "tis": "mismatch/kl_k3",
    "spec_rl": "plan/tokens_kept",
}
"""Recipe -> a metric that is above zero in the second iteration only if the part did something."""
SMALL = {
    "archer": ("train.advantage.warmup_iterations=0", "train.advantage.critic_steps=5"),
    "dapo": ("train.filter.most_rounds=2",),
    "dots_rr": ("train.imitation.episodes_per_step=6",),
    "exgrpo": ("train.plan.start_above=0", "train.task_pool=6"),
    "forever": ("train.model_time.opening=1",),
    "per": ("train.imitation.episodes_per_step=6",),
    "repo": ("train.imitation.per_task=6", "train.imitation.per_group_wait=3", "train.imitation.per_group=3"),
    "rlep": ("train.plan.at_least=1",),
    "spear": ("train.imitation.wait_for_entries=1", "train.imitation.episodes_per_step=4"),
}
"""Recipe -> what else is smaller here, beside what all are made smaller by."""


def read_small(name: str, log: Path) -> RunConfig:
    """A recipe for two iterations of eighteen short attempts, in as many optimizer steps as it has itself.

    Where it has a pool of tasks, both iterations play the same three.
    """
    path = FOLDER / f"{name}.toml"
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    changes = ["iterations=2", "tasks_per_iteration=3", "group_size=6", "learning_rate=1e-3"]
    changes += ["task_pool=3"] if "task_pool" in table["train"] else []
    changes += [f"retention.log={log}"] if "retention" in table["train"] else []
    texts = [f"train.{change}" for change in changes] + ["env.params.max_turns=2", "sampling.max_new_tokens=24"]
    return read_config(path, [*texts, *SMALL.get(name, ())])


def find(config: RunConfig, where: str) -> Any:
    """The part at a dotted path; schedules are named by the rest of it."""
    if where.startswith("schedules."):
        return config.train.schedules[where.removeprefix("schedules.")]
    part: Any = config.train
    for key in where.split("."):
        part = part[int(key)] if key.isdigit() else getattr(part, key)
    return part


def counted(method: Any, calls: Counter[str], name: str) -> Any:
    """The method, counting its calls under a name."""

    def call(*args: Any, **options: Any) -> Any:
        calls[name] += 1
        return method(*args, **options)

    return call


@pytest.fixture(scope="module")
def earlier_log(parts, tmp_path_factory) -> Path:
    """The log of an earlier run that had successes."""
    path = tmp_path_factory.mktemp("earlier") / "episodes.sqlite"
    with EpisodeLog.open(path) as log:
        tasks = make_tasks(parts.LAKE, "train", 8, params=parts.PARAMS)
        collect(parts.make_taught_policy(), tasks, group_size=4, sampling=Sampling(max_new_tokens=24), log=log, seed=3)
    return path


def test_every_recipe_is_tested_and_every_test_has_one():
    assert sorted(USED) == sorted(path.stem for path in FOLDER.glob("*.toml"))


@pytest.mark.parametrize("name", sorted(USED))
def test_a_recipe_begins_where_the_quickstart_left_off(name):
    config = read_config(FOLDER / f"{name}.toml")
    assert config.model.path.parent == Path("runs/quickstart")
    assert config.env.id == "agentkit/FrozenLake-v0"
    assert config.out == Path("runs/recipes") / name
    assert config.eval.tasks == 512


@pytest.mark.parametrize("name", sorted(USED))
def test_the_saved_settings_of_a_recipe_are_read_as_they_were(name, tmp_path):
    config = read_config(FOLDER / f"{name}.toml", [f"out={tmp_path}"])
    save_config(config, tmp_path)
    assert load_config(tmp_path) == config


@pytest.mark.parametrize("name", sorted(USED))
def test_a_recipe_trains_with_the_part_it_is_named_after(name, parts, tmp_path, monkeypatch, earlier_log):
    config = read_small(name, earlier_log)
    calls: Counter[str] = Counter()
    for where, (part_name, method) in USED[name].items():
        part = find(config, where)
        assert part.name == part_name
        monkeypatch.setattr(type(part), method, counted(getattr(type(part), method), calls, where))
    trainer = Trainer(
        parts.make_taught_policy(),
        config.env.id,
        tmp_path,
        config.train,
        params=config.env.params,
        agent=build_agent(config.agent),
        sampling=config.sampling,
        seed=config.seed,
    )
    before = parts.digest(trainer.policy.model)
    try:
        first, second = trainer.iterate(), trainer.iterate()
    finally:
        trainer.close()
    assert set(calls) == set(USED[name])
    assert all(math.isfinite(value) for value in (first | second).values() if value is not None)
    assert first["rows/learned"]
    assert parts.digest(trainer.policy.model) != before
    if name in PROOF:
        assert second[PROOF[name]]
    if name == "lora":
        assert all("lora" in key for key, value in trainer.policy.model.named_parameters() if value.requires_grad)
