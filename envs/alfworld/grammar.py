"""ALFWorld's text rules, derived without parsing them anew at every step.

TextWorld's own `ContextSensitiveGrammar.derive` parses, deep-copies and calls `eval` each time a rule is used. Here
a text is parsed once, a context is never changed, and an expression may only read attributes of entities, join
texts and choose with `or`: a game file is data and cannot run code.
"""

from __future__ import annotations

import ast
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from textworld.envs.pddl import textgen
from textworld.envs.pddl.logic import GameLogic
from textworld.logic import Placeholder, Rule, Variable

from agentkit.errors import EnvironmentFault

Bindings = Mapping[Placeholder, Variable]
"""Which entity each variable of a rule stands for, in TextWorld's terms."""
Assignments = Callable[[Rule, Bindings], Iterable[Bindings]]
"""All ways to bind a condition's variables so that it holds now, in sorted order."""
_TASK = re.compile(r'"(Your task is to: [^"\\]*)"')
_ANY_TASK = "Your task is to: UNKNOWN GOAL."
_PARSING = threading.Lock()
"""TextWorld's parsers are module globals with state, and environments live in threads."""


class Context(NamedTuple):
    """What a rule's variables stand for while it is derived."""

    entities: Mapping[str, Any]
    """Variable name to entity, for expressions."""
    bound: Bindings
    """The same for conditions."""


class Grammar:
    """Text from the rules of a game.

    Args:
        rules: production rules by name, as TextWorld parsed them.
        entities: every entity of the game by id.
    """

    def __init__(self, rules: Mapping[str, list[Any]], entities: Mapping[str, Any]) -> None:
        self._rules = rules
        self.entities = entities

    def context(self, bound: Bindings) -> Context:
        """The context in which a rule's variables stand for the given entities."""
        return Context({place.name: self.entities[variable.name] for place, variable in bound.items()}, bound)

    def derive(self, start: str, context: Context, assignments: Assignments) -> str:
        """The text that `start` stands for, which is text with `#rules#`, `{expressions}` and `[lists]`.

        Raises:
            EnvironmentFault: a rule is missing, or an expression does more than it may.
        """
        parts: list[str] = []
        stack = [(symbol, context) for symbol in reversed(_symbols(start))]
        while stack:
            symbol, context = stack.pop()
            match symbol:
                case textgen.TerminalSymbol():
                    parts.append(str(symbol.symbol))
                case textgen.EvalSymbol():
                    parts.append(str(_reader(symbol.expression)(context.entities)))
                case textgen.NonterminalSymbol():
                    chosen = self._choose(symbol.symbol, context, assignments)
                    stack += [(one, context) for one in reversed(chosen)]
                case textgen.ConditionalSymbol():
                    stack += reversed(self._expand(symbol, context, assignments))
                case textgen.ListSymbol():
                    items = self._expand(symbol.symbol, context, assignments)
                    stack += reversed(_enumerate(items, context))
                case _:
                    raise EnvironmentFault(f"the grammar of the game has a {type(symbol).__name__}, which is unknown")
        return "".join(parts)

    def _choose(self, name: str, context: Context, assignments: Assignments) -> list[Any]:
        """Right side of the first rule of that name whose condition holds."""
        for rule in self._rules.get(name, ()):
            if not rule.condition or any(True for _ in assignments(_query(rule.condition), context.bound)):
                return rule.rhs
        raise EnvironmentFault(f"the grammar of the game has no rule for #{name}# that applies")

    def _expand(self, symbol: Any, context: Context, assignments: Assignments) -> list[tuple[Any, Context]]:
        """A conditional symbol's expression, once for each way to fulfil its condition."""
        if not isinstance(symbol, textgen.ConditionalSymbol):
            return [(symbol, context)]
        if not symbol.given:
            return [(symbol.expression, context)]
        found = assignments(_query(symbol.given), context.bound)
        return [(symbol.expression, self.context(bound)) for bound in found]


def read_logic(domain: str, grammar: str) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Actions by name, and text rules by name, as TextWorld parses them; shared: callers must not change them.

    The files of ALFWorld's games differ in one sentence, which names the task. The rest is parsed once.
    """
    sentences = _TASK.findall(grammar)
    if len(sentences) == 1:
        logic = _parse_logic(domain, _TASK.sub(f'"{_ANY_TASK}"', grammar))
        rules = logic.grammar._rules
        owners = [name for name, same in rules.items() for rule in same if _ANY_TASK in _literals(rule.rhs)]
        if len(owners) == 1 and len(rules[owners[0]]) == 1:
            task = textgen.ProductionRule(owners[0], _symbols(sentences[0]))
            return logic.actions, {**rules, owners[0]: [task]}
    logic = _parse_logic(domain, grammar)
    return logic.actions, logic.grammar._rules


@lru_cache(maxsize=16)
def _parse_logic(domain: str, grammar: str) -> GameLogic:
    with _PARSING:
        return GameLogic(domain, grammar)


def _literals(symbols: list[Any]) -> list[str]:
    return [symbol.symbol for symbol in symbols if isinstance(symbol, textgen.TerminalSymbol)]


@lru_cache(maxsize=4096)
def _symbols(text: str) -> list[Any]:
    with _PARSING:
        return textgen._parse_and_convert(text, rule_name="symbols")


@lru_cache(maxsize=4096)
def _query(condition: str) -> Rule:
    with _PARSING:
        return Rule.parse_conjunctive_query(condition)


@lru_cache(maxsize=4096)
def _reader(expression: str) -> Callable[[Mapping[str, Any]], Any]:
    """A function that evaluates an expression such as `o.indefinite + ' ' + o.name`."""
    try:
        return _compile(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError):
        raise EnvironmentFault(f"the grammar of the game may not evaluate {expression!r}") from None


def _compile(node: ast.expr) -> Callable[[Mapping[str, Any]], Any]:
    match node:
        case ast.Constant(value=str(text)):
            return lambda entities: text
        case ast.Attribute(value=ast.Name(id=name), attr=attribute) if not attribute.startswith("_"):
            return lambda entities: getattr(entities[name], attribute)
        case ast.Name(id=name):
            return lambda entities: entities[name].name
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            first, second = _compile(left), _compile(right)
            return lambda entities: first(entities) + second(entities)
        case ast.BoolOp(op=ast.Or(), values=[*values]):
            choices = [_compile(value) for value in values]
            return lambda entities: next((one for choice in choices if (one := choice(entities))), "")
    raise ValueError("neither an attribute, a text, a sum nor a choice")


def _enumerate(items: list[tuple[Any, Context]], context: Context) -> list[tuple[Any, Context]]:
    """Items with the grammar's separators between them, or what it says of none."""
    if not items:
        return [(textgen.NonterminalSymbol("list_empty"), context)]
    between = (textgen.NonterminalSymbol("list_separator"), context)
    joined = [part for item in items[:-1] for part in (item, between)]
    if len(items) > 1:
        joined[-1] = (textgen.NonterminalSymbol("list_last_separator"), context)
    return [*joined, items[-1]]
