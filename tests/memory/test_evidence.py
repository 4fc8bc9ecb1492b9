"""Whether episodes bear out what a memory claims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentkit.memory.evidence import doubts_about, lack_of_evidence
from agentkit.memory.kinds import (
    Body,
    Draft,
    EpisodeBody,
    FactBody,
    FailureBody,
    InsightBody,
    SkillBody,
    Source,
    StepBody,
)
from agentkit.memory.records import Episode

Make = Callable[..., Episode]


def draft_of(
    body: Body, key: str = "a frozen lake", parents: tuple[str, ...] = (), ids: tuple[str, ...] = ("one",)
) -> Draft:
    source = Source(writer="environment", episode_ids=ids, parents=parents)
    return Draft(body=body, text="text", keys={"state": key}, env_id="test/Env-v0", source=source)


def insight(action: str) -> InsightBody:
    return InsightBody(condition="c", advice="a", action=action)


@pytest.mark.parametrize(
    ("body", "success"),
    [
        (EpisodeBody(success=True, episode_return=1.0, actions=("go 0", "go 1")), True),
        (EpisodeBody(success=False, episode_return=0.0, actions=("go 0", "go 1")), False),
        (StepBody(observation="a frozen lake", action="go 0", reward=0.0, next_observation=""), True),
        (insight("go {number}"), True),
        (InsightBody(condition="c", advice="a", avoid="go 1"), False),
        (InsightBody(condition="c", advice="look around"), True),
        (SkillBody(name="s", actions=("go {a}", "go {b}")), True),
        (FailureBody(signature="s", cause="loop", action="go 1"), False),
        (FactBody(subject="ice", relation="is", value="slippery"), True),
    ],
)
def test_every_kind_is_borne_out_by_an_episode_that_shows_it(body: Body, success: bool, make_episode: Make) -> None:
    assert lack_of_evidence(draft_of(body), {"one": make_episode(success=success)}.get) is None


@pytest.mark.parametrize(
    ("body", "success"),
    [
        (EpisodeBody(success=True, episode_return=1.0, actions=("go 0", "go 1")), False),
        (EpisodeBody(success=True, episode_return=1.0, actions=("go 0",)), True),
        (StepBody(observation="a frozen lake", action="go 0", reward=1.0, next_observation=""), True),
        (insight("go 7"), True),
        (insight("go 1"), False),
        (InsightBody(condition="c", advice="a", avoid="go 1"), True),
        (SkillBody(name="s", actions=("go 1", "go 0")), True),
        (FailureBody(signature="s", cause="loop", action="go 7"), False),
    ],
)
def test_a_claim_that_the_episode_does_not_show_is_not_borne_out(body: Body, success: bool, make_episode: Make) -> None:
    lack = lack_of_evidence(draft_of(body), {"one": make_episode(success=success)}.get)
    assert lack == "the episodes it names do not show what it claims"


def test_an_unrecorded_or_unnamed_episode_is_no_evidence() -> None:
    assert "none of the 1 episodes" in str(lack_of_evidence(draft_of(insight("go 1")), lambda _: None))
    assert lack_of_evidence(draft_of(insight("go 1"), ids=()), lambda _: None) == "it names no episode"


def test_a_key_with_words_that_were_never_shown_is_not_borne_out(make_episode: Make) -> None:
    log: dict[str, Episode] = {"one": make_episode()}
    assert lack_of_evidence(draft_of(insight("go 1"), "a frozen lake today"), log.get) is None  # one word is excepted
    lack = lack_of_evidence(draft_of(insight("go 1"), "a frozen lake under heliotrope tangent"), log.get)
    assert lack == "its key 'state' holds words that the episodes it names never showed"


def test_a_memory_is_no_evidence_for_itself(make_episode: Make) -> None:
    episode = make_episode()
    shown = episode.model_copy(
        update={"turns": tuple(turn.model_copy(update={"memory_ids": ("m1",)}) for turn in episode.turns)}
    )
    descendant = draft_of(insight("go 1"), parents=("m1",))
    assert "while the memory it was made from was shown" in str(lack_of_evidence(descendant, {"one": shown}.get))
    assert lack_of_evidence(descendant, {"one": episode}.get) is None
    independent = draft_of(insight("go 1"), parents=("m1",), ids=("one", "two"))
    assert lack_of_evidence(independent, {"one": shown, "two": episode}.get) is None


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({"terminated": False}, "success without a terminal state"),
        ({"action": None, "reward": 1.0}, "a reward in a turn without an action"),
        ({"reward": float("nan")}, "a reward is not a finite number"),
    ],
)
def test_a_success_that_cannot_have_been_is_doubted(changes: dict[str, Any], doubt: str, make_episode: Make) -> None:
    episode = make_episode()
    assert doubts_about(episode) == ()
    turns = (*episode.turns[:-1], episode.turns[-1].model_copy(update=changes))
    forged = episode.model_copy(update={"turns": turns})
    assert doubt in doubts_about(forged)
    assert "doubtful" in str(lack_of_evidence(draft_of(insight("go 1")), {"one": forged}.get))


def told(episode: Episode, turn: int, memory_id: str) -> Episode:
    """The episode with a memory shown at one turn."""
    turns = [
        one.model_copy(update={"memory_ids": (memory_id,)}) if number == turn else one
        for number, one in enumerate(episode.turns)
    ]
    return episode.model_copy(update={"turns": tuple(turns)})


@pytest.mark.parametrize(
    ("advice", "turn", "evidence"),
    [
        (insight("go 1"), 1, False),  # the very action, advised as it was played
        (insight("go {number}"), 1, False),
        (insight("go 0"), 1, True),  # advice to do something else
        (insight("go 1"), 0, True),  # advice that was shown before, and not when it was played
        (InsightBody(condition="c", advice="a", avoid="go 1"), 1, True),
        (FactBody(subject="ice", relation="is", value="slippery"), 1, True),
    ],
)
def test_what_was_done_because_a_memory_advised_it_is_no_evidence(
    advice: Body, turn: int, evidence: bool, make_episode: Make
) -> None:
    episode = told(make_episode(), turn, "m")
    lack = lack_of_evidence(draft_of(insight("go 1")), {"one": episode}.get, {"m": advice}.get)
    assert (lack is None) == evidence
    if lack is not None:
        assert lack == "in the episodes it names, a memory that was shown had advised what it advises"
    untold = {"one": episode, "two": make_episode("two")}.get
    assert lack_of_evidence(draft_of(insight("go 1"), ids=("one", "two")), untold, {"m": advice}.get) is None
    assert lack_of_evidence(draft_of(insight("go 1")), {"one": episode}.get) is None, "nobody can tell what was advised"
