"""What happened, recorded once, and recalled: records, the episode log, memories of all kinds."""

if __name__ != "agentkit.memory":
    raise ImportError("import 'agentkit.memory', not 'memory'")

from typing import TYPE_CHECKING

from agentkit.lazy import lazy_names

if TYPE_CHECKING:
    from agentkit.memory.abstention import Abstention as Abstention
    from agentkit.memory.arms import Situation as Situation
    from agentkit.memory.belief import believe as believe
    from agentkit.memory.detectors import detect as detect
    from agentkit.memory.distillation import distil as distil
    from agentkit.memory.distiller import Distiller as Distiller
    from agentkit.memory.embedders import HashEmbedder as HashEmbedder
    from agentkit.memory.embedders import MiniLMEmbedder as MiniLMEmbedder
    from agentkit.memory.exposure import Exploration as Exploration
    from agentkit.memory.exposure import Exposure as Exposure
    from agentkit.memory.fusion import fit_weights as fit_weights
    from agentkit.memory.fusion import fuse as fuse
    from agentkit.memory.gate import Gate as Gate
    from agentkit.memory.graph_store import ChromaMemoryStore as ChromaMemoryStore
    from agentkit.memory.hysteresis import Hysteresis as Hysteresis
    from agentkit.memory.ingestion import ingest as ingest
    from agentkit.memory.kinds import Draft as Draft
    from agentkit.memory.kinds import Memory as Memory
    from agentkit.memory.kinds import Source as Source
    from agentkit.memory.kinds import Trust as Trust
    from agentkit.memory.ledger import Ledger as Ledger
    from agentkit.memory.lifecycle import apply_eviction as apply_eviction
    from agentkit.memory.lifecycle import merge as merge
    from agentkit.memory.lifecycle import plan_eviction as plan_eviction
    from agentkit.memory.log import EpisodeLog as EpisodeLog
    from agentkit.memory.pairs import estimate_pairs as estimate_pairs
    from agentkit.memory.provenance import why as why
    from agentkit.memory.reader import Reader as Reader
    from agentkit.memory.reader import ReadSettings as ReadSettings
    from agentkit.memory.records import Episode as Episode
    from agentkit.memory.records import Message as Message
    from agentkit.memory.records import Part as Part
    from agentkit.memory.records import Picture as Picture
    from agentkit.memory.records import Role as Role
    from agentkit.memory.records import Turn as Turn
    from agentkit.memory.selection import select as select
    from agentkit.memory.skills import extract_skills as extract_skills
    from agentkit.memory.store import MemoryStore as MemoryStore
    from agentkit.memory.utility import estimate_utility as estimate_utility
    from agentkit.memory.visits import Visits as Visits

_HOMES = {
    "Abstention": "agentkit.memory.abstention",
    "ChromaMemoryStore": "agentkit.memory.graph_store",
    "Distiller": "agentkit.memory.distiller",
    "Draft": "agentkit.memory.kinds",
    "Episode": "agentkit.memory.records",
    "EpisodeLog": "agentkit.memory.log",
    "Exploration": "agentkit.memory.exposure",
    "Exposure": "agentkit.memory.exposure",
    "Gate": "agentkit.memory.gate",
    "HashEmbedder": "agentkit.memory.embedders",
    "Hysteresis": "agentkit.memory.hysteresis",
    "Ledger": "agentkit.memory.ledger",
    "Memory": "agentkit.memory.kinds",
    "MemoryStore": "agentkit.memory.store",
    "Message": "agentkit.memory.records",
    "MiniLMEmbedder": "agentkit.memory.embedders",
    "Part": "agentkit.memory.records",
    "Picture": "agentkit.memory.records",
    "ReadSettings": "agentkit.memory.reader",
    "Reader": "agentkit.memory.reader",
    "Role": "agentkit.memory.records",
    "Situation": "agentkit.memory.arms",
    "Source": "agentkit.memory.kinds",
    "Trust": "agentkit.memory.kinds",
    "Turn": "agentkit.memory.records",
    "Visits": "agentkit.memory.visits",
    "apply_eviction": "agentkit.memory.lifecycle",
    "believe": "agentkit.memory.belief",
    "detect": "agentkit.memory.detectors",
    "distil": "agentkit.memory.distillation",
    "estimate_pairs": "agentkit.memory.pairs",
    "estimate_utility": "agentkit.memory.utility",
    "extract_skills": "agentkit.memory.skills",
    "fit_weights": "agentkit.memory.fusion",
    "fuse": "agentkit.memory.fusion",
    "ingest": "agentkit.memory.ingestion",
    "merge": "agentkit.memory.lifecycle",
    "plan_eviction": "agentkit.memory.lifecycle",
    "select": "agentkit.memory.selection",
    "why": "agentkit.memory.provenance",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
