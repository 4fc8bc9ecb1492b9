"""What is known of Gymnasium's own games with discrete actions: their rules in a few words, for `Discrete`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf


@dataclass(frozen=True)
class Game:
    """What an environment does not say of itself."""

    rules: str = ""
    """For the player; empty: the environment's docstring is shown."""
    actions: tuple[str, ...] = ()
    """[actions] names in the order of their numbers; empty: they are numbered."""
    fields: tuple[str, ...] = ()
    """Names of the numbers of an observation."""
    success_reward: float | None = None
    """Sum of rewards that a solved episode has reached; -inf if it only ends by being solved, None if unknown."""
    solved: str = "ended"
    """When that sum counts: "ended" or "reached"."""


_WALK = ("up", "right", "down", "left")
_LAKE = Game(
    "Cross the frozen lake from S to the goal G; falling into a hole H ends the game. F is ice, on which you may "
    "slip. The cell in angle brackets is where you are.",
    ("left", "down", "right", "up"),
    ("cell",),
)
_CLIFF = Game(
    "Walk from the lower left corner to the target T. Every step costs 1; a step into the cliff C costs 100 and puts "
    "you back to where you began. x you, o ground.",
    _WALK,
    ("cell",),
    -inf,
)

GAMES = {
    "Acrobot": Game(
        "Two links hang from a fixed joint, and you turn the joint between them. Swing the free end above the height "
        "of one link over the fixed joint. Every action costs 1.",
        ("torque -1", "torque 0", "torque +1"),
        ("cos angle 1", "sin angle 1", "cos angle 2", "sin angle 2", "speed 1", "speed 2"),
        -inf,
    ),
    "Blackjack": Game(
        "Get closer to 21 than the dealer without going over. Face cards count 10, an ace 11 while that is usable, "
        "else 1. Hit takes a card; after stick the dealer draws up to 17 and the game ends: 1 won, 0 drawn, -1 lost.",
        ("stick", "hit"),
        ("your sum", "dealer shows", "usable ace"),
        1.0,
    ),
    "CartPole": Game(
        "Keep the pole on the cart upright (within 12 degrees) and the cart on the track (within 2.4 of its middle). "
        "Every action earns 1 until one of them fails.",
        ("push left", "push right"),
        ("position", "speed", "angle in radians", "angular speed"),
        solved="reached",
    ),
    "CliffWalking": _CLIFF,
    "CliffWalkingSlippery": replace(_CLIFF, rules=_CLIFF.rules + " You may slip to one side."),
    "FrozenLake": _LAKE,
    "FrozenLake8x8": _LAKE,
    "LunarLander": Game(
        "Land between the flags, gently and upright. Landing well earns, crashing and burning fuel cost.",
        ("wait", "fire left engine", "fire main engine", "fire right engine"),
        ("x", "y", "speed x", "speed y", "angle", "angular speed", "left leg down", "right leg down"),
    ),
    "MountainCar": Game(
        "A car in a valley is too weak to drive up the right hill: swing it up to position 0.5. Every action costs 1.",
        ("push left", "wait", "push right"),
        ("position", "speed"),
        -inf,
    ),
    "Taxi": Game(
        "Drive to the passenger, pick them up, drive to their destination and drop them off. R, G, Y and B are stops, "
        "| is a wall, : is none. Marked are the empty taxi (on yellow), the taxi with the passenger (on green), the "
        "waiting passenger (blue) and the destination (magenta). Every action costs 1, a wrong pickup or dropoff 10; "
        "delivering earns 20.",
        ("south", "north", "east", "west", "pickup", "dropoff"),
        ("state",),
        -inf,
    ),
}
"""Name of a Gymnasium id, without its version -> what is known of it."""
