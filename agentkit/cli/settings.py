"""Settings in words: `key=value` texts to values, and what pydantic finds wrong to one line a problem."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from agentkit.errors import ConfigError, unknown_name

Model = TypeVar("Model", bound=BaseModel)


def parse_assignment(text: str) -> tuple[str, Any]:
    """(key, value) of `key=value`; the value is read as TOML, or taken as it stands if it is none.

    >>> parse_assignment("train.learning_rate=1e-4"), parse_assignment("env.id=agentkit/Sudoku-v0")
    (('train.learning_rate', 0.0001), ('env.id', 'agentkit/Sudoku-v0'))
    """
    key, equals, value = (piece.strip() for piece in text.partition("="))
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{text!r} is no setting; write KEY=VALUE, e.g. train.learning_rate=1e-4")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return key, value
    return key, parsed["value"] if parsed.keys() == {"value"} else value


def parse_params(texts: Iterable[str]) -> dict[str, Any]:
    """The `--param` options of a command as keyword arguments."""
    return dict(parse_assignment(text) for text in texts)


def assign(data: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested tables.

    >>> data = {"train": {"iterations": 3}}
    >>> assign(data, "train.credit.name", "uniform")
    >>> data
    {'train': {'iterations': 3, 'credit': {'name': 'uniform'}}}
    """
    *sections, name = key.split(".")
    for section in sections:
        inner = data.get(section)
        if not isinstance(inner, dict):
            inner = data[section] = {}
        data = inner
    data[name] = value


def validated(model: type[Model], data: Mapping[str, Any], *, where: str = "") -> Model:
    """The settings in `data`; nothing is converted quietly (a text is no number, true is not 1).

    Args:
        model: What is needed.
        data: Tables of plain values, as from TOML.
        where: Where `data` comes from, put in front of every problem.

    Raises:
        ConfigError: One line for each problem, naming the setting.
    """
    try:
        return model.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError("\n".join(where + problem for problem in problems(error, model))) from None


def problems(error: ValidationError, model: type[BaseModel] | None = None) -> list[str]:
    """What is wrong, one line a problem.

    Args:
        error: What pydantic found.
        model: The model that was validated; needed for the names of known settings.
    """
    return [_problem(dict(one), model) for one in error.errors(include_url=False)]


def _problem(found: dict[str, Any], model: type[BaseModel] | None) -> str:
    kind, message, loc = found["type"], found["msg"], found["loc"]
    parts, section = _walk(model, loc)
    key = ".".join(parts)
    if kind == "extra_forbidden":
        return _unknown(parts, section, model)
    if kind == "missing":
        return f"setting {key!r} is missing"
    if kind == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in found["ctx"]["expected_tags"].split(",")]
        return str(unknown_name(f"{key}.{found['ctx']['discriminator'].strip(chr(39))}", found["ctx"]["tag"], tags))
    if kind == "union_tag_not_found":
        name = found["ctx"]["discriminator"].strip("'")
        choices = f"; choose {' or '.join(map(repr, section))}" if isinstance(section, dict) else ""
        return f"setting '{key}.{name}' is missing{choices}"
    if kind == "value_error":
        return ": ".join(filter(None, [key, message.removeprefix("Value error, ")]))
    if kind == "json_invalid":
        return message
    if isinstance(section, dict):
        message = f"must be a table of settings; the part is chosen by {key}.name"
    elif isinstance(section, type) or kind in ("model_type", "dict_type"):
        message = "must be a table of settings"
    given = repr(found["input"])
    shown = given if len(given) <= 60 else given[:57] + "..."
    return f"{key} = {shown}: {message.replace('Input should be', 'must be')}"


def _unknown(parts: list[str], section: Any, model: type[BaseModel] | None) -> str:
    """An unknown setting: the nearest one of its section, else of any section, else all of its section."""
    key, name = ".".join(parts), parts[-1]
    own = [*section.model_fields] if _is_model(section) else []
    near = get_close_matches(name, own, n=1, cutoff=0.6)
    if not near and model is not None:
        everywhere: dict[str, str] = {}
        for dotted in every_key(model):
            everywhere.setdefault(dotted.rpartition(".")[2], dotted)
        everywhere.pop("name", None)  # every part has one
        near = [everywhere[match] for match in get_close_matches(name, everywhere, n=1, cutoff=0.8)]
    hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(repr(known) for known in own)
    return f"no setting {key!r}; {hint}"


def every_key(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted keys of all settings."""
    for name, field in model.model_fields.items():
        yield prefix + name
        inner = _inside(field.annotation, field.discriminator)
        if isinstance(inner, _Many):
            continue
        for one in inner.values() if isinstance(inner, dict) else [inner]:
            if one is not None:
                yield from every_key(one, f"{prefix}{name}.")


def _walk(model: type[BaseModel] | None, loc: tuple[Any, ...]) -> tuple[list[str], Any]:
    """(parts of the dotted key, what it names: a section, its variants by tag, many of these, None for a plain value).

    For an unknown key the second is the section that does not know it.
    """
    parts: list[str] = []
    here: Any = model
    for step in loc:
        if isinstance(here, dict):  # pydantic's path names the variant, the file does not
            here = here[step]
        elif isinstance(here, _Many):
            parts.append(str(step))
            here = here.each
        else:
            parts.append(str(step))
            field = here.model_fields.get(step) if here is not None else None
            if field is None:
                return [*parts, *map(str, loc[len(parts) :])] if here is None else parts, here
            here = _inside(field.annotation, field.discriminator)
    return parts, here


class _Many(NamedTuple):
    """What a list or a table of sections holds."""

    each: Any


def _inside(kind: Any, discriminator: Any = None) -> Any:
    """The section of a type, its variants by tag, many of either, or None for plain values."""
    if get_origin(kind) is Annotated:
        kind, *notes = get_args(kind)
        told = (note.discriminator for note in notes if isinstance(note, FieldInfo))
        return _inside(kind, next(filter(None, told), discriminator))
    if _is_model(kind):
        return {_tag(kind, discriminator): kind} if discriminator else kind
    if get_origin(kind) in (list, tuple, dict):
        each = next(filter(None, map(_inside, get_args(kind))), None)
        return None if each is None else _Many(each)
    members = [one for one in get_args(kind) if _is_model(one)]
    if discriminator:
        return {_tag(one, discriminator): one for one in members}
    return members[0] if members else next(filter(None, map(_inside, get_args(kind))), None)


def _tag(kind: Any, discriminator: str) -> str:
    return str(get_args(kind.model_fields[discriminator].annotation)[0])


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
