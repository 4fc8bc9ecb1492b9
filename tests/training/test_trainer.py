"""The trainer on a small lake: the same numbers again, whatever happens in between, and nothing mixed up."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from agentkit.errors import CheckpointError, ConfigError, OwnedElsewhereError, PolicyFault
from agentkit.memory.log import EpisodeLog
from agentkit.policies.policy import Sampling
from agentkit.training.batch import Batch
from agentkit.training.checkpoint import list_checkpoints
from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.credit import Uniform
from agentkit.training.metrics import TIMINGS, read_metrics
from agentkit.training.schedule import Constant
from agentkit.training.trainer import Trainer


@pytest.fixture(scope="module")
def whole(parts, tmp_path_factory):
    """(folder, digest, metrics) of an uninterrupted run of `parts.KILLED_RUN`."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = parts.make_trainer(folder, **parts.KILLED_RUN)
    trainer.train()
    trainer.close()
    return folder, parts.digest(trainer.policy.model), untimed(folder)


def untimed(folder):
    """The lines of a run's metrics without what differs between two runs from the same seed."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if not name.startswith(TIMINGS)} for line in lines]


def test_the_run_that_the_others_are_compared_with_learns_and_replays(whole):
    lines = whole[2]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert sum(line.get("tokens/policy", 0) > 0 for line in lines) >= 3
    assert any(line.get("tokens/imitation", 0) > 0 for line in lines)
    assert any(0 < line["success"] < 1 for line in lines)


def test_every_number_is_finite_and_the_first_step_is_on_policy(whole):
    for line in whole[2]:
        for name, value in line.items():
            assert value is None or np.isfinite(value), name
    first = next(line for line in whole[2] if "loss/policy" in line)
    for name in ("thought", "action", "format", "other"):
        assert first[f"clipped/{name}"] == 0.0, "the policy that acted is the one that learns"
    assert sum(first[f"share/{name}"] for name in ("thought", "action", "format", "other")) == pytest.approx(1)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(parts, whole, make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "again", **parts.KILLED_RUN)
    trainer.train()
    assert parts.digest(trainer.policy.model) == whole[1]
    assert untimed(tmp_path / "again") == whole[2]
    other = make_trainer(tmp_path / "other", seed=1, **parts.KILLED_RUN)
    other.iterate()
    other.iterate()
    assert other.policy.version > 0
    assert untimed(tmp_path / "again")[0] != whole[2][1]


def test_a_run_resumed_by_a_new_trainer_goes_on_to_the_bit(parts, whole, make_trainer, tmp_path):
    first = make_trainer(tmp_path, **(parts.KILLED_RUN | {"iterations": 2}))
    first.train()
    first.close()
    second = make_trainer(tmp_path, **parts.KILLED_RUN)
    second.restore()
    assert second.iteration == 2
    second.train()
    assert parts.digest(second.policy.model) == whole[1]
    assert untimed(tmp_path) == whole[2]
    with EpisodeLog.open(tmp_path / "episodes.sqlite") as log, EpisodeLog.open(whole[0] / "episodes.sqlite") as other:
        assert [e.id for e in log.episodes()] == [e.id for e in other.episodes()]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_run_killed_at_random_moments_ends_with_the_same_weights_and_metrics(whole, forker, tmp_path, seed):
    chance, kills = random.Random(seed), 0
    for _ in range(2):
        forker.stdin.write(f"{tmp_path}\n")
        forker.stdin.flush()
        word, pid = forker.stdout.readline().split()
        assert word == "pid"
        for _ in range(chance.randrange(3)):
            if not forker.stdout.readline().startswith("iteration"):
                break
        time.sleep(chance.random() * 0.1)
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
            kills += 1
        while forker.stdout.readline() != "dead\n":
            pass
    forker.stdin.write(f"{tmp_path}\n")
    forker.stdin.flush()
    assert kills, "every run was over before it could be killed"
    lines = []
    while (line := forker.stdout.readline()) != "dead\n":
        assert line, "the training process died"
        lines.append(line.split())
    assert lines[-1] == ["digest", whole[1]]
    assert untimed(tmp_path) == whole[2]
    with EpisodeLog.open(tmp_path / "episodes.sqlite") as log, EpisodeLog.open(whole[0] / "episodes.sqlite") as other:
        assert [e.id for e in log.episodes()] == [e.id for e in other.episodes()]


@pytest.fixture(scope="module")
def forker():
    """A process that forks training processes; see `parts.py`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("parts.py"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def test_the_reference_stays_the_initial_policy(parts, make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, iterations=2)
    initial = parts.digest(trainer.policy.model)
    trainer.train()
    trainer.close()
    assert parts.digest(trainer.policy.model) != initial
    assert parts.digest(trainer.models.reference) == initial
    resumed = make_trainer(tmp_path, iterations=3)
    resumed.restore()
    assert parts.digest(resumed.policy.model) == parts.digest(trainer.policy.model)
    assert parts.digest(resumed.models.reference) == initial


def test_a_run_is_not_resumed_beside_another_reference_or_from_another_seed(parts, make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, iterations=1)
    trainer.train()
    trainer.close()
    later = parts.make_taught_policy()
    later.model.load_state_dict(trainer.policy.model.state_dict())
    config = TrainConfig(iterations=2, tasks_per_iteration=2, group_size=2)
    wrong = Trainer(later, parts.LAKE, tmp_path, config, params=parts.PARAMS)
    with pytest.raises(CheckpointError, match="beside another reference; build the policy from the weights"):
        wrong.restore()
    wrong.close()
    other = make_trainer(tmp_path, seed=1)
    before = parts.digest(other.policy.model)
    with pytest.raises(CheckpointError, match="is of seed 0, this run of 1"):
        other.restore()
    assert parts.digest(other.policy.model) == before != parts.digest(trainer.policy.model), "nothing was changed"


def test_a_new_run_does_not_overwrite_one_that_has_come_further(parts, make_trainer, tmp_path):
    first = make_trainer(tmp_path, iterations=1)
    first.train()
    before = untimed(tmp_path)
    with pytest.raises(OwnedElsewhereError):
        make_trainer(tmp_path, iterations=2)
    first.close()
    with pytest.raises(CheckpointError, match=r"has come to iteration 1; call restore\(\)"):
        make_trainer(tmp_path, iterations=2).train()
    assert untimed(tmp_path) == before


def test_going_back_to_an_older_checkpoint_drops_the_newer_ones(parts, whole, make_trainer, tmp_path):
    changes = parts.KILLED_RUN | {"keep_checkpoints": 9}
    first = make_trainer(tmp_path, **changes)
    first.train()
    first.close()
    names = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert names == ["000000", "000002", "000004", "000006"]
    again = make_trainer(tmp_path, **(changes | {"iterations": 3}))
    again.restore(tmp_path / "checkpoints" / "000002")
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 4, "looking back alone deletes nothing"
    again.train()
    names = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert names == ["000000", "000002", "000003"]
    assert untimed(tmp_path) == whole[2][:3]


def learned_tokens(episodes, format_penalty=0.1):
    """Sampled tokens of the groups whose returns differ, counted without the trainer's own code."""
    groups: dict[str, list] = {}
    for episode in episodes:
        invalid = sum(not turn.valid for turn in episode.turns)
        groups.setdefault(episode.group_id, []).append((episode.episode_return - format_penalty * invalid, episode))
    total = 0
    for group in groups.values():
        mean = sum(value for value, _ in group) / len(group)
        for value, episode in group:
            if abs(value - mean) > 1e-6:
                total += sum(len(turn.response_ids) for turn in episode.turns)
    return total


def test_replay_never_enters_the_policy_streams_token_count(parts, whole):
    with EpisodeLog.open(whole[0] / "episodes.sqlite") as log:
        episodes = list(log.episodes())
    num = 18  # 3 tasks, 6 attempts
    for number, line in enumerate(whole[2]):
        batch = episodes[num * number : num * (number + 1)]
        assert line.get("tokens/policy", 0) == learned_tokens(batch)


def test_minibatches_and_epochs_use_every_row_once_an_epoch(parts, make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, minibatches=2, epochs=2, imitation=ImitationConfig(weight=0))
    assert trainer.imitation is None
    chosen = []
    original = trainer._step

    def step(stream, rows, tasks):
        chosen.append(rows)
        return original(stream, rows, tasks)

    monkeypatch.setattr(trainer, "_step", step)
    values = trainer.iterate()
    num_rows = int(values["rows/learned"])
    assert num_rows >= 2
    assert len(chosen) == trainer.policy.version == 4
    for epoch in (chosen[:2], chosen[2:]):
        assert sorted(row for step in epoch for row in step) == list(range(num_rows))
    with EpisodeLog.open(tmp_path / "episodes.sqlite") as log:
        assert values["tokens/policy"] == 2 * learned_tokens(log.episodes())


def test_the_warm_up_reaches_the_rate_after_its_steps(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, schedules={"learning_rate": Constant(warmup=3)}, learning_rate=3e-3)
    rates: list[float] = []
    while len(rates) < 4:
        values = trainer.iterate()
        if "learning_rate" in values:
            rates.append(values["learning_rate"])
    assert rates == pytest.approx([1e-3, 2e-3, 3e-3, 3e-3])


def seeds_of_three_iterations(trainer):
    tasks = [trainer.collector.next_tasks(trainer.config, number, 3, set()) for number in range(3)]
    return [[task.seed for task in each] for each in tasks]


def test_tasks_come_in_order_and_a_pool_goes_round(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "endless")
    assert seeds_of_three_iterations(trainer) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    trainer = make_trainer(tmp_path / "pool", task_pool=4)
    assert seeds_of_three_iterations(trainer) == [[0, 1, 2], [3, 0, 1], [2, 3, 0]]


def untaught(parts, folder, *, sampling=None, **changes):
    numbers = {"iterations": 2, "tasks_per_iteration": 2, "group_size": 3, "bottleneck_every": 0}
    config = TrainConfig(**(numbers | changes))
    return Trainer(
        parts.make_policy(),
        parts.LAKE,
        folder,
        config,
        params=parts.PARAMS,
        sampling=sampling or Sampling(max_new_tokens=4),
    )


def test_a_batch_without_variance_takes_no_step(parts, tmp_path):
    trainer = untaught(parts, tmp_path)
    before = parts.digest(trainer.policy.model)
    values = trainer.iterate()
    assert values["groups/with_variance"] == values["rows/learned"] == values["success"] == 0
    assert values["return"] == 0
    assert "loss/policy" not in values
    assert trainer.policy.version == 0
    assert parts.digest(trainer.policy.model) == before
    trainer.close()


def test_an_iteration_of_failures_alone_raises_with_the_reason(parts, tmp_path):
    trainer = untaught(parts, tmp_path, sampling=Sampling(max_new_tokens=5000))
    with pytest.raises(PolicyFault, match=r"all 6 attempts failed, e\.g\..*lower max_new_tokens"):
        trainer.iterate()
    trainer.close()


@pytest.mark.parametrize("when", ["collecting", "learning"])
def test_broken_weights_raise_before_a_step_and_leave_the_last_checkpoint(
    parts, make_trainer, tmp_path, when, monkeypatch
):
    trainer = make_trainer(tmp_path, iterations=2)

    def break_weights(*_):
        with torch.no_grad():
            trainer.policy.model.model.norm.weight[0] = float("nan")

    original = Batch.check
    if when == "learning":

        def check(*arguments):
            original(*arguments)
            break_weights()

        monkeypatch.setattr(Batch, "check", check)
        with pytest.raises(PolicyFault, match=r"iteration 1: .* is not finite, no step was taken; resume"):
            trainer.train()
    else:
        save = trainer.save

        def save_and_break():
            save()
            break_weights()

        monkeypatch.setattr(trainer, "save", save_and_break)
        with pytest.raises(PolicyFault, match=r"not finite|failed"):
            trainer.train()
    assert trainer.policy.version == 0
    assert not trainer.learner.optimizer.state_dict()["state"]
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["000000"]
    monkeypatch.undo()
    trainer.close()
    again = make_trainer(tmp_path, iterations=1)
    again.restore()
    again.train()


def test_what_the_model_cannot_learn_from_is_refused_naming_it(parts):
    model, config = parts.make_policy().model, TrainConfig()
    spoken = parts.make_turn([1, 2], [3, 4])
    silent = parts.make_turn([], [])
    unheard = parts.make_turn([1, 2], [3, 999_999])
    with pytest.raises(PolicyFault, match="none of the 2 attempts asked the policy; the graph's nodes must call"):
        Batch.of(config, [parts.make_episode([silent]), parts.make_episode([])]).check(1, model)
    one, other = parts.make_episode([spoken, silent]), parts.make_episode([unheard], "other")
    with pytest.raises(ConfigError, match=r"token id 999999 of episode other is beyond .* 1 of 2 rows"):
        Batch.of(config, [one, other]).check(1, model)
    batch = Batch.of(config, [one])
    batch.check(1, model)
    assert batch.values["rows/skipped"] == 1
    assert [row.num_sampled for row in batch.rows] == [2]


def test_greedy_sampling_is_refused(parts, tmp_path):
    with pytest.raises(ConfigError, match="temperature = 0"):
        untaught(parts, tmp_path, sampling=Sampling(temperature=0))


def test_the_reference_is_made_only_where_something_reads_it(parts, tmp_path):
    without = untaught(parts, tmp_path / "a", credit=Uniform())
    assert without.models.reference is None
    without.close()
    for name, changes in {"energy": {}, "kl": {"credit": Uniform(), "kl_coef": 0.1}}.items():
        trainer = untaught(parts, tmp_path / name, **changes)
        assert not any(parameter.requires_grad for parameter in trainer.models.reference.parameters())
        assert all(parameter.requires_grad for parameter in trainer.policy.model.parameters())
        trainer.close()


def test_the_learning_model_given_as_reference_is_copied_and_not_frozen(parts, tmp_path):
    policy = parts.make_policy()
    config = TrainConfig(tasks_per_iteration=2, group_size=2)
    trainer = Trainer(policy, parts.LAKE, tmp_path, config, reference=policy.model)
    assert trainer.models.reference is not policy.model
    assert all(parameter.requires_grad for parameter in policy.model.parameters())
    trainer.close()


def test_the_reference_is_asked_once_for_the_diagnostic_and_the_credit(parts, make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, bottleneck_every=1, imitation=ImitationConfig(weight=0))
    calls = []
    original = trainer.models.measure_reference

    def measure_reference(rows):
        calls.append(len(rows))
        return original(rows)

    monkeypatch.setattr(trainer.models, "measure_reference", measure_reference)
    values = trainer.iterate()
    assert calls == [18]
    assert values["rows/learned"] > 0
    assert {name for name in values if name.startswith("bottleneck/")} == {
        "bottleneck/all",
        "bottleneck/thought",
        "bottleneck/action",
    }


def test_the_energies_that_weigh_tokens_are_the_same_with_and_without_the_diagnostic(make_trainer, tmp_path):
    small = {"tasks_per_iteration": 8, "group_size": 2, "entropy_coef": 0.0}
    with_it = make_trainer(tmp_path / "a", bottleneck_every=1, **small).iterate()
    without = make_trainer(tmp_path / "b", bottleneck_every=0, **small).iterate()
    assert 0 < without["rows/learned"] < 16, "the loss must look at some groups only"
    for name in ("loss/policy", "share/action", "grad_norm", "entropy"):
        assert with_it[name] == pytest.approx(without[name], rel=1e-4)


def test_what_groups_said_before_a_checkpoint_counts_in_the_next_diagnostic(make_trainer, tmp_path):
    first = make_trainer(tmp_path, iterations=2, bottleneck_every=3)
    first.train()
    first.close()
    second = make_trainer(tmp_path, iterations=3, bottleneck_every=3)
    second.restore()
    assert len(second.diagnosis.groups) == 6
    assert second.diagnosis.groups == first.diagnosis.groups
    second.train()
    assert len(second.diagnosis.groups) == 9, "fewer than a report needs: the next one goes on with them"


def test_a_trainer_closes_what_it_opened(parts, tmp_path):
    def opened():
        handles = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        return [os.readlink(handle) for handle in handles if os.path.lexists(handle)]

    for number in range(2):
        trainer = untaught(parts, tmp_path / str(number), iterations=1)
        trainer.train()
        trainer.close()
        assert not [path for path in opened() if str(tmp_path) in path]


def test_the_metrics_file_holds_json_that_any_reader_takes(whole):
    for line in (whole[0] / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_metrics_are_means_over_the_steps_that_have_them(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, minibatches=4)
    steps = iter([{"loss/policy": 1.0}, {"loss/policy": 3.0, "imitation/ess": 0.5, "tokens/imitation": 7.0}])
    monkeypatch.setattr("agentkit.training.trainer.shares", lambda *_: [[0], [1]])
    monkeypatch.setattr(trainer, "_step", lambda *_: next(steps))
    found = trainer._learn(trainer.config, None, ["a", "b"])
    assert found == {"loss/policy": 2.0, "imitation/ess": 0.5, "tokens/imitation": 7.0}


def test_no_gradient_is_kept_while_attempts_are_played(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path)
    assert trainer.iterate()["grad_norm"] > 0
    assert all(parameter.grad is None for parameter in trainer.policy.model.parameters())


def test_groups_that_never_asked_the_policy_teach_nothing(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(Batch, "filtered", lambda self, _: dataclasses.replace(self, rows=[]))
    values = make_trainer(tmp_path).iterate()
    assert values["rows/learned"] == 0
    assert "loss/policy" not in values


def test_a_checkpoint_that_tells_only_of_the_reference_is_gone_on_with(parts, make_trainer, tmp_path, monkeypatch):
    first = make_trainer(tmp_path, iterations=1)
    monkeypatch.setattr(first, "_given", lambda: {"reference": first.models.reference_digest})
    first.train()
    first.close()
    second = make_trainer(tmp_path, iterations=1)
    second.restore()
    assert parts.digest(second.policy.model) == parts.digest(first.policy.model)
