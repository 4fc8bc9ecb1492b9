"""What happened, recorded once, and recalled: records, the episode log, episodic memory."""

if __name__ != "agentkit.memory":
    raise ImportError("import 'agentkit.memory', not 'memory'")

from importlib import import_module
from typing import Any

_HOMES = {
    "Episode": "records",
    "Message": "records",
    "Part": "records",
    "Role": "records",
    "Turn": "records",
    "EpisodeLog": "log",
    "EpisodicMemory": "episodic",
    "Memory": "episodic",
    "HashEmbedder": "embedders",
    "MiniLMEmbedder": "embedders",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'agentkit.memory' has no attribute {name!r}")
    return getattr(import_module(f"agentkit.memory.{_HOMES[name]}"), name)
