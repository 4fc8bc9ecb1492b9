"""Worlds of the study: what is played, what its demonstrator thinks and says, and how large a model learns from it.

A tiny model has to be able to read positions, so worlds are told in coordinates where they can be. Thoughts say in
words what an action follows from; they are several times as long as the action, for that is what credit is about.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from agentkit.envs import make_env
from agentkit.policies import ExpertPolicy
from agentkit.policies.policy import Completion, Request
from agentkit.task import make_tasks

FIRST_DEMONSTRATION = 1 << 20
"""Number of the first demonstrated task, far beyond those that are trained on."""
IDLE = (
    *("well", "hmm", "so", "let", "me", "see", "now", "maybe", "perhaps", "look"),
    *("wait", "first", "then", "think", "about", "this", "again", "yes", "okay", "right"),
)
"""Words that say nothing."""
Cell = tuple[int, int]


def cells(text: str, name: str) -> list[Cell]:
    """(row, column) of all cells that the sentence `name: ...` lists.

    >>> cells("Goal: row 3 col 1. Holes: row 0 col 2; row 1 col 1.", "Holes")
    [(0, 2), (1, 1)]
    """
    sentence = text.partition(f"{name}: ")[2].partition(".")[0]
    return [(int(row), int(col)) for row, col in re.findall(r"row (\d+) col (\d+)", sentence)]


def way(start: Cell, end: Cell) -> str:
    """How far it is from one cell to another.

    >>> way((1, 2), (3, 1)), way((1, 1), (1, 1))
    ('down 2 left 1', 'here')
    """
    down, right = end[0] - start[0], end[1] - start[1]
    steps = [f"{'down' if down > 0 else 'up'} {abs(down)}"] if down else []
    steps += [f"{'right' if right > 0 else 'left'} {abs(right)}"] if right else []
    return " ".join(steps) or "here"


def think_of_lake(text: str) -> str:
    """Where the player stands, where the goal is, and how far that is.

    >>> think_of_lake("You: row 1 col 2. Goal: row 3 col 1. Holes: none.")
    'I am at 1 2 and the goal is at 3 1 so down 2 left 1'
    """
    (you,), (goal,) = cells(text, "You"), cells(text, "Goal")
    return f"I am at {you[0]} {you[1]} and the goal is at {goal[0]} {goal[1]} so {way(you, goal)}"


def think_aloud(text: str) -> str:
    """Fourteen words that say nothing, drawn by what is seen, before what `think_of_lake` says.

    Who has not seen a text before cannot know them, so a clone draws them anew each time: most of the tokens that it
    samples are chance, and have no part in what happens.

    >>> think_aloud("You: row 1 col 2. Goal: row 3 col 1. Holes: none.")[:34]
    'about okay now think hmm think rig'
    """
    return " ".join([*Random(text).choices(IDLE, k=14), think_of_lake(text)])


def think_of_boxes(text: str) -> str:
    """Where the box is, seen from the player, and the target, seen from the box.

    >>> think_of_boxes("You: row 1 col 1. Boxes: row 1 col 2. Targets: row 3 col 2. Walls: none.")
    'the box is right 1 of me and the target down 2 of the box'
    """
    (you,), (box,), (target,) = cells(text, "You"), cells(text, "Boxes"), cells(text, "Targets")
    return f"the box is {way(you, box)} of me and the target {way(box, target)} of the box"


def think_of_gaps(text: str) -> str:
    """The last empty cell, which the demonstrator fills next, and what its row and its column miss.

    >>> think_of_gaps("1 . 3 4\\n3 4 1 2\\n2 1 4 .\\n4 3 2 1")
    'row 3 col 4 is empty the row misses 3 and the column 3'
    """
    rows = [line.split() for line in re.findall(r"^(?:[1-4.] ?){4}$", text, flags=re.MULTILINE)][-4:]
    gaps = [(row, col) for row in range(4) for col in range(4) if rows[row][col] == "."]
    if not gaps:
        return "no cell is empty"
    row, col = gaps[-1]
    of_row, of_col = (_missing(line) for line in (rows[row], [line[col] for line in rows]))
    return f"row {row + 1} col {col + 1} is empty the row misses {of_row} and the column {of_col}"


def _missing(values: list[str]) -> str:
    return " ".join(value for value in "1234" if value not in values)


def think_of_house(text: str) -> str:
    """What is wanted and held, where the lamp is once it was seen, and where the player has not been.

    Only the last turn is shown with the present one, so a thought goes on from the thought before it.

    >>> think_of_house("you see a bed 1, and a desk 1.\\n\\nYour task is to: look at mug under the desklamp.")
    'I want the mug and hold nothing and have not seen bed 1 desk 1'
    >>> said = "<think>I want the mug and hold nothing and have not seen bed 1 desk 1</think>"
    >>> told = "You arrive at desk 1. On the desk 1, you see a desklamp 1."
    >>> think_of_house(f"{said}<answer>go to desk 1</answer>\\n{told}")
    'I want the mug and hold nothing and the lamp is at desk 1 and have not seen bed 1'
    """
    said, _, seen = text.rpartition("</answer>\n")
    if thought := re.findall(r"<think>I want the (\w+) and hold (.+?) and (.*?)have not seen(.*?)</think>", said):
        wanted, held, lamp, unseen = thought[-1]
    else:
        wanted = re.findall(r"(?:look at|examine the) (\w+) (?:under|with) the desklamp", seen)[0]
        held, lamp, unseen = "nothing", "", seen.partition("Your task")[0]
    places = re.findall(r"(?!a )\b\w+ \d+", unseen)
    if here := re.findall(r"You arrive at (\w+ \d+)", seen):
        places = [place for place in places if place != here[0]]
    if "desklamp" in seen and (near := re.findall(r"(?:arrive at|open the|On the) (\w+ \d+)", seen)):
        lamp = f"the lamp is at {near[0]} and "
    if taken := re.findall(r"You pick up the (\w+ \d+)", seen):
        held = taken[0]
    elif "You move the" in seen:
        held = "nothing"
    return " ".join([f"I want the {wanted} and hold {held} and {lamp}have not seen", *places])


def say_placements(response: str) -> str:
    """The short form of Sudoku's actions, ROW,COL,VALUE.

    >>> say_placements("<answer>place 3 at row 1 col 2</answer>")
    '<answer>1,2,3</answer>'
    """
    return re.sub(r"place (\d) at row (\d) col (\d)", r"\2,\3,\1", response)


@dataclass(frozen=True)
class Demonstrator:
    """The environment's expert with `noise`, who thinks of all that it is shown."""

    expert: ExpertPolicy
    think: Callable[[str], str]
    say: Callable[[str], str] = str
    """What becomes of the expert's response."""
    name: str = "demonstrator"
    version: int = 0

    async def complete(self, request: Request) -> Completion:
        """The expert's (or a random) action behind a thought."""
        done = await self.expert.complete(request)
        told = "\n".join(message.text for message in request.messages)
        text = done.text.replace("<think></think>", f"<think>{self.think(told)}</think>", 1)
        return replace(done, text=self.say(text))


