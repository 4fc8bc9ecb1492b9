"""Retention: what is kept of an earlier run, when it returns, its gradient; and memories in quarantine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from agentkit.errors import CheckpointError, ConfigError
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.kinds import Draft, FactBody, Source, Status
from agentkit.memory.log import EpisodeLog
from agentkit.memory.store import MemoryStore
from agentkit.recall import MemoryRecall
from agentkit.training.clocks import ModelTime
from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.credit import Uniform
from agentkit.training.replay import Retention, retained_episodes
from agentkit.training.schedule import Intensity
from agentkit.training.trainer import Trainer


def note(name: str, status: Status) -> Draft:
    body = FactBody(subject=name, relation="is", value="so")
    source = Source(writer="human", name="me")
    return Draft(body=body, text=name, keys={"state": name}, env_id="e", source=source, status=status)


@pytest.fixture
def earlier(parts, tmp_path):
    """The log of an earlier run: ten sound successes, two doubtful ones, a failure."""
    path = tmp_path / "earlier.sqlite"
    turn = parts.make_turn([1, 2], [3, 4], response=parts.make_policy().decode_text([3, 4])[0])
    turn = turn.model_copy(update={"action": "go", "terminated": True})
    with EpisodeLog.open(path) as log:
        for number in range(10):
            log.append(parts.make_episode([turn], name=f"sound-{number}"))
        for number in range(2):
            doubtful = turn.model_copy(update={"terminated": False})
            log.append(parts.make_episode([doubtful], name=f"doubtful-{number}"))
        log.append(parts.make_episode([turn], name="failed", success=False))
    return str(path)


def test_a_share_of_the_sound_successes_is_kept_and_the_seed_says_which(earlier):
    with EpisodeLog.open(earlier) as log:
        found = [[e.id for e in retained_episodes(log, 0.25, np.random.default_rng(seed))] for seed in (0, 0, 1)]
        assert len(retained_episodes(log, 0.02, np.random.default_rng(0))) == 1
    assert len(found[0]) == 3  # 2.5, rounded up
    assert all(name.startswith("sound") for name in found[0])
    assert found[0] == found[1] != found[2]


def test_an_earlier_run_that_is_not_there_or_had_no_success_is_refused(parts, make_trainer, tmp_path):
    with pytest.raises(ConfigError, match=r"no such file; give the episodes\.sqlite"):
        make_trainer(tmp_path / "one", retention=Retention(log=str(tmp_path / "none.sqlite")))
    assert not (tmp_path / "none.sqlite").exists()
    with EpisodeLog.open(tmp_path / "empty.sqlite"):
        pass
    with pytest.raises(ConfigError, match="no sound success to retain"):
        make_trainer(tmp_path / "two", retention=Retention(log=str(tmp_path / "empty.sqlite")))
    for days in ((), (0, 1), (1, 1), (2, 1)):
        with pytest.raises(ValidationError, match="must grow from above 0"):
            Retention(log="x", days=days)


def test_an_earlier_run_with_another_tokenizer_is_refused_before_anything_runs(parts, make_trainer, tmp_path):
    path = tmp_path / "other.sqlite"
    for name, ids, response in (("beyond", [999_999], ""), ("other", [3, 4], "said otherwise")):
        turn = parts.make_turn([1, 2], ids, response=response)
        turn = turn.model_copy(update={"action": "go", "terminated": True})
        path.unlink(missing_ok=True)
        with EpisodeLog.open(path) as log:
            log.append(parts.make_episode([turn], name=name))
        with pytest.raises(ConfigError, match=r"retention.log = .*other\.sqlite.*another tokenizer"):
            make_trainer(tmp_path / name, retention=Retention(log=str(path)))


def test_replays_come_after_growing_times_and_go_on_after_a_resume(parts, earlier, tmp_path):
    changes = {
        "retention": Retention(log=earlier, share=1, days=(1, 1.5, 9), episodes=4),
        "model_time": ModelTime(opening=1),
        "schedules": {"retention.anchor": Intensity()},
        "imitation": ImitationConfig(weight=0),
        "bottleneck_every": 0,
    }
    found = []

    def run(folder, iterations, restore=False):
        trainer = parts.make_trainer(folder, iterations=iterations, **changes)
        if restore:
            trainer.restore()
        trainer.train(
            on_iteration=lambda number, values: found.append(("loss/retention" in values, trainer.learner.clocks.days))
        )
        trainer.close()
        return parts.digest(trainer.policy.model), trainer.rehearsal.replays

    whole = run(tmp_path / "whole", 4)
    days = [0.0, *(day for _, day in found)]
    done = 0
    for (replayed, _), before in zip(found, days, strict=False):
        assert replayed == (done < 3 and before >= (1, 1.5, 9)[done])
        done += replayed
    assert whole[1] == done == 2
    run(tmp_path / "part", 2)
    assert run(tmp_path / "part", 4, restore=True) == whole


def test_the_anchor_pulls_towards_the_first_weights(make_trainer, earlier, tmp_path):
    """With β = 3, each weight's gradient differs by 2·3·(θ − θ*) from that without."""
    found = []
    for number, anchor in enumerate((0.0, 3.0)):
        retention = Retention(log=earlier, share=1, episodes=10, anchor=anchor)
        trainer = make_trainer(tmp_path / str(number), retention=retention, credit=Uniform())
        for parameter in trainer.models.learns:
            parameter.data += 0.125
        trainer.learner.clocks.steps, trainer.learner.clocks.opening, trainer.learner.clocks.model = 24, 1.0, 1.0
        trainer.learner.optimizer.zero_grad()
        days = trainer.learner.clocks.days
        values = trainer.rehearsal.gradient(trainer.config, days)
        assert values["tokens/retention"] == 20
        assert trainer.rehearsal.gradient(trainer.config, days) == {}  # the next one is due after two days
        found.append([parameter.grad.clone() for parameter in trainer.models.learns if parameter.grad is not None])
    for without, pulled in zip(*found, strict=True):
        assert (pulled - without).numpy() == pytest.approx(np.full(without.shape, 0.75), abs=1e-4)


