"""Settings: the base of everything that can be set, in Python, in the TOML file and on the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def changed(self) -> set[str]:
        """Names of the fields that differ from their defaults, so that settings written out in full read back alike."""
        fields = type(self).model_fields
        return {
            name for name, info in fields.items() if getattr(self, name) != info.get_default(call_default_factory=True)
        }


class Part(Settings):
    """Base of the parts that settings choose by their name."""

    name: str = ""
    """What files, errors and metrics call it: a `Literal` in each subclass."""


@dataclass(frozen=True)
class OrOwn:
    """Beside the parts that are chosen by name, an instance of one's own subclass of `base`, given in Python.

    Where a field's type is `SerializeAsAny[Annotated[A | B, Field(discriminator="name"), OrOwn(Base)]]`, files and
    command lines choose among A and B, and settings written out hold what an own part says of itself.
    """

    base: type[Part]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Pydantic's hook; JSON is left to the union, for a function in between would take its lists for no tuples."""
        named = handler(source)

        def accepted(value: Any, choose: Callable[[Any], Any]) -> Any:
            return value if isinstance(value, self.base) else choose(value)

        own = core_schema.no_info_wrap_validator_function(accepted, named)
        return core_schema.json_or_python_schema(json_schema=named, python_schema=own)
