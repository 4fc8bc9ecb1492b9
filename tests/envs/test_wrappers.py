"""Wrappers: what each does by hand, that they work wherever an environment does, and that they compose in order."""

from __future__ import annotations

import copy
import io
import pickle
from random import Random
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.cli.settings import parse_params
from agentkit.envs import Expert, Goals, Screen, Snapshot, Task, TextEnv, check_text_env, make_env, offers
from agentkit.envs.baselines import optimal_success, random_success
from agentkit.envs.image_text import ImageText
from agentkit.envs.retry import Retry
from agentkit.envs.workers import WorkerEnv
from agentkit.envs.wrapper import TextWrapper
from agentkit.envs.wrappers import History, LengthCap, StepPenalty, cut
from agentkit.errors import ConfigError, UnknownNameError
from agentkit.policies import ExpertPolicy
from agentkit.rollout import collect

LAKE, SOKOBAN, SUDOKU = "agentkit/FrozenLake-v0", "agentkit/Sokoban-v0", "agentkit/Sudoku-v0"
EACH: list[dict[str, Any]] = [
    {"name": "history", "turns": 2},
    {"name": "retry", "tries": 2},
    {"name": "step_penalty", "cost": 0.1, "invalid": 0.2},
    {"name": "length_cap", "max_chars": 40, "keep": "both"},
]


class Ladder(TextEnv):
    """Climb 3 rungs with `up`; `jump` falls off and loses. The attempt's number is the only noise: it is shown."""

    metadata = {"render_modes": [], "inline": True}  # noqa: RUF012 - Gymnasium's own convention
    instructions = "Climb."
    example = "up"

    def __init__(self, max_turns: int = 4, colour: int = 0) -> None:
        super().__init__(max_turns=max_turns, max_actions=8, max_actions_per_turn=2)
        self.colour = colour
        self.closed = False
        self.rung = 0
        self.begun: list[tuple[str, int, int]] = []

    def close(self) -> None:
        self.closed = True

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        self.begun.append((split, seed, attempt))
        self.rung = 0

    def _parse(self, text: str) -> str | None:
        return text if text in ("up", "jump") else None

    def _act(self, action: str) -> tuple[float, str]:
        self.rung = self.rung + 1 if action == "up" else -1
        return 1.0, ""

    def _observe(self) -> str:
        return f"rung {self.rung}"

    def _outcome(self) -> bool | None:
        return True if self.rung == 3 else False if self.rung < 0 else None

    def _state_key(self) -> str:
        return str(self.rung)

    def _admissible(self) -> list[str]:
        return ["up", "jump"]


class Seen(Ladder):
    """A ladder with a screen of 3 rows and 4 columns, all of one colour."""

    def screenshot(self) -> bytes:
        from PIL import Image

        file = io.BytesIO()
        Image.new("RGB", (4, 3), (self.colour, self.rung, 7)).save(file, format="PNG")
        return file.getvalue()


class Guided(Ladder):
    """A ladder with an expert that claims one half from the ground and one quarter from anywhere else."""

    def expert_action(self) -> str:
        return "up"

    def expert_success(self) -> float:
        return 0.5 if self.rung == 0 else 0.25


def episode(env: TextEnv, seed: int, texts: list[str]) -> list[Any]:
    """All answers of an episode that plays `texts` round and round."""
    answers: list[Any] = [env.reset(seed=seed, options={"attempt": 1})]
    over, turn = False, 0
    while not over:
        answers.append(env.step(texts[turn % len(texts)]))
        over, turn = answers[-1][2] or answers[-1][3], turn + 1
    return answers


# The base


def test_a_wrapper_offers_what_the_environment_offers_and_nothing_else() -> None:
    for env_id, able in ((LAKE, (Snapshot, Expert, Goals)), (SUDOKU, (Snapshot, Expert))):
        env = make_env(env_id, wrappers=EACH)
        assert [one for one in (Snapshot, Expert, Goals, Screen) if offers(env, one)] == list(able)
    assert not any(offers(Retry(Ladder()), one) for one in (Snapshot, Expert, Goals, Screen))
    assert offers(History(Retry(Seen())), Screen)


