"""Catalogue: goals and splits, worked by hand and held against the real files."""

from __future__ import annotations

from agentkit.envs.webshop.catalogue import NO_BOUND, Goal, goals_of, split_by_order, split_by_wish

from .conftest import LAMP, OTHER_LAMP, SOAP


def test_every_combination_of_options_is_a_goal() -> None:
    goals = goals_of([LAMP, OTHER_LAMP, SOAP])
    assert len(goals) == 2 * 3  # sizes times colours of the one product that somebody wants
    bound = f"{goals[0].price_upper:.2f}"
    assert goals[0].instruction == (
        "Find me easy clean table lamps with solid brass with color: black, and size: small, "
        f"and price lower than {bound} dollars"
    )
    assert goals[1].options == (("color", "black"), ("size", "large"))


def test_price_bounds_are_the_larger_of_two_of_the_next_four_tens() -> None:
    bounds = {goals_of([LAMP._replace(asin=f"B{number}")])[0].price_upper for number in range(200)}
    assert bounds == {50.0, 60.0, 70.0}  # 40 is the smallest of 40, 50, 60, 70 and never the larger of two


def test_a_price_near_the_top_has_no_bound() -> None:
    goal = goals_of([LAMP._replace(pricing=(985.0,))])[0]
    assert goal.price_upper == NO_BOUND
    assert "price" not in goal.instruction


def test_a_price_range_costs_a_fixed_amount_within_it() -> None:
    assert OTHER_LAMP.price_tag == "$20.0 to $30.0"
    assert 20 <= OTHER_LAMP.price <= 30
    assert OTHER_LAMP.price == OTHER_LAMP._replace(title="renamed").price


def test_goals_that_people_wrote_name_values_only() -> None:
    product = LAMP._replace(human=(("i need a small lamp.", ("easy clean",), ("small",)),))
    (goal,) = goals_of([product, SOAP], human=True)
    assert goal.options == (("", "small"),)
    assert goal.instruction == f"i need a small lamp, and price lower than {goal.price_upper:.2f} dollars"


def test_the_original_split_is_a_seeded_shuffle() -> None:
    goals = [Goal("A", str(number), (), (), 1.0) for number in range(2000)]
    splits = split_by_order(goals)
    assert (len(splits["held_out"]), len(splits["train"])) == (500, 500)
    # The first three of random.seed(233); random.shuffle(list(range(2000)))
    assert [goal.instruction for goal in splits["held_out"][:3]] == FIRST_THREE


FIRST_THREE = ["102", "1264", "836"]


def test_an_instruction_of_the_test_split_is_not_trained_on() -> None:
    goals = [Goal("A", str(number // 2), (), (), 1.0) for number in range(4000)]
    splits = split_by_order(goals)
    assert not {g.instruction for g in splits["train"]} & {g.instruction for g in splits["held_out"]}


def test_goals_with_the_same_wish_share_a_split() -> None:
    products = [LAMP._replace(asin=f"B{n}", wish=f"Find me lamp {n // 2}") for n in range(100)]
    splits = split_by_wish(products, goals_of(products))
    wishes = [{goal.instruction.split(" with ")[0] for goal in splits[split]} for split in ("train", "held_out")]
    assert wishes[0]
    assert wishes[1]
    assert not wishes[0] & wishes[1]
    assert sum(map(len, splits.values())) == 600
