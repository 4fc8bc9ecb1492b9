"""Replayed attempts on their way into the gradient: what they are judged by, their scale, their step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from agentkit.memory.records import Episode
from agentkit.training.advantages import GAE, GRPO, RLOO, DrGRPO, GiGPO, Outcomes
from agentkit.training.batch import Batch
from agentkit.training.collector import Collection
from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.credit import Uniform
from agentkit.training.gradients import imitation_gradient
from agentkit.training.losses import SIL, SPEAR, Replayed, Shaped, Supervised
from agentkit.training.mismatch import Mismatch, TokenTIS
from agentkit.training.plans.plan import Patched
from agentkit.training.replay import selection as rules
from agentkit.training.replay.imitation import replayed_stream
from agentkit.training.rows import build_rows


def played(parts: Any) -> list[Episode]:
    """A group whose returns are 1, 0, 0, 0 once the format penalty of 0.1 is taken off the first one's 1.1."""
    turns = [parts.make_turn([1], [20, 21], valid=False, reward=0.1, state_key="s", action="go")]
    turns += [parts.make_turn([1, 20, 21, 5], [30], reward=1.0, action="go", terminated=True)]
    lost = parts.make_turn([1], [40], state_key="s", action="go")
    group = [parts.make_episode(turns, name="won", group_id="g")]
    return group + [parts.make_episode([lost], name=f"lost {n}", group_id="g", success=False) for n in range(3)]


@pytest.fixture
def taken_in(parts, make_trainer, tmp_path):
    """A trainer with these settings that has taken the group in, and the entries of its buffer."""

    def make(imitation, **changes):
        trainer = make_trainer(tmp_path, imitation=imitation, credit=Uniform(), bottleneck_every=0, **changes)
        episodes = played(parts)
        trainer.log.append_many(episodes)
        batch = Batch.of(trainer.config, episodes)
        collection = Collection(episodes, Patched(episodes), {"success": 0.25})
        trainer.imitation.take_in(trainer.config, collection, batch, used=False, iteration=1)
        return trainer, trainer.imitation.buffer.entries

    return make


def replayed(trainer, monkeypatch):
    """The stream that the next gradient is taken over."""
    streams = []

    def keep(model, stream, *_, **__):
        streams.append(stream)
        return {}

    monkeypatch.setattr("agentkit.training.replay.imitation.imitation_gradient", keep)
    trainer.imitation.gradient(trainer.config)
    return streams[0]


EVERYTHING: dict[str, Any] = {"admit": "any", "select": rules.Recent()}
SCALES: dict[str, tuple[Any, Any, list[float]]] = {
    # R − mean = 0.75, deviation √3/4; of the others −0.25
    "grpo": (Replayed(), GRPO(), [3**0.5] * 3 + [-(3**-0.5)] * 3),
    "grpo, current": (Replayed(base="current"), GRPO(), [3**0.5] * 3 + [-(3**-0.5)] * 3),
    "grpo, shaped": (Shaped(), GRPO(), [3**0.5] * 3 + [-(3**-0.5)] * 3),
    "dr-grpo": (Replayed(), DrGRPO(), [0.75] * 3 + [-0.25] * 3),
    "rloo": (Replayed(), RLOO(), [1.0] * 3 + [-1 / 3] * 3),
    # the critic is not asked again
    "gae": (Replayed(), GAE(), [0.75] * 3 + [-0.25] * 3),
    "self-imitation": (SIL(), GRPO(), [0.75] * 3 + [-0.25] * 3),
}


@pytest.mark.parametrize("case", SCALES)
def test_a_replayed_token_has_the_advantage_of_a_fresh_one_where_its_loss_is_the_policys(taken_in, monkeypatch, case):
    loss, advantage, expected = SCALES[case]
    trainer, _ = taken_in(ImitationConfig(loss=loss, **EVERYTHING), advantage=advantage)
    assert replayed(trainer, monkeypatch).advantage_N.tolist() == pytest.approx(expected, abs=1e-5)


