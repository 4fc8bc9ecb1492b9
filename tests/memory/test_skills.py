"""Skills: which sequences are worth repeating, counted by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit import ExpertPolicy, RandomPolicy, collect, make_tasks
from agentkit.errors import ConfigError, UnknownNameError
from agentkit.memory.kinds import SkillBody
from agentkit.memory.records import Episode, Turn
from agentkit.memory.skills import expand, extract_skills
from agentkit.memory.slots import match
from agentkit.task import Task


def played(name: str, actions: str, *, success: bool = True, split: str = "train", seed: int = 0) -> Episode:
    """An episode of actions separated by `; `; what is seen is what was done last."""
    done = actions.split("; ")
    turns = tuple(
        Turn(observation=f"It is day. You did {done[number - 1] if number else 'nothing'}.", response=act, action=act)
        for number, act in enumerate(done)
    )
    task = Task(env_id="test/Env-v0", seed=seed, split=split)
    return Episode(id=name, task=task, turns=turns, success=success)


def bodies(episodes: list[Episode], **bounds: float) -> list[SkillBody]:
    drafts = extract_skills(episodes, **bounds)  # type: ignore[arg-type]
    return [draft.body for draft in drafts if isinstance(draft.body, SkillBody)]


def actions_of(episodes: list[Episode], **bounds: float) -> list[tuple[str, ...]]:
    return [body.actions for body in bodies(episodes, **bounds)]


FETCH = [
    played("a", "look; open box 1; take egg 2 from box 1; leave; rest"),
    played("b", "open box 7; take mug 1 from box 7; leave; sing", seed=1),
    played("c", "sing; open jar 3; take pin 4 from jar 3; leave; look; rest", seed=2),
]


def test_what_successes_have_in_common_is_found_whatever_the_things() -> None:
    (draft,) = extract_skills([*FETCH, played("d", "look; rest", success=False)])
    body = draft.body
    assert isinstance(body, SkillBody)
    assert body.actions == ("open {object_1}", "take {object_2} from {object_1}", "leave")
    assert (body.slots, body.num_uses, body.num_successes) == (("object_1", "object_2"), 3, 3)
    assert body.preconditions == ("It is day.",)
    assert body.postconditions == ("It is day.", "You did leave.")
    assert (draft.source.episode_ids, draft.source.turns, draft.task_key) == (("a", "b", "c"), (1, 2, 3), "")
    assert draft.text.endswith("3 of 3 episodes that did so succeeded.")


def test_conditions_carry_the_slots_of_the_actions() -> None:
    episodes = [played(name, f"find box {n}; open box {n}; enter box {n}; rest") for n, name in enumerate("abc", 2)]
    made = {body.actions: body for body in bodies(episodes, max_length=2)}
    body = made["open {object_1}", "enter {object_1}"]
    assert body.preconditions == ("It is day.", "You did find {object_1}.")
    assert body.postconditions == ("It is day.", "You did enter {object_1}.")


def test_a_use_that_ends_its_episode_leaves_no_postcondition() -> None:
    (body,) = bodies([*FETCH[:2], played("c", "open jar 3; take pin 4 from jar 3; leave")])
    assert body.preconditions == ("It is day.",)
    assert body.postconditions == ()


def test_a_part_with_more_uses_than_the_whole_stays() -> None:
    more = [played(name, "open box 1; take egg 2 from box 1; eat") for name in "xyz"]
    assert actions_of([*FETCH, *more, played("d", "look", success=False)]) == [
        ("open {object_1}", "take {object_2} from {object_1}"),
        ("open {object_1}", "take {object_2} from {object_1}", "eat"),
        ("open {object_1}", "take {object_2} from {object_1}", "leave"),
    ]


def test_a_sequence_that_needs_fewer_or_longer_is_bounded() -> None:
    assert actions_of(FETCH[:2]) == []
    assert actions_of(FETCH[:1], min_support=1, max_length=6)[0][0] == "look"
    assert all(len(actions) == 2 for actions in actions_of(FETCH, max_length=2))


def test_habits_of_failures_are_no_skills() -> None:
    won = [played(f"w{n}", "wake; wash; work") for n in range(4)]
    lost = [played(f"l{n}", "wake; wash; drink", success=False) for n in range(4)]
    # all eight hold "wake; wash": (4.5 * 0.5) is not more than (4.5 * 0.5)
    assert actions_of([*won, *lost]) == [("wake", "wash", "work")]
    mostly_lost = [played(f"m{n}", "wake; wash; work", success=False) for n in range(5)]
    assert actions_of([*won, *mostly_lost, *lost]) == []  # 4 of 9 is less than half
    assert actions_of([*won, *mostly_lost, *lost], min_success=0.4) == [("wake", "wash", "work")]


def test_splits_are_kept_apart() -> None:
    assert actions_of([*FETCH[:2], played("c", "open jar 3; take pin 4 from jar 3; leave", split="held_out")]) == []


def test_invalid_turns_and_rambling_answers_break_a_sequence() -> None:
    broken = []
    changes: list[dict[str, object]] = [{"valid": False}, {"action": None}, {"action": "x" * 300}]
    for number, change in enumerate(changes):
        episode = played(f"b{number}", "wake; wash; work")
        turns = list(episode.turns)
        turns[1] = turns[1].model_copy(update=change)
        broken.append(episode.model_copy(update={"turns": tuple(turns)}))
    assert actions_of(broken, min_support=1) == []


def test_expanding_a_skill_gives_its_actions() -> None:
    (body,) = bodies(FETCH)
    binding = {"object_1": "sink 4", "object_2": "cup 9"}
    assert expand(body, binding) == ("open sink 4", "take cup 9 from sink 4", "leave")
    with pytest.raises(ConfigError, match=r"slot \{object_2\}"):
        expand(body, {"object_1": "sink 4"})
    with pytest.raises(UnknownNameError, match=r"no slot of the skill .* 'object_3'; did you mean 'object_"):
        expand(body, {**binding, "object_3": "cup 9"})


@pytest.mark.parametrize("bounds", [{"min_support": 0}, {"min_success": 1.5}, {"max_length": 1}])
def test_bounds_out_of_range_are_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="needed are min_support >= 1"):
        bodies(FETCH, **bounds)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["x", "y", "get egg 1", "get egg 2"]), min_size=1, max_size=7), st.booleans()
        ),
        max_size=8,
    ),
    st.integers(1, 3),
)
def test_skills_are_counted_right_cite_what_exists_and_are_closed(attempts, min_support: int) -> None:
    episodes = [played(f"e{n}", "; ".join(done), success=success) for n, (done, success) in enumerate(attempts)]
    known = {episode.id: episode for episode in episodes}
    drafts = extract_skills(episodes, min_support=min_support)
    assert drafts == extract_skills(episodes, min_support=min_support)
    uses = {}
    for draft in drafts:
        body = draft.body
        assert isinstance(body, SkillBody)
        first = known[draft.source.episode_ids[0]]
        assert first.success
        literal = [first.turns[turn].action or "" for turn in draft.source.turns]
        binding: dict[str, str] = {}
        for template, action in zip(body.actions, literal, strict=True):
            binding |= match(template, action) or {}
        assert expand(body, binding) == tuple(literal)
        assert set(draft.source.episode_ids) <= set(known)
        assert sum(known[name].success for name in draft.source.episode_ids) >= min_support
        assert len(draft.source.episode_ids) <= body.num_uses
        uses[body.actions] = body.num_uses
    for actions, count in uses.items():
        if not any("{" in action for action in actions):  # others are numbered anew in a longer one
            longer = (other for other in uses if len(other) == len(actions) + 1 and actions in (other[1:], other[:-1]))
            assert all(uses[other] < count for other in longer)


def test_a_household_teaches_to_open_and_take() -> None:
    tasks = make_tasks("agentkit/Household-v0", num=20)
    episodes = [*collect(ExpertPolicy(), tasks), *collect(RandomPolicy(), tasks)]
    assert ("go to {object_1}", "open {object_1}", "take {object_2} from {object_1}") in actions_of(episodes)
