"""Distillation: which difference between a success and a failure becomes an insight, worked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit import ExpertPolicy, RandomPolicy, collect, make_tasks
from agentkit.errors import ConfigError
from agentkit.memory.distillation import distil
from agentkit.memory.kinds import Draft, FailureBody, InsightBody
from agentkit.memory.records import Episode, Turn
from agentkit.task import Task


def played(name: str, moves: str, *, success: bool, seed: int = 0, split: str = "train", end: str = "") -> Episode:
    """An episode of moves such as `a:east b:go`, each a state and an action; `_` is a space, `a#2` looks like `a`."""
    pairs = [move.replace("_", " ").split(":") for move in moves.split()]
    last = len(pairs) - 1
    turns = tuple(
        Turn(
            observation=f"You are at {state.partition('#')[0]}.",
            response=action,
            action=action,
            state_key=f"{seed}-{state}",
            terminated=end == "terminated" and number == last,
            truncated=end == "truncated" and number == last,
        )
        for number, (state, action) in enumerate(pairs)
    )
    task = Task(env_id="test/Env-v0", seed=seed, split=split)
    return Episode(id=name, task=task, turns=turns, success=success)


def insights(drafts: list[Draft]) -> list[InsightBody]:
    return [draft.body for draft in drafts if isinstance(draft.body, InsightBody)]


def test_the_decision_that_was_not_made_good_becomes_the_insight() -> None:
    good = played("good", "a:east b:north c:take", success=True)
    # leaves the path in a, comes back, leaves it for good in b
    bad = played("bad", "a:wait a:east b:south d:jump", success=False, end="terminated")
    (draft,) = distil([good], [bad])
    (body,) = insights([draft])
    assert (body.condition, body.action, body.avoid) == ("Seen: You are at b.", "north", "south")
    assert (body.evidence_for, body.evidence_against) == (("good", "bad"), ())
    assert (draft.source.episode_ids, draft.source.turns) == (("good", "bad"), (1,))
    assert draft.text == "Seen: You are at b.\nDo `north` rather than `south`. 2 of 2 attempts speak for it."
    assert (draft.status, draft.task_key) == ("active", good.task.key)


@pytest.mark.parametrize(
    ("moves", "lesson"),
    [
        ("a:south c:jump", ("take", "jump")),  # on the path again in c, and off it there
        ("a:south c:jump a:wait", ("east", "wait")),  # back in a, which it left last
        ("a:wait a:east b:north c:jump", ("take", "jump")),
        ("z:east y:jump", None),
        ("a:east b:north c:take", None),
    ],
)
def test_of_several_departures_the_last_counts(moves: str, lesson: tuple[str, str] | None) -> None:
    good = played("good", "a:east b:north c:take", success=True)
    made = insights(distil([good], [played("bad", moves, success=False)]))
    assert [(body.action, body.avoid) for body in made] == ([lesson] if lesson else [])


@pytest.mark.parametrize(
    ("east", "west", "advised"),
    [
        ((10, 5), (7, 3), False),  # 13 of 25 speak for it, but 10 of 15 is less than 7 of 10
        ((1, 3), (0, 1), False),  # 1 of 4 is more than 0 of 1, but 3 of 5 speak against it
        ((10, 5), (6, 4), True),
    ],
)
def test_advice_needs_the_better_rate_and_the_greater_evidence(
    east: tuple[int, int], west: tuple[int, int], advised: bool
) -> None:
    good = [
        played(f"{way}{n}", f"a:{way}", success=True) for way, k in (("e", east[0]), ("w", west[0])) for n in range(k)
    ]
    bad = [
        played(f"{way}-{n}", f"a:{way}", success=False) for way, k in (("e", east[1]), ("w", west[1])) for n in range(k)
    ]
    assert (("e", "w") in [(body.action, body.avoid) for body in insights(distil(good, bad))]) is advised


def test_an_attempt_that_speaks_both_ways_is_no_evidence() -> None:
    good = [played(f"good{n}", f"a#{n}:east", success=True) for n in range(2)]
    bad = [played(f"bad{n}", f"a#{n}:west", success=False) for n in range(2)]
    torn = played("torn", "a#0:east a#1:west", success=False)
    (body,) = insights(distil(good, [*bad, torn]))
    assert (set(body.evidence_for), body.evidence_against) == ({"good0", "bad0", "good1", "bad1"}, ())


def test_all_attempts_in_that_state_are_evidence() -> None:
    good = [played(f"good{n}", "a:east b:go", success=True) for n in range(3)]
    lucky = played("lucky", "a:west z:go", success=True)
    bad = [played(f"bad{n}", "a:west", success=False) for n in range(2)]
    unlucky = played("unlucky", "a:east b:fall", success=False)
    (first, *_) = insights(distil([*good, lucky], [*bad, unlucky]))
    assert (first.action, first.avoid) == ("east", "west")
    assert first.evidence_for == ("good0", "good1", "good2", "bad0", "bad1")
    assert first.evidence_against == ("unlucky", "lucky")


def test_what_does_not_succeed_more_often_is_not_advised() -> None:
    good = [played("one", "a:east", success=True), played("two", "a:west", success=True)]
    bad = [played("three", "a:west", success=False), played("four", "a:east", success=False)]
    assert insights(distil(good, bad)) == []


def test_equal_insights_of_many_pairs_are_one() -> None:
    good = [played(f"good{n}", "a:east b:go", success=True) for n in range(4)]
    bad = [played(f"bad{n}", f"a:{'west' if n < 3 else 'south'}", success=False) for n in range(5)]
    (body,) = insights(distil(good, bad))  # of twenty pairs
    assert (body.action, body.avoid) == ("east", "west")
    assert body.evidence_for == ("good0", "good1", "good2", "good3", "bad0", "bad1", "bad2")


def test_insights_of_several_tasks_are_pooled_under_one_template() -> None:
    good = [played(f"good{n}", f"box_{n + 1}:open_box_{n + 1}", success=True, seed=n) for n in range(2)]
    bad = [played(f"bad{n}", f"box_{n + 1}:leave_box_{n + 1}", success=False, seed=n) for n in range(2)]
    drafts = distil(good, bad)
    (body,) = insights(drafts)
    assert (body.condition, body.action) == ("Seen: You are at {object_1}.", "open {object_1}")
    assert (body.avoid, body.advice) == ("leave {object_1}", "Do `open {object_1}` rather than `leave {object_1}`.")
    assert body.evidence_for == ("good0", "bad0", "good1", "bad1")
    assert drafts[0].task_key == ""
    assert "Do `open {object_1}`" in drafts[0].text


def test_another_contrast_adds_only_what_it_says_of_the_same_action() -> None:
    good = [played(f"good{n}", f"box_{n + 1}:open_box_{n + 1}", success=True, seed=n) for n in range(2)]
    bad = [played("bad0", "box_1:leave", success=False), played("bad1", "box_2:kick", success=False, seed=1)]
    (body,) = insights(distil(good, bad))
    assert (body.avoid, body.evidence_for) == ("leave", ("good0", "bad0", "good1"))


def test_without_a_success_at_the_task_one_with_a_goal_alike_serves_on_probation() -> None:
    def aimed(name: str, thing: str, action: str, *, success: bool, seed: int) -> Episode:
        seen = (f"Task: heat the {thing}", f"You hold {thing} 2.")
        turns = tuple(
            Turn(observation=text, response=did, action=did, state_key=f"{seed}{text}")
            for text, did in zip(seen, (f"take {thing} 2", action), strict=True)
        )
        return Episode(id=name, task=Task(env_id="test/Env-v0", seed=seed), turns=turns, success=success)

    good = aimed("good", "egg", "heat egg 2", success=True, seed=0)
    bad = aimed("bad", "mug", "eat mug 2", success=False, seed=1)
    (draft,) = distil([good], [bad])
    (body,) = insights([draft])
    assert body.condition == "Goal: heat the {kind_1}\nSeen: You hold {object_1}."
    assert (body.action, body.avoid) == ("heat {object_1}", "eat {object_1}")
    assert (draft.status, draft.task_key) == ("probation", "")
    other = bad.model_copy(update={"task": bad.task.model_copy(update={"goal": "break the mug"})})
    assert distil([good], [other]) == []


def test_a_failure_gets_the_fix_of_who_was_in_its_place() -> None:
    good = played("good", "a:east b:north_1", success=True)
    looped = played("looped", "a:east b:kick_1 b:kick_1 b:kick_1", success=False, end="truncated")
    fell = played("fell", "a:east b:jump", success=False, end="terminated")
    drafts = [draft for draft in distil([good], [looped, fell]) if isinstance(draft.body, FailureBody)]
    told = {draft.body.signature: draft for draft in drafts if isinstance(draft.body, FailureBody)}
    assert set(told) == {"loop: kick {number_1}", "budget: turns ran out", "terminal: jump"}
    loop = told["loop: kick {number_1}"].body
    assert isinstance(loop, FailureBody)
    assert (loop.fix, loop.num_seen) == ("north {number_1}", 2)
    for draft, turn in ((told["terminal: jump"], 1), (told["budget: turns ran out"], 3)):
        assert isinstance(draft.body, FailureBody)
        assert draft.body.fix == "north {number_1}"
        assert draft.source.turns == (turn,)
        assert draft.source.episode_ids[1] == "good"
        assert "what has succeeded is `north 1`" in draft.text


def test_failures_of_one_sort_and_fix_are_one_and_counted() -> None:
    good = played("good", "a:east", success=True)
    bad = [played(f"bad{n}", "a:jump", success=False, end="terminated") for n in range(3)]
    (draft,) = [draft for draft in distil([good], bad) if draft.kind == "failure"]
    assert isinstance(draft.body, FailureBody)
    assert (draft.body.signature, draft.body.fix, draft.body.num_seen) == ("terminal: jump", "east", 3)
    assert draft.source.episode_ids == ("bad0", "good", "bad1", "bad2")


def test_splits_are_never_compared() -> None:
    good = played("good", "a:east", success=True, split="held_out")
    assert distil([good], [played("bad", "a:west", success=False)]) == []


def test_a_rambling_answer_is_no_advice() -> None:
    good = played("good", "a:" + "x" * 300, success=True)
    assert insights(distil([good], [played("bad", "a:west", success=False)])) == []


def test_attempts_on_the_wrong_side_are_refused() -> None:
    good, bad = played("good", "a:east", success=True), played("bad", "a:west", success=False)
    with pytest.raises(ConfigError, match="episode 'bad' failed, so it cannot be among the successes"):
        distil([bad], [])
    with pytest.raises(ConfigError, match="episode 'good' succeeded, so it cannot be among the failures"):
        distil([good], [good])


MOVES = st.lists(
    st.tuples(st.sampled_from(["a", "b", "box_1"]), st.sampled_from(["x", "y", "open_box_1"])), min_size=1, max_size=6
).map(lambda pairs: " ".join(":".join(pair) for pair in pairs))
ATTEMPTS = st.lists(st.tuples(MOVES, st.booleans(), st.integers(0, 2), st.sampled_from(["terminated", "truncated"])))


@settings(deadline=None)
@given(ATTEMPTS)
def test_every_citation_exists_and_no_insight_repeats(attempts) -> None:
    episodes = [
        played(f"e{number}", moves, success=success, seed=seed, end=end)
        for number, (moves, success, seed, end) in enumerate(attempts)
    ]
    check([episode for episode in episodes if episode.success], [made for made in episodes if not made.success])


def check(good: list[Episode], bad: list[Episode]) -> list[Draft]:
    """What must hold of any attempts."""
    drafts = distil(good, bad)
    assert [draft.model_dump_json() for draft in distil(good, bad)] == [draft.model_dump_json() for draft in drafts]
    episodes = {episode.id: episode for episode in (*good, *bad)}
    bodies = insights(drafts)
    assert len({(body.condition, body.action) for body in bodies}) == len(bodies)
    for draft in drafts:
        assert set(draft.source.episode_ids) <= set(episodes)
        first = episodes[draft.source.episode_ids[0]]
        (turn,) = draft.source.turns
        assert first.turns[turn].action is not None
        assert first.success is (draft.kind == "insight")
        if isinstance(draft.body, InsightBody):
            right, wrong = set(draft.body.evidence_for), set(draft.body.evidence_against)
            assert not right & wrong
            assert len(right) > len(wrong)
            assert right | wrong == set(draft.source.episode_ids)
        elif isinstance(draft.body, FailureBody):
            assert draft.body.fix
    return drafts


def test_real_attempts_give_insights_and_fixes() -> None:
    for env_id in ("agentkit/Household-v0", "agentkit/FrozenLake-v0", "agentkit/Sokoban-v0"):
        tasks = make_tasks(env_id, num=6)
        episodes = [
            *collect(ExpertPolicy(), tasks),
            *collect(RandomPolicy(), tasks),
            *collect(RandomPolicy(), tasks, seed=1),
        ]
        good = [episode for episode in episodes if episode.success]
        drafts = check(good, [episode for episode in episodes if not episode.success])
        assert {draft.kind for draft in drafts} == {"insight", "failure"}