def test_estimators_of_turns_are_replayed_turn_by_turn(parts, taken_in, monkeypatch):
    advantage = GiGPO()
    trainer, entries = taken_in(ImitationConfig(loss=Replayed(), **EVERYTHING), advantage=advantage)
    advantage_U = advantage.turns(trainer.config.outcomes(played(parts))).tolist()
    assert [entry.turn_advantages for entry in entries] == [tuple(advantage_U[:2]), *((a,) for a in advantage_U[2:])]
    assert advantage_U[0] != advantage_U[1]
    expected = [advantage_U[0]] * 2 + advantage_U[1:]
    assert replayed(trainer, monkeypatch).advantage_N.tolist() == pytest.approx(expected, abs=1e-6)


def test_fresh_tokens_of_a_run_are_replayed_with_the_advantages_they_had(make_trainer, tmp_path, monkeypatch):
    """Whole iterations: the estimator over the log's episodes, against the replayed stream."""
    settings = ImitationConfig(loss=Replayed(), episodes_per_step=99, **EVERYTHING)
    trainer = make_trainer(tmp_path, imitation=settings, advantage=GRPO(), bottleneck_every=0)
    trainer.iterate()
    episodes = [trainer.log.get(entry.episode_id) for entry in trainer.imitation.buffer.entries]
    assert len(episodes) == 18
    outcomes = Outcomes.of(episodes, trainer.config.format_penalty)
    counts = outcomes.tokens_U
    expected = np.repeat(GRPO().turns(outcomes), counts)
    assert expected.any()
    assert replayed(trainer, monkeypatch).advantage_N.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    entries = trainer.imitation.buffer.entries
    trainer.imitation.buffer.restore(1)
    assert trainer.imitation.buffer.entries == entries, "advantages of turns are restored to the bit"


def test_returns_are_those_the_group_was_judged_by_wherever_replay_asks(taken_in, monkeypatch):
    trainer, entries = taken_in(ImitationConfig(loss=SPEAR(), **EVERYTHING), advantage=DrGRPO())
    assert [entry.episode_return for entry in entries] == [1.0, 0.0, 0.0, 0.0], "not 1.1: the penalty is off"
    assert trainer.imitation.means == [0.25]
    trainer.imitation.means = [0.0, 0.4, 0.9]
    assert replayed(trainer, monkeypatch).advantage_N.tolist() == pytest.approx([0.6] * 3), (
        "only what is above the median of 0.4"
    )
    trainer.imitation.means = [1.05]  # what was played with penalties does not beat it, and 1.1 would have
    assert trainer.imitation.gradient(trainer.config) == {}


def test_the_median_is_over_the_newest_groups(taken_in):
    trainer, _ = taken_in(ImitationConfig(loss=SPEAR(), p50_groups=2, **EVERYTHING))
    batch = Batch.of(trainer.config, [trainer.log.get(e.episode_id) for e in trainer.imitation.buffer.entries])
    trainer.imitation.means = [7.0, 8.0]
    collection = Collection(batch.episodes, Patched(batch.episodes), {"success": 0.0})
    trainer.imitation.take_in(trainer.config, collection, batch, used=False, iteration=2)
    assert trainer.imitation.means == [8.0, 0.25]


def test_all_that_beat_their_group_can_enter_whether_they_succeeded_or_not(make_trainer, parts, tmp_path):
    trainer = make_trainer(tmp_path, imitation=ImitationConfig(admit="better", admit_above=0.1))
    turn = parts.make_turn([1], [2], action="go", terminated=True)
    made = [parts.make_episode([turn], name=name, success=name.islower()) for name in "aBcD"]
    buffer = trainer.imitation.buffer
    buffer.update(made, [0.5, 0.5, 0.1, -0.5], iteration=1, version=0)
    assert "".join(entry.episode_id for entry in buffer.entries) == "aB"


