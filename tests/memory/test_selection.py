"""Selection: greedy MMR by hand and against a plain loop, never over a budget."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.errors import ConfigError
from agentkit.memory.kinds import Kind
from agentkit.memory.selection import Candidate, cosine, select


def table(rows):
    """Similarity by a matrix."""
    return lambda row: np.array(rows, dtype=float)[row]


def unasked(row):
    """Without diversity, no similarity is needed."""
    raise AssertionError("a similarity was asked for")


def ids(chosen):
    return [one.id for one in chosen]


ALIKE = [[1.0, 0.9, 0.1], [0.9, 1.0, 0.1], [0.1, 0.1, 1.0]]


def test_marginal_relevance_worked_by_hand():
    three = [Candidate("a", 1.0, 10), Candidate("b", 0.9, 10), Candidate("c", 0.6, 10)]
    # after a, with diversity 0.5: b 0.45 - 0.45 = 0; c 0.30 - 0.05 = 0.25. With 0.2: b 0.72 - 0.18; c 0.48 - 0.02
    assert ids(select(three, table(ALIKE), budget_tokens=100, most=2, diversity=0.5)) == ["a", "c"]
    assert ids(select(three, table(ALIKE), budget_tokens=100, most=2, diversity=0.2)) == ["a", "b"]
    assert ids(select(three, unasked, budget_tokens=100, most=2, diversity=0.0)) == ["a", "b"]


def test_only_what_is_selected_counts_as_said():
    # c is like d, which is never shown: a penalty against all candidates would choose b
    rows = np.eye(4)
    rows[2, 3] = rows[3, 2] = 1.0
    four = [Candidate("a", 1.0, 1), Candidate("b", 0.5, 1), Candidate("c", 0.6, 1), Candidate("d", 0.1, 1)]
    assert ids(select(four, table(rows), budget_tokens=9, most=2, diversity=0.5)) == ["a", "c"]


def test_diversity_means_the_same_whatever_the_scale_of_the_scores():
    small = [Candidate("a", 0.1, 10), Candidate("b", 0.09, 10), Candidate("c", 0.06, 10)]
    assert ids(select(small, table(ALIKE), budget_tokens=100, most=2, diversity=0.2)) == ["a", "b"]


def test_what_does_not_fit_is_passed_over_for_what_does():
    three = [Candidate("a", 0.9, 60), Candidate("b", 0.8, 50), Candidate("c", 0.3, 40)]
    assert ids(select(three, unasked, budget_tokens=100, most=3, diversity=0.0)) == ["a", "c"]
    assert ids(select(three, unasked, budget_tokens=59, most=3, diversity=0.0)) == ["b"]
    assert select(three, unasked, budget_tokens=39, most=3, diversity=0.0) == []
    assert select(three, unasked, budget_tokens=100, most=0, diversity=0.0) == []
    assert select([], unasked, budget_tokens=100, most=3) == []


def test_an_episode_is_shown_once_unless_more_are_asked_for():
    three = [Candidate("a", 0.9, 1, "one"), Candidate("b", 0.8, 1, "one"), Candidate("c", 0.7, 1, "two")]
    assert ids(select(three, unasked, budget_tokens=9, most=3, diversity=0.0)) == ["a", "c"]
    assert ids(select(three, unasked, budget_tokens=9, most=3, diversity=0.0, per_source=2)) == ["a", "b", "c"]
    many = [Candidate("a", 0.9, 1), Candidate("b", 0.8, 1)]
    assert ids(select(many, unasked, budget_tokens=9, most=3, diversity=0.0)) == ["a", "b"]


def test_what_scores_nothing_is_not_shown():
    assert ids(
        select([Candidate("a", 0.0, 1), Candidate("b", 0.1, 1)], unasked, budget_tokens=9, most=3, diversity=0)
    ) == ["b"]


def test_a_failure_is_certain_of_a_place_if_it_is_asked_for():
    good = [Candidate(name, 0.9, 10) for name in "abc"]
    bad = [Candidate("x", 0.3, 10, kind="failure"), Candidate("y", 0.2, 10, kind="failure")]

    def pick(candidates, most=3, budget_tokens=100, with_failure=True):
        return ids(
            select(
                candidates, unasked, budget_tokens=budget_tokens, most=most, diversity=0.0, with_failure=with_failure
            )
        )

    assert pick(good + bad, with_failure=False) == ["a", "b", "c"]
    assert pick(good + bad) == ["a", "b", "x"]
    assert pick(good + bad, budget_tokens=20) == ["a", "x"]
    assert pick(good + bad, budget_tokens=19) == ["a"]  # no tokens for another beside it
    assert pick(good + bad, most=1) == ["a"]
    assert pick(good) == ["a", "b", "c"]
    assert pick(bad) == ["x", "y"]
    assert pick([*good, Candidate("x", 0.0, 10, kind="failure")]) == ["a", "b", "c"]


def test_equals_are_ordered_by_id_however_they_come():
    for order in itertools.permutations([Candidate("a", 0.5, 1), Candidate("b", 0.5, 1), Candidate("c", 0.5, 1)]):
        assert ids(select(order, table(np.eye(3)), budget_tokens=9, most=2)) == ["a", "b"]


KINDS: list[Kind] = ["episode", "failure"]
drawn = st.lists(
    st.tuples(
        st.integers(0, 10), st.integers(0, 30), st.sampled_from(["", "one", "two", "three"]), st.sampled_from(KINDS)
    ),
    max_size=12,
)


@given(
    rows=drawn,
    seed=st.integers(0, 99),
    budget_tokens=st.integers(0, 100),
    most=st.integers(0, 6),
    diversity=st.floats(0, 1),
    per_source=st.integers(1, 2),
    with_failure=st.booleans(),
)
def test_no_limit_is_ever_exceeded_and_nothing_that_fits_is_left_out(
    rows, seed, budget_tokens, most, diversity, per_source, with_failure
):
    vectors = np.random.default_rng(seed).normal(size=(len(rows), 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    candidates = [Candidate(f"m{n:02}", score / 10, *rest) for n, (score, *rest) in enumerate(rows)]
    chosen = select(
        candidates,
        cosine(vectors),
        budget_tokens=budget_tokens,
        most=most,
        diversity=diversity,
        per_source=per_source,
        with_failure=with_failure,
    )
    used = sum(one.tokens for one in chosen)
    assert used <= budget_tokens
    assert len(chosen) <= most
    assert len(set(ids(chosen))) == len(chosen)
    sources = [one.source for one in chosen if one.source]
    assert all(sources.count(source) <= per_source for source in sources)
    assert [one.score for one in chosen] == sorted((one.score for one in chosen), reverse=True)
    if len(chosen) < most:
        for one in set(candidates) - set(chosen):
            full = one.source and sources.count(one.source) >= per_source
            assert one.score == 0 or one.tokens > budget_tokens - used or full


@given(seed=st.integers(0, 999), diversity=st.floats(0, 1), most=st.integers(1, 8))
def test_the_same_are_chosen_as_by_a_plain_loop(seed, diversity, most):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(15, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    candidates = [Candidate(f"m{n:02}", float(score), 1) for n, score in enumerate(random.uniform(0.1, 1, 15))]
    best = max(one.score for one in candidates)
    chosen: list[int] = []
    while len(chosen) < most:

        def gain(row):
            if not chosen:
                return candidates[row].score
            alike = max(float(vectors[row] @ vectors[other]) for other in chosen)
            return (1 - diversity) * candidates[row].score / best - diversity * alike

        chosen.append(max((row for row in range(15) if row not in chosen), key=gain))
    found = select(candidates, cosine(vectors), budget_tokens=100, most=most, diversity=diversity)
    assert set(ids(found)) == {candidates[row].id for row in chosen}


def test_bad_input_is_named():
    one = [Candidate("a", 1.0, 1)]
    with pytest.raises(ConfigError, match=r"diversity 1.5 is outside \[0, 1\]"):
        select(one, unasked, budget_tokens=1, most=1, diversity=1.5)
    with pytest.raises(ConfigError, match="budget_tokens is -1; it must be at least 0"):
        select(one, unasked, budget_tokens=-1, most=1)
    with pytest.raises(ConfigError, match="per_source is 0; it must be at least 1"):
        select(one, unasked, budget_tokens=1, most=1, per_source=0)
    with pytest.raises(ConfigError, match="twice; keep the better"):
        select(one * 2, unasked, budget_tokens=1, most=1)
    with pytest.raises(ConfigError, match="candidate 'b' has score nan"):
        select([Candidate("b", float("nan"), 1)], unasked, budget_tokens=1, most=1)
