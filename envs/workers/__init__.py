"""Environments in processes of their own: one that crashes, hangs or eats the memory costs one episode."""

from agentkit.envs.workers.env import WorkerEnv, class_metadata, env_class, open_env

__all__ = ["WorkerEnv", "class_metadata", "env_class", "open_env"]
