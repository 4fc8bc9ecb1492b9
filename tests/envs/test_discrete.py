"""Discrete: Gymnasium's own environments in words, their splits and noise, and faults that name the way out."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.envs import Screen, Snapshot, Task, TextEnv, check_text_env, make_env, offers
from agentkit.envs.games import GAMES
from agentkit.envs.space_words import in_words, plain
from agentkit.errors import ConfigError, MissingExtraError

ID = "agentkit/Discrete-v0"


def discrete(env_id: str, **params: Any) -> Any:
    return make_env(ID, env_id=env_id, **params)


class Coin(gymnasium.Env[Any, int]):
    """Guess coins: 1 right, -1 wrong; ends after three. Actions are numbered from 5.

    A second paragraph that players need not see.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium's own convention
    action_space: Any = spaces.Discrete(2, start=5)
    observation_space: Any = spaces.Dict({"left": spaces.Discrete(4), "last": spaces.Box(-1, 1, (2,))})

    def __init__(
        self, render_mode: str | None = None, cut_after: int = 99, needs: str = "", draws: bool = True
    ) -> None:
        if needs:
            raise gymnasium.error.DependencyNotInstalled(f"{needs} is not installed, run `pip install {needs}`")
        self.render_mode, self.cut_after, self.draws = render_mode, cut_after, draws
        self.left = 3
        self.last = 0.0
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.left, self.last = 3, round(float(self.np_random.random()), 2)
        return self.seen(), {}

    def seen(self) -> dict[str, Any]:
        return {"left": self.left, "last": np.array([self.last, 0.0], np.float32)}

    def step(self, action: int) -> Any:
        assert self.action_space.contains(action)
        self.left -= 1
        reward = 1.0 if action - 5 == int(self.np_random.random() < 0.5) else -1.0
        self.last = reward
        return self.seen(), reward, self.left == 0, 3 - self.left >= self.cut_after, {}

    def render(self) -> Any:
        if not self.draws:
            raise gymnasium.error.DependencyNotInstalled("pygame is not installed, run `pip install pygame`")
        return np.full((2, 3, 3), 10 * self.left, np.uint8)


class Pixels(Coin):
    observation_space = spaces.Box(0, 255, (84, 84, 3), np.uint8)


class Steered(Coin):
    action_space = spaces.Box(-1, 1, (1,))


class Chains(Coin):
    observation_space = spaces.Sequence(spaces.Discrete(2))


class Drawn(Chains):
    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 - Gymnasium's own convention

    def render(self) -> Any:
        return f"{self.left} to go"


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for creator in (Coin, Pixels, Steered, Chains, Drawn):
        gymnasium.register(f"{creator.__name__}-v0", entry_point=creator, max_episode_steps=7)  # type: ignore[arg-type]
    yield
    for creator in (Coin, Pixels, Steered, Chains, Drawn):
        del gymnasium.registry[f"{creator.__name__}-v0"]


def play(env: TextEnv, seed: int, action: str, **options: Any) -> list[Any]:
    answers: list[Any] = [env.reset(seed=seed, options=options)]
    while not (len(answers) > 1 and (answers[-1][2] or answers[-1][3])):
        answers.append(env.step(action))
    return answers


@pytest.mark.parametrize(
    "params",
    [
        {"env_id": "CliffWalking-v1"},
        {"env_id": "CliffWalkingSlippery-v1", "max_actions_per_turn": 3},
        {"env_id": "Taxi-v4"},
        {"env_id": "Taxi-v4", "render": "words", "env_params": {"is_rainy": True}},
        {"env_id": "Blackjack-v1"},
        {"env_id": "FrozenLake-v1"},
        {"env_id": "MountainCar-v0", "max_actions_per_turn": 10},
        {"env_id": "CartPole-v1", "success_reward": 30.0, "max_actions": 40},
        {"env_id": "Coin-v0", "success_reward": 3},
        {"env_id": "Coin-v0", "success_reward": 3, "env_params": {"cut_after": 2}},
        {"env_id": "Drawn-v0", "success_reward": 3},
    ],
)
def test_gymnasiums_environments_keep_the_contract(params: dict[str, Any]) -> None:
    report = check_text_env(lambda: make_env(ID, **params), seeds=range(2), resets=40)
    assert report.ok, str(report)
    assert {row.name: row.passed for row in report.rows}["snapshot and restore"] is True