def test_a_wrapper_hands_on_attributes_and_closes() -> None:
    env = Ladder(max_turns=3)
    wrapped = StepPenalty(LengthCap(env))
    wrapped.reset(seed=0)
    wrapped.step("up")
    assert (wrapped.rung, wrapped.max_turns, wrapped.turns_left, wrapped.actions_left) == (1, 3, 2, 7)
    assert (wrapped.instructions, wrapped.example, wrapped.max_actions_per_turn) == ("Climb.", "up", 2)
    assert wrapped.metadata["inline"] is True
    assert wrapped.unwrapped is wrapped
    with pytest.raises(AttributeError):
        wrapped.speed  # noqa: B018 - the look-up is the test
    wrapped.close()
    assert env.closed


def test_a_wrapper_can_be_copied_and_pickled() -> None:
    env = make_env(LAKE, wrappers=EACH)
    env.reset(seed=1)
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):  # noqa: S301 - our own bytes
        assert twin.step("Up") == copy.deepcopy(env).step("Up")


def test_only_text_environments_are_wrapped() -> None:
    with pytest.raises(ConfigError, match="History wraps a TextEnv, got"):
        History(gymnasium.make("CartPole-v1"))  # type: ignore[arg-type]


def test_a_snapshot_of_another_wrapper_is_refused() -> None:
    env = History(make_env(LAKE))
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"StepPenalty.restore\(\) needs what its snapshot\(\) returned"):
        StepPenalty(make_env(LAKE)).restore(env.snapshot())


def test_a_step_before_reset_is_refused_through_all_wrappers() -> None:
    with pytest.raises(ResetNeeded):
        make_env(LAKE, wrappers=EACH).step("Up")


@pytest.mark.parametrize("env_id", [LAKE, SOKOBAN, SUDOKU])
@pytest.mark.parametrize("wrappers", [*([one] for one in EACH), EACH, EACH[::-1]])
def test_wrapped_environments_keep_the_contract(env_id: str, wrappers: list[dict[str, Any]]) -> None:
    params: dict[str, Any] = {"wrappers": wrappers, **({"slip": 0.3} if env_id == LAKE else {})}
    report = check_text_env(lambda: make_env(env_id, **params), seeds=range(4), resets=40)
    assert report.ok, str(report)
    assert {row.name: row.passed for row in report.rows}["snapshot and restore"] is True


def test_a_wrapped_task_plays_the_same_in_another_process() -> None:
    report = check_text_env(Task(env_id=LAKE, seed=0, params={"slip": 0.3, "wrappers": EACH}), seeds=range(2))
    assert report.ok, str(report)
    assert {row.name: row.passed for row in report.rows}["another process plays the same"] is True


def test_gymnasiums_own_checker_passes() -> None:
    check_env(make_env(LAKE, wrappers=EACH), skip_render_check=True)


def test_an_environment_in_another_process_can_be_wrapped_here() -> None:
    task = Task(env_id=LAKE, seed=0, params={"slip": 0.5})
    near, far = Retry(make_env(task), tries=2), Retry(WorkerEnv(task), tries=2)
    assert [one for one in (Snapshot, Expert, Goals, Screen) if offers(far, one)] == [Snapshot, Expert, Goals]
    assert episode(far, 3, ["Up", "Left || Down"]) == episode(near, 3, ["Up", "Left || Down"])
    for env in (near, far):
        env.reset(seed=3)
    assert far.expert_success() == near.expert_success()
    far.close()


