"""Preferences: pairs by hand, and TRL's own trainers on the recorded tokens."""

from __future__ import annotations

import random
import re
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from agentkit.errors import ConfigError, MissingExtraError, PolicyFault
from agentkit.memory.records import Message, Part, Role
from agentkit.training.forward import measure
from agentkit.training.network import Lora, Network
from agentkit.training.pairs import labelled_turns, preference_pairs
from agentkit.training.preferences import (
    DPO,
    KTO,
    PreferenceConfig,
    _examples,
    _make_trainer,
    _row,
    learn_preferences,
)


@pytest.fixture(scope="module", autouse=True)
def _offline():
    pytest.importorskip("trl", reason="the extra trl is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def attempt(parts, name, answers, *, success, group="g", seed=0, **changes):
    """An attempt that answered with these ids, turn by turn; each prompt is all that came before and a 5."""
    speak, turns, prompt = parts.make_policy().decode_text, [], [1, 2]
    for ids in answers:
        turns.append(parts.make_turn(prompt, ids, response=speak(ids)[0]))
        prompt = [*prompt, *ids, 5]
    episode = parts.make_episode(turns, name, success=success, group_id=group, **changes)
    return episode.model_copy(update={"task": episode.task.model_copy(update={"seed": seed})})


def told(pairs):
    return [(pair.better.id, pair.worse.id, pair.turn) for pair in pairs]


def test_a_pair_is_the_first_difference_of_a_success_and_a_failure(parts):
    won = attempt(parts, "won", [[30], [31], [32]], success=True)
    early = attempt(parts, "early", [[40], [31]], success=False)
    late = attempt(parts, "late", [[30], [31], [42], [43]], success=False)
    pairs = preference_pairs([early, won, late])
    assert told(pairs) == [("won", "early", 0), ("won", "late", 2)]
    assert pairs[1].chosen.prompt_ids == pairs[1].rejected.prompt_ids == (1, 2, 30, 5, 31, 5)
    assert (pairs[1].chosen.response_ids, pairs[1].rejected.response_ids) == ((32,), (42,))


def test_only_attempts_at_one_task_in_one_group_that_were_played_form_pairs(parts):
    won = attempt(parts, "won", [[30]], success=True)
    others = [
        attempt(parts, "task", [[40]], success=False, seed=1),
        attempt(parts, "group", [[40]], success=False, group="h"),
        attempt(parts, "broken", [[40]], success=False, error="the world broke"),
        attempt(parts, "same", [[30]], success=False),
        attempt(parts, "shorter", [], success=False),
    ]
    assert preference_pairs([won, *others]) == []


def test_nothing_is_compared_once_the_world_has_answered_differently(parts):
    won = attempt(parts, "won", [[30], [31]], success=True)
    lost = attempt(parts, "lost", [[30], [41]], success=False)
    assert told(preference_pairs([won, lost])) == [("won", "lost", 1)]
    elsewhere = lost.turns[1].model_copy(update={"prompt_ids": (1, 2, 30, 6)})
    lost = lost.model_copy(update={"turns": (lost.turns[0], elsewhere)})
    assert preference_pairs([won, lost]) == []


def test_prompts_recorded_as_text_are_compared_as_text(parts):
    def written(name, response, seen, success):
        message = Message(speaker="user", parts=(Part(role=Role.OBSERVATION, text=seen),))
        turn = parts.make_turn([], [], response=response, messages=(message,))
        return parts.make_episode([turn], name, success=success)

    episodes = [written("won", "Up", "here", True), written("lost", "Down", "here", False)]
    assert told(preference_pairs(episodes)) == [("won", "lost", 0)]
    assert preference_pairs([episodes[0], written("lost", "Down", "there", False)]) == []
    bare = [
        episode.model_copy(update={"turns": (parts.make_turn([], [], response=i),)})
        for i, episode in zip("ab", episodes, strict=True)
    ]
    assert preference_pairs(bare) == []  # prompts that nobody recorded are not equal


def test_equal_comparisons_are_made_once_and_the_most_use_attempts_evenly(parts):
    won = [attempt(parts, f"won{i}", [[30 + i]], success=True) for i in (0, 0, 1)]
    lost = [attempt(parts, f"lost{i}", [[40 + i]], success=False) for i in (0, 1, 2)]
    won = [episode.model_copy(update={"id": f"w{i}"}) for i, episode in enumerate(won)]
    said = [(*pair.chosen.response_ids, *pair.rejected.response_ids) for pair in preference_pairs([*won, *lost])]
    assert sorted(said) == [(good, bad) for good in (30, 31) for bad in (40, 41, 42)]
    few = told(preference_pairs([won[0], won[2], *lost], per_group=2))
    assert len({pair[0] for pair in few}) == len({pair[1] for pair in few}) == 2


def test_a_malformed_turn_of_a_success_is_neither_preferred_nor_good(parts):
    won = attempt(parts, "won", [[30], [31]], success=True)
    won = won.model_copy(update={"turns": (won.turns[0].model_copy(update={"valid": False}), won.turns[1])})
    lost = attempt(parts, "lost", [[40]], success=False)
    assert preference_pairs([won, lost]) == []
    assert [(turn.response_ids, good) for turn, good in labelled_turns([won, lost])] == [((31,), True), ((40,), False)]
    assert labelled_turns([won.model_copy(update={"error": "broke"})]) == []


def played(parts):
    """Two tasks with two attempts that won and two that lost, turns of one to three tokens."""
    episodes = []
    for seed, prefix in ((0, []), (1, [[20, 21]])):
        for i, (ids, success) in enumerate([([30], True), ([31, 32], True), ([40, 41, 42], False), ([43], False)]):
            episodes.append(attempt(parts, f"{seed}-{i}", [*prefix, ids], success=success, seed=seed, group=str(seed)))
    return episodes


def margin(model, episodes):
    """Mean log-probability of what was chosen above what was rejected."""
    rows = []
    for pair in preference_pairs(episodes):
        rows += [_row(turn.prompt_ids, turn.response_ids) for turn in (pair.chosen, pair.rejected)]
    sums = [part.sum() for part in measure(model, rows, 10_000).logp_N.split([row.num_sampled for row in rows])]
    return float(torch.stack(sums[0::2]).sub(torch.stack(sums[1::2])).mean())


@pytest.mark.parametrize("method", [DPO(), KTO()], ids=["dpo", "kto"])
def test_the_likelihood_of_what_was_chosen_rises_above_what_was_rejected(parts, method):
    policy, episodes, seen = parts.make_policy(), played(parts), []
    before = margin(policy.model, episodes)
    config = PreferenceConfig(method=method, steps=12, examples_per_step=8, examples_per_pass=4, learning_rate=3e-3)
    history = learn_preferences(policy, episodes, config, on_step=lambda step, values: seen.append((step, values)))
    assert margin(policy.model, episodes) > before + 1
    assert [step for step, _ in seen] == [*range(12)]
    assert history == [values for _, values in seen]
    assert history[0]["loss"] == pytest.approx({"dpo": 0.6931, "kto": 0.5}[method.name], abs=1e-3)
    assert history[-1]["loss"] < history[0]["loss"]
    assert not policy.model.training
    assert policy.model.forward.__func__ is type(policy.model).forward  # TRL's own is gone
    assert policy.tokenizer.pad_token == "<|pad|>"


def test_dpo_is_its_formula_on_the_recorded_ids(parts):
    """Of one pair, after a step: β times the margin's growth, and −log σ of it, by an own pass in float64."""
    episodes = [attempt(parts, "won", [[30, 31]], success=True), attempt(parts, "lost", [[40]], success=False)]
    policy = parts.make_policy()
    first = margin(policy.model.double(), episodes)
    policy.model.float()
    config = PreferenceConfig(
        method=DPO(beta=0.3), steps=2, examples_per_step=1, examples_per_pass=1, learning_rate=1e-3
    )
    weights = []
    history = learn_preferences(
        policy,
        episodes,
        config,
        on_step=lambda *_: weights.append({name: value.clone() for name, value in policy.model.state_dict().items()}),
    )
    again = parts.make_policy()
    again.model.load_state_dict(weights[0])  # after the first step, so what the second one's loss was measured on
    grown = 0.3 * (margin(again.model.double(), episodes) - first)
    assert grown > 1e-3
    assert history[1]["rewards/margins"] == pytest.approx(grown, abs=1e-5)
    assert history[1]["loss"] == pytest.approx(np.log1p(np.exp(-grown)), abs=1e-5)


def test_trl_sees_the_recorded_ids_and_never_the_tokenizer(parts, tmp_path):
    """Ids whose text the tokenizer would encode otherwise go through TRL's collator as they are."""
    policy = parts.make_policy()
    letters = [*policy.renderer.encode("U"), *policy.renderer.encode("p")]
    assert list(policy.renderer.encode("Up")) != letters
    episodes = [attempt(parts, "won", [letters], success=True), attempt(parts, "lost", [[40]], success=False)]
    for method in (DPO(), KTO()):
        from datasets import Dataset

        config = PreferenceConfig(method=method, examples_per_step=2, examples_per_pass=2)
        examples = _examples(policy, episodes, config, np.random.default_rng(0))
        trainer = _make_trainer(policy, Dataset.from_list(examples), config, str(tmp_path), 0, lambda *_: None)
        batch = next(iter(trainer.get_train_dataloader()))
        rows = [
            row[mask.bool()].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        assert sorted(rows) == sorted([[1, 2, *letters], [1, 2, 40]])
        if method.name == "kto":
            neighbour = [
                row[mask.bool()].tolist()
                for row, mask in zip(batch["KL_input_ids"], batch["KL_attention_mask"], strict=True)
            ]
            assert neighbour == rows[::-1]  # each answer at the other's prompt
        vars(policy.model).pop("forward", None)


def test_the_same_seed_gives_the_same_weights_and_the_callers_randomness_is_left_alone(parts):
    def learnt(seed):
        policy = parts.make_policy()
        torch.manual_seed(7), random.seed(7), np.random.seed(7)
        config = PreferenceConfig(steps=3, examples_per_step=3, examples_per_pass=3, learning_rate=1e-3)
        learn_preferences(policy, played(parts), config, seed=seed)
        return parts.digest(policy.model), (torch.rand(1).item(), random.random(), np.random.rand())

    first, second, third = learnt(1), learnt(1), learnt(2)
    assert first == second
    assert third[0] != first[0]
    assert third[1] == first[1]
    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    assert first[1] == (torch.rand(1).item(), random.random(), np.random.rand())


def test_adapters_learn_preferences_and_the_weights_beneath_stay(parts):
    policy = parts.make_taught_policy()
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    start = margin(policy.model, played(parts))
    config = PreferenceConfig(
        steps=8, examples_per_step=8, learning_rate=3e-2, network=Network(lora=Lora(rank=4), precision="bfloat16")
    )
    history = learn_preferences(policy, played(parts), config)
    assert history[0]["loss"] == pytest.approx(0.693, abs=0.01)
    assert margin(policy.model, played(parts)) > start + 1
    after = {name.replace(".base_layer", ""): value for name, value in policy.model.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_what_was_only_written_is_encoded_once_by_the_policys_tokenizer(parts):
    policy = parts.make_policy()
    demonstrations = parts.demonstrations()
    good = [episode.model_copy(update={"success": True}) for episode in demonstrations[:1]]
    bad = [good[0].turns[0].model_copy(update={"response": "no"})]
    bad_episode = good[0].model_copy(update={"id": "bad", "success": False, "turns": tuple(bad)})
    (example,) = _examples(policy, [*good, bad_episode], PreferenceConfig(), np.random.default_rng(0))
    assert policy.decode_text(example["chosen_ids"])[0] == good[0].turns[0].response
    assert example["rejected_ids"] == list(policy.encode_response("no")[0])


def test_nothing_to_compare_is_an_error(parts):
    won = attempt(parts, "won", [[30]], success=True)
    with pytest.raises(ConfigError, match="no pair among 1 episodes: DPO needs a success and a failure"):
        learn_preferences(parts.make_policy(), [won])
    with pytest.raises(ConfigError, match="KTO needs turns of successes and of failures, the 1 episodes have not both"):
        learn_preferences(parts.make_policy(), [won], PreferenceConfig(method=KTO()))


def test_ids_of_another_tokenizer_are_refused(parts):
    won = parts.make_episode([parts.make_turn([1], [999_999])], "won")
    lost = attempt(parts, "lost", [[40]], success=False)
    with pytest.raises(ConfigError, match=r"token id 999999 of episode won is beyond .* another tokenizer"):
        learn_preferences(parts.make_policy(), [won, lost], PreferenceConfig(method=KTO()))


def test_without_the_extra_nothing_is_changed(parts, monkeypatch):
    policy = parts.make_policy()
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(MissingExtraError, match=r"'trl' is not installed; run: pip install 'agentkit-rl\[trl\]'"):
        learn_preferences(policy, played(parts), PreferenceConfig(network=Network(lora=Lora())))
    assert parts.digest(policy.model) == parts.digest(parts.make_policy().model)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match="examples_per_step = 10 is no multiple of examples_per_pass = 4"):
        PreferenceConfig(examples_per_step=10, examples_per_pass=4)
    with pytest.raises(ValidationError, match="method = 'kto' and examples_per_pass = 1"):
        PreferenceConfig(method=KTO(), examples_per_pass=1)
    with pytest.raises(ValidationError, match=r"network.compile = true: TRL computes the passes that learn"):
        PreferenceConfig(network=Network(compile=True))


def test_a_loss_that_is_not_finite_stops_the_run(parts):
    policy = parts.make_policy()
    config = PreferenceConfig(steps=9, examples_per_step=4, examples_per_pass=4, learning_rate=1.0, max_grad_norm=1e30)
    ruin = policy.model.model.norm.weight

    def spoil(step, values):
        with torch.no_grad():
            ruin[0] = float("nan")

    with pytest.raises(PolicyFault, match="the loss of step 1 is not finite; lower learning_rate") as raised:
        learn_preferences(policy, played(parts), config, on_step=spoil)
    assert re.search(r"It was of episode ([01]-\d(, )?){2,5}", str(raised.value))