def test_a_task_plays_the_same_in_another_process() -> None:
    params = {"env_id": "Taxi-v4", "env_params": {"is_rainy": True}, "max_actions": 20}
    report = check_text_env(Task(env_id=ID, seed=0, params=params), seeds=range(2))
    assert report.ok, str(report)
    assert {row.name: row.passed for row in report.rows}["another process plays the same"] is True


def test_the_cliff_is_walked_by_hand() -> None:
    env = discrete("CliffWalking-v1", max_actions_per_turn=11)
    observation, info = env.reset(seed=0)
    assert observation.splitlines()[3] == "x  C  C  C  C  C  C  C  C  C  C  T"
    assert info["admissible_actions"] == ["up", "right", "down", "left"]
    observation, reward, _, _, info = env.step("RIGHT")
    assert (reward, info["valid"]) == (-100.0, True)
    assert observation.splitlines()[3].startswith("x")
    env.step("up")
    env.step(" || ".join(["right"] * 11))
    _, reward, terminated, truncated, info = env.step("down")
    assert (reward, terminated, truncated, info["success"]) == (-1.0, True, False, True)
    assert info["admissible_actions"] == []


def test_budgets_come_from_the_registration_and_count_here() -> None:
    assert (discrete("MountainCar-v0").max_turns, discrete("CliffWalking-v1").max_turns) == (200, 100)
    env = discrete("MountainCar-v0", max_actions_per_turn=7, max_actions=500)
    assert (env.max_turns, env.max_actions) == (72, 500)
    steps = len(play(env, 0, " || ".join(["wait"] * 7))) - 1
    assert steps == 72  # 71 turns of 7 and one of 3: the registered limit of 200 is lifted
    assert env.actions_left == 0


def test_actions_are_named_or_numbered() -> None:
    env = discrete("Coin-v0", success_reward=3)
    assert env.reset(seed=0)[1]["admissible_actions"] == ["action 0", "action 1"]
    assert env.step("Action  1")[4]["valid"]
    assert env.step("0")[4]["valid"]  # the number alone will do
    assert not env.step("5")[4]["valid"]
    named = discrete("Coin-v0", success_reward=3, actions=["heads", "tails"])
    named.reset(seed=0)
    assert named.step("tails")[4]["valid"]
    assert not named.step("action 1")[4]["valid"]


@pytest.mark.parametrize("actions", [["a"], ["a", "A "], ["a", ""], ["a", "b || c"], ["a", 3]])
def test_wrong_action_names_are_refused(actions: Any) -> None:
    with pytest.raises(ConfigError, match=r"Coin-v0: actions must be 2 different names without \|\|, got"):
        discrete("Coin-v0", success_reward=3, actions=actions)


def test_observations_are_told_in_words() -> None:
    env = discrete("Blackjack-v1")
    assert env.reset(seed=3)[0] == "your sum 14, dealer shows 6, usable ace 0"
    env = discrete("Coin-v0", success_reward=3)
    assert env.reset(seed=1)[0] == f"last: [{env._env.unwrapped.last:g}, 0], left: 3"  # Gymnasium sorts the keys
    assert discrete("MountainCar-v0", fields=["where"]).reset(seed=3)[0] == "where -0.474, 0"


def test_what_can_only_be_drawn_is_drawn() -> None:
    env = discrete("Drawn-v0", success_reward=3)
    observation, info = env.reset(seed=0)
    assert observation == "3 to go"
    assert env.step("0")[4]["state_key"] != info["state_key"]


def test_colours_of_a_drawing_become_words() -> None:
    env = discrete("Taxi-v4")
    drawn = env.reset(seed=3)[0]
    assert drawn.count("<on yellow:") == drawn.count("<blue:") == drawn.count("<magenta:") == 1
    assert "\x1b" not in drawn
    assert plain("\x1b[34;1m\x1b[43mR\x1b[0m\x1b[0m.") == "<blue on yellow:R>."
    assert plain("\x1b[38;5;31mR\x1b[0m") == "R"


def test_success_is_the_sum_of_rewards_at_the_end() -> None:
    env = discrete("Coin-v0", success_reward=1, actions=["heads", "tails"])
    ends = {}
    for seed in range(12):
        answers = play(env, seed, "heads")
        won = sum(step[1] for step in answers[1:])
        ends[won] = answers[-1][4]["success"]
        assert answers[-1][2:4] == (True, False)
    assert ends == {won: won >= 1 for won in ends}
    assert len(set(ends.values())) == 2