@pytest.mark.parametrize(
    ("reduction", "weights"),
    [
        ("token-mean", [1 / 4] * 4),
        ("seq-mean-token-mean", [1 / 6] * 3 + [1 / 2]),
        ("seq-mean-token-sum", [1 / 2] * 4),
        ("seq-mean-token-sum-norm", [1 / 20] * 4),
    ],
)
def test_replayed_losses_are_reduced_as_asked(parts, make_trainer, tmp_path, reduction, weights):
    """Two replayed episodes, of three tokens and of one."""
    settings = ImitationConfig(admit="any", loss=Supervised(mask_errors=False), reduction=reduction, weight=0.5)
    changes = {"reduction": reduction, "horizon": 10} if reduction.endswith("norm") else {}
    trainer = make_trainer(tmp_path, imitation=settings, credit=Uniform(), **changes)
    buffer, episodes = trainer.imitation.buffer, played(parts)[:2]
    trainer.log.append_many(episodes)
    buffer.update(episodes, [1.0, 1.0], iteration=1, version=0)
    stream, _ = replayed_stream(trainer.models, trainer.config, buffer, buffer.entries, [np.ones(1)] * 2)
    logp_N = trainer.models.measure(stream.rows).logp_N
    expected = -float((torch.tensor(weights) * logp_N).sum())
    found = imitation_gradient(trainer.policy.model, stream, 0.5, trainer.config, 1.0, reduction=reduction)
    assert found["loss/imitation"] == pytest.approx(expected, rel=1e-5)
    assert trainer.imitation.gradient(trainer.config)["loss/imitation"] == pytest.approx(expected, rel=1e-5)


def test_the_weights_of_replays_mismatch_are_in_its_effective_sample_size_and_logged(parts, make_trainer, tmp_path):
    """Four tokens of two episodes; μ said of one that it was e times less likely than the policy finds it."""
    settings = ImitationConfig(admit="any", loss=Replayed(base="current"), mismatch=Mismatch(weigh=TokenTIS(cap=9.0)))
    trainer = make_trainer(tmp_path, imitation=settings, credit=Uniform())
    buffer, episodes = trainer.imitation.buffer, played(parts)[:2]
    rows = build_rows(episodes)[0]
    logp_N = trainer.models.measure(rows).logp_N.numpy().copy()
    logp_N[3] -= 1
    told = [
        episodes[0].model_copy(update={"turns": _told(episodes[0].turns, logp_N[:3])}),
        episodes[1].model_copy(update={"turns": _told(episodes[1].turns, logp_N[3:])}),
    ]
    trainer.log.append_many(told)
    buffer.update(told, [1.0, 1.0], iteration=1, version=0)
    values = trainer.imitation.gradient(trainer.config)
    assert values["imitation/ess"] == pytest.approx((3 + math.e) ** 2 / (4 * (3 + math.e**2)), rel=1e-4)
    assert values["imitation/mismatch/ess"] == pytest.approx(values["imitation/ess"], rel=1e-4)
    assert values["imitation/mismatch/rejected"] == 0


def _told(turns, logp_N):
    """The turns with these log-probabilities, turn after turn."""
    made, place = [], 0
    for turn in turns:
        end = place + len(turn.response_ids)
        made.append(turn.model_copy(update={"logprobs": tuple(logp_N[place:end].tolist())}))
        place = end
    return tuple(made)


def test_replay_in_a_step_of_its_own_comes_after_the_policys_and_leaves_those_alone(make_trainer, tmp_path):
    settings = ImitationConfig(admit="any", own_step=True, loss=Supervised(), select=rules.Uniform())
    trainer = make_trainer(tmp_path, imitation=settings, minibatches=2, bottleneck_every=0)
    steps = []
    honest = trainer.learner.step

    def step(config, stream, chosen, *rest):
        before = trainer.policy.version
        values = honest(config, stream, chosen, *rest)
        steps.append(
            (bool(chosen), "loss/policy" in values, "loss/imitation" in values, trainer.policy.version - before)
        )
        return values

    trainer.learner.step = step
    first = trainer.iterate()
    # nothing is in the buffer yet, so the third step is none
    assert steps == [(True, True, False, 1), (True, True, False, 1), (False, False, False, 0)]
    assert "loss/imitation" not in first
    second = trainer.iterate()
    assert steps[3:] == [(True, True, False, 1), (True, True, False, 1), (False, False, True, 1)]
    assert second["tokens/imitation"] > 0
    assert second["loss/imitation"] > 0


