"""Supervised fine-tuning: it learns what the episodes say, in the tokens the policy would sample."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from agentkit.errors import ConfigError, PolicyFault
from agentkit.memory.records import Role
from agentkit.policies.decode import decode
from agentkit.policies.policy import Sampling
from agentkit.training import sft
from agentkit.training.network import Lora, Network
from agentkit.training.rows import build_rows
from agentkit.training.selection import Successes
from agentkit.training.sft import SftConfig, fine_tune, written_tokens


def test_the_loss_falls_from_chance_on_text_only_episodes(parts):
    policy, seen = parts.make_policy(), []
    losses = fine_tune(
        policy,
        parts.demonstrations()[:4],
        SftConfig(steps=60, rows_per_step=4, learning_rate=1e-2),
        on_step=lambda step, loss: seen.append((step, loss)),
    )
    assert losses[0] == pytest.approx(math.log(len(policy.tokenizer)), abs=0.5)  # a fresh network guesses
    assert losses[-1] < 0.25 * losses[0]
    assert seen == list(enumerate(losses))


def test_the_loss_is_the_mean_over_all_sampled_tokens_however_rows_are_batched(parts):
    speak = parts.make_policy().decode_text
    episodes = [
        parts.make_episode([parts.make_turn([1, 2, 3], [40], response=speak([40])[0])]),
        parts.make_episode([parts.make_turn([5], range(10, 30), response=speak(range(10, 30))[0])]),
    ]
    weights, losses = set(), set()
    for size in (1, 10**6):
        policy = parts.make_policy()
        config = SftConfig(steps=2, rows_per_step=2, micro_batch_tokens=size)
        losses.add(tuple(round(loss, 5) for loss in fine_tune(policy, episodes, config)))
        weights.add(round(policy.model.get_input_embeddings().weight.sum().item(), 4))
    assert len(losses) == len(weights) == 1
    model = parts.make_policy().model
    nats = []
    for row in build_rows(episodes)[0]:
        with torch.no_grad():
            logp = model(torch.from_numpy(row.ids)[None]).logits[0].double().log_softmax(-1)
        nats += [-logp[place - 1, row.ids[place]].item() for place in row.sampled.nonzero()[0]]
    assert losses.pop()[0] == pytest.approx(sum(nats) / 21, abs=1e-4)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(parts):
    def weights(seed):
        policy = parts.make_policy()
        fine_tune(policy, parts.demonstrations(), SftConfig(steps=3, rows_per_step=3), seed=seed)
        return parts.digest(policy.model)

    assert weights(1) == weights(1) != weights(2)


def test_a_written_response_becomes_the_tokens_the_policy_would_sample(parts):
    """After enough steps on one turn the greedy answer is, id by id, what the episode was encoded to."""
    policy = parts.make_policy()
    episode = parts.demonstrations()[0]
    episode = episode.model_copy(update={"turns": episode.turns[:1]})
    tokens = written_tokens(policy)(episode.turns[0])
    assert tokens is not None
    prompt, response, roles, _ = tokens
    assert response[-1] in policy.end_ids
    assert policy.decode_text(response)[0] == episode.turns[0].response
    assert roles[-1] == Role.FORMAT
    assert {Role.THOUGHT, Role.ACTION, Role.FORMAT} == set(roles)
    fine_tune(policy, [episode], SftConfig(steps=60, rows_per_step=1, learning_rate=1e-2))
    (sampled,) = decode(policy.model, [prompt], [Sampling(temperature=0)], [0], policy.end_ids)
    assert tuple(sampled.ids) == tuple(response)
    assert sampled.ended


def test_the_turns_of_a_written_episode_join_into_one_row(parts):
    policy = parts.make_policy()
    episode = next(episode for episode in parts.demonstrations() if len(episode.turns) > 1)
    rows, counts = build_rows([episode], written_tokens(policy))
    assert len(rows) == 1
    assert counts.joined == len(episode.turns) - 1


def test_recorded_tokens_are_never_encoded_again(parts):
    policy = parts.make_policy()
    letters = (*policy.renderer.encode("U"), *policy.renderer.encode("p"))
    assert policy.renderer.encode("Up") != letters, "the case needs a text that is encoded otherwise than sampled"
    tokens = written_tokens(policy)(parts.make_turn([1, 2], letters, response="Up"))
    assert tokens is not None
    assert tokens[:2] == ((1, 2), letters)


def test_nothing_to_learn_from_is_an_error(parts):
    bare = parts.make_episode([parts.make_turn([], [])])
    with pytest.raises(ConfigError, match="none of the 1 episodes has a turn to learn from"):
        fine_tune(parts.make_policy(), [bare])
    with pytest.raises(ConfigError, match="none of the 0 episodes"):
        fine_tune(parts.make_policy(), [])


def test_ids_of_another_tokenizer_are_refused(parts):
    episode = parts.make_episode([parts.make_turn([1], [999_999])])
    with pytest.raises(ConfigError, match=r"token id 999999 of episode one is beyond .* another tokenizer"):
        fine_tune(parts.make_policy(), [episode])


def test_broken_weights_raise_before_a_step(parts):
    policy = parts.make_policy()
    with torch.no_grad():
        policy.model.model.norm.weight[0] = float("nan")
    before = parts.digest(policy.model)
    with pytest.raises(PolicyFault, match="not finite"):
        fine_tune(policy, parts.demonstrations(), SftConfig(steps=1, rows_per_step=1))
    assert parts.digest(policy.model) == before


def test_what_is_not_finite_names_its_episodes_and_no_step_is_taken(parts, monkeypatch):
    """Of two rows, the network breaks at one; then a gradient breaks, which is of both."""
    honest, episodes = sft.forward, parts.demonstrations()[:2]

    def broken(model, rows, **options):
        stats = honest(model, rows, **options)
        factors = [float("nan") if row.episode == 1 else 1.0 for row in rows]
        factor_N = torch.tensor(factors).repeat_interleave(torch.tensor([row.num_sampled for row in rows]))
        return dataclasses.replace(stats, logp_N=stats.logp_N * factor_N)

    policy, config = parts.make_policy(), SftConfig(steps=1, rows_per_step=2)
    before = parts.digest(policy.model)
    with monkeypatch.context() as patch:
        patch.setattr(sft, "forward", broken)
        with pytest.raises(PolicyFault, match=f"of episode {episodes[1].id} are not finite at step 0"):
            fine_tune(policy, episodes, config)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(PolicyFault, match="the gradient of step 0 is not finite") as raised:
        fine_tune(policy, episodes, config)
    assert all(episode.id in str(raised.value) for episode in episodes)
    assert parts.digest(policy.model) == before


def test_ids_that_mean_another_text_here_are_refused(parts):
    """Also when all of them are within the vocabulary, where they would silently mean something else."""
    policy = parts.make_policy()
    turn = parts.make_turn([5, 6], policy.renderer.encode("Up"))
    spoken = turn.model_copy(update={"response": "Down"})
    with pytest.raises(ConfigError, match="recorded with another tokenizer than the model's"):
        fine_tune(policy, [parts.make_episode([spoken])], SftConfig(steps=1))


def spoken(parts, name, turns, **changes):
    """An episode of turns (prompt, ids, changes) whose texts are what the tiny tokenizer says of the ids."""
    speak = parts.make_policy().decode_text
    made = [parts.make_turn(prompt, ids, response=speak(ids)[0], **more) for prompt, ids, more in turns]
    return parts.make_episode(made, name, **changes)


def nats(model, prompt, ids):
    """−log p of each id after the prompt, in float64."""
    with torch.no_grad():
        logp = model(torch.tensor([[*prompt, *ids]])).logits[0].double().log_softmax(-1)
    return [-logp[len(prompt) + place - 1, id].item() for place, id in enumerate(ids)]


def test_turns_judged_wrong_are_seen_and_not_imitated(parts):
    first, second, third = [30, 31, 32], [33, 34], [35]
    prompts = [[1, 2]]
    for response in (first, second):
        prompts.append([*prompts[-1], *response, 5])
    episode = spoken(
        parts, "one", [(prompts[0], first, {}), (prompts[1], second, {"valid": False}), (prompts[2], third, {})]
    )
    model = parts.make_policy().model
    wanted = {
        (False, None): [(0, first), (1, second), (2, third)],
        (True, None): [(0, first), (2, third)],
        (False, (0,)): [(1, second), (2, third)],
        (True, (2,)): [(0, first)],
    }
    for (mask, wrong), learnt in wanted.items():
        config = SftConfig(steps=1, rows_per_step=1, mask_invalid=mask)
        judged = {} if wrong is None else {"one": wrong}
        (loss,) = fine_tune(parts.make_policy(), [episode], config, judged=judged)
        expected = [nat for place, ids in learnt for nat in nats(model, prompts[place], ids)]
        assert loss == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    with pytest.raises(ConfigError, match="none of the 1 episodes has a turn to learn from"):
        fine_tune(parts.make_policy(), [episode], SftConfig(steps=1), judged={"one": (0, 1, 2)})


def test_weights_scale_every_token_and_are_divided_by_their_sum_however_rows_are_batched(parts):
    episodes = [
        spoken(parts, "won", [([1, 2, 3], [40, 41], {"reward": 1.0})]),
        spoken(parts, "lost", [([5], list(range(10, 30)), {})], success=False),
    ]
    model, weights = parts.make_policy().model, (math.e, 1 / math.e)  # A = ±½, β = ½
    parted = [nats(model, episode.turns[0].prompt_ids, episode.turns[0].response_ids) for episode in episodes]
    total = sum(weight * sum(one) for weight, one in zip(weights, parted, strict=True))
    expected = total / (2 * weights[0] + 20 * weights[1])
    found, moved = set(), set()
    for size in (1, 10**6):
        policy = parts.make_policy()
        config = SftConfig(steps=2, rows_per_step=2, advantage_beta=0.5, micro_batch_tokens=size)
        losses = fine_tune(policy, episodes, config)
        assert losses[0] == pytest.approx(expected, abs=1e-5)
        found.add(round(losses[1], 5))
        moved.add(round(policy.model.get_input_embeddings().weight.sum().item(), 4))
    assert len(found) == len(moved) == 1


def test_failures_are_the_baseline_of_weights_even_where_only_successes_are_imitated(parts):
    def won(name, ids, rewards):
        return [spoken(parts, f"{name}{n}", [([1], ids, {"reward": r})], success=r > 0) for n, r in enumerate(rewards)]

    rare = [episode.model_copy(update={"group_id": "rare"}) for episode in won("rare", [40], [1.0, 0.0, 0.0, 0.0])]
    rare = [episode.model_copy(update={"task": episode.task.model_copy(update={"seed": 1})}) for episode in rare]
    often = won("often", [50], [1.0, 1.0, 1.0, 0.0])
    config = SftConfig(steps=1, rows_per_step=4, select=Successes(), advantage_beta=0.5)
    (loss,) = fine_tune(parts.make_policy(), [*rare, *often], config)
    model = parts.make_policy().model
    weights = math.exp(1.5), math.exp(0.5)  # A of the rare success ¾, of the three others ¼
    (one,), (other,) = nats(model, [1], [40]), nats(model, [1], [50])
    assert loss == pytest.approx((weights[0] * one + 3 * weights[1] * other) / (weights[0] + 3 * weights[1]), abs=1e-5)


def test_adapters_learn_and_the_weights_beneath_stay(parts):
    policy = parts.make_policy()
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    config = SftConfig(steps=60, rows_per_step=4, learning_rate=3e-2, network=Network(lora=Lora(rank=4)))
    losses = fine_tune(policy, parts.demonstrations()[:4], config)
    assert losses[-1] < losses[0] - 0.3  # a fresh output layer that stays as it is allows no more
    after = {name.replace(".base_layer", ""): value for name, value in policy.model.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_bfloat16_learns_nearly_the_same(parts):
    losses = [
        fine_tune(
            parts.make_policy(), parts.demonstrations()[:4], SftConfig(steps=20, rows_per_step=4, network=network)
        )
        for network in (Network(), Network(precision="bfloat16"))
    ]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_settings_that_contradict_each_other_are_refused(parts):
    with pytest.raises(ValueError, match=r"max_weight = 5.0 and advantage_beta = None: nothing is weighted"):
        SftConfig(max_weight=5)
    episode = spoken(parts, "one", [([1], [40], {})], success=False)
    with pytest.raises(ConfigError, match="none of the 1 episodes, of which select = 'success' keeps 0, has a turn"):
        fine_tune(parts.make_policy(), [episode], SftConfig(select=Successes()))
    with pytest.raises(ConfigError, match="judged names episode 'two', which is not among those given"):
        fine_tune(parts.make_policy(), [episode], judged={"two": [0]})
    with pytest.raises(ConfigError, match="judged names turn 1 of episode 'one', which has turns 0 to 0"):
        fine_tune(parts.make_policy(), [episode], judged={"one": [0, 1]})
