"""Templates: texts in which the names of things are slots, so that what was learnt of one apple holds for the next.

A name is what says by its shape that it is one: a word and a number (`apple 2`), a number, a quotation. Each shape has
one pattern, which matches in one way only at a place, so a template is matched in one pass without going back.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agentkit.errors import ConfigError

_FUNCTION_WORDS = "a|an|and|are|at|by|for|from|has|have|in|is|of|on|only|or|see|than|the|to|with"
_SHAPES = {
    "text": r'"[^"\n]{1,80}"' + r"|(?<!\w)'[^'\n]{1,80}'(?!\w)",
    "object": rf"(?!\A)(?<![\w-])(?!(?:{_FUNCTION_WORDS}) )[^\W\d][\w-]{{0,40}} \d{{1,9}}(?![\w-]|\.\d)",
    "number": r"(?<![\w.])-?\d{1,18}(?:\.\d{1,18})?(?![\w]|\.\d)",
    "kind": r"(?<![\w-])[^\W\d][\w-]{0,40}(?![\w-])",
}
"""Type of a slot -> what it stands for; every repetition is bounded, so a text is searched in linear time."""
_PATTERNS = {name: re.compile(shape) for name, shape in _SHAPES.items()}
_NAME = re.compile("|".join(f"(?P<{name}>{shape})" for name, shape in _SHAPES.items()))
_MARK = re.compile(r"\{\{|\}\}|\{([a-z][a-z0-9_]{0,40})\}|[{}]")


@dataclass(frozen=True, slots=True)
class Abstraction:
    """Texts with slots for names, and what each slot stands for."""

    templates: tuple[str, ...]
    """The texts given to `abstract`, in their order."""
    binding: dict[str, str]
    """Slot -> name, in the order of first appearance."""
    _slots: dict[tuple[str, str], str] = field(repr=False)

    def template(self, text: str) -> str:
        """A further text with the same slots; names that have none stay as they are.

        >>> abstract(["You see an apple 2."]).template("put apple 2 in fridge 1")
        'put {object_1} in fridge 1'
        """
        return "".join(
            _escape(piece) if type_ is None or (type_, piece) not in self._slots else f"{{{self._slots[type_, piece]}}}"
            for type_, piece in _pieces(text)
        )


def abstract(texts: Sequence[str], *, kinds: Collection[str] = (), min_texts: int = 1) -> Abstraction:
    """Put slots for names, the same slot for the same name in all the texts.

    Slots are called after their type and numbered as they appear: `object_1` for a word with a number, `number_1`,
    `text_1` for a quotation with its marks, `kind_1` for a bare word among `kinds`. The first word of a text is taken
    for a verb: `click 12` is `click {number_1}`.

    Args:
        texts: What belongs together, e.g. a goal, an observation and an action.
        kinds: Bare words that name sorts of things, e.g. `kinds_in` of the observations.
        min_texts: Names that occur in fewer of the texts stay as they are.

    >>> made = abstract(["clean some egg", "On it you see a egg 2.", "take egg 2 from sink 1"], kinds={"egg"})
    >>> made.templates
    ('clean some {kind_1}', 'On it you see a {object_1}.', 'take {object_1} from {object_2}')
    >>> made.binding
    {'kind_1': 'egg', 'object_1': 'egg 2', 'object_2': 'sink 1'}
    """
    seen: dict[tuple[str, str], int] = {}
    for text in texts:
        found = ((type_, piece) for type_, piece in _pieces(text) if type_ and (type_ != "kind" or piece in kinds))
        for name in dict.fromkeys(found):
            seen[name] = seen.get(name, 0) + 1
    numbers = dict.fromkeys(_SHAPES, 0)
    slots: dict[tuple[str, str], str] = {}
    for (type_, piece), count in seen.items():
        if count >= min_texts:
            numbers[type_] += 1
            slots[type_, piece] = f"{type_}_{numbers[type_]}"
    binding = {slot: piece for (_, piece), slot in slots.items()}
    made = Abstraction((), binding, slots)
    return Abstraction(tuple(made.template(text) for text in texts), binding, slots)


def kinds_in(texts: Sequence[str]) -> set[str]:
    """The sorts of things that are named with a number.

    >>> sorted(kinds_in(["go to fridge 1", "You see a egg 2, and a egg 3."]))
    ['egg', 'fridge']
    """
    return {piece.rpartition(" ")[0] for text in texts for type_, piece in _pieces(text) if type_ == "object"}


def slots_of(template: str) -> tuple[str, ...]:
    """The slots of a template, each once, in the order of first use.

    Raises:
        ConfigError: A brace is neither doubled nor part of a slot.
    """
    return tuple(dict.fromkeys(piece for is_slot, piece in _parse(template) if is_slot))


def bind(template: str, binding: Mapping[str, str]) -> str:
    """The text that a template stands for.

    >>> bind("put {object_1} in {{it}}", {"object_1": "egg 2"})
    'put egg 2 in {it}'

    Raises:
        ConfigError: A slot is not bound, or the template is malformed.
    """
    made = []
    for is_slot, piece in _parse(template):
        if is_slot and piece not in binding:
            raise ConfigError(f"slot {{{piece}}} of {template[:200]!r} is not bound; bound are {sorted(binding)}")
        made.append(binding[piece] if is_slot else piece)
    return "".join(made)


def match(template: str, text: str) -> dict[str, str] | None:
    """What the slots must stand for so that the template is the text; None if it cannot be.

    A slot stands for names of its type only; one that is called otherwise, e.g. `{a}`, for a name of any type.

    >>> match("put {object_1} in {a}", "put egg 2 in fridge 1")
    {'object_1': 'egg 2', 'a': 'fridge 1'}
    >>> match("put {a} in {a}", "put egg 2 in fridge 1") is None
    True

    Raises:
        ConfigError: The template is malformed.
    """
    binding: dict[str, str] = {}
    place = 0
    for is_slot, piece in _parse(template):
        if is_slot:
            found = _PATTERNS.get(piece.rpartition("_")[0], _NAME).match(text, place)
            if found is None or binding.setdefault(piece, found.group()) != found.group():
                return None
            place = found.end()
        elif text.startswith(piece, place):
            place += len(piece)
        else:
            return None
    return binding if place == len(text) else None


def _pieces(text: str) -> Iterator[tuple[str | None, str]]:
    """(type, piece) of a text from beginning to end; the type is None between names."""
    place = 0
    for found in _NAME.finditer(text):
        if found.start() > place:
            yield None, text[place : found.start()]
        yield found.lastgroup, found.group()
        place = found.end()
    if place < len(text):
        yield None, text[place:]


def _parse(template: str) -> Iterator[tuple[bool, str]]:
    """(is it a slot, its name or the literal text) of a template from beginning to end."""
    place = 0
    for found in _MARK.finditer(template):
        if found.start() > place:
            yield False, template[place : found.start()]
        if found.group(1):
            yield True, found.group(1)
        elif len(found.group()) == 2:
            yield False, found.group()[0]
        else:
            raise ConfigError(
                f"a lone {found.group()!r} at character {found.start()} of the template {template[:200]!r}; "
                "double it, or write a slot as {name}"
            )
        place = found.end()
    if place < len(template):
        yield False, template[place:]


def _escape(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
