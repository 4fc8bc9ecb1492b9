"""Credit by turn: turns with memories, and turns before an attempt branched."""

from __future__ import annotations

import pytest
import torch

from agentkit.training.credit import Pivot, Recalled
from agentkit.training.rows import build_rows
from agentkit.training.stream import flatten


def weigh(scheme, episodes):
    rows = build_rows(episodes)[0]
    return scheme.weights(flatten(rows, torch.zeros(sum(row.num_sampled for row in rows)))).tolist()


def conversation(parts, memories):
    """Turns of two tokens, each continuing the row of the one before."""
    turns, prompt = [], [1]
    for shown in memories:
        turns.append(parts.make_turn(prompt, [7, 8], memory_ids=shown))
        prompt = [*prompt, 7, 8, 2]
    return turns


def windowed(parts, num):
    """Turns whose prompts do not continue each other: a row each."""
    return [parts.make_turn([10 + number], [7]) for number in range(num)]


def test_tokens_of_turns_with_memories_get_their_weight(parts):
    turns = conversation(parts, [("m",), (), ("m", "n")])
    assert weigh(Recalled(), [parts.make_episode(turns)]) == [0, 0, 1, 1, 0, 0]
    assert weigh(Recalled(weight=2.5), [parts.make_episode(turns)]) == [2.5, 2.5, 1, 1, 2.5, 2.5]


def test_memories_are_those_of_the_tokens_own_episode_also_in_rows_of_their_own(parts):
    plain = windowed(parts, 2)
    recalling = [parts.make_turn([30], [7]), parts.make_turn([40], [7], memory_ids=("m",))]
    assert weigh(Recalled(), [parts.make_episode(plain), parts.make_episode(recalling)]) == [1, 1, 1, 0]


def test_without_memories_or_branches_every_token_weighs_one(parts):
    episode = parts.make_episode(conversation(parts, [(), ()]))
    assert weigh(Recalled(), [episode]) == weigh(Pivot(), [episode]) == [1] * 4


def test_the_turns_before_the_pivot_are_masked_in_the_attempt_and_in_its_retry(parts):
    base = parts.make_episode(windowed(parts, 3), "base")
    retry = parts.make_episode(windowed(parts, 4), "retry", parent_id="base", parent_turn=2)
    other = parts.make_episode(windowed(parts, 2), "other")
    assert weigh(Pivot(), [base, retry, other]) == [0, 0, 1, 0, 0, 1, 1, 1, 1]
    assert weigh(Pivot(), [retry, base]) == [0, 0, 1, 1, 0, 0, 1]


def test_a_pivot_inside_a_row_masks_only_the_turns_before_it(parts):
    turns = conversation(parts, [(), (), ()])
    retry = parts.make_episode(turns, "retry", parent_id="elsewhere", parent_turn=1)
    assert weigh(Pivot(), [retry]) == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("branches", "expected"),
    [
        ([("a", 2), ("a", 1)], [0, 1, 1]),  # two retries: from the first pivot on the attempt stands against one
        ([("a", 0)], [1, 1, 1]),  # a new start shares nothing
    ],
)
def test_an_attempt_keeps_its_turns_from_its_first_branch_on(parts, branches, expected):
    episodes = [parts.make_episode(windowed(parts, 3), "a")] + [
        parts.make_episode((), str(number), parent_id=parent, parent_turn=turn)
        for number, (parent, turn) in enumerate(branches)
    ]
    assert weigh(Pivot(), episodes) == expected


def test_a_retry_that_is_retried_keeps_the_turns_it_chose_itself(parts):
    middle = parts.make_episode(windowed(parts, 4), "b", parent_id="a", parent_turn=1)
    last = parts.make_episode(windowed(parts, 4), "c", parent_id="b", parent_turn=3)
    assert weigh(Pivot(), [middle, last]) == [0, 1, 1, 1, 0, 0, 0, 1]


def test_neither_scheme_needs_a_pass(parts):
    for scheme in (Recalled(), Pivot()):
        assert not scheme.needs_reference
        assert not scheme.needs_policy
