"""The shared turn logic, seen through FrozenLake and a counter that a user might write."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.envs import AnyText, Expert, Goals, Snapshot, TextEnv, make_env, offers
from agentkit.errors import ConfigError

FAMILIES = ("agentkit/FrozenLake-v0", "agentkit/Sokoban-v0", "agentkit/Sudoku-v0")


class Counter(TextEnv):
    """Reach 3 with `add`; `sub` goes back; below 0 is lost."""

    example = "add || add"

    def __init__(self, max_turns: int = 4, max_actions: int = 6, max_actions_per_turn: int = 2) -> None:
        super().__init__(max_turns=max_turns, max_actions=max_actions, max_actions_per_turn=max_actions_per_turn)

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        self.count = 0
        self.begun = (split, seed, attempt)

    def _parse(self, text: str) -> int | None:
        return {"add": 1, "sub": -1}.get(text.lower())

    def _act(self, action: int) -> tuple[float, str]:
        self.count += action
        return float(action), "Back again." if action < 0 else ""

    def _observe(self) -> str:
        return str(self.count)

    def _outcome(self) -> bool | None:
        return True if self.count == 3 else False if self.count < 0 else None

    def _state_key(self) -> str:
        return str(self.count)

    def _admissible(self) -> list[str]:
        return ["add", "sub"]


def begun(**params: Any) -> Counter:
    env = Counter(**params)
    env.reset(seed=0)
    return env


def test_a_turn_plays_its_actions_in_order_and_sums_their_rewards() -> None:
    observation, reward, terminated, truncated, info = begun().step(" ADD||  add ")
    assert (observation, reward, terminated, truncated) == ("2", 2.0, False, False)
    assert info == {
        "success": False,
        "valid": True,
        "state_key": "2",
        "admissible_actions": ["add", "sub"],
    }


def test_actions_beyond_the_turns_limit_are_cut_and_mentioned() -> None:
    observation, reward, _, _, info = begun().step("add || add || add")
    assert (observation, reward, info["valid"]) == ("Only the first 2 actions were played.\n2", 2.0, True)


def test_actions_beyond_the_episodes_limit_are_cut_and_truncate() -> None:
    env = begun(max_actions=3)
    env.step("add || sub")
    observation, _, terminated, truncated, _ = env.step("add || add")
    assert (observation, terminated, truncated) == ("Only the first 1 action was played.\n1", False, True)


@pytest.mark.parametrize("text", ["", "  ", "||", "fly", "fly || add"])
def test_a_text_that_is_not_understood_moves_nothing_and_costs_a_turn(text: str) -> None:
    env = begun()
    observation, reward, _, _, info = env.step(text)
    assert (reward, info["valid"], info["state_key"]) == (0.0, False, "0")
    assert (env.turns_left, env.actions_left) == (3, 6)
    assert observation.startswith("Not understood: ")
    assert observation.endswith("write for example: add || add\n0")


def test_a_partly_understood_text_plays_up_to_the_first_unknown_action_and_is_not_valid() -> None:
    env = begun()
    observation, reward, _, _, info = env.step("add || fly")
    assert observation == "Not understood: 'fly'; the actions before it were played.\n1"
    assert (reward, info["valid"], env.actions_left) == (1.0, False, 5)


def test_empty_pieces_are_ignored() -> None:
    assert begun().step("|| add || ||")[4]["valid"] is True


def test_long_unknown_texts_are_quoted_in_part() -> None:
    observation = begun().step("z" * 5000)[0]
    assert len(observation) < 120


def test_the_game_ends_in_the_middle_of_a_turn() -> None:
    env = begun()
    _, reward, terminated, truncated, info = env.step("sub || add")
    assert (reward, terminated, truncated, info["success"]) == (-1.0, True, False, False)
    assert info["admissible_actions"] == []


def test_success_on_the_last_turn_terminates_and_does_not_truncate() -> None:
    env = begun(max_turns=2, max_actions=3)
    env.step("add || add")
    _, _, terminated, truncated, info = env.step("add")
    assert (terminated, truncated, info["success"]) == (True, False, True)


def test_turns_run_out() -> None:
    env = begun(max_turns=2)
    assert env.step("?")[3] is False
    assert env.step("?")[3] is True


def test_a_step_outside_an_episode_asks_for_a_reset() -> None:
    with pytest.raises(ResetNeeded):
        Counter().step("add")
    env = begun(max_turns=1)
    env.step("add")
    with pytest.raises(ResetNeeded):
        env.step("add")


def test_an_action_that_is_no_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="an action is a text such as"):
        begun().step(3)  # type: ignore[arg-type]


def test_the_example_fits_one_action_a_turn() -> None:
    assert Counter(max_actions_per_turn=1).example == "add"


def test_the_seed_names_the_instance_and_options_name_split_and_attempt() -> None:
    env = Counter()
    env.reset(seed=5)
    assert env.begun == ("train", 5, 0)
    env.reset(seed=5, options={"split": "held_out", "attempt": 2})
    assert env.begun == ("held_out", 5, 2)


def test_reset_without_a_seed_goes_on_to_other_instances_repeatably() -> None:
    env = Counter()
    seeds = []
    for seed in (1, None, None, 1, None, None):
        env.reset(seed=seed)
        seeds.append(env.begun[1])
    assert seeds[:3] == seeds[3:]
    assert len(set(seeds[:3])) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"splt": "train"}, "no reset option 'splt'; did you mean 'split'?"),
        ({"split": "held-out"}, "no split 'held-out'; did you mean 'held_out'?"),
        ({"attempt": -1}, "attempt must be a whole number of at least 0, got -1"),
        ({"attempt": True}, "attempt must be a whole number of at least 0, got True"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Counter().reset(seed=0, options=options)
    assert str(caught.value) == words


@pytest.mark.parametrize("name", ["max_turns", "max_actions", "max_actions_per_turn"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", None, True])
def test_budgets_are_positive_whole_numbers(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a whole number of at least 1, got"):
        Counter(**{name: value})


def test_any_text_holds_every_string_and_samples_repeatably() -> None:
    space = AnyText(seed=3)
    assert "世界" in space
    assert "" in space
    assert 3 not in space
    samples = [space.sample() for _ in range(3)]
    space.seed(3)
    assert samples == [space.sample() for _ in range(3)]
    assert all(sample in space for sample in samples)
    with pytest.raises(ConfigError, match="mask"):
        space.sample(mask=[1])


def test_capabilities_show() -> None:
    lake, sudoku = make_env(FAMILIES[0]), make_env(FAMILIES[2])
    assert all(offers(lake, able) for able in (Snapshot, Expert, Goals))
    assert offers(sudoku, Expert)
    assert not offers(sudoku, Goals)
    assert not offers(Counter(), Snapshot)


@pytest.mark.parametrize("env_id", FAMILIES)
def test_gymnasiums_own_checker_passes(env_id: str) -> None:
    check_env(gymnasium.make(env_id).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("env_id", FAMILIES)
def test_vector_environments_run(env_id: str) -> None:
    envs = gymnasium.make_vec(env_id, num_envs=2, vectorization_mode="sync")
    observations, _ = envs.reset(seed=0)
    single, _ = gymnasium.make(env_id).reset(seed=1)
    assert observations[1] == single
    observations, rewards, *_ = envs.step(("Up", "Down"))
    assert len(observations) == len(rewards) == 2
    envs.close()


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40), st.sampled_from(FAMILIES))
def test_any_text_gives_an_answer(text: str, env_id: str) -> None:
    env = make_env(env_id)
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(text)
    assert isinstance(observation, str)
    assert reward == pytest.approx(reward)
    assert not truncated
    assert info["valid"] or not terminated


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["add", "sub", "fly", ""]), max_size=5),
    st.sampled_from([" || ", "||", "  ||\n"]),
    st.sampled_from([str.lower, str.upper, str.title]),
)
def test_validity_depends_on_the_text_alone(pieces: list[str], separator: str, case: Any) -> None:
    heard = [piece for piece in pieces if piece][:2]
    _, _, _, _, info = begun().step(case(separator.join(pieces)))
    assert info["valid"] == (bool(heard) and "fly" not in heard)
