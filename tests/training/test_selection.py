"""Which attempts are imitated, and how strongly: by hand, and for any returns."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from agentkit.errors import ConfigError
from agentkit.task import Task
from agentkit.training.selection import Best, Given, Selection, Successes, Top, advantage_weights, corrected_turns


def attempt(parts, name, seed, reward, actions="Up", **changes):
    """An attempt at the task of this seed, a turn for each word of `actions`; the last earns `reward`."""
    turns = [parts.make_turn([1], [40], action=action, response=f"{name} {action}") for action in actions.split()]
    turns[-1] = turns[-1].model_copy(update={"reward": reward})
    values = {"task": Task(env_id="test/Env-v0", seed=seed), "success": reward > 0}
    return parts.make_episode(turns, name, **(values | changes))


def names(episodes):
    return [episode.id for episode in episodes]


def test_given_keeps_all_and_successes_what_succeeded(parts):
    failed = attempt(parts, "failed", 0, 1.0, error="the world broke")
    episodes = [attempt(parts, "won", 0, 1.0), attempt(parts, "lost", 0, 0.0), failed]
    assert names(Given().choose(episodes)) == ["won", "lost", "failed"]
    assert names(Successes().choose(episodes)) == ["won"]


def test_the_top_share_is_taken_of_each_task(parts):
    returns = {"a": (0, 0.1), "b": (0, 0.9), "c": (0, 0.5), "d": (1, 0.0), "e": (0, 0.9)}
    episodes = [attempt(parts, name, *values) for name, values in returns.items()]
    assert names(Top(share=0.5).choose(episodes)) == ["b", "d", "e"]  # two of four, and at least one
    assert names(Top(share=0.25).choose(episodes)) == ["b", "d"]  # of equals the earlier
    assert names(Top(share=0.75).choose(episodes)) == ["b", "c", "d", "e"]
    assert Top(share=1.0).choose(episodes) == episodes


def test_the_best_successes_differ_in_what_they_did(parts):
    episodes = [
        attempt(parts, "long", 0, 1.0, "Up Up Left"),
        attempt(parts, "short", 0, 1.0, "Left"),
        attempt(parts, "same", 0, 1.0, "Left"),
        attempt(parts, "better", 0, 2.0, "Up Left"),
        attempt(parts, "lost", 0, -1.0, "Down"),
        attempt(parts, "other", 1, 1.0, "Left"),
    ]
    assert names(Best(num=1).choose(episodes)) == ["better", "other"]
    assert names(Best(num=2).choose(episodes)) == ["short", "better", "other"]
    assert names(Best(num=9).choose(episodes)) == ["long", "short", "better", "other"]
    assert names(Best(num=9, distinct="responses").choose(episodes)) == ["long", "short", "same", "better", "other"]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5)), min_size=1, max_size=30),
    st.floats(0.01, 1.0),
)
def test_of_every_task_the_share_is_kept_and_nothing_better_is_dropped(parts, values, share):
    episodes = [attempt(parts, str(number), *value) for number, value in enumerate(values)]
    kept = set(names(Top(share=share).choose(episodes)))
    for seed in {seed for seed, _ in values}:
        of_task = [episode for episode in episodes if episode.task.seed == seed]
        taken = [episode.episode_return for episode in of_task if episode.id in kept]
        left = [episode.episode_return for episode in of_task if episode.id not in kept]
        assert len(taken) == max(1, math.ceil(round(share * len(of_task), 9)))
        assert not left or min(taken) >= max(left)


def test_weights_are_of_the_return_above_the_mean_of_the_task(parts):
    episodes = [attempt(parts, "a", 0, 1.0), attempt(parts, "b", 0, 0.0), attempt(parts, "c", 1, 7.0)]
    weights = advantage_weights(episodes, beta=0.5, most=20)
    assert weights == {"a": pytest.approx(math.e), "b": pytest.approx(1 / math.e), "c": 1.0}
    assert advantage_weights(episodes, beta=0.01, most=20)["a"] == pytest.approx(20)
    assert advantage_weights(episodes, beta=1e-6, most=20)["b"] == 0


def test_weights_that_are_all_one_are_refused(parts):
    episodes = [attempt(parts, "a", 0, 1.0), attempt(parts, "b", 0, 1.0), attempt(parts, "c", 1, 0.0)]
    with pytest.raises(ConfigError, match=r"none of 3 episodes differs in return .* leave out advantage_beta"):
        advantage_weights(episodes, beta=1.0, most=20)


def test_what_a_later_attempt_did_better_was_wrong(parts):
    branch = {"parent_id": "lost"}
    episodes = [
        attempt(parts, "lost", 0, 0.0, "a b c d e"),
        attempt(parts, "early", 0, 1.0, "a x", parent_turn=1, **branch),
        attempt(parts, "late", 0, 1.0, "a b c x", parent_turn=3, **branch),
        attempt(parts, "vain", 0, 0.0, "a b c d x", parent_turn=4, **branch),
        attempt(parts, "won", 0, 1.0, "a b"),
        attempt(parts, "again", 0, 1.0, "a c", parent_id="won", parent_turn=1),
    ]
    assert corrected_turns(episodes) == {"lost": frozenset({3, 4})}


def test_a_spliced_path_was_wrong_from_its_first_error_to_the_splice(parts):
    def walk(name, way, **changes):
        """An attempt whose turns are states and actions."""
        turns = [parts.make_turn([1], [40], state_key=step[0], action=step[1]) for step in way.split()]
        return parts.make_episode(turns, name, **({"group_id": "g"} | changes))

    won = walk("won", "aU bR cR")  # from state a up, from b right
    spliced = {"policy": "p+agent-r", "parent_id": "lost", "parent_turn": 3}
    path = walk("path", "aU bL dR bR cR", **spliced)  # left from b, back to b, then as the success did
    lost = walk("lost", "aU bL dR bL", success=False)
    assert corrected_turns([won, lost, path]) == {"path": frozenset({1, 2})}
    assert corrected_turns([lost, path]) == {}
    assert corrected_turns([won.model_copy(update={"group_id": "h"}), lost, path]) == {}


def test_an_unknown_selection_is_an_error():
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        TypeAdapter(Selection).validate_python({"name": "bset"})
    with pytest.raises(ValidationError):
        Top(share=0)