IDLE: tuple[Any, ...] = (
    lambda env: TextWrapper(env),
    lambda env: History(env, turns=0),
    lambda env: Retry(env, tries=1, discount=0.5),
    lambda env: StepPenalty(env, cost=0),
    lambda env: LengthCap(env, max_chars=100_000),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(IDLE), min_size=1, max_size=4),
    st.sampled_from([LAKE, SOKOBAN, SUDOKU]),
    st.integers(0, 50),
    st.lists(st.sampled_from(["Up", "Left || Down", "place 1 at row 1 col 1", "?", "Right"]), min_size=1, max_size=4),
)
def test_wrappers_without_effect_leave_episodes_as_they_are(
    wraps: list[Any], env_id: str, seed: int, texts: list[str]
) -> None:
    env = make_env(env_id)
    for wrap in wraps:
        env = wrap(env)
    answers = episode(env, seed, texts)
    for answer in answers:
        answer[-1].pop("try", None)
    assert answers == episode(make_env(env_id), seed, texts)
    assert env.instructions == make_env(env_id).instructions


@settings(max_examples=60, deadline=None)
@given(st.permutations(EACH), st.integers(0, 20), st.integers(0, 6), st.integers(0, 99))
def test_play_after_restore_repeats_in_any_order_of_wrappers(
    wrappers: list[dict[str, Any]], seed: int, turns: int, luck: int
) -> None:
    env, other = (make_env(LAKE, slip=0.5, wrappers=wrappers) for _ in range(2))
    rng = Random(luck)
    env.reset(seed=seed)

    def play(env: TextEnv, texts: list[str]) -> list[Any]:
        answers: list[Any] = []
        for text in texts:
            if not (answers and (answers[-1][2] or answers[-1][3])):
                answers.append((*env.step(text), env.turns_left, env.actions_left, env.expert_success()))  # type: ignore[attr-defined]
        return answers

    texts = [("Up", "Left", "Down || Right", "?")[int(rng.random() * 4)] for _ in range(turns + 4)]
    begun = play(env, texts[:turns])
    if begun and (begun[-1][2] or begun[-1][3]):
        return
    saved = env.snapshot()  # type: ignore[attr-defined]
    first = play(env, texts[turns:])
    other.restore(saved)  # type: ignore[attr-defined]
    assert play(other, texts[turns:]) == first


# History


def test_history_shows_the_last_turns_before_the_present_one() -> None:
    env = History(Ladder(), turns=2)
    assert env.reset(seed=0)[0] == "rung 0"
    assert env.step("fly")[0] == (
        "=== Turn 1 ===\nrung 0\n=== Your answer in turn 1 ===\nfly\n"
        "=== Turn 2, now ===\nNot understood: 'fly'; write for example: up\nrung 0"
    )
    env.step("up")
    assert env.step("up")[0] == (
        "=== Turn 2 ===\nNot understood: 'fly'; write for example: up\nrung 0\n"
        "=== Your answer in turn 2 ===\nup\n"
        "=== Turn 3 ===\nrung 1\n=== Your answer in turn 3 ===\nup\n"
        "=== Turn 4, now ===\nrung 2"
    )
    assert env.reset(seed=0)[0] == "rung 0"


# Step penalty


def test_every_turn_costs_and_one_that_is_not_understood_costs_more() -> None:
    env = StepPenalty(Ladder(), cost=0.25, invalid=0.5)
    env.reset(seed=0)
    assert [env.step(text)[1] for text in ("up || up", "fly", "up || fly")] == [1.75, -0.75, 0.25]


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "1", True])
def test_costs_are_finite_numbers_of_at_least_zero(value: Any) -> None:
    with pytest.raises(ConfigError, match="cost must be a finite number of at least 0"):
        StepPenalty(Ladder(), cost=value)
    with pytest.raises(ConfigError, match="invalid must be"):
        StepPenalty(Ladder(), invalid=value)


# Length cap


def test_what_is_cut_is_counted_and_kept_where_it_was_asked() -> None:
    text = "a" * 30 + "m" * 40 + "z" * 30
    assert cut(text, 44, "head") == "a" * 22 + "\n[78 characters cut]"
    assert cut(text, 44, "tail") == "[78 characters cut]\n" + "z" * 22
    assert cut(text, 44, "both") == "a" * 11 + "\n[78 characters cut]\n" + "z" * 11
    assert cut(text, 100, "head") == text


