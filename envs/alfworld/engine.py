"""One ALFWorld game, played on TextWorld's own parts: Fast Downward's state, ALFWorld's rules and names.

The texts and commands are byte for byte those of `AlfredInfos(AlfredDemangler(PddlEnv(...)))`. What differs is the
cost: planning tasks are translated once, rules are parsed once, and only what a step changed is computed anew.
Nothing in TextWorld or ALFWorld is patched. TextWorld's second, optimised translation is left out: it serves only
TextWorld's replanning.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

from textworld.envs.pddl.logic import Atom
from textworld.generator.game import EntityInfo
from textworld.logic import Placeholder, Proposition, Type, TypeHierarchy, Variable

from agentkit.envs.alfworld.game_file import read_game_file
from agentkit.envs.alfworld.grammar import Context, Grammar, read_logic
from agentkit.envs.alfworld.libraries import borrow, give_back
from agentkit.envs.alfworld.package import alfworld
from agentkit.envs.alfworld.translation import planning_task
from agentkit.envs.alfworld.world import Level, World
from agentkit.errors import ConfigError

NOTHING = "Nothing happens."
"""TextWorld's answer to a command that cannot be carried out."""


class Engine:
    """A game: commands in, ALFWorld's texts out.

    Args:
        path: a `game.tw-pddl`.

    Raises:
        EnvironmentFault: the file is no such game, belongs to another version, or cannot be translated.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        game = read_game_file(self.path)
        task = planning_task(game["pddl_domain"], game["pddl_problem"], str(path))
        self._identity = _digest(*game.values())
        self._library: Any = borrow()
        self._finish = weakref.finalize(self, give_back, self._library)  # also where nobody calls close()
        self._finish.atexit = False
        self._level = _read_level(self._library, task, game)
        self._shared = _shared_receptacles(self._level.facts)
        self.reset()

    def reset(self) -> str:
        """Start anew; returns the opening text, which ends with the task."""
        self._need_open()
        self._world = World(self._library, self._level)
        self._moves = self._world.moves()
        return self._derive("#intro#", Context({}, {}))

    def step(self, command: str) -> tuple[str, bool]:
        """Carry out a command, given exactly as in `admissible`; returns the answer and whether the game is won."""
        self._need_open()
        if (known := self._moves.get(command.strip())) is None:
            return NOTHING, self._world.won
        operator, move = known
        self._world.apply(operator)
        answer = self._derive(move.feedback, move.context)
        self._moves = self._world.moves()
        return answer, self._world.won

    @property
    def admissible(self) -> list[str]:
        """The commands that can be carried out now, sorted."""
        return sorted(self._moves)

    @property
    def state_key(self) -> str:
        """16 hexadecimal digits: equal for equal states of equal games, whatever the player did to get there."""
        return _digest(self._identity, *sorted(str(fact) for fact in self._world.changes if self._matters(fact)))

    @property
    def facts(self) -> list[Proposition]:
        """What holds now, about things by their names in the game, as ALFWorld's handcoded expert reads it."""
        entities = self._level.grammar.entities
        return [
            Proposition(fact.name, [Variable(entities[one.name].name, one.type) for one in fact.arguments])
            for fact in self._world.facts
        ]

    def close(self) -> None:
        """Give the library back; the engine cannot be used after that. Closing again does nothing."""
        self._library = None
        self._finish()

    def _need_open(self) -> None:
        if self._library is None:
            raise ConfigError(f"the engine of {self.path} is closed")

    def _derive(self, text: str, context: Context) -> str:
        return self._level.grammar.derive(text, context, self._world.assignments)

    def _matters(self, fact: Proposition) -> bool:
        """Whether some text, rule or goal can tell a state with this fact from one without it.

        `checked` is written by `look`, `examine` and `open`, and read by nothing. Facts named `not_...` are
        TextWorld's record of what an action made false; texts ask for one of them only: `look` lists what was
        taken from a receptacle and lies in another one at the same place.
        """
        if fact.name == "not_inreceptacle":
            return fact.arguments[1].name in self._shared
        return fact.name != "checked" and not fact.is_negation


def _digest(*texts: str) -> str:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=8).hexdigest()


def _read_level(library: Any, task: dict[str, Any], game: dict[str, str]) -> Level:
    actions, rules = read_logic(game["pddl_domain"], game["grammar"])
    types = TypeHierarchy()
    for kind, supertypes in dict(reversed(task["types"])).items():
        types.add(Type(kind, supertypes))  # ALFWorld declares PDDL's own `object` again; the first one counts
    sas, kinds = task["sas"].encode(), task["objects"]
    facts = {Proposition(name, [Variable(one, kinds[one]) for one in names]) for name, names in task["facts"]}
    library.load_sas(sas)
    atoms = (Atom * library.get_state_size())()
    library.get_state(atoms)
    facts.update(atom.get_fact(kinds) for atom in atoms if not atom.name.startswith("Negated"))
    parameters = {
        action: [Placeholder(name.strip("?"), kind) for name, kind in places]
        for action, places in task["actions"].items()
    }
    entities = _name_entities(facts)
    return Level(sas, actions, Grammar(rules, entities), parameters, types, kinds, frozenset(facts))


def _name_entities(facts: set[Proposition]) -> dict[str, EntityInfo]:
    """Everything that a fact names, by id, with ALFWorld's name for it: `apple 1`."""
    entities = {one.name: EntityInfo(one.name, one.type) for fact in facts for one in fact.arguments}
    demangler = alfworld("agents.utils.misc").Demangler(game_infos=entities)
    for entity in entities.values():
        entity.definite, entity.indefinite = "the", "a"
        entity.name = demangler.demangle_alfred_name(entity.id)
    return entities


def _shared_receptacles(facts: frozenset[Proposition]) -> frozenset[str]:
    """Ids of the receptacles that share their location with another."""
    at = [tuple(one.name for one in fact.arguments) for fact in facts if fact.name == "receptacleatlocation"]
    occupants = Counter(location for _, location in at)
    return frozenset(receptacle for receptacle, location in at if occupants[location] > 1)
