"""LLM agents with memory and experience replay. Names load on first use, so `import agentkit` stays light."""

from importlib import import_module
from typing import Any

_HOMES = {
    "AgentkitError": "agentkit.errors",
    "Task": "agentkit.envs",
    "TextEnv": "agentkit.envs",
    "make_tasks": "agentkit.envs",
    "Episode": "agentkit.memory",
    "EpisodeLog": "agentkit.memory",
    "EpisodicMemory": "agentkit.memory",
    "Role": "agentkit.memory",
    "Turn": "agentkit.memory",
    "ChatPolicy": "agentkit.policies",
    "ExpertPolicy": "agentkit.policies",
    "LocalPolicy": "agentkit.policies",
    "RandomPolicy": "agentkit.policies",
    "ScriptedPolicy": "agentkit.policies",
    "build_agent": "agentkit.agent",
    "collect": "agentkit.rollout",
    "evaluate": "agentkit.evaluation",
    "ActFocus": "agentkit.training",
    "Trainer": "agentkit.training",
}
__all__ = [*_HOMES, "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'agentkit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
