"""From a log to a better policy, without playing on: clone, best-of-n, DPO; then the pairs as a file for TRL.

A tiny language model clones a noisy expert on frozen lakes, plays a log of its own, and learns from it in two ways.

Run: python examples/offline.py (minutes on two cores; with --quick half a minute, and too little to learn from)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from agentkit import ExpertPolicy, LocalPolicy, Sampling, collect, evaluate, make_tasks
from agentkit.memory import EpisodeLog
from agentkit.training import Best, PreferenceConfig, SftConfig, export_episodes, fine_tune, learn_preferences
from agentkit.training.tiny import build_model, build_tokenizer

LAKE = "agentkit/FrozenLake-v0"
WORLD = {"text": "coords", "max_turns": 2}
SAMPLING = Sampling(max_new_tokens=32)


def main(quick: bool) -> None:
    """Print the success of each policy on lakes that none has seen."""
    num, steps, rate = (8, 100, 1e-2) if quick else (400, 400, 1e-3)
    panel = make_tasks(LAKE, "held_out", 8 if quick else 256, params=WORLD)
    shown = collect(ExpertPolicy(noise=0.3), make_tasks(LAKE, num=num, params=WORLD))
    texts = [message.text for episode in shown for message in episode.turns[-1].messages]
    tokenizer = build_tokenizer([*texts, *(turn.response for episode in shown for turn in episode.turns)])
    model = build_model(tokenizer, hidden=32 if quick else 128, layers=1 if quick else 2)
    cloned = LocalPolicy(model, tokenizer)
    fine_tune(cloned, shown, SftConfig(steps=steps, learning_rate=rate, rows_per_step=16))

    def tell(way: str, policy: LocalPolicy) -> None:
        success = evaluate(policy, panel, sampling=SAMPLING).success
        print(f"{way:9} {success.value:.3f} [{success.low:.3f}, {success.high:.3f}]", flush=True)

    def again(folder: Path) -> LocalPolicy:
        return LocalPolicy.load(folder, device="cpu")

    with tempfile.TemporaryDirectory() as name, EpisodeLog.open(Path(name) / "own.sqlite") as log:
        folder = Path(name)
        cloned.save(folder / "cloned")
        tell("cloned", cloned)
        tasks = make_tasks(LAKE, num=max(8, num // 4), first=num, params=WORLD)
        own = collect(cloned, tasks, group_size=8, sampling=SAMPLING, log=log)

        best = again(folder / "cloned")
        fine_tune(best, own, SftConfig(select=Best(num=4), steps=steps // 4, learning_rate=rate / 3))
        tell("best-of-n", best)

        preferring = again(folder / "cloned")
        learn_preferences(preferring, own, PreferenceConfig(steps=steps // 4, learning_rate=rate / 10))
        tell("dpo", preferring)

        manifest = export_episodes(log, folder / "pairs", format="trl-preference")
        print(f"exported {manifest.rows} pairs of {manifest.episodes} episodes")


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
