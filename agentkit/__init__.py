"""LLM agents with memory and experience replay. Names load on first use, so that `import agentkit` stays light."""

from typing import TYPE_CHECKING

from agentkit.lazy import lazy_names

if TYPE_CHECKING:
    from agentkit.agent import AgentConfig as AgentConfig
    from agentkit.agent import build_agent as build_agent
    from agentkit.attempt import Attempt as Attempt
    from agentkit.attempt import Limits as Limits
    from agentkit.envs import TextEnv as TextEnv
    from agentkit.envs import check_text_env as check_text_env
    from agentkit.envs import make_env as make_env
    from agentkit.errors import AgentkitError as AgentkitError
    from agentkit.evaluation import evaluate as evaluate
    from agentkit.memory.embedders import HashEmbedder as HashEmbedder
    from agentkit.memory.embedders import MiniLMEmbedder as MiniLMEmbedder
    from agentkit.memory.log import EpisodeLog as EpisodeLog
    from agentkit.memory.records import Episode as Episode
    from agentkit.memory.records import Role as Role
    from agentkit.memory.records import Turn as Turn
    from agentkit.memory.store import MemoryStore as MemoryStore
    from agentkit.policies.chat import ChatPolicy as ChatPolicy
    from agentkit.policies.doubles import ExpertPolicy as ExpertPolicy
    from agentkit.policies.doubles import RandomPolicy as RandomPolicy
    from agentkit.policies.doubles import ScriptedPolicy as ScriptedPolicy
    from agentkit.policies.local import LocalPolicy as LocalPolicy
    from agentkit.policies.policy import Sampling as Sampling
    from agentkit.recall import MemoryRecall as MemoryRecall
    from agentkit.rollout import collect as collect
    from agentkit.rollout import collect_async as collect_async
    from agentkit.task import Task as Task
    from agentkit.task import make_tasks as make_tasks
    from agentkit.training.config import ImitationConfig as ImitationConfig
    from agentkit.training.config import TrainConfig as TrainConfig
    from agentkit.training.credit import ActFocus as ActFocus
    from agentkit.training.credit import Uniform as Uniform
    from agentkit.training.sft import SftConfig as SftConfig
    from agentkit.training.sft import fine_tune as fine_tune
    from agentkit.training.trainer import Trainer as Trainer

_HOMES = {
    "ActFocus": "agentkit.training.credit",
    "AgentConfig": "agentkit.agent",
    "AgentkitError": "agentkit.errors",
    "Attempt": "agentkit.attempt",
    "ChatPolicy": "agentkit.policies.chat",
    "Episode": "agentkit.memory.records",
    "EpisodeLog": "agentkit.memory.log",
    "MemoryStore": "agentkit.memory.store",
    "MemoryRecall": "agentkit.recall",
    "ExpertPolicy": "agentkit.policies.doubles",
    "HashEmbedder": "agentkit.memory.embedders",
    "ImitationConfig": "agentkit.training.config",
    "Limits": "agentkit.attempt",
    "LocalPolicy": "agentkit.policies.local",
    "MiniLMEmbedder": "agentkit.memory.embedders",
    "RandomPolicy": "agentkit.policies.doubles",
    "Role": "agentkit.memory.records",
    "Sampling": "agentkit.policies.policy",
    "ScriptedPolicy": "agentkit.policies.doubles",
    "SftConfig": "agentkit.training.sft",
    "Task": "agentkit.task",
    "TextEnv": "agentkit.envs",
    "TrainConfig": "agentkit.training.config",
    "Trainer": "agentkit.training.trainer",
    "Turn": "agentkit.memory.records",
    "Uniform": "agentkit.training.credit",
    "build_agent": "agentkit.agent",
    "check_text_env": "agentkit.envs",
    "collect": "agentkit.rollout",
    "collect_async": "agentkit.rollout",
    "evaluate": "agentkit.evaluation",
    "fine_tune": "agentkit.training.sft",
    "make_env": "agentkit.envs",
    "make_tasks": "agentkit.task",
}

__all__ = [*_HOMES, "__version__"]
__version__ = "0.1.0"
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