def test_pairs_of_surrogates_stay_together() -> None:
    pair = "\ud83d\ude00"
    for shift in (0, 1):
        text = "x" * shift + pair * 100
        for keep in ("head", "tail", "both"):
            kept = cut(text, 80, keep)
            first, _, last = kept.partition("[")
            last = last.partition("]")[2]
            for part in (first.strip("\n"), last.strip("\n")):
                assert part.replace("x", "") == pair * (len(part.replace("x", "")) // 2)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.integers(40, 120), st.sampled_from(["head", "tail", "both"]))
def test_a_cut_text_fits_and_nothing_is_lost_uncounted(text: str, most: int, keep: str) -> None:
    kept = cut(text, most, keep)
    assert len(kept) <= most
    if len(text) <= most:
        assert kept == text
        return
    for missing in range(1, len(text) + 1):
        note = f"[{missing} characters cut]"
        if note in kept:
            head, _, tail = kept.partition(note)
            assert text.startswith(head.removesuffix("\n"))
            assert text.endswith(tail.removeprefix("\n"))
            assert len(head.removesuffix("\n")) + missing + len(tail.removeprefix("\n")) == len(text)
            return
    raise AssertionError(kept)


def test_the_cap_holds_for_reset_and_step_and_leaves_info_alone() -> None:
    env = LengthCap(make_env(SOKOBAN), max_chars=40)
    plain = make_env(SOKOBAN)
    shown, full = env.reset(seed=0), plain.reset(seed=0)
    assert (len(full[0]), shown[0]) == (41, full[0][:19] + "\n[22 characters cut]")
    assert shown[1] == full[1]
    shown_step, full_step = env.step("Up"), plain.step("Up")
    assert len(shown_step[0]) <= 40
    assert shown_step[1:] == full_step[1:]


def test_wrong_caps_are_named() -> None:
    with pytest.raises(ConfigError, match="max_chars must be a whole number of at least 40, got 39"):
        LengthCap(Ladder(), max_chars=39)
    with pytest.raises(ConfigError, match="no keep 'hed'; did you mean 'head'"):
        LengthCap(Ladder(), keep="hed")


# Retry


def test_a_lost_try_starts_the_same_instance_again_and_says_so() -> None:
    env = Retry(Ladder(), tries=2, discount=0.5)
    assert env.reset(seed=5, options={"split": "held_out", "attempt": 3})[1]["try"] == 1
    observation, reward, terminated, truncated, info = env.step("up || jump")
    assert observation == "rung -1\nTry 1 of 2 failed. Try again: the same task starts anew.\nrung 0"
    assert (reward, terminated, truncated) == (2.0, False, False)
    assert info == {
        "success": False,
        "valid": True,
        "state_key": "0",
        "admissible_actions": ["up", "jump"],
        "try": 2,
    }
    assert env.begun == [("held_out", 5, 6), ("held_out", 5, 7)]  # attempt 3 of 2 tries each
    env.step("up || up")
    observation, reward, terminated, truncated, info = env.step("up")
    assert (observation, reward, terminated, truncated) == ("rung 3", 0.5, True, False)
    assert (info["success"], info["try"]) == (True, 2)


def test_the_last_try_ends_the_episode_as_the_environment_does() -> None:
    env = Retry(Ladder(max_turns=2), tries=2)
    env.reset(seed=0)
    ends = [env.step(text)[2:4] for text in ("up", "?", "up", "up")]
    assert ends == [(False, False), (False, False), (False, False), (False, True)]
    env.reset(seed=0)
    assert [env.step("jump")[2:4] for _ in range(2)] == [(False, False), (True, False)]
    with pytest.raises(ResetNeeded):
        env.step("up")


def test_success_in_the_first_try_ends_the_episode() -> None:
    env = Retry(Ladder(), tries=3)
    env.reset(seed=0)
    env.step("up || up")
    _, _, terminated, _, info = env.step("up")
    assert (terminated, info["success"], info["try"]) == (True, True, 1)


def test_budgets_are_those_of_all_tries() -> None:
    env = Retry(Ladder(max_turns=4), tries=3)
    env.reset(seed=0)
    assert (env.max_turns, env.max_actions, env.turns_left, env.actions_left) == (12, 24, 12, 24)
    env.step("up")
    assert (env.turns_left, env.actions_left) == (11, 23)
    env.step("jump")  # loses what the first try had left
    assert (env.turns_left, env.actions_left) == (8, 16)
    assert env.instructions.splitlines()[-1].startswith("You have 3 tries")


def test_a_turn_that_was_not_understood_stays_invalid_where_the_next_try_begins() -> None:
    env = Retry(Ladder(max_turns=1), tries=2)
    env.reset(seed=0)
    assert env.step("fly")[4]["valid"] is False


def test_the_experts_chance_is_that_of_any_try() -> None:
    env = Retry(Guided(), tries=3)
    env.reset(seed=0)
    assert env.expert_success() == 1 - 0.5**3
    env.step("up")
    assert env.expert_success() == 1 - 0.75 * 0.5**2  # this try is at 1/4, two whole ones follow
    env.step("jump")
    env.step("jump")
    assert env.expert_success() == 0.5  # the last try, from its start


def test_the_experts_chance_in_a_slippery_lake_is_asked_for_where_the_tries_begin() -> None:
    alone = make_env(LAKE, slip=0.5)
    alone.reset(seed=3)
    once = alone.expert_success()  # type: ignore[attr-defined]
    assert 0 < once < 1
    env = make_env(LAKE, slip=0.5, wrappers=[{"name": "retry", "tries": 2}])
    env.reset(seed=3)
    env.step("Up")
    alone.reset(seed=3)
    alone.step("Up")
    here = alone.expert_success()  # type: ignore[attr-defined]
    assert env.expert_success() == pytest.approx(1 - (1 - here) * (1 - once))  # type: ignore[attr-defined]


def test_asking_for_the_experts_chance_changes_nothing() -> None:
    asked, other = (make_env(LAKE, slip=0.5, wrappers=[{"name": "retry", "tries": 2}]) for _ in range(2))
    for env in (asked, other):
        env.reset(seed=3)
        env.step("Up")
    asked.expert_success()  # type: ignore[attr-defined]
    assert asked.step("Left || Up") == other.step("Left || Up")


def test_resets_without_a_seed_name_the_instances_that_the_environment_would() -> None:
    env, alone = Retry(Ladder(), tries=2), Ladder()
    for one in (env, alone):
        for seed in (7, None, None):
            one.reset(seed=seed)
    assert [seed for _, seed, _ in env.begun] == [seed for _, seed, _ in alone.begun]


@pytest.mark.parametrize("discount", [0, -1, 1.5, "1", True])
def test_wrong_discounts_are_named(discount: Any) -> None:
    with pytest.raises(ConfigError, match="discount must be above 0 and at most 1"):
        Retry(Ladder(), discount=discount)


# Order and names


def test_the_first_wrapper_is_next_to_the_environment() -> None:
    penalty, retry = {"name": "step_penalty", "cost": 1.0}, {"name": "retry", "tries": 2, "discount": 0.5}
    rewards = []
    for wrappers in ([penalty, retry], [retry, penalty]):
        env = make_env(LAKE, wrappers=wrappers)
        env.reset(seed=0)
        rewards.append([env.step("?")[1] for _ in range(6)][-2:])  # the last turn of one try, the first of the next
    assert rewards == [[-1.0, -0.5], [-1.0, -1.0]]  # the discount halves the inner penalty, not the outer one


def test_wrappers_are_part_of_the_task_and_of_its_key() -> None:
    params = parse_params(['wrappers=[{name="retry", tries=2}, {name="history", turns=1}]', "slip=0.2"])
    task = Task(env_id=LAKE, seed=0, params=params)
    env = make_env(task)
    assert isinstance(env, History)
    assert isinstance(env.env, Retry)
    assert env.slip == 0.2
    assert task.key != Task(env_id=LAKE, seed=0, params={**params, "wrappers": params["wrappers"][::-1]}).key
    assert task.params == params  # made twice, it is the same
    assert make_env(task).max_turns == 10


@pytest.mark.parametrize(
    ("wrappers", "error", "words"),
    [
        ([{"name": "histori"}], UnknownNameError, "no wrapper 'histori'; did you mean 'history'?"),
        (
            [{"name": "history", "turn": 3}],
            ConfigError,
            "no argument of wrapper 'history' 'turn'; did you mean 'turns'?",
        ),
        ([{"name": "retry", "env": 1}], ConfigError, "no argument of wrapper 'retry' 'env'; known:"),
        ([{"name": "history", "turns": -1}], ConfigError, "turns must be a whole number of at least 0, got -1"),
        ([{"turns": 3}], ConfigError, "a wrapper is a table with a name"),
        (["history"], ConfigError, "a wrapper is a table with a name"),
        ("history", ConfigError, "wrappers must be a list of tables"),
        ({"name": "history"}, ConfigError, "wrappers must be a list of tables"),
    ],
)
def test_wrong_wrappers_are_named(wrappers: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        make_env(LAKE, wrappers=wrappers)
    assert str(caught.value).startswith(words)


def test_an_environment_that_cannot_be_wrapped_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[TextEnv] = []
    gymnasium.register("Ladder-v0", entry_point=Ladder, disable_env_checker=True)  # type: ignore[arg-type]
    monkeypatch.setattr(Ladder, "close", lambda env: closed.append(env))
    with pytest.raises(UnknownNameError):
        make_env("Ladder-v0", wrappers=[{"name": "nothing like it"}])
    assert len(closed) == 1
    del gymnasium.registry["Ladder-v0"]


def test_rollouts_and_baselines_play_wrapped_tasks() -> None:
    wrappers = [{"name": "retry", "tries": 3}, {"name": "history"}, {"name": "step_penalty", "cost": 1.0}]
    task = Task(env_id=LAKE, seed=3, params={"slip": 0.5, "wrappers": wrappers})
    (won,) = collect(ExpertPolicy(), [task])
    assert won.error is None
    assert won.turns[1].reward in (-1.0, 0.0)
    alone = Task(env_id=LAKE, seed=3, params={"slip": 0.5})
    (chance,), (once,) = optimal_success([task]), optimal_success([alone])
    assert chance == pytest.approx(1 - (1 - once) ** 3)
    assert random_success([task], attempts=64) > random_success([alone], attempts=64)


# Image and text


def test_text_and_image_are_one_observation_of_a_proper_space() -> None:
    env = ImageText(Seen(colour=200))
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert observation["text"] == "rung 0"
    assert observation["image"].shape == (3, 4, 3)
    assert observation["image"][0, 0].tolist() == [200, 0, 7]
    observation, *_ = env.step("up")
    assert observation["text"] == "rung 1"
    assert observation["image"][2, 3].tolist() == [200, 1, 7]
    with pytest.warns(UserWarning, match="different from the unwrapped version"):  # as it says of every wrapper
        check_env(ImageText(Seen()), skip_render_check=True)


def test_images_are_scaled_to_the_size_that_was_asked_for() -> None:
    env = ImageText(History(Seen(colour=9)), size=(6, 2))
    observation, _ = env.reset(seed=0)
    assert observation["image"].shape == (6, 2, 3)
    assert observation["image"].dtype == np.uint8
    assert env.observation_space.contains(observation)


def test_an_environment_without_a_screen_has_no_images() -> None:
    with pytest.raises(ConfigError, match="has no screenshots"):
        ImageText(make_env(LAKE))


@pytest.mark.parametrize("size", [(0, 3), (3,), 3, ("3", 4)])
def test_wrong_sizes_are_named(size: Any) -> None:
    with pytest.raises(ConfigError, match=r"size|height"):
        ImageText(Seen(), size=size)
