"""Settings: the base of everything that can be set, in Python, in the TOML file and on the command line."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


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