def test_a_task_of_survival_is_solved_when_its_sum_is_reached() -> None:
    env = discrete("CartPole-v1", success_reward=8, max_actions=9)
    answers = play(env, 0, "push left")
    assert len(answers) - 1 == 8
    assert answers[-1][2] is True
    assert answers[-1][4]["success"] is True
    fallen = play(discrete("CartPole-v1"), 0, "push left")[-1]
    assert (fallen[2], fallen[4]["success"]) == (True, False)


def test_an_environment_that_stops_by_itself_truncates_and_plays_no_further() -> None:
    env = discrete("Coin-v0", success_reward=3, env_params={"cut_after": 1}, max_actions_per_turn=3)
    env.reset(seed=0)
    observation, reward, terminated, truncated, _ = env.step("0 || 0 || 0")
    assert (terminated, truncated, abs(reward)) == (False, True, 1.0)
    assert observation.endswith("left: 2")


def test_attempts_begin_alike_and_draw_other_noise() -> None:
    env = discrete("Blackjack-v1")
    starts, nexts = set(), set()
    for attempt in range(12):
        starts.add(env.reset(seed=4, options={"attempt": attempt})[0])
        nexts.add(env.step("hit")[0])
    assert len(starts) == 1
    assert len(nexts) > 3


def test_splits_draw_other_instances_from_the_same_seed() -> None:
    env = discrete("MountainCar-v0")
    train, held_out = (env.reset(seed=5, options={"split": split})[0] for split in ("train", "held_out"))
    assert train != held_out
    cliff = discrete("CliffWalking-v1")  # one start for all: the key names the instance, as there is no other level
    starts = [cliff.reset(seed=5, options={"split": split}) for split in ("train", "held_out")]
    assert starts[0][0] == starts[1][0]
    assert starts[0][1]["state_key"] != starts[1][1]["state_key"]


def test_a_state_has_the_same_key_whichever_way_it_was_reached() -> None:
    env = discrete("CliffWalking-v1")
    keys: list[str] = []
    for way in (("up", "up", "right"), ("up", "right", "up")):
        env.reset(seed=0, options={"attempt": len(keys)})
        keys.append([env.step(action)[4]["state_key"] for action in way][-1])
    assert keys[0] == keys[1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(0, 3), st.lists(st.sampled_from(["hit", "stick", "?"]), min_size=1, max_size=5))
def test_a_restored_game_goes_on_as_it_would_have(seed: int, attempt: int, actions: list[str]) -> None:
    env, other = discrete("Blackjack-v1"), discrete("Blackjack-v1")
    env.reset(seed=seed, options={"attempt": attempt})
    for action in actions:
        saved = env.snapshot()
        answer = env.step(action)
        other.restore(saved)
        assert other.step(action) == answer
        assert other.turns_left == env.turns_left
        if answer[2] or answer[3]:
            break


def test_a_foreign_snapshot_is_refused() -> None:
    with pytest.raises(ConfigError, match="restore"):
        discrete("Blackjack-v1").restore("state")


def test_an_environment_that_draws_can_be_looked_at() -> None:
    from PIL import Image

    env = discrete("Coin-v0", success_reward=3, render="rgb_array")
    assert offers(env, Screen)
    assert offers(env, Snapshot)
    assert not offers(discrete("Coin-v0", success_reward=3), Screen)
    env.reset(seed=0)
    image = np.asarray(Image.open(io.BytesIO(env.screenshot())))
    assert (image.shape, int(image[0, 0, 0])) == ((2, 3, 3), 30)


def test_a_drawing_that_needs_a_package_names_it() -> None:
    env = discrete("Coin-v0", success_reward=3, render="rgb_array", env_params={"draws": False})
    env.reset(seed=0)
    with pytest.raises(MissingExtraError, match="Coin-v0 cannot draw: pygame is not installed, run `pip install"):
        env.screenshot()


def test_instructions_tell_rules_success_actions_and_limits() -> None:
    lines = discrete("Coin-v0", success_reward=3, max_actions_per_turn=2).instructions.splitlines()
    assert lines == [
        "Guess coins: 1 right, -1 wrong; ends after three. Actions are numbered from 5.",
        "Solved if the rewards add up to at least 3 when the game ends.",
        "Actions: action 0, action 1. At most 2 a turn, separated by ||, for example: action 0 || action 1",
        "You have 4 turns and 7 actions.",
    ]
    assert discrete("Taxi-v4", rules="Drive.").instructions.startswith("Drive.\nSolved when the game ends")
    assert "as soon as the rewards add up to 475" in discrete("CartPole-v1").instructions


