"""Supervised fine-tuning: it learns what the episodes say, in the tokens the policy would sample."""

from __future__ import annotations

import math

import pytest
import torch

from agentkit.errors import ConfigError, PolicyFault
from agentkit.memory.records import Role
from agentkit.policies.decode import decode
from agentkit.policies.policy import Sampling
from agentkit.training.rows import build_rows
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
    with pytest.raises(ConfigError, match=r"token id 999999 is beyond .* another tokenizer"):
        fine_tune(parts.make_policy(), [episode])


def test_broken_weights_raise_before_a_step(parts):
    policy = parts.make_policy()
    with torch.no_grad():
        policy.model.model.norm.weight[0] = float("nan")
    before = parts.digest(policy.model)
    with pytest.raises(PolicyFault, match="not finite"):
        fine_tune(policy, parts.demonstrations(), SftConfig(steps=1, rows_per_step=1))
    assert parts.digest(policy.model) == before


def test_ids_that_mean_another_text_here_are_refused(parts):
    """Also when all of them are within the vocabulary, where they would silently mean something else."""
    policy = parts.make_policy()
    turn = parts.make_turn([5, 6], policy.renderer.encode("Up"))
    spoken = turn.model_copy(update={"response": "Down"})
    with pytest.raises(ConfigError, match="recorded with another tokenizer than the model's"):
        fine_tune(policy, [parts.make_episode([spoken])], SftConfig(steps=1))
