"""Advantages from values: GAE and ArCHer by hand, against sums written out, and critics that learn a known value."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.errors import PolicyFault
from agentkit.training.advantages import GAE, ArCHer
from agentkit.training.advantages.values import (
    TurnCritic,
    TurnValues,
    ValueHead,
    critic_loss,
    turn_targets,
    value_loss,
)

FEW = settings(max_examples=40, deadline=None)
NUMBER = st.floats(-5, 5)
EPISODES = st.lists(
    st.lists(st.tuples(NUMBER, st.lists(NUMBER, min_size=1, max_size=4)), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
)
"""(reward, values before its tokens) of each turn."""


def tokens_of(parts, episodes):
    """(outcomes, turn of each token, value of each token)."""
    outcomes = parts.make_outcomes([[reward for reward, _ in turns] for turns in episodes])
    turns = [values for episode in episodes for _, values in episode]
    turn_N = np.repeat(np.arange(len(turns)), [len(values) for values in turns])
    return outcomes, turn_N, np.array([value for values in turns for value in values], np.float64)


def test_gae_by_hand(parts):
    # One episode, γ = ½, λ = ½: turn one has tokens of values 1 and 2 and earns 4, turn two one of value 8, earns 16.
    # δ = ½·2 − 1 = 0, 4 + ½·8 − 2 = 6, 16 − 8 = 8; A = 8, 6 + ¼·8 = 8, 0 + ¼·8 = 2.
    outcomes, turn_N, value_N = tokens_of(parts, [[(4, [1, 2]), (16, [8])]])
    found = GAE(gamma=0.5, lam=0.5, whiten=False).estimate(outcomes, turn_N, value_N)
    assert found.advantage_N.tolist() == [2, 8, 8]
    assert found.target_N.tolist() == [3, 10, 16]
    # after_E: the value of what follows the last token, of an episode that a limit cut
    cut = GAE(gamma=0.5, lam=0.5, whiten=False).estimate(outcomes, turn_N, value_N, after_E=np.array([16.0]))
    assert cut.advantage_N.tolist() == [2.5, 10, 16]


@FEW
@given(EPISODES, st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_sum_of_its_definition(parts, episodes, gamma, lam):
    outcomes, turn_N, value_N = tokens_of(parts, episodes)
    expected = []
    for turns in episodes:
        values = [value for _, each in turns for value in each] + [0.0]
        rewards = [reward * (place == len(each) - 1) for reward, each in turns for place in range(len(each))]
        deltas = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(len(rewards))]
        expected += [
            math.fsum((gamma * lam) ** k * deltas[t + k] for k in range(len(deltas) - t)) for t in range(len(deltas))
        ]
    found = GAE(gamma=gamma, lam=lam, whiten=False).estimate(outcomes, turn_N, value_N)
    assert found.advantage_N == pytest.approx(expected, abs=1e-9)
    assert found.target_N == pytest.approx(np.array(expected) + value_N, abs=1e-9)


@FEW
@given(EPISODES)
def test_without_values_gae_of_ragen_is_the_return_to_go(parts, episodes):
    outcomes, turn_N, value_N = tokens_of(parts, episodes)
    found = GAE(whiten=False).estimate(outcomes, turn_N, 0 * value_N)
    to_go = [sum(reward for reward, _ in turns[number:]) for turns in episodes for number in range(len(turns))]
    assert found.advantage_N == pytest.approx(np.array(to_go)[turn_N], abs=1e-9)


@FEW
@given(EPISODES)
def test_true_values_leave_no_advantage(parts, episodes):
    outcomes, turn_N, _ = tokens_of(parts, episodes)
    to_go = [sum(reward for reward, _ in turns[number:]) for turns in episodes for number in range(len(turns))]
    found = GAE(lam=0.3, whiten=False).estimate(outcomes, turn_N, np.array(to_go)[turn_N])
    assert found.advantage_N == pytest.approx(np.zeros(len(turn_N)), abs=1e-9)


def test_whitening_leaves_the_targets_alone(parts):
    outcomes, turn_N, value_N = tokens_of(parts, [[(1, [0.5, 0.1]), (0, [0.2])], [(3, [1.0])]])
    plain = GAE(whiten=False).estimate(outcomes, turn_N, value_N)
    white = GAE().estimate(outcomes, turn_N, value_N)
    assert white.target_N.tolist() == plain.target_N.tolist()
    assert white.advantage_N.mean() == pytest.approx(0)
    assert white.advantage_N.std() == pytest.approx(1)
    equal = GAE().estimate(*tokens_of(parts, [[(2, [0])], [(2, [0])]]))
    assert equal.advantage_N.tolist() == [0, 0]


def test_the_reward_of_a_turn_without_tokens_belongs_to_the_token_before(parts):
    outcomes = parts.make_outcomes([[1, 2, 4], [8, 16]])
    found = GAE(whiten=False).estimate(outcomes, np.array([0, 2, 4]), np.zeros(3))
    # turn 1 (reward 2) sampled nothing: token 0 earned 3; the second episode's first reward was nobody's
    assert found.advantage_N.tolist() == [7, 4, 16]


def test_values_that_are_broken_or_out_of_order_are_refused(parts):
    outcomes, turn_N, value_N = tokens_of(parts, [[(1, [0.5]), (0, [0.2])]])
    with pytest.raises(PolicyFault, match="value head is broken"):
        GAE().estimate(outcomes, turn_N, value_N * math.nan)
    for wrong in (turn_N[:1], turn_N[::-1]):
        with pytest.raises(ValueError, match="the order of sampling"):
            GAE().estimate(outcomes, wrong, value_N)
    with pytest.raises(PolicyFault, match="critic is broken"):
        ArCHer().estimate(TurnValues(torch.full((2, 1), math.inf), torch.zeros(2, 1)))


def test_the_value_loss_by_hand():
    # old 0, target 1, clip 0.2. At 0.1: ½·0.81. At 0.5: clipped to 0.2, ½·0.64 > ½·0.25. At −0.5: ½·2.25 > ½·1.44.
    value = torch.tensor([0.1, 0.5, -0.5], requires_grad=True)
    loss = value_loss(value, torch.zeros(3), torch.ones(3), 0.2)
    assert loss.tolist() == pytest.approx([0.405, 0.32, 1.125])
    loss.sum().backward()
    # moved far enough already: no gradient; moved away: pulled back at full strength
    assert value.grad is not None
    assert value.grad.tolist() == pytest.approx([-0.9, 0, -1.5])


@FEW
@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER), min_size=1, max_size=9), st.floats(0.01, 2))
def test_the_value_loss_is_its_formula(triples, clip):
    now, old, target = (torch.tensor(each, dtype=torch.float64) for each in zip(*triples, strict=True))
    expected = [
        0.5 * max((v - r) ** 2, (min(max(v, before - clip), before + clip) - r) ** 2) for v, before, r in triples
    ]
    assert value_loss(now, old, target, clip).tolist() == pytest.approx(expected, abs=1e-9)


def test_a_value_head_begins_at_zero_and_learns_a_value_that_is_linear_in_the_hidden_state():
    torch.manual_seed(0)
    head, hidden = ValueHead(6), torch.randn(200, 6).bfloat16()
    assert head(hidden).dtype == torch.float32
    assert not head(hidden).any()
    target = hidden.float() @ torch.tensor([1.0, -2.0, 0.5, 0, 0, 3]) + 0.7
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        value_loss(head(hidden), head(hidden).detach(), target, 1e9).mean().backward()
        optimizer.step()
    assert head(hidden).detach().numpy() == pytest.approx(target.numpy(), abs=0.02)


def test_archer_takes_the_smaller_of_each_pair():
    values = TurnValues(torch.tensor([[3.0, 1.0], [2.0, 5.0]]), torch.tensor([[1.0, 4.0], [0.5, 6.0]]))
    assert ArCHer().estimate(values).tolist() == [1.5, -3.0]


def test_turn_targets_end_with_the_episode():
    # episodes of two, none and one turn
    found = turn_targets(
        torch.tensor([1.0, 2.0, 4.0]),
        torch.tensor([0, 2, 2, 3]),
        torch.tensor([[10.0, 20.0, 30.0], [1.0, 2.0, 3.0]]),
        0.5,
    )
    assert found.tolist() == [[11, 2, 4], [2, 2, 4]]


def test_the_critic_loss_by_hand():
    now = TurnValues(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[3.0, 0.0], [4.0, 7.0]]))
    targets = torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.0], [2.0, 0.0]])
    # Q: 1 + 4 and 0 + 1; V: 0 + 4 and 0 + 49, of which the present policy played the first turn only.
    assert critic_loss(now, *targets, torch.tensor([True, True])).item() == (1 + 4 + 1) / 2 + (4 + 49) / 2
    assert critic_loss(now, *targets, torch.tensor([True, False])).item() == (1 + 4 + 1) / 2 + 4
    assert critic_loss(now, *targets, torch.tensor([False, False])).item() == (1 + 4 + 1) / 2


def test_a_target_critic_follows_softly_and_has_no_gradient():
    torch.manual_seed(0)
    critic = TurnCritic(3, 2, hidden=4)
    target = critic.follower()
    with torch.no_grad():
        for weight in critic.parameters():
            weight.add_(1.0)
    before = [weight.clone() for weight in target.parameters()]
    target.follow(critic, 0.1)
    for old, new in zip(before, target.parameters(), strict=True):
        assert torch.allclose(new, old + 0.1)
        assert not new.requires_grad


def test_a_turn_critic_learns_the_values_of_a_small_chain():
    """State 0 to state 1 to the end, reward 1 for action 1 in state 1; γ = 0.95, actions at random.

    Q(1, 1) = 1, Q(1, 0) = 0, V(1) = ½, Q(0, ·) = 0.95·½.
    """
    torch.manual_seed(0)
    actions = torch.randint(0, 2, (128,))  # 64 episodes of two turns
    states = torch.eye(2).repeat(64, 1)
    starts = torch.arange(0, 129, 2)
    rewards = torch.where(torch.arange(128) % 2 == 1, actions, 0).float()
    features = torch.nn.functional.one_hot(actions, 2).float()
    settings, critic = ArCHer(), TurnCritic(2, 2, hidden=16)
    target = critic.follower()
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.01)
    for _ in range(400):
        optimizer.zero_grad()
        settings.loss(critic, target, states, features, rewards, starts, torch.ones(128, dtype=torch.bool)).backward()
        optimizer.step()
        target.follow(critic, settings.tau)
    values = critic(states, features)
    mean = rewards[1::2].mean().item()  # of the sample, near ½
    ends, taken = torch.arange(128) % 2 == 1, actions == 1
    for q, v in zip(values.q_2U, values.v_2U, strict=True):
        assert q[ends & taken].tolist() == pytest.approx([1] * int((ends & taken).sum()), abs=0.05)
        assert q[ends & ~taken].tolist() == pytest.approx([0] * int((ends & ~taken).sum()), abs=0.05)
        assert v[ends].tolist() == pytest.approx([mean] * 64, abs=0.05)
        assert q[~ends].tolist() == pytest.approx([0.95 * mean] * 64, abs=0.05)
    advantage = settings.estimate(values)
    assert (advantage[(ends & taken).numpy()] > 0.3).all()
    assert (advantage[(ends & ~taken).numpy()] < -0.3).all()


def test_values_are_float32_under_autocast():
    head = ValueHead(4)
    with torch.no_grad():
        head.linear.bias.fill_(1 / 3)  # no number of bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        value_N = head(torch.zeros(2, 4, dtype=torch.bfloat16))
    assert value_N.dtype == torch.float32
    assert value_N.tolist() == pytest.approx([1 / 3] * 2, rel=1e-6)
