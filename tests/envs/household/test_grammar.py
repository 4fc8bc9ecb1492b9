"""What counts as a command."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.envs.household.grammar import Command, parse_command, player_instructions

NAMES = st.builds(lambda kind, number: f"{kind} {number}", st.from_regex("[a-z]+", fullmatch=True), st.integers(1, 99))
COMMANDS = st.one_of(
    st.sampled_from(["look", "inventory", "help"]).map(Command),
    st.tuples(st.sampled_from(["go", "open", "close", "examine", "use"]), NAMES).map(lambda parts: Command(*parts)),
    st.tuples(st.sampled_from(["take", "move", "heat", "clean", "cool", "slice"]), NAMES, NAMES).map(
        lambda parts: Command(*parts)
    ),
)


@given(COMMANDS)
def test_a_command_is_read_as_it_is_written(command: Command) -> None:
    assert parse_command(str(command)) == command


@given(COMMANDS)
def test_case_and_white_space_do_not_matter(command: Command) -> None:
    assert parse_command("  " + str(command).upper().replace(" ", " \t ")) == command


@pytest.mark.parametrize("link", ["in/on", "in", "on"])
def test_the_older_wording_of_move_is_understood(link: str) -> None:
    assert parse_command(f"put mug 1 {link} desk 2") == Command("move", "mug 1", "desk 2")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "go",
        "go desk 1",
        "go to desk",
        "go to desk 0",
        "take mug 1",
        "look around",
        "put mug 1 to desk 1",
        "eat egg 1",
    ],
)
def test_what_is_no_command_is_not_read(text: str) -> None:
    assert parse_command(text) is None


def test_the_instructions_name_every_verb_and_the_budgets() -> None:
    told = player_instructions(50, 40, 2)
    assert all(f"\n  {verb}" in told for verb in ("go to", "open", "close", "take", "move", "examine", "use", "look"))
    assert all(f"\n  {verb}" in told for verb in ("heat", "clean", "cool", "slice", "inventory", "help"))
    assert told.endswith("At most 2 commands a turn, separated by ||. You have 50 turns and 40 commands.")
    assert player_instructions(50, 40, 1).endswith("You have 40 turns.")
