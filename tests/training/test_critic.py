"""The critic of turns: what it sees of an episode, what it learns from, and that a run with it goes on alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from agentkit.errors import CheckpointError, PolicyFault
from agentkit.memory.log import EpisodeLog
from agentkit.training.advantages import GRPO, Amplify, ArCHer
from agentkit.training.batch import Batch, Estimate
from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.critic import turn_features
from agentkit.training.filters import TopShare
from agentkit.training.metrics import TIMINGS, read_metrics
from agentkit.training.plans import RLEP
from agentkit.training.rows import build_rows, probe
from agentkit.training.schedule import Constant

FAST = ArCHer(warmup_iterations=1, critic_learning_rate=1e-3, critic_steps=5, critic_episodes=8, critic_width=16)


def make_run(parts, folder, iterations=3, **changes: Any):
    base: dict[str, Any] = {"advantage": FAST, "imitation": ImitationConfig(weight=0), "bottleneck_every": 0}
    return parts.make_trainer(folder, iterations=iterations, **(base | changes))


def numbers(folder):
    lines = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if not name.startswith(TIMINGS)} for line in lines]


def test_a_probe_asks_what_stands_before_its_places(parts):
    row = build_rows([parts.make_episode([parts.make_turn([5, 6], [8, 9])])])[0][0]
    asked = probe(row, np.array([2, 4]))
    assert asked.ids.tolist() == [5, 6, 8, 9, 0]
    assert np.flatnonzero(asked.sampled).tolist() == [2, 4]
    assert (asked.ids.dtype, asked.roles.dtype, asked.turns.dtype) == (row.ids.dtype, row.roles.dtype, row.turns.dtype)


def test_features_are_what_the_reference_reads_in_prompt_and_response(parts, make_trainer, tmp_path):
    """Turns that join a row, one with something new in its prompt and one without, and a turn that starts a new row."""
    trainer = make_run(parts, tmp_path)
    turns = [
        parts.make_turn([5, 6], [8, 9]),
        parts.make_turn([5, 6, 8, 9, 7], [10]),
        parts.make_turn([5, 6, 8, 9, 7, 10], [12]),
        parts.make_turn([7], [11, 12, 13]),
    ]
    episodes = [parts.make_episode(turns, "a"), parts.make_episode(turns[:1], "b")]
    state_UF, action_UF = turn_features(trainer.models, build_rows(episodes)[0], np.array([0, 4, 5]))

    def said(ids, first, end):
        hidden = trainer.models.reference.base_model(input_ids=torch.tensor([ids]), use_cache=False)
        hidden_LH = torch.nn.functional.layer_norm(hidden.last_hidden_state[0], (32,))
        mean_H = hidden_LH[first:end].mean(dim=0) if end > first else torch.zeros(32)
        return torch.cat([hidden_LH[end - 1], mean_H])

    row = [5, 6, 8, 9, 7, 10, 12]
    with torch.no_grad():
        for number, (ids, begin, first, end) in enumerate(
            [(row, 0, 2, 4), (row, 4, 5, 6), (row, 6, 6, 7), ([7, 11, 12, 13], 0, 1, 4), (row[:4], 0, 2, 4)]
        ):
            assert torch.allclose(state_UF[number], said(ids, begin, first), atol=1e-4)
            assert torch.allclose(action_UF[number], said(ids, first, end), atol=1e-4)
    trainer.close()


def test_the_critic_learns_alone_at_first_and_then_the_policy_learns_from_it(parts, tmp_path):
    amplified = (Amplify(best="one"),)  # by itself it makes something of advantages of zero
    advantage = FAST.model_copy(update={"warmup_iterations": 2})
    trainer = make_run(parts, tmp_path, advantage=advantage, modifiers=amplified)
    before, target = parts.digest(trainer.policy.model), parts.digest(trainer.critic.target)
    first, second = trainer.iterate(), trainer.iterate()
    assert parts.digest(trainer.policy.model) == before
    assert parts.digest(trainer.critic.target) != target
    assert (first["rows/learned"], second["rows/learned"]) == (0, 0)
    assert "loss/policy" not in second
    # Nobody has learnt, so all that was played is the present policy's.
    assert [second[f"critic/{name}"] for name in ("episodes", "fresh")] == [36, 36]
    third = trainer.iterate()
    assert parts.digest(trainer.policy.model) != before
    assert third["rows/learned"] == 18
    fourth = trainer.iterate()
    assert [fourth[f"critic/{name}"] for name in ("episodes", "fresh")] == [72, 18]
    for values in (first, second, third, fourth):
        assert all(np.isfinite(values[name]) for name in ("loss/critic", "critic/q", "critic/v"))
    trainer.close()


def test_advantages_are_the_lesser_q_less_the_lesser_v_of_each_turns_tokens(parts, tmp_path):
    trainer = make_run(parts, tmp_path, advantage=FAST.model_copy(update={"warmup_iterations": 0}))
    collection = trainer.collector.collect(trainer.config, 0)
    batch = Batch.of(trainer.config, collection.patched.episodes)
    trainer.critic.learn(trainer.config, batch.episodes, batch.outcomes, 1, np.random.default_rng(0))
    estimate = Estimate.of(batch, trainer.models, trainer.config, trainer.critic)
    state_UF, action_UF = turn_features(trainer.models, batch.rows, batch.outcomes.starts)
    mean, std = trainer.critic.spread[0::2], trainer.critic.spread[1::2]
    features = (state_UF - mean[0]) / std[0], (action_UF - mean[1]) / std[1]
    with torch.no_grad():
        values = trainer.critic.heads(*features)
    expected_U = values.q_2U.amin(0) - values.v_2U.amin(0)
    turns = np.concatenate([batch.outcomes.starts[row.episode] + row.turns[row.sampled] for row in batch.rows])
    assert torch.allclose(estimate.advantage_N, expected_U[torch.from_numpy(turns)], atol=1e-5)
    assert estimate.advantage_N.abs().min() > 0
    trainer.close()


def test_a_critic_learns_what_the_turns_are_worth(parts, tmp_path):
    """Two answers to one prompt, of reward 1 and 0: Q tells them apart, V lies between, advantages have their signs."""
    settings = ArCHer(warmup_iterations=0, critic_learning_rate=3e-3, critic_steps=300, critic_width=32)
    trainer = make_run(parts, tmp_path, advantage=settings)
    turns = [parts.make_turn([5, 6], [8 + n % 2], reward=float(n % 2)) for n in range(8)]
    episodes = [parts.make_episode([turn], str(n)) for n, turn in enumerate(turns)]
    trainer.log.append_many(episodes)
    batch = Batch.of(trainer.config, episodes)
    values = trainer.critic.learn(trainer.config, batch.episodes, batch.outcomes, 1, np.random.default_rng(0))
    found_U = trainer.critic.turns(batch.episodes, settings)
    assert found_U == pytest.approx([n % 2 - 0.5 for n in range(8)], abs=0.05)
    assert values["critic/v"] == pytest.approx(0.5, abs=0.05)
    trainer.close()


@pytest.mark.parametrize("changes", [{}, {"plan": RLEP(at_least=1), "task_pool": 3}], ids=["plain", "injected"])
def test_a_resumed_run_goes_on_to_the_bit(parts, tmp_path, changes):
    changes = changes | {"advantage": FAST.model_copy(update={"capacity": 40})}
    whole = make_run(parts, tmp_path / "whole", **changes)
    whole.train()
    whole.close()
    first = make_run(parts, tmp_path / "part", iterations=2, **changes)
    first.train()
    first.close()
    second = make_run(parts, tmp_path / "part", **changes)
    second.restore()
    for one, other in zip(first.critic.kept, second.critic.kept, strict=True):
        assert torch.equal(one.action_UF, other.action_UF)
        assert torch.equal(one.state_UF, other.state_UF)
        assert (one.ids, one.version_E.tolist()) == (other.ids, other.version_E.tolist())
        assert np.array_equal(one.reward_U, other.reward_U)
    second.train()
    second.close()
    assert parts.digest(second.policy.model) == parts.digest(whole.policy.model)
    assert parts.digest(second.critic.heads) == parts.digest(whole.critic.heads)
    assert parts.digest(second.critic.target) == parts.digest(whole.critic.target)
    assert numbers(tmp_path / "part") == numbers(tmp_path / "whole")
    assert len(whole.critic.kept) == 2  # 18 an iteration: a third would not fit into 40


def test_a_filter_and_modifiers_see_the_critics_advantages(parts, tmp_path):
    waits = {"filter": TopShare(share=0.3, stop_after=1), "modifiers": (Amplify(),)}
    trainer = make_run(parts, tmp_path, iterations=2, **waits)
    trainer.train()
    assert trainer.iteration == 2  # while the critic learns alone, training does not end for want of something to learn
    assert numbers(tmp_path)[-1]["rows/learned"] > 0
    assert numbers(tmp_path)[-1]["critic/episodes"] == 36  # of all groups, whatever the filter leaves
    trainer.close()


def test_a_critic_that_cannot_go_on_says_why(parts, tmp_path):
    trainer = make_run(parts, tmp_path, iterations=1, advantage=FAST.model_copy(update={"warmup_iterations": 0}))
    trainer.train()
    trainer.close()
    wider = make_run(parts, tmp_path, advantage=FAST.model_copy(update={"critic_width": 8}))
    with pytest.raises(CheckpointError, match="resume with the same critic_width"):
        wider.restore()
    wider.close()
    other = make_run(parts, tmp_path / "other", iterations=1, advantage=GRPO())
    other.train()
    other.close()
    late = make_run(parts, tmp_path / "other")
    with pytest.raises(CheckpointError, match="is of a run without critic"):
        late.restore()
    late.close()
    (tmp_path / "episodes.sqlite").unlink()
    EpisodeLog.open(tmp_path / "episodes.sqlite").close()
    lost = make_run(parts, tmp_path)
    with pytest.raises(CheckpointError, match=r"episode '.*', which the critic learns from, is not in the log"):
        lost.restore()
    lost.close()


@pytest.fixture
def learning(parts, tmp_path):
    """(trainer, batch of four one-turn episodes, what takes the critic's step on it)."""
    trainer = make_run(parts, tmp_path, advantage=FAST)
    turns = [parts.make_turn([5, 6], [8 + n], reward=float(n % 2)) for n in range(4)]
    episodes = [parts.make_episode([turn], f"e{n}") for n, turn in enumerate(turns)]
    trainer.log.append_many(episodes)
    batch = Batch.of(trainer.config, episodes)
    made = trainer.config, batch.episodes, batch.outcomes
    yield trainer, batch, lambda iteration: trainer.critic.learn(*made, iteration, np.random.default_rng(0))
    trainer.close()


def test_a_feature_that_is_not_a_number_stops_the_critic_before_its_step_and_names_the_episode(parts, learning):
    trainer, _, learn = learning
    learn(1)
    before = parts.digest(trainer.critic.heads), parts.digest(trainer.critic.target)
    trainer.critic.kept[0].state_UF[2, 0] = torch.nan
    with pytest.raises(PolicyFault, match=r"iteration 2, step 1 of the critic: the loss of episode e2 is not finite"):
        learn(2)
    assert (parts.digest(trainer.critic.heads), parts.digest(trainer.critic.target)) == before
    assert not trainer.critic.optimizer.state_dict()["state"][0]["step"] > FAST.critic_steps


def test_a_broken_weight_stops_the_critic_and_names_all_it_was_shown(learning):
    trainer, _, learn = learning
    with torch.no_grad():
        next(trainer.critic.heads.parameters()).fill_(torch.nan)
    with pytest.raises(PolicyFault, match=r"the loss of episode e\d, e\d, e\d, e\d is not finite, this step was not"):
        learn(1)
    assert not trainer.critic.optimizer.state_dict()["state"]


def test_a_loss_that_overflows_in_its_sum_names_all_that_it_is_of(learning):
    trainer, _, learn = learning
    learn(1)
    trainer.critic.kept[0].reward_U[1] = 1e30
    with pytest.raises(
        PolicyFault, match=r"iteration 2, step 1 of the critic: the loss of episode e\d, e\d, e\d, e\d is"
    ):
        learn(2)


def test_a_gradient_that_overflows_beside_a_finite_loss_stops_the_critic_too(parts, learning):
    trainer, _, learn = learning
    learn(1)
    # Q = 2¹⁰⁰ − 2¹⁰⁰ = 0 exactly, and the weights below get 2¹⁰⁰ · 2⁶⁰ times Q's own gradient.
    with torch.no_grad():
        for layers in trainer.critic.heads.q:
            for parameter in layers.parameters():
                parameter.zero_()
            layers[0].bias.fill_(2.0**60)
            layers[2].weight[:2, 0] = 2.0**-60
            layers[4].weight[0, :2] = torch.tensor([2.0**100, -(2.0**100)])
    before = parts.digest(trainer.critic.heads), parts.digest(trainer.critic.target)
    with pytest.raises(PolicyFault, match=r"iteration 2, step 1 of the critic: the gradient of episode e\d, e\d"):
        learn(2)
    assert (parts.digest(trainer.critic.heads), parts.digest(trainer.critic.target)) == before


def test_a_checkpoint_without_its_critic_is_refused(parts, tmp_path):
    trainer = make_run(parts, tmp_path, iterations=1, advantage=FAST.model_copy(update={"warmup_iterations": 0}))
    trainer.train()
    trainer.close()
    (tmp_path / "checkpoints" / "000001" / "critic.safetensors").unlink()
    again = make_run(parts, tmp_path)
    with pytest.raises(CheckpointError, match="incomplete"):
        again.restore()
    again.close()


def test_what_contradicts_a_critic_is_refused():
    with pytest.raises(ValidationError, match="warmup_iterations = 20 and iterations = 20: the critic would"):
        TrainConfig(advantage=ArCHer(), iterations=20)
    with pytest.raises(ValidationError, match="capacity = 7 is less than tasks_per_iteration × group_size = 8"):
        TrainConfig(advantage=ArCHer(capacity=7), tasks_per_iteration=2, group_size=4)
    for name in ("critic_width", "warmup_iterations"):
        with pytest.raises(ValidationError, match=f"schedules.advantage.{name}: .* no schedule can change it"):
            TrainConfig(advantage=ArCHer(), schedules={f"advantage.{name}": Constant()})
