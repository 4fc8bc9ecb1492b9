"""The state of a game: Fast Downward decides what is possible, the facts are kept for texts and keys.

Written after TextWorld's `PddlState`, with the same results. What it does not repeat at every step: sorting facts
that did not change, and wording commands that cannot have changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fast_downward import Operator
from textworld.envs.pddl.logic import Atom
from textworld.logic import Placeholder, Predicate, Proposition, Rule, Signature, TypeHierarchy, Variable

from agentkit.envs.alfworld.grammar import Bindings, Context, Grammar


class Level(NamedTuple):
    """What stays the same through a game."""

    sas: bytes
    """The planning task."""
    actions: Mapping[str, Any]
    """ALFWorld's commands: name to template and feedback."""
    grammar: Grammar
    """The text rules, over the game's entities."""
    parameters: dict[str, list[Placeholder]]
    """Action -> its parameters."""
    types: TypeHierarchy
    """PDDL's types; in ALFWorld's domain they are all subtypes of `object`."""
    kinds: dict[str, str]
    """Object -> type."""
    facts: frozenset[Proposition]
    """What holds in the beginning."""


class Move(NamedTuple):
    """An operator in the game's words."""

    command: str
    context: Context
    """What the variables of its action stand for."""
    feedback: str
    """Text of rules that answers the command."""


class World:
    """The state of a game under way.

    Args:
        library: a copy of Fast Downward's library that nobody else uses.
        level: the game.
    """

    def __init__(self, library: Any, level: Level) -> None:
        self._library = library
        self._level = level
        self._facts: defaultdict[str, set[Proposition]] = defaultdict(set)
        for fact in level.facts:
            self._facts[fact.name].add(fact)
        self._sorted: defaultdict[str, dict[Signature, list[Proposition]]] = defaultdict(dict)
        self._moves: dict[str, Move] = {}
        self._worded_by: set[str] = set()
        """Predicates that the wording of commands depends on."""
        self._changes: set[Proposition] = set()
        library.load_sas(level.sas)

    @property
    def facts(self) -> Iterator[Proposition]:
        """All facts, unordered. What a step made false is a fact too, with `not_` before its name."""
        for same in self._facts.values():
            yield from same

    @property
    def changes(self) -> frozenset[Proposition]:
        """The facts that hold now and did not in the beginning, or the other way round."""
        return frozenset(self._changes)

    @property
    def won(self) -> bool:
        """Whether the goal is reached."""
        return bool(self._library.check_goal())

    def moves(self) -> dict[str, tuple[Any, Move]]:
        """Command -> Fast Downward's operator and what it means, for all that can be done now."""
        operators = (Operator * self._library.get_applicable_operators_count())()
        self._library.get_applicable_operators(operators)
        found: dict[str, tuple[Any, Move]] = {}
        for operator in operators:
            move = self._moves.get(operator.name) or self._word(operator.name)
            found.setdefault(move.command, (operator, move))
        return found

    def apply(self, operator: Any) -> None:
        """Carry out an operator from `moves`."""
        effects = (Atom * operator.nb_effect_atoms)()
        self._library.apply_operator(operator.id, effects)
        for effect in effects:
            fact = effect.get_fact(self._level.kinds)
            self._set(fact.negate(), False)
            self._set(fact, True)

    def assignments(self, rule: Rule, bound: Bindings) -> Iterator[Bindings]:
        """All ways to bind a query's variables, each to another object, so that its conditions hold; sorted."""
        return self._match(rule.preconditions, bound)

    def _set(self, fact: Proposition, holds: bool) -> None:
        facts = self._facts[fact.name]
        if (fact in facts) == holds:
            return
        for known in (facts, self._changes):
            known.symmetric_difference_update((fact,))
        self._sorted.pop(fact.name, None)
        if fact.name in self._worded_by:
            self._moves.clear()

    def _word(self, operator: str) -> Move:
        name, *arguments = operator.split()
        action = self._level.actions[name]
        bound = {
            place: Variable(argument, place.type)
            for place, argument in zip(self._level.parameters[name], arguments, strict=False)
        }
        context = self._level.grammar.context(bound)
        command = self._level.grammar.derive(action.template, context, self._assignments_for_wording)
        move = self._moves[operator] = Move(command, context, action.feedback_rule)
        return move

    def _assignments_for_wording(self, rule: Rule, bound: Bindings) -> Iterator[Bindings]:
        self._worded_by.update(condition.name for condition in rule.preconditions)
        return self._match(rule.preconditions, bound)

    def _match(self, conditions: Sequence[Predicate], bound: Bindings) -> Iterator[Bindings]:
        if not conditions:
            yield bound
            return
        for fact in self._candidates(conditions[0].signature):
            extended = _unify(conditions[0].parameters, fact.arguments, bound)
            if extended is not None:
                yield from self._match(conditions[1:], extended)

    def _candidates(self, signature: Signature) -> Iterable[Proposition]:
        """The facts of a signature, sorted, then those of its subtypes in TextWorld's order."""
        known = self._sorted[signature.name]
        if signature not in known:
            types = self._level.types
            by_types = defaultdict(list)
            for fact in sorted(self._facts.get(signature.name, ())):
                by_types[fact.signature.types].append(fact)
            kinds = types.multi_subtypes([types.get(kind) for kind in signature.types])
            known[signature] = [fact for same in kinds for fact in by_types[tuple(kind.name for kind in same)]]
        return known[signature]


def _unify(places: Sequence[Placeholder], things: Sequence[Variable], bound: Bindings) -> Bindings | None:
    """`bound` and what the places must stand for besides, None if they cannot."""
    extended = dict(bound)
    for place, thing in zip(places, things, strict=True):
        known = extended.get(place)
        if known is None:
            if thing in extended.values():
                return None
            extended[place] = thing
        elif known != thing:
            return None
    return extended
