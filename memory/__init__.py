"""What happened, recorded once, and recalled: records, the episode log, episodic memory."""

if __name__ != "agentkit.memory":
    raise ImportError("import 'agentkit.memory', not 'memory'")

from typing import TYPE_CHECKING

from agentkit.lazy import lazy_names

if TYPE_CHECKING:
    from agentkit.memory.embedders import HashEmbedder as HashEmbedder
    from agentkit.memory.embedders import MiniLMEmbedder as MiniLMEmbedder
    from agentkit.memory.kinds import Memory as Memory
    from agentkit.memory.log import EpisodeLog as EpisodeLog
    from agentkit.memory.records import Episode as Episode
    from agentkit.memory.records import Message as Message
    from agentkit.memory.records import Part as Part
    from agentkit.memory.records import Picture as Picture
    from agentkit.memory.records import Role as Role
    from agentkit.memory.records import Turn as Turn
    from agentkit.memory.store import MemoryStore as MemoryStore

_HOMES = {
    "Episode": "agentkit.memory.records",
    "EpisodeLog": "agentkit.memory.log",
    "MemoryStore": "agentkit.memory.store",
    "HashEmbedder": "agentkit.memory.embedders",
    "Memory": "agentkit.memory.kinds",
    "Message": "agentkit.memory.records",
    "MiniLMEmbedder": "agentkit.memory.embedders",
    "Part": "agentkit.memory.records",
    "Picture": "agentkit.memory.records",
    "Role": "agentkit.memory.records",
    "Turn": "agentkit.memory.records",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