def test_a_schedule_of_beta_leaves_the_sum_tree_as_it_is(taken_in, monkeypatch):
    trainer, entries = taken_in(ImitationConfig(admit="any", select=rules.Priority(beta=0.4)))
    buffer, rng = trainer.imitation.buffer, np.random.default_rng(0)
    buffer.refresh(entries, [4.0, 1.0, 1.0, 1.0])
    buffer.sample(2, rng)
    asked = []
    honest = rules.Priority.masses

    def masses(self, entries):
        asked.append(len(entries.return_M))
        return honest(self, entries)

    monkeypatch.setattr(rules.Priority, "masses", masses)

    def change(**numbers):
        buffer.config = buffer.config.model_copy(update={"select": rules.Priority(**numbers)})
        buffer.sample(2, rng)

    change(beta=0.9)
    assert asked == []
    assert buffer.importance(entries)[0] == pytest.approx(4 ** (-0.6 * 0.9), rel=1e-5), "the new β weighs"
    change(beta=0.9, alpha=1.0)
    assert asked == [4], "another α gives other masses"
    change(beta=0.9, alpha=1.0, epsilon=1.0)
    assert asked == [4, 4]


def test_a_priority_that_stays_is_not_written_again(taken_in, monkeypatch):
    trainer, entries = taken_in(ImitationConfig(admit="any", select=rules.Priority()))
    buffer, written = trainer.imitation.buffer, []
    honest = buffer._storage.write

    def write(*parts):
        written.append(parts[-1])
        honest(*parts)

    monkeypatch.setattr(buffer._storage, "write", write)
    for iteration in (2, 3):
        trainer.imitation.gradient(trainer.config)
        buffer.update([], [], iteration=iteration, version=0)
    assert written == [dict(zip([entry.number for entry in entries], [0.75, 0.25, 0.25, 0.25], strict=True)), {}]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"imitation": ImitationConfig(reduction="seq-mean-token-sum-norm")},
            ["horizon = None", "imitation.reduction"],
        ),
        (
            {"minibatches": 2, "imitation": ImitationConfig(own_step=True, max_staleness=2)},
            ["minibatches × epochs + 1 = 3", "imitation.max_staleness = 2"],
        ),
    ],
)
def test_settings_of_replay_that_do_not_fit_the_run_are_refused(changes, words):
    with pytest.raises(ValidationError) as caught:
        TrainConfig(**changes)
    assert all(word in str(caught.value) for word in words)


def test_a_median_that_nothing_reads_is_refused():
    with pytest.raises(ValidationError, match="p50_groups = 5 and baseline = 'group': only 'p50' reads that"):
        ImitationConfig(p50_groups=5)


def test_priorities_weigh_the_loss_under_every_reduction(taken_in, monkeypatch):
    # PER's weights scale a token's loss; as credit, in the divisor, they would cancel within a sequence.
    rule = rules.Priority(alpha=1.0, beta=1.0, epsilon=1e-9)
    trainer, entries = taken_in(ImitationConfig(admit="any", select=rule, reduction="seq-mean-token-mean"))
    trainer.imitation.buffer.refresh(entries, [4.0, 1.0, 1.0, 1.0])
    stream = replayed(trainer, monkeypatch)
    # P is 4/7 and 1/7 of four: 7/16 and 7/4, over the greatest; the first entry has three tokens
    assert stream.factor_N.tolist() == pytest.approx([0.25] * 3 + [1.0] * 3)
    assert stream.weight_N.tolist() == [1.0] * 6


def test_a_weight_that_is_scheduled_down_to_zero_replays_nothing(taken_in):
    trainer, _ = taken_in(ImitationConfig(**EVERYTHING))
    quiet = trainer.config.model_copy(update={"imitation": trainer.config.imitation.model_copy(update={"weight": 0.0})})
    assert trainer.imitation.gradient(quiet) == {}
    assert trainer.imitation.replayed == []
    assert trainer.imitation.gradient(trainer.config)["tokens/imitation"] == 6


def test_an_episode_without_sampled_tokens_is_not_taken_in(parts, make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, imitation=ImitationConfig(admit="any"))
    silent = parts.make_episode([parts.make_turn([1], [], reward=1.0)], name="silent")
    trainer.log.append_many([silent])
    assert trainer.imitation.buffer.update([silent], [1.0], iteration=1, version=0) == 0


def test_priorities_do_not_choose_within_a_task():
    with pytest.raises(ValidationError, match="select = 'priority' and baseline = 'split'"):
        ImitationConfig(select=rules.Priority(), baseline="split")