@dataclass(frozen=True)
class World:
    """What is played, and how the model that plays it is made."""

    env_id: str
    params: dict[str, Any]
    think: Callable[[str], str]
    say: Callable[[str], str] = str
    noise: float = 0.5
    """Share of the demonstrator's turns that are random."""
    demonstrations: int = 1200
    cloning_steps: int = 350
    history: int | None = 0
    """Past turns that are shown; None for all."""
    max_new_tokens: int = 32
    vocab: int = 384
    window: int = 256
    share: float = 1.0
    """Share of a budget's tasks and panel: an attempt that is told at length costs more."""

    def demonstrator(self) -> Demonstrator:
        """Who is cloned."""
        return Demonstrator(ExpertPolicy(noise=self.noise), self.think, self.say)

    def settings(self) -> dict[str, Any]:
        """All that a run in this world depends on, as JSON values.

        Functions are described by what they make of the first eight demonstrated levels.
        """
        tasks = make_tasks(self.env_id, "train", 8, first=FIRST_DEMONSTRATION, params=self.params)
        told = [make_env(task).reset(seed=task.seed, options={"split": task.split})[0] for task in tasks]
        said = [[text, self.think(text), self.say("place 3 at row 1 col 2")] for text in told]
        numbers = {name: value for name, value in vars(self).items() if not callable(value)}
        return numbers | {"said": said}


LAKE = World("agentkit/FrozenLake-v0", {"text": "coords", "p": 0.8}, think_of_lake)
WORLDS = {
    "lake": LAKE,
    "slippery": replace(LAKE, params=LAKE.params | {"slip": 0.2}),
    "chatty": replace(LAKE, think=think_aloud, max_new_tokens=56),
    "sokoban": World("agentkit/Sokoban-v0", {"size": 5, "text": "coords"}, think_of_boxes, noise=0.3),
    "sudoku": World(
        "agentkit/Sudoku-v0",
        {"num_empty": 3, "max_turns": 5, "max_actions_per_turn": 1},
        think_of_gaps,
        say_placements,
        noise=0.3,
        cloning_steps=400,
    ),
    "household": World(
        "agentkit/Household-v0",
        {"task_types": ["look_at_obj_in_light"], "max_receptacles": 6, "max_objects": 4, "max_turns": 8},
        think_of_house,
        noise=0.2,
        cloning_steps=500,
        history=1,
        max_new_tokens=64,
        vocab=600,
        window=384,
        share=0.5,
    ),
}
