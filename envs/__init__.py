"""Worlds in text: the contract, the environments, their tasks, experts and baselines.

Importing this registers the bundled environments, so that `gymnasium.make("agentkit/FrozenLake-v0")` knows them.
"""

if __name__ != "agentkit.envs":
    raise ImportError("import 'agentkit.envs', not 'envs'")

from agentkit.envs.baselines import optimal_success, random_success
from agentkit.envs.check import check_text_env
from agentkit.envs.contract import AnyText, Expert, Goals, Screen, Snapshot, TextEnv, offers
from agentkit.envs.puzzle import Puzzle
from agentkit.envs.registration import list_envs, make_env, register_envs
from agentkit.task import Task, make_tasks

__all__ = [
    "AnyText",
    "Expert",
    "Goals",
    "Puzzle",
    "Screen",
    "Snapshot",
    "Task",
    "TextEnv",
    "check_text_env",
    "list_envs",
    "make_env",
    "make_tasks",
    "offers",
    "optimal_success",
    "random_success",
    "register_envs",
]
