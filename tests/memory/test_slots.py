"""Slots: what is abstracted, that matching recovers it, and that hostile text costs linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.errors import ConfigError
from agentkit.memory.slots import abstract, bind, kinds_in, match, slots_of

WORDS = st.one_of(
    st.sampled_from(["go to", "apple 2", "cabinet 3", "see 2", '"blue sofa"', "'x'", "7.5", "-3", ".", ",", "\n", " "]),
    st.sampled_from(["{object_1}", "{", "}}", "egg", "a", "é 4", '"', "'", "room-4 12", "1.2.3"]),
)
TEXTS = st.one_of(st.text(max_size=80), st.lists(WORDS, max_size=15).map("".join))


@given(st.lists(TEXTS, min_size=1, max_size=4), st.integers(1, 3))
def test_matching_a_template_with_its_text_recovers_the_binding(texts: list[str], min_texts: int) -> None:
    made = abstract(texts, kinds={"egg", "apple"}, min_texts=min_texts)
    for text, template in zip(texts, made.templates, strict=True):
        found = match(template, text)
        assert found == {slot: made.binding[slot] for slot in slots_of(template)}
        assert bind(template, made.binding) == text


@given(TEXTS, TEXTS)
def test_what_matches_is_what_the_template_stands_for(one: str, other: str) -> None:
    (template,) = abstract([one]).templates
    found = match(template, other)
    assert found is None or bind(template, found) == other


@given(st.lists(TEXTS, min_size=1, max_size=4), TEXTS)
def test_a_further_text_keeps_its_words(texts: list[str], further: str) -> None:
    made = abstract(texts)
    assert bind(made.template(further), made.binding) == further


def test_one_name_has_one_slot_in_all_texts() -> None:
    made = abstract(["put apple 2 in fridge 1", "the fridge 1 holds apple 2 and apple 3"])
    assert made.templates == ("put {object_1} in {object_2}", "the {object_2} holds {object_1} and {object_3}")
    assert made.binding == {"object_1": "apple 2", "object_2": "fridge 1", "object_3": "apple 3"}


def test_each_shape_has_its_type_and_function_words_are_not_named() -> None:
    made = abstract(['click "Buy now" in menu 4 for 12.50 and see 2'])
    assert made.templates == ("click {text_1} in {object_1} for {number_1} and see {number_2}",)
    assert made.binding == {"text_1": '"Buy now"', "object_1": "menu 4", "number_1": "12.50", "number_2": "2"}


def test_the_first_word_is_a_verb() -> None:
    assert abstract(["click 12", "scroll down 2"]).templates == ("click {number_1}", "scroll {object_1}")


def test_names_in_too_few_texts_stay() -> None:
    made = abstract(["an apple 1 and apple 2", "take apple 1"], min_texts=2)
    assert made.templates == ("an {object_1} and apple 2", "take {object_1}")


def test_only_kinds_that_are_given_become_slots() -> None:
    assert kinds_in(["You see a tomato 2, and a tomato 3.", "go to fridge 1"]) == {"tomato", "fridge"}
    assert abstract(["cool a tomato, tomatoes too"], kinds={"tomato"}).templates == ("cool a {kind_1}, tomatoes too",)


def test_text_that_looks_like_a_slot_stays_text() -> None:
    (template,) = abstract(["say {object_1} to apple 2"]).templates
    assert template == "say {{object_1}} to {object_1}"
    assert match(template, "say {object_1} to apple 9") == {"object_1": "apple 9"}


def test_a_slot_matches_its_type_only_and_the_same_name_each_time() -> None:
    assert match("take {object_1}", "take 12") is None
    assert match("take {number_1}", "take 12") == {"number_1": "12"}
    assert match("move {object_1} to {object_1}", "move egg 1 to egg 2") is None
    assert match("take {object_1}", "take egg 1 now") is None
    assert match("take {thing}", "take eggs") == {"thing": "eggs"}


def test_signs_of_regular_expressions_in_the_data_mean_nothing() -> None:
    (template,) = abstract(["go (a+)+$ .* to box 1"]).templates
    assert match(template, "go (a+)+$ .* to box 2") == {"object_1": "box 2"}
    assert match(template, "go aaaa anything to box 2") is None


def test_an_unbound_slot_and_a_lone_brace_say_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"slot \{object_2\} .* is not bound; bound are \['object_1'\]"):
        bind("put {object_1} in {object_2}", {"object_1": "egg 1"})
    with pytest.raises(ConfigError, match=r"a lone '\{' at character 3"):
        match("go {Nowhere}", "go there")
    with pytest.raises(ConfigError, match="double it"):
        slots_of("go }")


@pytest.mark.parametrize(
    "unit",
    ["a", "a-", "a ", "1", "1.", "-1", "a 1", "'", '"', "'a", '"a ', "{", "{{a}", "a1 ", "aaaaaaaa 1111111111 ", "é"],
)
def test_hostile_text_costs_linear_time(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        began = time.process_time()
        made = abstract([text])
        assert match(made.templates[0], text) == made.binding
        assert match(made.templates[0], text + "!") is None
        return time.process_time() - began

    seconds(1_000)
    small, large = seconds(12_500), seconds(100_000)
    assert large < 3.0
    assert large < 40 * small + 0.05  # eight times the text; quadratic work would be 64 times
