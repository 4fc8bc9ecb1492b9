"""Rows: which turns join, and that every sampled token keeps its role and log-probability."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.memory.records import Role
from agentkit.training.rows import JoinCounts, build_rows

IDS = st.lists(st.integers(0, 9), min_size=1, max_size=5)


def test_turns_whose_prompt_continues_the_row_join_it(parts):
    turns = [parts.make_turn([1, 2], [3, 4]), parts.make_turn([1, 2, 3, 4, 5], [6])]
    rows, counts = build_rows([parts.make_episode(turns)])
    assert counts == JoinCounts(joined=1, forked=0, skipped=0)
    (row,) = rows
    assert len(row) == 6
    assert row.ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert row.sampled.tolist() == [False, False, True, True, False, True]
    # parts.make_turn: role i mod 4 + 3, log-probability −i/100
    assert row.roles[row.sampled].tolist() == [Role.OTHER, Role.THOUGHT, Role.FORMAT]
    assert row.logprobs[row.sampled].tolist() == pytest.approx([-0.03, -0.04, -0.06])
    assert row.logprobs[~row.sampled].tolist() == [0, 0, 0]


def test_any_other_prompt_starts_a_new_row(parts):
    windowed = [parts.make_turn([1, 2], [3]), parts.make_turn([2, 3, 4], [5]), parts.make_turn([2, 3, 4, 5, 6], [7])]
    rows, counts = build_rows([parts.make_episode(windowed)])
    assert counts == JoinCounts(joined=1, forked=1, skipped=0)
    assert [row.ids.tolist() for row in rows] == [[1, 2, 3], [2, 3, 4, 5, 6, 7]]


def test_a_prompt_that_ends_inside_the_row_does_not_join(parts):
    rows, counts = build_rows([parts.make_episode([parts.make_turn([1, 2], [3, 4]), parts.make_turn([1, 2, 3], [9])])])
    assert counts.forked == 1
    assert [row.ids.tolist() for row in rows] == [[1, 2, 3, 4], [1, 2, 3, 9]]


def test_an_equal_prompt_asked_twice_makes_two_rows(parts):
    rows, _ = build_rows([parts.make_episode([parts.make_turn([1, 2], [3]), parts.make_turn([1, 2], [4])])])
    assert [row.ids.tolist() for row in rows] == [[1, 2, 3], [1, 2, 4]]


def test_turns_without_tokens_are_skipped_and_counted(parts):
    turns = [parts.make_turn([1], [2]), parts.make_turn([], []), parts.make_turn([1, 2, 3], [4])]
    rows, counts = build_rows([parts.make_episode(turns), parts.make_episode()])
    assert counts == JoinCounts(joined=1, forked=0, skipped=1)
    assert [row.ids.tolist() for row in rows] == [[1, 2, 3, 4]]


def test_a_response_without_a_prompt_is_skipped_because_nothing_predicts_its_first_token(parts):
    rows, counts = build_rows([parts.make_episode([parts.make_turn([], [1, 2])])])
    assert (rows, counts.skipped) == ([], 1)


def test_episodes_never_share_a_row_and_rows_name_their_episode(parts):
    first, second = [parts.make_turn([1], [2])], [parts.make_turn([1, 2], [3])]
    rows, counts = build_rows([parts.make_episode(first), parts.make_episode(), parts.make_episode(second)])
    assert [row.episode for row in rows] == [0, 2]
    assert counts.joined == 0


@given(st.lists(st.lists(st.tuples(st.sampled_from(["join", "fork", "skip"]), IDS, IDS), max_size=6), max_size=4))
def test_the_sampled_tokens_of_rows_are_the_responses_in_order(parts, plans):
    episodes, responses, logprobs, roles = [], [], [], []
    for plan in plans:
        turns, history = [], list[int]()
        for kind, prompt, response in plan:
            if kind == "skip":
                turns.append(parts.make_turn([], []))
                continue
            prompt = (history if kind == "join" else []) + prompt
            turn = parts.make_turn(prompt, response)
            turns.append(turn)
            history = [*prompt, *response]
            responses.extend(turn.response_ids)
            logprobs.extend(turn.logprobs)
            roles.extend(turn.response_roles)
        episodes.append(parts.make_episode(turns))
    rows, counts = build_rows(episodes)

    def sampled(field):
        return [value for row in rows for value in getattr(row, field)[row.sampled].tolist()]

    assert sampled("ids") == responses
    assert sampled("roles") == roles
    assert sampled("logprobs") == np.array(logprobs, dtype=np.float32).tolist()
    assert counts.skipped == sum(not turn.response_ids for episode in episodes for turn in episode.turns)
    assert len(rows) + counts.joined + counts.skipped == sum(len(episode.turns) for episode in episodes)
