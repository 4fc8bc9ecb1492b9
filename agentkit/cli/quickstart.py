"""The quickstart: the whole loop on a tiny model, from nothing, on a laptop.

Build a language model of under half a million parameters, clone it from noisy demonstrations, let it act and learn
with action-focused credit and self-imitation, remember what went well, and measure it on lakes it has never seen.
`quickstart.toml` beside this file holds the numbers of the learning part.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentkit.cli.choices import check_env, use_threads
from agentkit.cli.config import RunConfig, read_config
from agentkit.cli.run import begin_run, has_checkpoints, measure
from agentkit.cli.show import errors, progress, say, show_table
from agentkit.errors import ConfigError
from agentkit.evaluation import Interval, Report

DEMONSTRATIONS = 2000
"""Training lakes that the demonstrator plays."""
FIRST_DEMONSTRATION = 1 << 20
"""Number of the first of them, far beyond those that the learning part reaches."""
NOISE = 0.5
"""Share of the demonstrator's turns that are one random action: what the clone has to unlearn."""
CLONING_STEPS = 350
CLONING_RATE = 2e-3
SUMMARY = "summary.json"
MARK = "quickstart.json"
"""Says that a folder was written by the quickstart and may be replaced by it."""


def think(text: str) -> str:
    """What the demonstrator thinks: how far the goal is.

    >>> think("You: row 1 col 2. Goal: row 3 col 1. Holes: none.")
    'down 2 left 1'
    """
    match = re.search(r"You: row (\d+) col (\d+)\. Goal: row (\d+) col (\d+)", text)
    if match is None:
        return ""
    row, col, goal_row, goal_col = map(int, match.groups())
    down, right = goal_row - row, goal_col - col
    steps = [f"{'down' if down > 0 else 'up'} {abs(down)}"] if down else []
    steps += [f"{'right' if right > 0 else 'left'} {abs(right)}"] if right else []
    return " ".join(steps)


def run_quickstart(folder: Path, *, seed: int = 0, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run the whole loop into `folder`; returns what `summary.json` holds.

    Args:
        folder: Replaced if a quickstart ended there before.
        seed: Seed of everything.
        overrides: Settings of `quickstart.toml` to change, as `section.key=value`; where things are and the seed
            are not among them.

    Raises:
        ConfigError: The folder holds something else, or an interrupted quickstart.
    """
    from agentkit.policies import RandomPolicy

    begun = time.perf_counter()
    here = [f"seed={seed}", f"out={json.dumps(str(folder))}", f"model.path={json.dumps(str(folder / 'warm_start'))}"]
    config = read_config(Path(__file__).with_name("quickstart.toml"), [*overrides, *here])
    check_env(config.env.id, config.env.params)
    _clear(folder)

    random = measure(config, RandomPolicy(actions_per_turn=2), None, [], baselines=False)
    say(f"random play          {random.success}")
    use_threads(config.model.threads)
    policy = _warm_start(config)
    warm_start = measure(config, policy, None, [], baselines=False)
    say(f"after the warm start {warm_start.success}")
    after_rl = begin_run(config)
    _remember(folder, config)

    assert after_rl.optimal is not None
    optimal = Interval(value=after_rl.optimal, low=after_rl.optimal, high=after_rl.optimal)
    summary = {
        "random": _row(random.success, random),
        "warm_start": _row(warm_start.success, warm_start),
        "after_rl": _row(after_rl.success, after_rl),
        "optimal": _row(optimal, after_rl),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _show(summary, folder)
    return summary


def _clear(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise ConfigError(f"{str(folder)!r} holds something else than a quickstart; choose another --out")
        if has_checkpoints(folder) and not (folder / SUMMARY).is_file():
            raise ConfigError(
                f"{str(folder)!r} holds a quickstart that was interrupted; go on with it: agentkit resume {folder}, "
                "or choose another --out"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("{}\n", encoding="utf-8")


def _warm_start(config: RunConfig) -> Any:
    """A tiny model built from nothing and cloned from noisy demonstrations; saved where the run looks for it."""
    from agentkit.agent import build_agent
    from agentkit.policies import ExpertPolicy, LocalPolicy
    from agentkit.rollout import collect
    from agentkit.task import make_tasks
    from agentkit.training.sft import SftConfig, fine_tune
    from agentkit.training.tiny import build_model, build_tokenizer

    tasks = make_tasks(config.env.id, "train", DEMONSTRATIONS, first=FIRST_DEMONSTRATION, params=config.env.params)
    with progress() as bars:
        bar = bars.add_task("watch an expert, with noise", total=len(tasks), note="")
        demonstrations = collect(
            ExpertPolicy(noise=NOISE, think=think),
            tasks,
            agent=build_agent(config.agent),
            seed=config.seed,
            on_episode=lambda episode: bars.advance(bar),
        )
        turns = [turn for episode in demonstrations for turn in episode.turns]
        tokenizer = build_tokenizer(text for turn in turns for text in (turn.observation, turn.response))
        model = build_model(tokenizer, hidden=96, layers=3, heads=4, window=256, seed=config.seed)
        size = sum(parameter.numel() for parameter in model.parameters())
        say(f"a language model of {size:,} parameters, {len(tokenizer)} tokens; {len(turns)} demonstrated turns")
        policy = LocalPolicy(model, tokenizer, name="quickstart")
        bar = bars.add_task("clone it", total=CLONING_STEPS, note="")
        fine_tune(
            policy,
            demonstrations,
            SftConfig(steps=CLONING_STEPS, learning_rate=CLONING_RATE),
            seed=config.seed,
            on_step=lambda step, loss: bars.update(bar, completed=step + 1, note=f"loss {loss:.3f}"),
        )
    policy.save(config.model.path)
    return policy


def _remember(folder: Path, config: RunConfig) -> None:
    """Make an episodic memory of the run's successes and show what it recalls for a lake of the panel."""
    from agentkit.envs import make_env
    from agentkit.memory import EpisodeLog, HashEmbedder, MemoryStore
    from agentkit.task import make_tasks

    task = make_tasks(config.env.id, config.eval.split, 1, params=config.env.params)[0]
    observation, _ = make_env(task).reset(seed=task.seed, options={"split": task.split})
    with (
        EpisodeLog.open(folder / "episodes.sqlite") as log,
        errors.status("remembering"),
        MemoryStore.open(folder / "memory", embedder=HashEmbedder(), index="exact") as memory,
    ):
        memory.sync(log)
        found = memory.recall(observation, 1, env_id=task.env_id)
        say(f"{len(log)} episodes recorded, {len(memory)} successes remembered; seeing")
        say(f"  {observation}", style="cyan")
        for one in found:
            say("it recalls")
            say("  " + one.text.replace("\n", "\n  "), style="cyan")


def _row(success: Interval, report: Report) -> dict[str, float]:
    return {"success": success.value, "low": success.low, "high": success.high, "episodes": report.episodes}


def _show(summary: dict[str, Any], folder: Path) -> None:
    rows = [
        (name.replace("_", " "), *(f"{row[key]:.3f}" for key in ("success", "low", "high")), row["episodes"])
        for name, row in summary.items()
        if isinstance(row, dict)
    ]
    show_table(("", "success", "low", "high", "episodes"), rows, title="lakes never seen in training, 95 % intervals")
    say(f"{summary['seconds']:.0f} s; summary, curve, metrics, episodes, checkpoints, memory and model in {folder}/")