@pytest.mark.parametrize("name", [name for name in GAMES if name != "LunarLander"])
def test_what_is_known_of_a_game_fits_it(name: str) -> None:
    env_id = next(env_id for env_id, spec in gymnasium.registry.items() if spec.name == name and spec.namespace is None)
    spec = max((one for one in gymnasium.registry.values() if one.name == name), key=lambda one: one.version or 0)
    env = discrete(spec.id or env_id)
    assert env.actions == GAMES[name].actions
    told = discrete(spec.id, render="words").reset(seed=0)[0]
    assert told.count(", ") == len(GAMES[name].fields) - 1


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"env_id": "CliffWalkin-v1"}, ConfigError, "no Gymnasium environment 'CliffWalkin-v1': "),
        ({"env_id": "Taxi-v3"}, ConfigError, "Taxi-v3"),
        ({"env_id": "nowhere.to.be.found:Taxi-v4"}, ConfigError, "no Gymnasium environment"),
        ({"env_id": 3}, ConfigError, "env_id must be a Gymnasium id such as"),
        ({"env_id": "Pendulum-v1", "success_reward": 0}, ConfigError, "not Discrete; wrap it so that"),
        ({"env_id": "Steered-v0", "success_reward": 0}, ConfigError, "Steered-v0: its actions are Box"),
        ({"env_id": "Pixels-v0", "success_reward": 0}, ConfigError, "an observation of 21,168 numbers cannot be told"),
        ({"env_id": "Chains-v0", "success_reward": 0}, ConfigError, "observations of Sequence spaces cannot be told"),
        ({"env_id": "Coin-v0"}, ConfigError, "Coin-v0 does not say what solves it; name the sum of rewards"),
        ({"env_id": "Coin-v0", "success_reward": "3"}, ConfigError, "success_reward must be a number, got '3'"),
        ({"env_id": "CartPole-v1", "solved": "reachd"}, ConfigError, "no solved 'reachd'; did you mean 'reached'?"),
        ({"env_id": "Taxi-v4", "render": "ascii"}, ConfigError, "no render 'ascii'; did you mean 'ansi'?"),
        ({"env_id": "Blackjack-v1", "render": "ansi"}, ConfigError, "Blackjack-v1 has no render mode 'ansi', only"),
        ({"env_id": "Taxi-v4", "env_params": {"rainy": True}}, ConfigError, "Taxi-v4 cannot be made with {'rainy'"),
        ({"env_id": "Taxi-v4", "max_actions": 0}, ConfigError, "max_actions must be a whole number"),
        ({"env_id": "Taxi-v4", "max_actions_per_turn": 0}, ConfigError, "max_actions_per_turn must be a whole number"),
        (
            {"env_id": "Coin-v0", "success_reward": 3, "env_params": {"needs": "swig"}},
            MissingExtraError,
            "Coin-v0 cannot be made: swig is not installed, run `pip install swig`",
        ),
        ({}, ConfigError, "agentkit/Discrete-v0 needs the parameter 'env_id'"),
    ],
)
def test_faults_name_the_way_out(params: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        make_env(ID, **params)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_environment_that_does_not_fit_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Any] = []
    monkeypatch.setattr(Steered, "close", lambda env: closed.append(env))
    with pytest.raises(ConfigError):
        discrete("Steered-v0", success_reward=0)
    assert len(closed) == 1


def test_nested_spaces_are_told() -> None:
    space = spaces.Dict({"a": spaces.Tuple((spaces.Discrete(3), spaces.Text(5))), "b": spaces.Box(0, 1, (2, 2))})
    value = {"a": (2, "hi"), "b": np.array([[0.25, 1], [0.0, 0.00001]])}
    assert in_words(space, value) == "a: [2, hi], b: [[0.25, 1], [0, 0]]"
    assert in_words(spaces.MultiDiscrete([3, 3]), np.array([1, 2]), ["x"]) == "x 1, 2"
    assert in_words(spaces.Box(-1, 1, ()), np.float64(-0.12345)) == "-0.123"
    assert in_words(spaces.Box(-1, 1, ()), np.float64(-0.12345), exact=True) == "-0.12345"
