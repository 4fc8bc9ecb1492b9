"""The environment: action texts, budgets, splits, modes, and what it says where something is missing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agentkit.envs import check_text_env, make_env, make_tasks
from agentkit.envs.webshop.env import WebShop, queries_of
from agentkit.errors import ConfigError, MissingExtraError, MissingPartError, UnknownNameError
from agentkit.task import HELD_OUT_OFFSET

family = pytest.mark.family("agentkit/WebShop-v0")


def begin(**params: Any) -> WebShop:
    """A small shop at the start of the first task."""
    env = WebShop(num_products=60, **params)
    env.reset(seed=0)
    return env


@family
@pytest.mark.parametrize(
    "params", [{}, {"observation": "text_rich", "max_actions_per_turn": 3}, {"observation": "html"}]
)
def test_it_keeps_the_contract(params: dict[str, Any]) -> None:
    report = check_text_env(lambda: WebShop(num_products=100, **params))
    assert report.ok, str(report)


@family
@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("search[Coffee Table]", ("search", "coffee table")),
        ("  CLICK [ Buy Now ] ", ("click", "buy now")),
        ("click[< Prev]", ("click", "< prev")),
        ("click[ginger [fresh]]", ("click", "ginger [fresh]")),
        ("search[]", None),
        ("search[  ]", None),
        ("search", None),
        ("click[a] please", None),
        ("I click[a]", None),
        ("press[a]", None),
    ],
)
def test_actions_are_read(text: str, parsed: tuple[str, str] | None) -> None:
    assert begin()._parse(text) == parsed


@family
def test_separators_inside_of_brackets_separate_nothing() -> None:
    env = begin()
    assert env._pieces("search[a || b]||click[x] || || click[4 || 5]") == [
        "search[a || b]",
        "click[x]",
        "click[4 || 5]",
    ]
    assert env._pieces("click[a] || nonsense || search[b]") == ["click[a]", "nonsense", "search[b]"]


@family
@pytest.mark.parametrize(
    "text", ["search[" + " " * 50_000, "search[" + "||" * 50_000, "click[" * 20_000, "||" * 50_000]
)
def test_long_nonsense_is_read_in_no_time(text: str) -> None:
    env = begin()
    started = time.process_time()
    assert not env.step(text)[-1]["valid"]
    assert time.process_time() - started < 1


@family
def test_an_impossible_click_is_valid_counts_and_changes_nothing() -> None:
    env = begin()
    before, _ = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step("click[Buy Now]")
    assert (observation, reward, terminated, truncated, info["valid"]) == (before, 0.0, False, False, True)
    assert env.turns_left == 14


@family
def test_what_is_not_understood_is_said() -> None:
    observation, *_, info = begin().step("buy it")
    assert observation.startswith("Not understood: 'buy it'; write for example: search[console tables]\nWebShop [SEP]")
    assert not info["valid"]


@family
def test_a_turn_may_hold_several_actions_until_the_purchase() -> None:
    env = begin(max_actions_per_turn=8)
    *_, terminated, _, info = env.step(env.expert_action() + " || click[back to search]")
    assert terminated
    assert info["success"]
    assert env.state.page == "done"


@family
def test_reward_comes_with_the_purchase_only_and_less_than_one_is_no_success() -> None:
    env = begin()
    rewards = []
    while env.state.page != "item":
        rewards.append(env.step(env.expert_action())[1])
    _, reward, terminated, truncated, info = env.step("click[buy now]")  # without the options asked for
    assert rewards == [0.0, 0.0]
    assert 0 < reward < 1
    assert (terminated, truncated, info["success"], info["admissible_actions"]) == (True, False, False, [])
    assert env.achieved_goal() != env.desired_goal()


@family
def test_goals_tell_what_is_met() -> None:
    env = begin()
    assert env.achieved_goal() == "nothing bought"
    while env.state.reward is None:
        env.step(env.expert_action())
    assert env.achieved_goal() == env.desired_goal()
    assert env.level.options[0][1] in env.desired_goal()


@family
def test_tasks_run_through_the_goals_of_their_split_in_order() -> None:
    env = begin()
    held_out = env.shop.catalogue.goals["held_out"]
    for number in (0, 1, len(held_out) + 1):
        env.reset(seed=HELD_OUT_OFFSET + number, options={"split": "held_out"})
        assert env.level == held_out[number % len(held_out)]
    assert len({task.seed % HELD_OUT_OFFSET for task in make_tasks("agentkit/WebShop-v0", "held_out", 100)}) == 100


@family
def test_available_actions_are_those_of_the_original() -> None:
    env = begin()
    assert env.available_actions() == {"has_search_bar": True, "clickables": ["search"]}
    _, *_, info = env.step("search[coffee table]")
    available = env.available_actions()
    assert not available["has_search_bar"]
    assert info["admissible_actions"] == [f"click[{value}]" for value in available["clickables"]]


@family
def test_random_play_searches_for_words_of_the_instruction() -> None:
    instruction = (
        "Find me non slip, eco friendly bath rugs with rubber feet for guest room with color: teal, "
        "and price lower than 60.00 dollars"
    )
    assert queries_of(instruction) == (
        "non slip, eco friendly bath rugs with rubber feet for guest room",
        "eco friendly bath rugs",
        "non slip, eco friendly bath rugs with rubber feet for guest room color: teal",
    )
    assert queries_of("i need a lamp") == ("i need a lamp",)
    assert queries_of("Find me , and price lower than 5.00 dollars") == ("products",)


@family
def test_states_are_equal_whatever_was_looked_at_before_unless_it_shows() -> None:
    for observation, equal in (("text", True), ("html", True), ("text_rich", False)):
        env = begin(observation=observation)
        before = env.step("search[coffee table]")[-1]["state_key"]
        env.step(env._admissible()[2])
        after = env.step("click[< prev]")[-1]["state_key"]
        assert (before == after) is equal


@family
def test_snapshots_survive_the_purchase() -> None:
    env, other = begin(), WebShop(num_products=60)
    env.step(env.expert_action())
    saved = env.snapshot()
    while env.state.reward is None:
        env.step(env.expert_action())
    env.restore(saved)
    other.restore(saved)
    assert env._observe() == other._observe()
    assert other.expert_success() == 1.0


@family
def test_the_expert_needs_its_turns() -> None:
    env = begin(max_turns=2)
    assert env.expert_success() == 0.0
    assert env.expert_action().startswith("search[")


@family
@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"observation": "pdf"}, ConfigError, "no observation 'pdf'; known: 'html', 'text', 'text_rich'"),
        ({"num_products": 0}, ConfigError, "num_products must be a whole number of at least 1, got 0"),
        ({"max_turns": 1.5}, ConfigError, "max_turns must be a whole number"),
        ({"catalogue": 3}, ConfigError, "catalogue must be the path of a folder, got 3"),
        ({"human_goals": True}, ConfigError, "human_goals=True needs a catalogue"),
        ({"catalogue": "/nowhere/at/all"}, MissingPartError, "no folder '/nowhere/at/all'"),
        ({"prices": 1}, ConfigError, "no parameter of agentkit/WebShop-v0 'prices'"),
    ],
)
def test_wrong_arguments_are_named(params: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make_env("agentkit/WebShop-v0", **params)


@family
def test_a_shop_too_small_for_a_split_says_so() -> None:
    env = WebShop(num_products=1)
    lacking = [split for split, goals in env.shop.catalogue.goals.items() if not goals]
    with pytest.raises(ConfigError, match=f"the catalogue has no {lacking[0]} goals; take more products"):
        env.reset(seed=0, options={"split": lacking[0]})


@family
def test_ragens_shop_can_be_played(real_data: Path) -> None:
    env = make_env("agentkit/WebShop-v0", catalogue=str(real_data / "webshop"))
    report = check_text_env(lambda: WebShop(catalogue=str(real_data / "webshop")), seeds=range(3))
    assert report.ok, str(report)
    observation, _ = env.reset(seed=HELD_OUT_OFFSET, options={"split": "held_out"})
    assert observation.startswith("WebShop [SEP] Instruction: [SEP] Find me double sided, machine washable decorative")


@pytest.mark.parametrize("package", ["bm25s", "rapidfuzz"])
def test_a_missing_extra_names_its_command(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    with pytest.raises(
        MissingExtraError, match=rf"'{package}' is not installed; run: pip install 'agentkit-rl\[webshop\]'"
    ):
        WebShop()


def test_importing_the_family_loads_nothing_heavy() -> None:
    code = (
        "import sys, agentkit.envs.webshop.env\n"
        "print([name for name in ('bm25s', 'rapidfuzz', 'http.server') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@family
def test_an_unknown_split_is_refused() -> None:
    from agentkit.envs.webshop.site import WebShopSite

    with WebShopSite(num_products=60) as site, pytest.raises(UnknownNameError, match="no split 'test'"):
        site.open("test")
