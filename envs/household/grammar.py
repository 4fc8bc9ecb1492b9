"""ALFWorld's commands: what a player may write, read without knowing the house.

The sentences are those of alfworld 0.4; the older `put X in/on Y` is read as `move X to Y`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

NOTHING = "Nothing happens."
"""The answer to whatever is no command, or cannot be done now."""
LINKS = {"take": "from", "move": "to", "heat": "with", "clean": "with", "cool": "with", "slice": "with"}
"""Verb with two names -> the word between them."""
RULES = """\
You are in a house and have a task. You can carry one object. These commands can be used:
  go to (receptacle)
  open (receptacle)
  close (receptacle)
  take (object) from (receptacle)
  move (object) to (receptacle)
  examine (receptacle, or object in your hand)
  use (object)
  heat (object) with (receptacle)
  clean (object) with (receptacle)
  cool (object) with (receptacle)
  slice (object) with (object)
  look
  inventory
  help
Every receptacle and object is a name and a number, as in: take mug 1 from desk 2
You must be at a receptacle to use it, and a closed one hides what is in it. Heat with a microwave, clean with a \
sinkbasin, cool with a fridge, each at that place and with the object in your hand. What cannot be done is \
answered: Nothing happens."""
"""What a player must know besides the budgets."""

_NAME = r"([a-z]+ [1-9][0-9]*)"
_FORMS = re.compile(
    rf"(look|inventory|help)|(go) to {_NAME}|(open|close|examine|use) {_NAME}|(take) {_NAME} from {_NAME}"
    rf"|(move) {_NAME} to {_NAME}|(put) {_NAME} (?:in/on|in|on) {_NAME}|(heat|clean|cool|slice) {_NAME} with {_NAME}"
)


class Command(NamedTuple):
    """A well-formed command."""

    verb: str
    """One of the fourteen verbs."""
    first: str = ""
    """Name of the receptacle or object it is about, as in `mug 1`."""
    second: str = ""
    """Name of the receptacle or tool, if the verb needs one."""

    def __str__(self) -> str:
        """The command as ALFWorld writes it."""
        if self.second:
            return f"{self.verb} {self.first} {LINKS[self.verb]} {self.second}"
        return f"{'go to' if self.verb == 'go' else self.verb} {self.first}".rstrip()


def player_instructions(max_turns: int, max_actions: int, max_actions_per_turn: int) -> str:
    """Rules and budgets in words; the same for real and drawn houses."""
    if max_actions_per_turn == 1:
        return f"{RULES}\nYou have {min(max_turns, max_actions)} turns."
    return (
        f"{RULES}\nAt most {max_actions_per_turn} commands a turn, separated by ||. "
        f"You have {max_turns} turns and {max_actions} commands."
    )


def parse_command(text: str) -> Command | None:
    """The command that a text means, None if it is none; case and white space do not matter.

    >>> parse_command(" Put  mug 1 in/on desk 2 ")
    Command(verb='move', first='mug 1', second='desk 2')
    >>> str(parse_command("GO TO desk 2")), parse_command("go desk")
    ('go to desk 2', None)
    """
    match = _FORMS.fullmatch(" ".join(text.lower().split()))
    if match is None:
        return None
    verb, *names = (group for group in match.groups() if group is not None)
    return Command("move" if verb == "put" else verb, *names)