def test_attempts_that_were_shown_a_quarantined_memory_are_not_replayed(parts, make_trainer, tmp_path):
    store = MemoryStore.open(tmp_path / "memory", embedder=HashEmbedder(32), index="exact", gate=None)
    good, bad = store.write([note("good", "active"), note("bad", "quarantine")])
    trainer = make_trainer(tmp_path, imitation=ImitationConfig(admit="any"))
    trainer.collector._options["recall"] = MemoryRecall(store, 1)
    assert trainer.collector.quarantined() == {bad.id} != {good.id}
    assert trainer.collector.ground(trainer.config, 0).quarantined == {bad.id}
    asked = []
    update = trainer.imitation.buffer.update

    def asking(*args: Any, **options: Any) -> Any:
        asked.append(options["quarantined"])
        return update(*args, **options)

    trainer.imitation.buffer.update = asking
    trainer.iterate()
    assert asked == [{bad.id}]
    store.close()


def test_a_run_does_not_go_on_with_another_anchor(parts, make_trainer, earlier, tmp_path):
    changes: dict[str, Any] = {"retention": Retention(log=earlier, share=1, anchor=3.0), "credit": Uniform()}
    changes |= {"bottleneck_every": 0}
    make_trainer(tmp_path / "a", iterations=1, **changes).train()
    config = TrainConfig(iterations=2, tasks_per_iteration=2, group_size=2, **changes)
    other = Trainer(parts.make_policy(seed=5), parts.LAKE, tmp_path / "b", config, params=parts.PARAMS)
    with pytest.raises(CheckpointError, match="beside another anchor"):
        other.restore(sorted((tmp_path / "a" / "checkpoints").glob("[0-9]*"))[-1])
    other.close()
